"""How far scores may be from those that they should be, by precision: the bounds of every check of an exported file.

A server and `vlcompress verify FOLDER` compare without torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from vlcompress.devices import Compute
from vlcompress.errors import VerificationError

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

REPEATED: Mapping[Precision, Bound] = {
    "fp32": Bound(TOLERANCE, 1.0),
    "fp16": Bound(0.02, 0.98),
    "int8": Bound(0.05, 0.95),
}
"""What one file may differ by between two machines. In int8 the native kernel rounds activations row by row, ONNX
Runtime all of them alike: on LXMERT-base with random weights their scores were 0.019 and 0.020 apart, and each as far
from float32's (bench/results/LOG.md)."""

IN_TF32 = Bound(0.02, 0.95)
"""Likewise where a provider may multiply float32 in fewer bits: TensorRT and OpenVINO do, CUDA where it is told to."""


def repeated(precision: Precision, provider: str) -> Bound:
    """Say what a file may differ by on another machine, on a provider as `vlcompress.export.providers` spells it."""
    bound = REPEATED[precision]
    return bound if provider in ("cpu", "cuda") else looser(bound, IN_TF32)


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


def _errors(expected: Floats, got: Floats) -> Floats:
    """Compute each example's largest absolute error; the largest float where it is NaN or infinite."""
    errors = np.abs(expected - got).reshape(len(expected), -1).max(axis=1).astype(np.float32)
    return np.where(np.isfinite(errors), errors, np.finfo(np.float32).max).astype(np.float32)


def _agree(expected: Floats, got: Floats, tolerance: float) -> npt.NDArray[np.bool_]:
    expected, got = expected.reshape(len(expected), -1), got.reshape(len(got), -1)
    best, picked = expected.max(axis=1), got.argmax(axis=1)
    return np.asarray(expected[np.arange(len(expected)), picked] >= best - tolerance)
