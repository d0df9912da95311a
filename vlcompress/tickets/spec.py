"""A training's identity: everything that decides its result, hashed by one rule.

A field with a default counts only where it differs from it (`vlcompress.artefacts.distinguishing`). So a field added
with a default that changes nothing renames no training that is done, here and in `Hyperparameters`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from vlcompress.artefacts import Json, distinguishing, identity
from vlcompress.models.base import Config
from vlcompress.pruning.mask import Masks
from vlcompress.pruning.permutation import Permutation
from vlcompress.training.hyperparameters import Hyperparameters
from vlcompress.training.saliency import Kind

Start = Literal["theta0", "shuffled", "fresh", "language", "rewound", "trained"]
"""Where a training starts: θ0; θ0 with each weight's entries shuffled; random weights; a language model's weights (θ'0)
where they fit, random ones elsewhere; dense training's θ_i; what dense training ended with, which is not trained
again."""

GENERATION = 1
"""The cache's version: raised when the meaning of a training changes, so that no old result is taken for a new one."""


@dataclass(frozen=True)
class Trial:
    """What sets one training apart from the others of an experiment.

    Attributes:
        seed: of the new head, data order and dropout.
        masks: what is kept; None is the dense model.
        start: the backbone's weights.
        permutation: the order of neurons and channels that the masks are cut in; None is the checkpoint's.
        held: whether pruned weights stay zero. False zeroes them once and lets them grow again, which makes a sparse
            start and no sparse model; it is there to repeat what a published code does.
        repaired: whether the kept weights of a "trained" start are fitted to what the dense layers gave
            (`vlcompress.pruning.repair`).
        scored: whether its scores are all that is wanted: weights and sums are not written (a control's, which nothing
            reads; at the base size they would be most of a run).
    """

    seed: int
    masks: Masks | None = None
    start: Start = "theta0"
    permutation: Permutation | None = None
    held: bool = True
    repaired: bool = False
    scored: bool = False


@dataclass(frozen=True)
class Teacher:
    """The dense model that a distilled training learns from.

    Attributes:
        weight: of its loss against the task's.
        teacher: hash of its training.
    """

    weight: float
    teacher: str


@dataclass(frozen=True)
class TrainingSpec:
    """Everything that decides a training's result; equal specs give equal bits.

    Attributes:
        generation: `GENERATION`.
        family, config: of the model.
        theta0: hash of the pre-trained backbone.
        task: that is learned and scored.
        data: identities of the examples to learn from, and to be scored on.
        vocabulary: hash of the vocabulary file.
        hyper: steps and rates.
        seed, start, held: see `Trial`.
        mask: hash of what is kept; "dense" for the dense model.
        rewind_step: whose weights the dense training keeps, and a "rewound" one starts from; 0 for θ0.
        answers: of the checkpoint's answer head, in the order of its rows, where the head starts from it.
        language: identity of the language model, where a training starts from it.
        permutation: hash of the order that the mask is cut in; "" is the checkpoint's.
        saliency: which sums are kept for the criterion.
        distill: who teaches; None learns from the task alone.
        adversarial: what the recipe perturbs; "" trains plainly.
        loss: another one than the task's, by its name in a recipe.
        repaired: on how many examples kept weights were fitted; 0 is none.
        computed_on: architecture and dtype; {} is float32 on the CPU.
    """

    generation: int
    family: str
    config: Config
    theta0: str
    task: str
    data: tuple[str, str]
    vocabulary: str
    hyper: Hyperparameters
    seed: int
    mask: str
    start: Start
    rewind_step: int
    held: bool = True
    answers: tuple[str, ...] = ()
    language: str = ""
    permutation: str = ""
    saliency: Kind | None = None
    distill: Teacher | None = None
    adversarial: str = ""
    loss: str = "task"
    repaired: int = 0
    computed_on: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> Json:
        """Everything that tells this training apart, as plain JSON."""
        return distinguishing(self)

    @cached_property
    def sha256(self) -> str:
        """The hash that names the training."""
        return identity(self.document())
