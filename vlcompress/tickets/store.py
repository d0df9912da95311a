"""Finished trainings on disk, named by the hash of their spec: a training that was done is found, never done twice.

A folder is either whole or absent. So a run that was killed, or another run that needs the same dense model, finds what
is there and continues with the rest.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from vlcompress.artefacts import dumps, load_tensors, read_json, save_tensors, seal, unseal, write_file, writing
from vlcompress.models.base import Config, Head
from vlcompress.pruning.mask import Masks
from vlcompress.pruning.permutation import Permutation
from vlcompress.tasks.base import Scores
from vlcompress.tickets.shared import fetch, publish
from vlcompress.tickets.spec import TrainingSpec, Trial
from vlcompress.tickets.ticket import PERMUTATION, Ticket
from vlcompress.training.watching import each_step_once

DOCUMENT = "training.json"
TIME = "time.json"
"""How long a training took; apart from its document, which is the same each time it is done."""
LOG = "log.jsonl"
"""A line a step (`vlcompress.training.watching.Entry`); apart from the document for the same reason."""
WEIGHTS = "weights.safetensors"
SCORES = "scores.safetensors"
MASK = "mask.safetensors"
REWIND = "rewind.safetensors"
SALIENCY = "saliency.safetensors"


@dataclass(frozen=True)
class TrainingResult:
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
        tensors = load_tensors(self.folder / SCORES)
        figures = read_json(self.folder / DOCUMENT).get("figures", {})
        return Scores(tensors["scores"], tensors["predictions"], figures)

    def weights(self) -> dict[str, Tensor]:
        """Read the whole trained state dict."""
        return self._read(WEIGHTS)

    def rewind(self) -> dict[str, Tensor]:
        """Read the state dict at the rewinding step θ_i (of a dense training whose recipe rewinds to one)."""
        return load_tensors(self.folder / REWIND)

    def saliency(self) -> dict[str, Tensor]:
        """Read what was summed up for each prunable weight; empty where the recipe's criterion needs no sums."""
        return self._read(SALIENCY) if (self.folder / SALIENCY).is_file() else {}

    def permutation(self) -> Permutation | None:
        """Read the order that it was trained in; None where that is the checkpoint's."""
        path = self.folder / PERMUTATION
        return Permutation.load(path) if path.is_file() else None

    def masks(self) -> Masks:
        """Read what was kept (not of a dense training)."""
        return Masks.load(self.folder / MASK)

    def layer_sparsity(self) -> dict[str, float]:
        """Measure the fraction of each weight that its mask prunes."""
        return self.masks().layer_sparsity()

    def ticket(self, document: Mapping[str, Any], family: str, config: Config, head: Head, vocabulary: str) -> Ticket:
        """Make it a ticket (arguments as in `Ticket`)."""
        return Ticket(document, self.masks(), self.weights(), family, config, head, vocabulary, self.permutation())

    def _read(self, name: str) -> dict[str, Tensor]:
        tensors = load_tensors(self.folder / name)
        return tensors if self.reading is None else self.reading.apply(tensors)


@dataclass(frozen=True)
class TrainingStore:
    """The folder that finished trainings are found and kept in.

    Attributes:
        folder: of this machine, or of several that share a disk.
        shared: a folder or URL that machines without a shared disk copy finished trainings to and from; "" is none.
    """

    folder: Path
    shared: str = ""

    def find(self, spec: TrainingSpec, *, scored: bool = False) -> TrainingResult | None:
        """Find a finished training, and check its files' hashes.

        Args:
            spec: of the training.
            scored: whether one will do of which scores and mask alone were kept.

        Raises:
            VlcompressError: it is damaged.
        """
        folder = self._of(spec)
        if not _enough(folder, scored) and self.shared:
            fetch(folder, DOCUMENT, self.shared)
        if not _enough(folder, scored):
            return None
        unseal(folder, DOCUMENT)
        return TrainingResult(folder)

    def under_way(self, spec: TrainingSpec) -> Path:
        """The folder for checkpoints of a training that is not finished."""
        return self.folder / f"{self._of(spec).name}.under-way"

    def log(self, spec: TrainingSpec) -> Path:
        """The file for the steps of a training that is not finished."""
        return self.folder / f"{self.under_way(spec).name}.{LOG}"

    def rewind(self, spec: TrainingSpec) -> Path:
        """The file for θ_i of a training that is not finished."""
        return self.folder / f"{self.under_way(spec).name}.{REWIND}"

    def keep(
        self,
        spec: TrainingSpec,
        trial: Trial,
        weights: Mapping[str, Tensor],
        scores: Scores,
        saliency: Mapping[str, Tensor] | None,
        seconds: float,
    ) -> TrainingResult:
        """Write a finished training as a whole, and remove what was kept while it was under way.

        Args:
            spec: that names it.
            trial: whose mask and permutation are kept with it; weights and sums are not where it is `scored`.
            weights: the trained state dict, tied weights once.
            scores: of the scoring split.
            saliency: the sums, where the criterion needs any.
            seconds: that it took.
        """
        folder, rewind, log = self._of(spec), self.rewind(spec), self.log(spec)
        with writing(folder) as temporary:
            if not trial.scored:
                save_tensors(temporary / WEIGHTS, weights)
            save_tensors(temporary / SCORES, {"scores": scores.scores, "predictions": scores.predictions})
            if trial.masks is not None:
                trial.masks.save(temporary / MASK)
            if trial.permutation is not None:
                trial.permutation.save(temporary / PERMUTATION)
            if saliency is not None and not trial.scored:
                save_tensors(temporary / SALIENCY, saliency)
            if rewind.is_file():
                shutil.copyfile(rewind, temporary / REWIND)
            found = {"score": scores.mean, "figures": dict(scores.figures)}
            seal(temporary, DOCUMENT, {"identity": spec.sha256, **spec.document(), **found})
        write_file(folder / TIME, dumps({"seconds": round(seconds, 1)}))
        if log.is_file():
            write_file(folder / LOG, each_step_once(log.read_text(encoding="utf-8")))
            log.unlink()
        shutil.rmtree(self.under_way(spec), ignore_errors=True)
        rewind.unlink(missing_ok=True)
        if self.shared:
            publish(folder, DOCUMENT, self.shared)
        return TrainingResult(folder)

    def _of(self, spec: TrainingSpec) -> Path:
        return self.folder / spec.sha256[:16]


def _enough(folder: Path, scored: bool) -> bool:
    """Whether a finished training is there, with its weights unless scores will do."""
    return (folder / DOCUMENT).is_file() and (scored or (folder / WEIGHTS).is_file() or _sealed(folder))


def _sealed(folder: Path) -> bool:
    """Whether weights belong to it: then they are missing, which is damage and must be told."""
    return WEIGHTS in read_json(folder / DOCUMENT)["files"]
