"""What was padded comes back at its own size, also where the graph's output tells its size by an expression."""

import numpy as np
import pytest

from vlcompress.serve.padding import axis_size, unpadded
from vlcompress.serve.tensors import TensorSpec

REGIONS = "Max(0, regions + text - Min(text, regions + text))"
"""The axis of RefCOCO's scores, as the tracer writes it."""


@pytest.mark.parametrize(
    ("axis", "size"),
    [
        ("regions", 3),
        (REGIONS, 3),
        ("2*regions - 1", 5),
        ("logits.1", 8),  # a name of the runtime's own
        ("other", 8),
        ("regions ** 99", 8),
        ("open('x')", 8),
        ("regions +", 8),
    ],
)
def test_an_axis_is_a_name_or_an_expression_of_names(axis: str, size: int) -> None:
    assert axis_size(axis, {"batch": 1, "text": 5, "regions": 3}, otherwise=8) == size


def test_scores_of_padded_regions_are_cut_off() -> None:
    spec = TensorSpec("logits", "FP32", ("batch", REGIONS))
    scores_18 = np.array([[0.5, 0.25, 0.125, *[-1e4] * 5]], np.float32)
    found = unpadded(scores_18, spec, {"batch": 1, "text": 5, "regions": 3})
    assert found.tolist() == [[0.5, 0.25, 0.125]]
