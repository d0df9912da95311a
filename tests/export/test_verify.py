"""The gate opens for rounding and for nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vlcompress.errors import VerificationError, VlcompressError
from vlcompress.export.verify import (
    BOUNDS,
    Floats,
    Gate,
    Parity,
    Precision,
    check_graph,
    compare_scores,
    refuse_nan,
    require,
)
from vlcompress.models.lxmert.adapter import LxmertFamily

SCORES = np.array([[1.0, 5.0, 2.0], [4.0, 0.0, 1.0]], dtype=np.float32)


def test_rounding_passes() -> None:
    result = compare_scores([SCORES], [SCORES + np.float32(1e-5)])
    assert result.passed
    assert result.samples == 2
    assert result.max_abs_error == pytest.approx(1e-5, rel=0.1)
    assert result.max_rel_error == pytest.approx(2e-6, rel=0.1)
    require(result, "it differs")


def test_a_large_error_does_not_pass() -> None:
    with pytest.raises(VerificationError, match=r"it differs: on 2 samples the relative error is 0\.01 "):
        require(compare_scores([SCORES], [SCORES * np.float32(1.01)]), "it differs")


def test_a_changed_answer_does_not_pass() -> None:
    result = compare_scores([SCORES], [SCORES[:, ::-1]])
    assert result.answer_agreement == 0.5  # the first answer is in the middle and stays
    assert not result.passed


def test_ties_may_go_either_way() -> None:
    tied = np.array([[3.0, 3.0, 1.0]], dtype=np.float32)
    result = compare_scores([tied], [tied + np.array([[0.0, 1e-6, 0.0]], dtype=np.float32)])
    assert result.answer_agreement == 1.0


def test_nan_scores_do_not_pass() -> None:
    assert not compare_scores([SCORES], [SCORES * np.nan]).passed


def test_a_nan_weight_is_named() -> None:
    with pytest.raises(VlcompressError, match="weight 'b' holds NaN"):
        refuse_nan({"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")]), "c": torch.ones(1, dtype=torch.int64)})


def test_an_invalid_graph_is_refused() -> None:
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("NoSuchOperator", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    assert isinstance(model, onnx.ModelProto)
    with pytest.raises(VerificationError, match="not valid ONNX"):
        check_graph(model.SerializeToString())


@pytest.mark.parametrize(("precision", "agreement"), [("fp32", 1.0), ("fp16", 0.0), ("int8", 0.0)])
def test_in_lower_precision_answers_count_on_real_samples_only(precision: Precision, agreement: float) -> None:
    """On random inputs many answers score nearly the same: one of eight that rounding changes is no fault."""
    check = Gate(LxmertFamily(), torch.nn.Identity(), [], {}, BOUNDS[precision], Path("onnx"))
    assert check.bound_of("random shapes") == replace(BOUNDS[precision], agreement=agreement)
    assert check.bound_of("samples") == BOUNDS[precision]


ALLOWED: list[tuple[Precision, float, int]] = [("fp32", 1e-4, 0), ("fp16", 0.02, 4), ("int8", 0.1, 20)]
"""Of each precision the largest error, relative to the largest score, and how many of 200 answers may change."""


def turned(count: int, gap: float) -> Parity:
    """Compare 200 examples, whose best score of 1 leads by `gap`, with the same of which `count` are reversed."""
    expected: Floats = np.tile(np.array([[1.0, 1 - gap]], dtype=np.float32), (200, 1))
    got = expected.copy()
    got[:count] = (1 - gap / 2 - gap / 100, 1 - gap / 2 + gap / 100)
    return compare_scores([expected], [got])


@pytest.mark.parametrize(("precision", "relative", "changed"), ALLOWED)
def test_each_precision_lets_pass_what_it_promises_and_nothing_beyond(
    precision: Precision, relative: float, changed: int
) -> None:
    bound = BOUNDS[precision]
    assert compare_scores([SCORES], [SCORES + np.float32(0.98 * relative * 5)]).within(bound)
    assert not compare_scores([SCORES], [SCORES + np.float32(1.02 * relative * 5)]).within(bound)
    assert turned(changed, 1.5 * relative).within(bound)
    assert not turned(changed + 1, 1.5 * relative).within(bound)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_file_of_lower_precision_keeps_99_percent_of_the_score(precision: Precision) -> None:
    check = Gate(LxmertFamily(), torch.nn.Identity(), [], {}, BOUNDS[precision], Path("onnx"))
    assert check.task_score(None, lambda session: 0.496, 0.5) == {"file": 0.496, "fp32": 0.5, "drop": 0.5 - 0.496}
    with pytest.raises(VerificationError, match=r"scores 49\.40 on the task, the float32 model 50\.00: at least 99%"):
        check.task_score(None, lambda session: 0.494, 0.5)
