"""Pre-training: a family's objectives on a folder of sentences and regions, to a checkpoint to fine-tune."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import vlcompress
from vlcompress.artefacts import distinguishing, identity, save_tensors, seal, unseal, write_file, writing
from vlcompress.data.detect_layout import open_task
from vlcompress.data.examples import TaskData
from vlcompress.data.pretraining import open_pretraining
from vlcompress.data.tokenizer import MAX_LENGTH, WordPiece
from vlcompress.devices import CPU, Compute, computed_on
from vlcompress.models.base import Family, Head, pretraining_of
from vlcompress.models.objective import Objective
from vlcompress.models.registry import family_named
from vlcompress.tasks.preprocessing import Preprocessor
from vlcompress.tasks.pretraining_task import sentences
from vlcompress.training.checkpoint import distinct
from vlcompress.training.fit import fitted
from vlcompress.training.hyperparameters import Hyperparameters
from vlcompress.training.loop import train
from vlcompress.training.ranks import here, lead
from vlcompress.training.watching import Journal, Watcher, each_step_once, watched

DOCUMENT = "pretraining.json"
LOGGED_EVERY = 100


@dataclass(frozen=True)
class PretrainingRecipe:
    """All that decides the pre-trained weights, besides the data.

    Attributes:
        size: of the family.
        hyper: steps, batch, rates (LXMERT-base: batch 256, rate 1e-4, 20 epochs).
        settings: of the family's objective, all of them (see `vlcompress.models.objective.PretrainingSpec`).
        seed: of weights, order, masks and dropout.
    """

    size: str
    hyper: Hyperparameters
    settings: Mapping[str, Any]
    seed: int = 0

    def document(self) -> dict[str, Any]:
        """Write the recipe as plain JSON."""
        return {"size": self.size, "hyper": distinguishing(self.hyper), "seed": self.seed, **self.settings}


@dataclass
class Pretraining:
    """Data and model of a pre-training, opened once.

    Attributes:
        family: of the model.
        folder: data in LXMERT's pre-training layout; captions and pictures (as for retrieval) where pixels are read.
        recipe: what to do.
        splits: files of ``lxmert/`` ("pretrain" if none is named), or splits of the captions ("train").

    The detector's classes are counted in the folder's objects_vocab.txt and attributes_vocab.txt, if it has them.
    """

    family: Family
    folder: Path
    recipe: PretrainingRecipe
    splits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Name the usual split where none is named."""
        self.splits = self.splits or ("train" if self.family.reads == "pixels" else "pretrain",)

    @cached_property
    def data(self) -> TaskData[Any]:
        """The opened splits."""
        if self.family.reads == "pixels":
            return open_task(self.folder, "retrieval", self.splits, feature_dim=0)
        return open_pretraining(self.folder, self.splits)

    @cached_property
    def vocabulary(self) -> WordPiece:
        """The folder's vocabulary."""
        return self.data.vocabulary or WordPiece.load(self.folder)

    @property
    def head(self) -> Head:
        """The head with every objective; the answers are those of the folder where it has questions."""
        return Head("pretraining", self.data.labels)

    @cached_property
    def objective(self) -> Objective:
        """The family's objective over the splits."""
        most = self.config["max_position_embeddings"] if self.family.reads == "pixels" else MAX_LENGTH
        pictures = self.family.pictures(self.config, self.data.pictures)
        read = sentences(self.data, Preprocessor(self.family, self.vocabulary, pictures, most))
        return pretraining_of(self.family).objective(read, self.vocabulary, **self.recipe.settings)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's configuration, sized to the data."""
        width = self.data.pictures.feature_dim
        config = self.family.config(self.recipe.size, vocab_size=self.vocabulary.vocab_size, feature_dim=width)
        classes = {"num_object_labels": "objects_vocab.txt", "num_attr_labels": "attributes_vocab.txt"}
        counts = {key: _lines(self.folder / name) for key, name in classes.items()}
        if counts["num_object_labels"]:
            counts["num_object_labels"] += pretraining_of(self.family).background
        return config | {key: count for key, count in counts.items() if count and key in config}

    def document(self) -> dict[str, Any]:
        """All that decides the result."""
        return {
            "family": self.family.name,
            "config": self.config,
            "recipe": self.recipe.document(),
            "data": self.data.identity,
            "splits": list(self.splits),
        }


def pretrain(
    work: Pretraining,
    home: Path,
    *,
    compute: Compute = CPU,
    half: bool = False,
    say: Callable[[str], None] = print,
    progress: Watcher | None = None,
) -> Path:
    """Pre-train, or find it done; resumes where it was stopped.

    Args:
        work: data, model and recipe.
        home: the result is ``home/pretrained/NAME``.
        compute: where to train, and in what; anything but float32 on the CPU is a pre-training of its own.
        half: store the weights as float16 (they are read as float32 again).
        say: told what was done before, and what fits into memory.
        progress: watches the steps.

    Returns:
        A folder with weights.safetensors (the family's names), vocab.txt and pretraining.json.
    """
    compute = fitted(
        compute,
        work.recipe.hyper,
        lambda: (work.family.build(work.config, work.head, seed=work.recipe.seed), work.objective),
        say,
    )
    document = work.document() | computed_on(compute)
    name = identity({**document, "half": half})
    folder = home / "pretrained" / f"{work.family.name}-{work.recipe.size}-{name[:10]}"
    if (folder / DOCUMENT).is_file():
        unseal(folder, DOCUMENT)
        say(f"pre-trained before: {folder}")
        return folder
    log = folder.with_name(f"{folder.name}.log.jsonl")
    under_way = folder.with_name(f"{folder.name}.under-way")
    lead(compute, partial(_follow, work.family.name, work.folder, work.recipe, work.splits, compute, under_way, name))
    with watched(log, "pre-training", work.recipe.hyper, progress) as journal:
        model = _learn(work, compute, under_way, name, journal)
    kind = torch.float16 if half else torch.float32
    with writing(folder) as temporary:
        weights = distinct({name: value.to(kind) for name, value in model.state_dict().items()})
        save_tensors(temporary / "weights.safetensors", weights)
        write_file(temporary / "vocab.txt", work.vocabulary.text)
        seal(temporary, DOCUMENT, {**document, "log": _logged(log.read_text()), "version": vlcompress.__version__})
    shutil.rmtree(under_way, ignore_errors=True)
    return folder


def _learn(
    work: Pretraining, compute: Compute, under_way: Path, name: str, journal: Journal | None = None
) -> nn.Module:
    model = work.family.build(work.config, work.head, seed=work.recipe.seed).to(compute.torch_device)
    return train(
        model,
        work.objective,
        work.recipe.hyper,
        seed=work.recipe.seed,
        checkpoint=under_way,
        identity=name,
        compute=compute,
        journal=journal,
    )


def _follow(
    family: str,
    folder: Path,
    recipe: PretrainingRecipe,
    splits: tuple[str, ...],
    compute: Compute,
    under_way: Path,
    name: str,
) -> None:
    """Learn this device's share of a pre-training that another process leads."""
    _learn(Pretraining(family_named(family), folder, recipe, splits), here(compute), under_way, name)


def _logged(lines: str) -> list[dict[str, float]]:
    """Average the losses of every `LOGGED_EVERY` steps of a journal; the later counts of a step that was done twice."""
    entries = [json.loads(line) for line in each_step_once(lines).splitlines()]
    each = [entries[start : start + LOGGED_EVERY] for start in range(0, len(entries), LOGGED_EVERY)]
    return [
        {"step": some[-1]["step"], "loss": round(sum(one["loss"] for one in some) / len(some), 4)}
        for some in each
        if len(some) == LOGGED_EVERY
    ]


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0
