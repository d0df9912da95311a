"""The gate opens for rounding and for nothing else."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vlcompress.artefacts import load_tensors
from vlcompress.errors import VerificationError, VlcompressError
from vlcompress.export.parity import BOUNDS, Precision
from vlcompress.export.verification import TaskScore
from vlcompress.export.verify import Gate, check_graph, parity, refuse_nan
from vlcompress.models.base import Head, scores_of
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


def test_a_valid_graph_passes_from_memory_and_from_a_file(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    check_graph(model.SerializeToString())
    onnx.save(model, str(tmp_path / "model.onnx"))
    check_graph(tmp_path / "model.onnx")


@pytest.mark.parametrize(("precision", "agreement"), [("fp32", 1.0), ("fp16", 0.0), ("int8", 0.0)])
def test_in_lower_precision_answers_count_on_real_samples_only(precision: Precision, agreement: float) -> None:
    """On random inputs many answers score nearly the same: one of eight that rounding changes is no fault."""
    check = Gate(LxmertFamily(), torch.nn.Identity(), [], {}, BOUNDS[precision], Path("onnx"))
    assert check.bound_of("random shapes") == replace(BOUNDS[precision], agreement=agreement)
    assert check.bound_of("samples") == BOUNDS[precision]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_file_of_lower_precision_keeps_99_percent_of_the_score(precision: Precision) -> None:
    check = Gate(LxmertFamily(), torch.nn.Identity(), [], {}, BOUNDS[precision], Path("onnx"))
    assert check.task_score(None, lambda session: 0.496, 0.5) == TaskScore(0.496, 0.5, 0.5 - 0.496)
    with pytest.raises(VerificationError, match=r"scores 49\.40 on the task, the float32 model 50\.00: at least 99%"):
        check.task_score(None, lambda session: 0.494, 0.5)


class Session:
    """The PyTorch model in the place of an exported file; of one example, by its words, the scores are wrong."""

    def __init__(self, gate: Gate, wrong: torch.Tensor | None = None) -> None:
        self.gate, self.wrong = gate, wrong

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name) for name in self.gate.samples[0]]

    def run(self, names: list[str], inputs: dict[str, Any]) -> list[Any]:
        given = {name: torch.from_numpy(value) for name, value in inputs.items()}
        scores = scores_of(self.gate.family, self.gate.model, given).numpy().copy()
        if self.wrong is not None and given["input_ids"].shape[1] == len(self.wrong):
            scores[(given["input_ids"] == self.wrong).all(dim=1).numpy()] += 1
        return [scores]


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """A tiny LXMERT with two batches of samples, of two and of three examples."""
    family = LxmertFamily()
    config = family.config("tiny", vocab_size=50, feature_dim=16)
    model = family.build(config, Head("answers", ("a", "b", "c")), seed=0).eval()
    samples = [family.example_inputs(config, batch=size, text=6, regions=5, seed=size) for size in (2, 3)]
    return Gate(family, model, samples, config, BOUNDS["fp32"], tmp_path / "onnx")


def test_a_file_is_compared_on_the_samples_and_on_other_shapes(gate: Gate) -> None:
    found = gate.parities(Session(gate))
    assert {name: one.samples for name, one in found.items()} == {"samples": 5, "random shapes": 1 + 2 + 5}
    assert all(one.passed for one in found.values())


def test_the_worst_sample_of_a_refused_file_is_kept(gate: Gate, tmp_path: Path) -> None:
    worst = {name: tensor[1:2] for name, tensor in gate.samples[1].items()}
    session = Session(gate, worst["input_ids"][0])
    assert not parity(gate.family, gate.model, session, gate.samples).passed
    with pytest.raises(VerificationError, match=r"does not compute what the PyTorch model does \(worst of samples: "):
        gate.parities(session)
    kept = load_tensors(tmp_path / "onnx.failed" / "worst.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in worst.items())
    torch.testing.assert_close(kept["got"], kept["expected"] + 1)
