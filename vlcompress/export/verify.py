"""What an exported file must pass before it may exist: the ONNX checker, and the scores of the PyTorch model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vlcompress.errors import VerificationError, VlcompressError
from vlcompress.models.base import Family

Floats = npt.NDArray[np.float32]

TOLERANCE = 1e-4
"""Largest difference of scores, relative to the largest score: float32 sums in another order, with some to spare."""


@dataclass(frozen=True)
class Parity:
    """How far a file's scores are from the PyTorch model's.

    Attributes:
        samples: examples compared.
        max_abs_error: largest absolute difference of any score.
        max_rel_error: the same, divided by the largest absolute score.
        answer_agreement: share of examples with the same best answer, in [0, 1]; an answer that PyTorch scores as high
            as its own best one (within the tolerance) counts as the same.
    """

    samples: int
    max_abs_error: float
    max_rel_error: float
    answer_agreement: float

    @property
    def passed(self) -> bool:
        """Whether the file may be shipped."""
        return self.max_rel_error <= TOLERANCE and self.answer_agreement == 1.0


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


def check_graph(model: bytes) -> None:
    """Run ONNX's full check and strict shape inference on a serialised model.

    Raises:
        VerificationError: the file is not valid ONNX.
    """
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise VerificationError(f"the exported graph is not valid ONNX ({error}): nothing was written") from error


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
    error = max(float(np.abs(a - b).max()) for a, b in zip(expected, got, strict=True))
    error = error if np.isfinite(error) else float(np.finfo(np.float32).max)
    agreed = np.concatenate([_agree(a, b, TOLERANCE * scale) for a, b in zip(expected, got, strict=True)])
    return Parity(len(agreed), error, error / max(scale, 1e-30), float(agreed.mean()))


def require(result: Parity, failure: str) -> None:
    """Accept a parity or explain why not.

    Args:
        result: the comparison.
        failure: what a difference means, to begin the message with.

    Raises:
        VerificationError: an error above the tolerance, or an answer that changed.
    """
    if not result.passed:
        raise VerificationError(
            f"{failure}: on {result.samples} samples the relative error is {result.max_rel_error:.3g} (allowed "
            f"{TOLERANCE:g}) and the answer agreement {result.answer_agreement:.4f} (allowed 1)"
        )


def run(session: Any, inputs: Mapping[str, Tensor]) -> Floats:
    """Run a session on tensors of the names it knows: float32 [batch, labels]."""
    scores: Floats = session.run(["logits"], feed(session, inputs))[0]
    return scores


def feed(session: Any, inputs: Mapping[str, Tensor]) -> dict[str, npt.NDArray[Any]]:
    """Give a session's inputs as arrays; inputs that the graph does not have are left out."""
    return {argument.name: inputs[argument.name].numpy() for argument in session.get_inputs()}


def _expected(family: Family, model: nn.Module, inputs: Mapping[str, Tensor]) -> Floats:
    with torch.inference_mode():
        scores: Floats = family.logits(model, inputs).float().numpy()
    return scores


def _agree(expected: Floats, got: Floats, tolerance: float) -> npt.NDArray[np.bool_]:
    expected, got = expected.reshape(len(expected), -1), got.reshape(len(got), -1)  # retrieval's scores have one axis
    best, picked = expected.max(axis=1), got.argmax(axis=1)
    return np.asarray(expected[np.arange(len(expected)), picked] >= best - tolerance)
