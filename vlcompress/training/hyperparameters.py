"""How long and how fast a training goes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hyperparameters:
    """How long and how fast to train.

    They are part of a training's identity (`vlcompress.artefacts.distinguishing`): give a new field a default.

    Attributes:
        steps: optimizer steps.
        batch: examples a step, or groups of `tokens` a step.
        learning_rate: the peak, reached at the end of the warm-up.
        warmup: share of the steps, in (0, 1).
        clip: the gradient of all parameters together is scaled down to this norm.
        weight_decay: decoupled, but in the gradient for "sgd"; "adamw" takes it on matrices alone, the others on every
            parameter.
        head_rate: factor on the learning rate of the task head (10 in UNITER's and ViLT's VQA recipes).
        optimizer: "bertadam" (LXMERT), "adamw" (UNITER, ViLT) or "sgd" (ResNet; its rate falls in steps, the others'
            on a straight line).
        tokens: most words and regions, padding included, of a group of examples of like length; the step's loss is the
            mean over its groups' (UNITER). 0 counts a step in examples.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: float
    clip: float
    weight_decay: float
    head_rate: float
    optimizer: str = "bertadam"
    tokens: int = 0
