"""What an exported file must pass before it may exist: the ONNX checker, and the scores of the PyTorch model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from vlcompress.artefacts import save_tensors
from vlcompress.errors import VerificationError, VlcompressError
from vlcompress.export.parity import SAMPLES, Bound, Floats, Parity, compare_scores, require
from vlcompress.export.verification import TaskScore
from vlcompress.models.base import Config, Family, scores_of


def refuse_nan(tensors: Mapping[str, Tensor]) -> None:
    """Check that every weight is a finite number.

    Raises:
        VlcompressError: one is NaN or infinite; the first such tensor is named.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise VlcompressError(
                f"weight '{name}' holds NaN or infinity: only finite weights can be exported; train the ticket again "
                "with a lower learning rate"
            )


def check_graph(model: bytes | Path) -> None:
    """Run ONNX's full check and strict shape inference on a model, serialised or in a file.

    Raises:
        VerificationError: the file is not valid ONNX.
    """
    import onnx

    where = str(model) if isinstance(model, Path) else model
    try:
        onnx.checker.check_model(where, full_check=True)  # infers shapes strictly, types checked
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise VerificationError(f"the exported graph is not valid ONNX ({error}): nothing was written") from error


@dataclass(frozen=True)
class Gate:
    """The gate that a file passes before it exists, and again whenever somebody asks.

    Attributes:
        family: runs the model.
        model: the truth, in eval mode, on the device and in the dtype that it is to be computed in.
        samples: batches of real inputs.
        config: for inputs of other shapes.
        bound: what is allowed.
        folder: of the artefact; the worst sample of a failure is written beside it, to ``FOLDER.failed/``.
    """

    family: Family
    model: nn.Module
    samples: Sequence[Mapping[str, Tensor]]
    config: Config
    bound: Bound
    folder: Path

    def parities(self, session: Any) -> dict[str, Parity]:
        """Compare a session with the truth, on the samples and on random inputs of other shapes.

        Raises:
            VerificationError: one is out of bounds; the message says where its worst sample is.
        """
        found = {}
        for name, (batches, expected) in self._truth.items():
            got = [run(session, inputs) for inputs in batches]
            found[name] = compare_scores(expected, got)
            if not found[name].within(self.bound_of(name)):
                saved = self._save_worst(found[name].worst, batches, expected, got)
                failure = f"refused: the file does not compute what the PyTorch model does (worst of {name}: {saved})"
                require(found[name], failure, self.bound_of(name))
        return found

    def bound_of(self, name: str) -> Bound:
        """Say what is allowed on the samples or on random inputs, by name.

        Random inputs mean nothing to a model, so that many answers score nearly the same and rounding picks another
        one: in lower precision only errors count there.
        """
        lower = self.bound.agreement < 1
        return replace(self.bound, agreement=0.0) if lower and name != SAMPLES else self.bound

    @cached_property
    def _truth(self) -> dict[str, tuple[Sequence[Mapping[str, Tensor]], list[Floats]]]:
        """Inputs and the scores of the PyTorch model, computed once however many sessions are compared with them."""
        kinds = {SAMPLES: self.samples, "random shapes": self._odd_shapes()}
        return {
            name: (batches, [_expected(self.family, self.model, inputs) for inputs in batches])
            for name, batches in kinds.items()
        }

    def task_score(
        self, session: Any, score: Callable[[Any], float] | None, reference: float | None
    ) -> TaskScore | None:
        """Score a session on its task where the bound asks for it.

        Raises:
            VerificationError: it keeps too little of the float32 model's score.
        """
        if not self.bound.score or score is None or reference is None:
            return None
        got = score(session)
        if got < self.bound.score * reference:
            raise VerificationError(
                f"the exported model scores {100 * got:.2f} on the task, the float32 model {100 * reference:.2f}: "
                f"at least {self.bound.score:.0%} of that is required; export without the lower precision"
            )
        return TaskScore(got, reference, reference - got)

    def _odd_shapes(self) -> list[dict[str, Tensor]]:
        """Make inputs of sizes that the tracer did not see, the smallest ones among them."""
        sizes = ((1, 1, 1), (2, 5, 9), (5, 9, 2))
        given = self.samples[0]
        # A statement about two images is two rows: their number must stay even.
        rows = max(1, len(next(iter(given.values()))) // len(_expected(self.family, self.model, given)))
        return [self.family.example_inputs(self.config, batch=rows * b, text=t, regions=r, seed=b) for b, t, r in sizes]

    def _save_worst(
        self, worst: int, batches: Sequence[Mapping[str, Tensor]], expected: Sequence[Floats], got: Sequence[Floats]
    ) -> Path:
        """Write the inputs of one example with both scores."""
        batch = 0
        while worst >= len(expected[batch]):
            worst -= len(expected[batch])
            batch += 1
        tensors = {name: tensor[worst : worst + 1].clone() for name, tensor in batches[batch].items()}
        scores = {"expected": torch.from_numpy(expected[batch][worst]), "got": torch.from_numpy(got[batch][worst])}
        path = self.folder.with_name(f"{self.folder.name}.failed") / "worst.safetensors"
        save_tensors(path, tensors | scores)
        return path


def parity(family: Family, model: nn.Module, session: Any, batches: Iterable[Mapping[str, Tensor]]) -> Parity:
    """Compare a session's scores with those of the PyTorch model.

    Args:
        family: runs the model.
        model: the truth, in eval mode, on the CPU.
        session: the exported file, opened.
        batches: inputs by name; batch sizes and lengths may differ between them.
    """
    pairs = [(_expected(family, model, inputs), run(session, inputs)) for inputs in batches]
    return compare_scores([pair[0] for pair in pairs], [pair[1] for pair in pairs])


def run(session: Any, inputs: Mapping[str, Tensor]) -> Floats:
    """Run a session on tensors of the names it knows: float32 [batch, labels]."""
    scores: Floats = session.run(["logits"], feed(session, inputs))[0]
    return scores


def feed(session: Any, inputs: Mapping[str, Tensor]) -> dict[str, npt.NDArray[Any]]:
    """Pick a session's inputs as arrays; inputs that the graph does not have are left out."""
    return {argument.name: inputs[argument.name].numpy() for argument in session.get_inputs()}


def _expected(family: Family, model: nn.Module, inputs: Mapping[str, Tensor]) -> Floats:
    scores: Floats = scores_of(family, model, inputs).numpy()
    return scores
