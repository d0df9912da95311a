"""The gate opens for rounding and for nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vlcompress.errors import VerificationError, VlcompressError
from vlcompress.export.parity import BOUNDS, Precision
from vlcompress.export.verify import Gate, check_graph, refuse_nan
from vlcompress.models.lxmert.adapter import LxmertFamily


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


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_file_of_lower_precision_keeps_99_percent_of_the_score(precision: Precision) -> None:
    check = Gate(LxmertFamily(), torch.nn.Identity(), [], {}, BOUNDS[precision], Path("onnx"))
    assert check.task_score(None, lambda session: 0.496, 0.5) == {"file": 0.496, "fp32": 0.5, "drop": 0.5 - 0.496}
    with pytest.raises(VerificationError, match=r"scores 49\.40 on the task, the float32 model 50\.00: at least 99%"):
        check.task_score(None, lambda session: 0.494, 0.5)
