"""What an exported file must pass before it may exist: the ONNX checker, and the scores of the PyTorch model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vlcompress.artefacts import Json, save_tensors
from vlcompress.devices import Compute
from vlcompress.errors import VerificationError, VlcompressError
from vlcompress.models.base import Config, Family, scores_of

Floats = npt.NDArray[np.float32]

TOLERANCE = 1e-4
"""Largest difference of scores, relative to the largest score: float32 sums in another order, with some to spare."""

SAMPLES = "samples"
"""Real examples, in records of parity."""

Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Bound:
    """What a file of one precision may differ by.

    Attributes:
        relative: largest difference of any score, as a share of the largest score.
        agreement: least share of examples with the same best answer.
        score: least share of the float32 model's score on the task; 0 where the others leave nothing to measure.
    """

    relative: float
    agreement: float
    score: float = 0.0


BOUNDS: Mapping[Precision, Bound] = {
    "fp32": Bound(TOLERANCE, 1.0),
    "fp16": Bound(0.02, 0.98, 0.99),
    "int8": Bound(0.1, 0.9, 0.99),
}
"""float16 has 11 bits and sums over hundreds of layers' roundings; int8 has 8, so there the task's score decides: it
must stay "relaxed", at least 99 % (the level of Gan et al. 2022 for a ticket). Int8 files that keep it were measured to
differ by up to 0.017 (bench/results/onnx/accuracy.md)."""


def bound_in(compute: Compute) -> Bound:
    """Say what two forms of a model may differ by where PyTorch computes in a dtype."""
    return Bound(compute.facts.forms, compute.facts.agreement)


def looser(one: Bound, other: Bound) -> Bound:
    """Allow what either of two bounds allows, with the score that the first asks for."""
    return Bound(max(one.relative, other.relative), min(one.agreement, other.agreement), one.score)


@dataclass(frozen=True)
class Parity:
    """How far a file's scores are from the PyTorch model's.

    Attributes:
        samples: examples compared.
        max_abs_error: largest absolute difference of any score.
        max_rel_error: the same, divided by the largest absolute score.
        answer_agreement: share of examples with the same best answer, in [0, 1]; an answer that PyTorch scores as high
            as its own best one (within the tolerance) counts as the same.
        worst: number of the example with the largest error.
    """

    samples: int
    max_abs_error: float
    max_rel_error: float
    answer_agreement: float
    worst: int = 0

    @property
    def passed(self) -> bool:
        """Whether a float32 file may be shipped."""
        return self.within(BOUNDS["fp32"])

    def within(self, bound: Bound) -> bool:
        """Tell whether errors and agreement stay within a bound."""
        return self.max_rel_error <= bound.relative and self.answer_agreement >= bound.agreement


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

    def task_score(self, session: Any, score: Callable[[Any], float] | None, reference: float | None) -> Json | None:
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
        return {"file": got, "fp32": reference, "drop": reference - got}

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


def compare_scores(expected: Sequence[Floats], got: Sequence[Floats]) -> Parity:
    """Summarise the differences of scores [batch, labels], batch by batch; NaN anywhere counts as infinitely wrong."""
    # The scale and the errors are taken over all batches: one bound for the file, not one for each batch.
    scale = max(float(np.abs(scores).max()) for scores in expected)
    errors = np.concatenate([_errors(a, b) for a, b in zip(expected, got, strict=True)])
    worst = int(errors.argmax())
    agreed = np.concatenate([_agree(a, b, TOLERANCE * scale) for a, b in zip(expected, got, strict=True)])
    return Parity(
        len(agreed), float(errors[worst]), float(errors[worst]) / max(scale, 1e-30), float(agreed.mean()), worst
    )


def require(result: Parity, failure: str, bound: Bound = BOUNDS["fp32"]) -> None:
    """Accept a parity or explain why not.

    Args:
        result: the comparison.
        failure: what a difference means, to begin the message with.
        bound: what is allowed.

    Raises:
        VerificationError: an error above the bound, or too many answers that changed.
    """
    if not result.within(bound):
        raise VerificationError(
            f"{failure}: on {result.samples} samples the relative error is {result.max_rel_error:.3g} (allowed "
            f"{bound.relative:g}) and the answer agreement {result.answer_agreement:.4f} (allowed {bound.agreement:g})"
        )


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


def _errors(expected: Floats, got: Floats) -> Floats:
    """Compute each example's largest absolute error; the largest float where it is NaN or infinite."""
    errors = np.abs(expected - got).reshape(len(expected), -1).max(axis=1).astype(np.float32)
    return np.where(np.isfinite(errors), errors, np.finfo(np.float32).max).astype(np.float32)


def _agree(expected: Floats, got: Floats, tolerance: float) -> npt.NDArray[np.bool_]:
    expected, got = expected.reshape(len(expected), -1), got.reshape(len(got), -1)
    best, picked = expected.max(axis=1), got.argmax(axis=1)
    return np.asarray(expected[np.arange(len(expected)), picked] >= best - tolerance)
