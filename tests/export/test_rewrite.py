"""Every use of a pruned layer is found and written anew, packed or expanded, and the graph computes the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import inliner
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from tests.export.graphs import emitted_graph, exporter_like_graph
from vlcompress.export.functions import DOMAIN, MAX_BODIES, NAME, NAME_INT8, packable
from vlcompress.export.lowering import Form, forms
from vlcompress.export.native.library import round_weight
from vlcompress.export.quantize import Quantizer
from vlcompress.export.rewrite import Rewriter, WrittenLayer
from vlcompress.export.runtime import session_from_bytes
from vlcompress.export.target import OPSET
from vlcompress.export.tidy import prune_unused
from vlcompress.export.verify import check_graph
from vlcompress.kernels.formats import BlockSparseWeight, pack_masked, unpack
from vlcompress.kernels.grouped import RowGroups, row_panels

Blocky = Callable[..., Tensor]
BLOCKS = [(64, 16), (64, 1), (16, 1), (16, 16), (32, 32), (8, 4)]
FEEDS = {
    "x": np.random.default_rng(0).standard_normal((2, 3, 64), dtype=np.float32),
    "f": np.random.default_rng(1).standard_normal((2, 64), dtype=np.float32),
}


def random_layer(blocky: Blocky, block: tuple[int, int], keep: float = 0.3) -> BlockSparseWeight:
    """Make a random block-sparse weight 128x64."""
    return pack_masked(
        torch.randn(128, 64, generator=torch.Generator().manual_seed(0)), blocky(128, 64, block, keep), block
    )


def serialised(model: ir.Model) -> bytes:
    data: bytes = ir.to_proto(model).SerializeToString()
    return data


def rewritten(bsr: BlockSparseWeight, form: Form | None, panels: RowGroups | None) -> tuple[bytes, bytes, int]:
    """Return the graph of plain products, the one of the layer's nodes replaced, and how many became sparse."""
    before = serialised(exporter_like_graph(unpack(bsr), torch.linspace(-1, 1, 128)))
    model = emitted_graph(bsr, torch.linspace(-1, 1, 128))
    count = Rewriter(model, OPSET).apply({"layer.weight": WrittenLayer(bsr, form, panels)})
    prune_unused(model)
    return before, serialised(model), count


def as_dense(model: ir.Model, bsr: BlockSparseWeight) -> bytes:
    """Return a graph with the layer's nodes as dense products."""
    plain = model.clone()
    assert Rewriter(plain, OPSET).apply({"layer.weight": WrittenLayer(bsr)}) == 0
    return serialised(plain)


def all_writings(bsr: BlockSparseWeight) -> dict[str, tuple[Form | None, RowGroups | None]]:
    """List every form, packed and expanded, and the packed layer that runs dense."""
    found: dict[str, tuple[Form | None, RowGroups | None]] = {"rebuilt": (None, row_panels(bsr))}
    for name, form in forms(bsr, 6).items():
        found[f"{name} expanded"] = (form, None)
        if packable(form.groups):  # lower groups than the native kernel's panels are never packed
            found[f"{name} packed"] = (form, form.groups)
    return found


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: f"{b[0]}x{b[1]}")
def test_every_use_is_rewritten_and_gives_the_same_in_three_readings(blocky: Blocky, block: tuple[int, int]) -> None:
    bsr = random_layer(blocky, block)
    for name, (form, panels) in all_writings(bsr).items():
        before, after, count = rewritten(bsr, form, panels)
        assert count == 4, name
        check_graph(after)
        expected = session_from_bytes(before, threads=1).run(None, FEEDS)
        assert float(np.abs(expected[0]).max()) > 1
        model = onnx.load_from_string(after)
        readings = {
            "onnxruntime": session_from_bytes(after, threads=1).run(None, FEEDS),
            "reference": ReferenceEvaluator(model).run(None, FEEDS),
            "inlined": ReferenceEvaluator(inliner.inline_local_functions(model)).run(None, FEEDS),
        }
        for reading, got in readings.items():
            for one, want in zip(got, expected, strict=True):
                np.testing.assert_allclose(one, want, atol=1e-4, err_msg=f"{name} in {reading}")


def test_a_packed_layer_is_stored_once_and_absorbs_bias_and_activation(blocky: Blocky) -> None:
    bsr = random_layer(blocky, (64, 16))
    form = next(iter(forms(bsr, 6).values()))
    before, after, _ = rewritten(bsr, form, form.groups)
    graph = onnx.load_from_string(after).graph
    assert {node.domain for node in graph.node} == {DOMAIN}
    settings = [{a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} for node in graph.node]
    assert [one["activation"] for one in settings] == [b"none", b"gelu", b"none", b"none"]
    assert {(one["N"], one["K"], one["h"]) for one in settings} == {(128, 64, 16)}
    names = [tensor.name for tensor in graph.initializer]
    assert sorted(name for name in names if name.startswith("layer")) == [
        "layer.weight.columns", "layer.weight.starts", "layer.weight.values",
    ]  # fmt: skip
    assert (
        len(after) - len(before) < -1.3 * 4 * 128 * 64
    )  # two dense copies went, a quarter of one came, with functions


def test_the_packed_node_holds_what_the_contract_says(blocky: Blocky) -> None:
    bsr = random_layer(blocky, (16, 4))
    _, after, _ = rewritten(bsr, None, row_panels(bsr))
    graph = onnx.load_from_string(after).graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    values, columns, starts = (stored[f"layer.weight.{part}"] for part in ("values", "columns", "starts"))
    assert (values.dtype, columns.dtype, starts.dtype) == (np.float32, np.int32, np.int64)
    dense = np.zeros((128, 64), dtype=np.float32)
    for panel in range(8):
        for j in range(starts[panel], starts[panel + 1]):
            dense[panel * 16 : panel * 16 + 16, columns[j]] = values[j * 16 : j * 16 + 16]
    np.testing.assert_array_equal(dense, unpack(bsr).numpy())
    assert (np.diff(starts) > 0).all()


def test_nothing_is_ever_scattered_with_a_sum(blocky: Blocky) -> None:
    """Onnxruntime's scatter-add races: wrong results with more than one thread (microsoft/onnxruntime#18048)."""
    bsr = random_layer(blocky, (16, 1))
    functions = onnx.load_from_string(rewritten(bsr, None, row_panels(bsr))[1]).functions
    scatters = [node for one in functions for node in one.node if node.op_type.startswith("Scatter")]
    assert scatters
    assert all(attribute.name != "reduction" for node in scatters for attribute in node.attribute)


def test_no_panel_is_empty(blocky: Blocky) -> None:
    mask = blocky(128, 64, (16, 4), 0.4)
    mask[32:64] = False
    bsr = pack_masked(torch.randn(128, 64), mask, (16, 4))
    before, after, _ = rewritten(bsr, None, row_panels(bsr))
    got, want = (session_from_bytes(data, threads=1).run(None, FEEDS)[0] for data in (after, before))
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_functions_have_names_of_their_own_not_overloads(blocky: Blocky) -> None:
    """Onnxruntime 1.20 and onnx's reference evaluator take any overload for any other, and compute something else."""
    bsr = random_layer(blocky, (64, 16))
    for form in forms(bsr, 6).values():
        functions = onnx.load_from_string(rewritten(bsr, form, form.groups)[1]).functions
        assert {function.overload for function in functions} == {""}
        assert [function.name for function in functions] == [NAME, f"{NAME}_1", f"{NAME}_2"]  # plain, Gelu, rank 2


def test_a_file_with_too_many_structures_writes_the_rest_in_standard_operators(
    blocky: Blocky, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_BODIES == 256  # the number of names that the native library registers
    monkeypatch.setattr("vlcompress.export.rewrite.MAX_BODIES", 1)
    bsr = random_layer(blocky, (64, 16))
    form = next(iter(forms(bsr, 6).values()))
    before, after, count = rewritten(bsr, form, form.groups)
    assert count == 4
    assert {node.op_type for node in onnx.load_from_string(after).graph.node} > {NAME, "MatMul"}
    for got, want in zip(*(session_from_bytes(d, threads=1).run(None, FEEDS) for d in (after, before)), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("block", [(64, 16), (64, 1)], ids=lambda b: f"{b[0]}x{b[1]}")
def test_an_inlined_body_is_fused_and_shared_like_plain_operators(
    blocky: Blocky, block: tuple[int, int], tmp_path: Path
) -> None:
    bsr = random_layer(blocky, block)
    for form in forms(bsr, 6).values():
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        onnxruntime.InferenceSession(rewritten(bsr, form, form.groups)[1], options, providers=["CPUExecutionProvider"])
        kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
        assert kinds.count("BiasGelu") == 1, form.name
        assert kinds.count("Transpose") <= 2, form.name  # x and f are turned once, however many layers read them


def test_an_activation_that_others_read_as_well_stays_outside(blocky: Blocky) -> None:
    bsr = random_layer(blocky, (64, 16))
    model = emitted_graph(bsr, torch.ones(128))
    biased = next(node for node in model.graph if node.op_type == "Gelu").inputs[0]
    assert biased is not None
    biased.name = "seen"
    model.graph.outputs.append(biased)
    form = next(iter(forms(bsr, 6).values()))
    before = as_dense(model, bsr)
    Rewriter(model, OPSET).apply({"layer.weight": WrittenLayer(bsr, form, form.groups)})
    after = serialised(model)
    assert "Gelu" in {node.op_type for node in model.graph}
    for got, want in zip(*(session_from_bytes(d, threads=1).run(None, FEEDS) for d in (after, before)), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("shape", [("b", "t", 128), (1, 1, 128), ("b", None, 128)], ids=str)
@pytest.mark.parametrize("first", [True, False], ids=["residual first", "residual last"])
def test_a_residual_of_surely_the_same_shape_is_absorbed(blocky: Blocky, shape: tuple[Any, ...], first: bool) -> None:
    bsr = random_layer(blocky, (64, 16))
    for name, (form, panels) in all_writings(bsr).items():
        model = with_residual(emitted_graph(bsr, torch.linspace(-1, 1, 128)), shape, first)
        before = as_dense(model, bsr)
        Rewriter(model, OPSET).apply({"layer.weight": WrittenLayer(bsr, form, panels)})
        after = serialised(model)
        check_graph(after)
        absorbed = panels is not None and shape == ("b", "t", 128)
        node = model.graph.outputs[-1].producer()
        assert node is not None
        assert (node.domain, len(node.inputs)) == ((DOMAIN, 6) if absorbed else ("", 2)), name
        feeds = {**FEEDS, "r": np.full((1, 1, 128) if shape[0] == 1 else (2, 3, 128), 0.5, dtype=np.float32)}
        got, want = (session_from_bytes(data, threads=1).run(None, feeds) for data in (after, before))
        reference = ReferenceEvaluator(onnx.load_from_string(after)).run(None, feeds)
        for one, other, wanted in zip(got, reference, want, strict=True):
            np.testing.assert_allclose(one, wanted, atol=1e-4, err_msg=name)
            np.testing.assert_allclose(other, wanted, atol=1e-4, err_msg=name)


def with_residual(model: ir.Model, shape: tuple[Any, ...], first: bool) -> ir.Model:
    """Add an input r to a product with a bias, as a further output."""
    gelu = next(node for node in model.graph if node.op_type == "Gelu")
    biased = gelu.inputs[0]
    assert biased is not None
    residual = ir.val("r", dtype=ir.DataType.FLOAT, shape=shape)
    node = ir.node("Add", [residual, biased] if first else [biased, residual])
    total = node.outputs[0]
    total.name, total.dtype, total.shape = "total", ir.DataType.FLOAT, ir.Shape(("b", "t", 128))
    model.graph.insert_after(gelu, node)
    model.graph.outputs.remove(gelu.outputs[0])
    model.graph.remove(gelu, safe=True)
    model.graph.inputs.append(residual)
    model.graph.outputs.append(total)
    return model


def quantised(bsr: BlockSparseWeight, form: Form | None, *, by_rows: bool = False) -> tuple[bytes, bytes]:
    before = serialised(exporter_like_graph(unpack(bsr), torch.linspace(-1, 1, 128)))
    model = emitted_graph(bsr, torch.linspace(-1, 1, 128))
    Rewriter(model, OPSET).apply({"layer.weight": WrittenLayer(bsr, form)})
    prune_unused(model)
    assert Quantizer(model, by_rows).apply() > 0
    return before, serialised(model)


def test_int8_by_rows_gives_each_row_its_own_answer(blocky: Blocky) -> None:
    before, after = quantised(random_layer(blocky, (64, 16)), None, by_rows=True)
    check_graph(after)
    expected = session_from_bytes(before, threads=1).run(None, FEEDS)
    session = session_from_bytes(after, threads=1)
    alone = session.run(None, FEEDS)
    for one, want in zip(alone, expected, strict=True):
        assert float(np.abs(one - want).max()) < 0.03 * float(np.abs(want).max())
    huge = {name: np.concatenate([array, 1000 * array]) for name, array in FEEDS.items()}
    for one, together in zip(alone, session.run(None, huge), strict=True):
        np.testing.assert_array_equal(one, together[: len(one)])
    nothing = session.run(None, {name: np.zeros_like(array) for name, array in FEEDS.items()})
    assert all(np.isfinite(one).all() for one in nothing)


@pytest.mark.parametrize("sparse", [False, True])
def test_int8_products_stay_near_float32_and_share_their_quantised_input(blocky: Blocky, sparse: bool) -> None:
    bsr = random_layer(blocky, (64, 16))
    gathers = {name: form for name, form in forms(bsr, 6).items() if form.kind == "gather"}
    form = next(iter(gathers.values())) if sparse else None
    before, after = quantised(bsr, form)
    check_graph(after)
    kinds = [node.op_type for node in onnx.load_from_string(after).graph.node]
    assert kinds.count("DynamicQuantizeLinear") == 2  # x and f, once each
    assert not {"MatMul", "Gemm"} & set(kinds)
    expected = session_from_bytes(before, threads=1).run(None, FEEDS)
    got = session_from_bytes(after, threads=1).run(None, FEEDS)
    for one, want in zip(got, expected, strict=True):
        assert 1e-6 < float(np.abs(one - want).max()) < 0.03 * float(np.abs(want).max())


def test_a_weight_that_several_products_read_can_be_widened(blocky: Blocky, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on processors without VNNI: ONNX Runtime then refuses a weight that two products share."""
    monkeypatch.setattr("vlcompress.export.runtime.saturates", lambda: True)
    before, after = quantised(random_layer(blocky, (64, 16)), None)
    expected = session_from_bytes(before, threads=1).run(None, FEEDS)
    for one, want in zip(session_from_bytes(after, threads=1).run(None, FEEDS), expected, strict=True):
        assert float(np.abs(one - want).max()) < 0.03 * float(np.abs(want).max())


def test_int8_weights_are_signed_with_a_scale_for_each_output() -> None:
    weight: Any = np.array([[1.0, 0.0], [-2.0, 0.0]], dtype=np.float32)
    values, scale = round_weight(weight.T)
    assert values.dtype == np.int8  # unsigned weights lose more than half of the speed
    assert values.T.tolist() == [[64, 0], [-127, 0]]
    np.testing.assert_allclose(values.T * scale, weight, atol=0.01)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: f"{b[0]}x{b[1]}")
def test_packed_nodes_in_int8_run_anywhere_and_stay_near_float32(blocky: Blocky, block: tuple[int, int]) -> None:
    bsr = random_layer(blocky, block)
    before = serialised(exporter_like_graph(unpack(bsr), torch.linspace(-1, 1, 128)))
    expected = session_from_bytes(before, threads=1).run(None, FEEDS)
    packed = {name: way for name, way in all_writings(bsr).items() if way[1] is not None}
    for name, (form, panels) in packed.items():
        if form is not None and form.kind == "transposed":  # MatMulInteger takes no transposed input
            continue
        after = packed_int8(bsr, form, panels)
        check_graph(after)
        model = onnx.load_from_string(after)
        assert {node.domain for node in model.graph.node} == {DOMAIN}
        assert [one.name for one in model.functions] == [NAME_INT8, f"{NAME_INT8}_1", f"{NAME_INT8}_2"]
        readings = {
            "onnxruntime": session_from_bytes(after, threads=1, native="off").run(None, FEEDS),
            "reference": ReferenceEvaluator(model).run(None, FEEDS),
        }
        for reading, got in readings.items():
            for one, want in zip(got, expected, strict=True):
                error = float(np.abs(one - want).max())
                assert 1e-6 < error < 0.03 * float(np.abs(want).max()), f"{name} in {reading}"


def test_packed_nodes_in_int8_hold_bytes_and_a_scale_for_each_output(blocky: Blocky) -> None:
    bsr = random_layer(blocky, (16, 1))
    graph = onnx.load_from_string(packed_int8(bsr, None, row_panels(bsr))).graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    values, columns, starts = (stored[f"layer.weight.{part}"] for part in ("values", "columns", "starts"))
    scales = stored["layer.weight.scales"]
    assert (values.dtype, scales.dtype, scales.shape) == (np.int8, np.float32, (128,))
    dense = np.zeros((128, 64), dtype=np.int8)
    for panel in range(8):
        for j in range(starts[panel], starts[panel + 1]):
            dense[panel * 16 : panel * 16 + 16, columns[j]] = values[j * 16 : j * 16 + 16]
    np.testing.assert_allclose(dense * scales[:, None], unpack(bsr).numpy(), atol=0.51 * scales.max())


def test_a_body_in_int8_is_fused_like_plain_operators(blocky: Blocky, tmp_path: Path) -> None:
    """The dense weight is made when the file is loaded, and scales and sums become one operator."""
    bsr = random_layer(blocky, (16, 1))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(packed_int8(bsr, None, row_panels(bsr)), options, providers=["CPUExecutionProvider"])
    kinds = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert not kinds & {"ScatterND", "MatMulInteger", "Cast"}
    assert kinds & {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"}


def test_packed_nodes_in_int8_can_be_widened(blocky: Blocky, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on processors without VNNI, though four products share one weight."""
    monkeypatch.setattr("vlcompress.export.runtime.saturates", lambda: True)
    bsr = random_layer(blocky, (16, 1))
    before, _, _ = rewritten(bsr, None, None)
    expected = session_from_bytes(before, threads=1).run(None, FEEDS)
    got = session_from_bytes(packed_int8(bsr, None, row_panels(bsr)), threads=1, native="off").run(None, FEEDS)
    for one, want in zip(got, expected, strict=True):
        assert float(np.abs(one - want).max()) < 0.03 * float(np.abs(want).max())


def packed_int8(bsr: BlockSparseWeight, form: Form | None, panels: RowGroups | None) -> bytes:
    model = emitted_graph(bsr, torch.linspace(-1, 1, 128))
    assert Rewriter(model, OPSET, int8=True).apply({"layer.weight": WrittenLayer(bsr, form, panels)}) == 4
    prune_unused(model)
    return serialised(model)
