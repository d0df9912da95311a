"""The workbench: data, model and pre-trained weights of a recipe, and trainings on them that are never done twice.

A training is named by the hash of all that decides its result, and its folder is either whole or absent. So a run that
was killed, or another run that needs the same dense baseline, finds what is there and continues with the rest.
"""

import dataclasses
import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vlcompress.artefacts import (
    dumps,
    identity,
    load_tensors,
    read_json,
    save_tensors,
    seal,
    unseal,
    write_file,
    writing,
)
from vlcompress.data.tokenizer import WordPiece
from vlcompress.devices import CPU, Compute, computed_on
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Config, Coupling, Family, LoadReport, Prunable
from vlcompress.models.checkpoints import read_checkpoint
from vlcompress.models.language import language_part, published_language_model
from vlcompress.models.objective import Objective
from vlcompress.pruning.mask import Masks
from vlcompress.pruning.pattern import Pattern
from vlcompress.pruning.permutation import Permutation, find_permutation, free_orders
from vlcompress.recipe import Recipe
from vlcompress.tasks.base import EvalTask, LogitTask, Scores, TrainTask
from vlcompress.tickets.controls import shuffled
from vlcompress.training.adversarial import Adversarial, parse_perturbation
from vlcompress.training.checkpoint import distinct, restore
from vlcompress.training.distillation import Distilled
from vlcompress.training.language import WEIGHTS as LANGUAGE_WEIGHTS
from vlcompress.training.language import words_alone
from vlcompress.training.loop import Hyperparameters, Progress, evaluate, train
from vlcompress.training.saliency import Kind, Saliency

Start = Literal["theta0", "shuffled", "fresh", "language", "rewound"]
"""Where a training starts: θ0; θ0 with each weight's entries shuffled; fresh random weights; a language model's weights
(θ'0) where they fit, fresh ones elsewhere; dense training's θ_i."""

GENERATION = 1
"""Raised when the meaning of a training changes, so that old results are not taken for new ones."""

DOCUMENT = "training.json"
REWIND = "rewind.safetensors"
TIME = "time.json"
"""How long a training took; apart from its document, which is the same each time it is done."""
SALIENCY = "saliency.safetensors"
PERMUTATION = "permutation.safetensors"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Trial:
    """One training to be done.

    Attributes:
        seed: of head, data order and dropout.
        masks: what is kept; None is the dense model.
        start: the backbone's weights.
        permutation: the order of neurons and channels that the masks are cut in; None is the checkpoint's.
        held: whether pruned weights stay zero. False zeroes them once and lets them grow again, which makes a sparse
            start and no sparse model; it is there to repeat what a published code does.
    """

    seed: int
    masks: Masks | None = None
    start: Start = "theta0"
    permutation: Permutation | None = None
    held: bool = True


@dataclass(frozen=True)
class Trained:
    """A finished training on disk.

    Attributes:
        folder: of the training.
        reading: an order that weights and sums are read in; None is that of the training.
    """

    folder: Path
    reading: Permutation | None = None

    @cached_property
    def scores(self) -> Scores:
        """Score and prediction of every example of the scoring split."""
        tensors = load_tensors(self.folder / "scores.safetensors")
        figures = read_json(self.folder / DOCUMENT).get("figures", {})
        return Scores(tensors["scores"], tensors["predictions"], figures)

    def weights(self) -> dict[str, Tensor]:
        """Read the whole trained state dict."""
        return self._read("weights.safetensors")

    def saliency(self) -> dict[str, Tensor]:
        """Read what was summed up for each prunable weight; empty where the recipe's criterion needs no sums."""
        return self._read(SALIENCY) if (self.folder / SALIENCY).is_file() else {}

    def permutation(self) -> Permutation | None:
        """Read the order that it was trained in; None where that is the checkpoint's."""
        path = self.folder / PERMUTATION
        return Permutation.load(path) if path.is_file() else None

    def _read(self, name: str) -> dict[str, Tensor]:
        tensors = load_tensors(self.folder / name)
        return tensors if self.reading is None else self.reading.apply(tensors)

    def masks(self) -> Masks:
        """Read what was kept (not of a dense training)."""
        return Masks.load(self.folder / "mask.safetensors")


@dataclass
class Workbench:
    """Everything a recipe needs, opened once.

    Attributes:
        recipe: what is to be run.
        family: of the model.
        train_task, score_task: examples to learn from, and to be scored on.
        data: identity of the data of each.
        config: of the model.
        vocabulary: text of the vocabulary file.
        checkpoint: where θ0 is loaded from; None for random weights.
        home: folder under which trainings are kept.
        compute: where to train, and in what.
        say: told one line at each step of the work.
        progress: called after every training step.
        blind: what a model that does not look scores, in [0, 1]; None where it is not known.
        answers: of the checkpoint's answer head, in the order of its rows, where φ0 takes that head; () is a fresh φ0.
    """

    recipe: Recipe
    family: Family
    train_task: TrainTask
    score_task: EvalTask
    data: tuple[str, str]
    config: Config
    vocabulary: str
    checkpoint: str | None
    home: Path
    compute: Compute = CPU
    say: Say = print
    progress: Progress | None = None
    blind: float | None = None
    answers: tuple[str, ...] = ()
    load_report: LoadReport | None = field(default=None, init=False)

    @cached_property
    def theta0(self) -> dict[str, Tensor]:
        """The pre-trained backbone: every parameter but the head's, and what the head has of pre-training."""
        model = self.family.build(self.config, self.train_task.head, seed=self.recipe.pruning.seeds[0])
        if self.checkpoint is not None:
            self.load_report = self.family.load(model, self.checkpoint, fresh_head=True)
        return self.backbone(model)

    @cached_property
    def prunable(self) -> Prunable:
        """Which weights the recipe's policy prunes."""
        return self._anatomy[0]

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """The shape of every parameter, the head's included."""
        return self._anatomy[1]

    @property
    def couplings(self) -> Sequence[Coupling]:
        """The attention heads and feed-forward neurons of the full model."""
        return self._anatomy[2]

    @cached_property
    def _anatomy(self) -> tuple[Prunable, dict[str, torch.Size], Sequence[Coupling]]:
        model = self.family.build(self.config, self.train_task.head, seed=0)
        shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        return self.family.prunable(model, self.recipe.pruning.prunable), shapes, self.family.couplings(model)

    @cached_property
    def theta0_sha256(self) -> str:
        """Hash over names and bits of θ0."""
        return tensors_sha256(self.theta0)

    @property
    def language_model(self) -> str:
        """Where the language model that θ'0 is of is read from; "" where it is made."""
        return self.recipe.model.language or published_language_model(self.family, self.recipe.model.size)

    @cached_property
    def language(self) -> tuple[str, str]:
        """The language model that θ'0 is of, and its identity; made of the words of the training splits if need be."""
        if self.language_model:
            return self.language_model, tensors_sha256(read_checkpoint(self.language_model))
        made = words_alone(
            self.family,
            self.config,
            self.train_task,
            WordPiece.parse(self.vocabulary),
            self.hyper,
            data=self.data[0],
            home=self.home,
            compute=self.compute,
            say=self.say,
        )
        return str(made / LANGUAGE_WEIGHTS), made.name

    def backbone(self, model: nn.Module) -> dict[str, Tensor]:
        """Copy every tensor of the model but the head's own (see `Family.inherited`)."""
        inherited = self.family.inherited if self.checkpoint is not None else ()
        prefixes = (self.family.backbone_prefix, *inherited)
        return {
            name: value.detach().cpu().clone()
            for name, value in model.state_dict().items()
            if name.startswith(prefixes)
        }

    @cached_property
    def hyper(self) -> Hyperparameters:
        """Steps and rates of every training; epochs are turned into steps of the training splits."""
        said = dataclasses.asdict(self.recipe.training)
        epochs = said.pop("epochs")
        for name in ("distill", "adversarial"):  # what the objective is, see `objective`
            said.pop(name)
        steps = said.pop("steps") or round(epochs * max(1, len(self.train_task) // said["batch"]))
        return Hyperparameters(steps=steps, **said)

    def keep_all(self) -> Masks:
        """Return the mask that prunes nothing."""
        return Masks.keep_all({name: self.theta0[name] for name in self.prunable.names})

    def permutation(self, dense: Trained, pattern: Pattern, seed: int) -> Permutation | None:
        """Search the order in which a pattern is cut, as the recipe says; None where that is the checkpoint's.

        Args:
            dense: the trained model of the seed, whose weights are looked at.
            pattern: whose blocks are to gather what is important.
            seed: of the criterion, where chance plays a part in it.
        """
        pruning = self.recipe.pruning
        frees = free_orders(pruning.permutation, pattern, self.couplings) if pruning.permutation else []
        if not frees:
            return None
        criterion = pruning.criterion.of(seed, dense.saliency())
        names = set(self.prunable.names)
        return find_permutation(frees, pattern, dense.weights(), names, criterion=criterion, sparsity=pruning.sparsity)

    def train(self, trial: Trial, label: str) -> Trained:
        """Do a training, or find it done.

        Args:
            trial: what to train.
            label: how to call it in what is said.
        """
        document = self._document(trial)
        name = identity(document)
        folder = self.home / "trainings" / name[:16]
        if (folder / DOCUMENT).is_file():
            unseal(folder, DOCUMENT)
            done = Trained(folder)
            self.say(f"{label}: {100 * done.scores.mean:.2f} (done before)")
            return done
        started = time.monotonic()
        score = self._do(trial, name, document, folder)
        seconds = round(time.monotonic() - started, 1)
        write_file(folder / TIME, dumps({"seconds": seconds}))
        self.say(f"{label}: {100 * score:.2f} ({seconds:.1f} s)")
        return Trained(folder)

    def _do(self, trial: Trial, name: str, document: dict[str, Any], folder: Path) -> float:
        """Train, score, and write the folder; give the score."""
        under_way = folder.with_name(f"{folder.name}.under-way")
        rewind = under_way.with_name(f"{under_way.name}.{REWIND}")
        model = self._initial(trial).to(self.compute.torch_device)
        saliency = self._saliency(model, trial)
        self._train(model, trial, name, under_way, rewind, saliency)
        scores = evaluate(model, self.score_task, compute=self.compute)
        with writing(folder) as temporary:
            save_tensors(temporary / "weights.safetensors", distinct(model.state_dict()))
            save_tensors(temporary / "scores.safetensors", {"scores": scores.scores, "predictions": scores.predictions})
            if trial.masks is not None:
                trial.masks.save(temporary / "mask.safetensors")
            if trial.permutation is not None:
                trial.permutation.save(temporary / PERMUTATION)
            if saliency is not None:
                save_tensors(temporary / SALIENCY, saliency.sums)
            if rewind.is_file():
                shutil.copyfile(rewind, temporary / REWIND)
            found = {"score": scores.mean, "figures": dict(scores.figures)}
            seal(temporary, DOCUMENT, {"identity": name, **document, **found})
        shutil.rmtree(under_way, ignore_errors=True)
        rewind.unlink(missing_ok=True)
        return scores.mean

    def _document(self, trial: Trial) -> dict[str, Any]:
        """All that decides a training's result."""
        return {
            "generation": GENERATION,
            "family": self.family.name,
            "config": self.config,
            "theta0": self.theta0_sha256,
            "task": self.recipe.data.task,
            "data": list(self.data),
            "vocabulary": hashlib.sha256(self.vocabulary.encode()).hexdigest(),
            "hyper": self.hyper.document(),
            "seed": trial.seed,
            "mask": trial.masks.sha256() if trial.masks is not None else "dense",
            "start": trial.start,
            "rewind_step": self.recipe.pruning.rewind_step,
            **({} if trial.held else {"held": False}),
            **({"answers": self.answers} if self.answers else {}),
            **({"language": self.language[1]} if trial.start == "language" else {}),
            **({"permutation": trial.permutation.sha256()} if trial.permutation else {}),
            **({"saliency": self._sums(trial)} if self._sums(trial) else {}),
            **({"distill": self._teaching(trial)} if self._teaching(trial) else {}),
            **({"adversarial": self.recipe.training.adversarial} if self.recipe.training.adversarial else {}),
            **computed_on(self.compute),
        }

    def _teaching(self, trial: Trial) -> dict[str, Any] | None:
        """Give the dense model that teaches and its weight; None for the dense model itself, and without a teacher."""
        weight = self.recipe.training.distill
        if trial.masks is None or not weight:
            return None
        return {"weight": weight, "teacher": identity(self._document(Trial(trial.seed)))}

    def teachable(self) -> LogitTask:
        """Return the task as one that a dense model can teach.

        Raises:
            VlcompressError: it has no logits to compare.
        """
        if not isinstance(self.train_task, LogitTask):
            raise VlcompressError(
                f"training.distill {self.recipe.training.distill:g} on {self.recipe.data.task}: distillation compares "
                "logits, which this task has none of; set it to 0, or choose another task"
            )
        return self.train_task

    def objective(self, trial: Trial) -> Objective:
        """Return the task, the task under perturbation, or the task with the dense model as a teacher.

        Raises:
            VlcompressError: adversarial training of a family or a task that it is not defined for.
        """
        if self.recipe.training.adversarial:
            perturbation = parse_perturbation(self.recipe.training.adversarial)
            return Adversarial(self.train_task, self.family, perturbation)
        if not self._teaching(trial):
            return self.train_task
        task = self.teachable()
        teacher = self.family.build(self.config, task.head, seed=trial.seed)
        restore(teacher, self.train(Trial(trial.seed), f"seed {trial.seed} dense, the teacher").weights())
        return Distilled(task, self.family, teacher.to(self.compute.torch_device), self.recipe.training.distill)

    def _sums(self, trial: Trial) -> Kind | None:
        """Return which sums the recipe's criterion needs of a training: of any that a round may prune, no control."""
        return self.recipe.pruning.criterion.saliency if trial.start in ("theta0", "rewound") else None

    def _saliency(self, model: nn.Module, trial: Trial) -> Saliency | None:
        kind = self._sums(trial)
        return Saliency(kind, model, self.prunable.names, self.hyper.steps) if kind else None

    def _train(
        self, model: nn.Module, trial: Trial, name: str, under_way: Path, rewind: Path, saliency: Saliency | None
    ) -> None:
        step = self.recipe.pruning.rewind_step
        snapshot = {}
        if step and trial.masks is None:  # on the disk at once: a resumed training does not pass this step again
            snapshot = {step: lambda trained: save_tensors(rewind, distinct(trained.state_dict()))}
        train(
            model,
            self.objective(trial),
            self.hyper,
            seed=trial.seed,
            first_step=step if trial.start == "rewound" else 0,
            masks=trial.masks if trial.held else None,
            saliency=saliency,
            backbone_prefix=self.family.backbone_prefix,
            checkpoint=under_way,
            identity=name,
            at_step=snapshot,
            compute=self.compute,
            progress=self.progress,
        )

    def _initial(self, trial: Trial) -> nn.Module:
        """Build the model with the seed's head φ0 on the backbone that the trial starts from."""
        model = self.family.build(self.config, self.train_task.head, seed=trial.seed)
        if self.answers and self.checkpoint and trial.start not in ("fresh", "language"):
            labels = self.train_task.head.labels
            self.load_report = self.family.load_answers(model, self.checkpoint, answers=self.answers, labels=labels)
        if trial.start == "rewound":
            dense = self.train(Trial(trial.seed), f"seed {trial.seed} dense")
            restore(model, load_tensors(dense.folder / REWIND))
        elif trial.start == "language":
            self.load_report = language_part(self.family).load_language(model, self.language[0])
        elif trial.start != "fresh":
            start = self.theta0 if trial.start == "theta0" else shuffled(self.theta0, self.prunable.names, trial.seed)
            model.load_state_dict(start, strict=False)
        if trial.permutation is not None:
            model.load_state_dict(trial.permutation.apply(model.state_dict()))
        if trial.masks is not None and not trial.held:
            trial.masks.apply(model)
        return model

    def check_start(self, start: Start) -> None:
        """Build what a training starts from and let go of it.

        Raises:
            VlcompressError: weights that are not there, are damaged or do not fit the model.
        """
        self._initial(Trial(self.recipe.pruning.seeds[0], start=start))

    def model_of(self, trained: Trained) -> nn.Module:
        """Build a finished training's model on the device, in eval mode."""
        model = self.family.build(self.config, self.train_task.head, seed=0)
        restore(model, trained.weights())
        return model.to(self.compute.torch_device).eval()


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    """Return a hash over names, shapes and bits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}{tuple(tensors[name].shape)}{tensors[name].dtype}".encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
