"""Lowered layers compute what the dense MatMul does, in graphs that ONNX accepts."""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from vlcompress.export.choose import one_layer
from vlcompress.export.lowering import Form, forms
from vlcompress.export.runtime import OPSET, session_from_bytes
from vlcompress.export.trace import fold_transposed_weights, prune_unused
from vlcompress.export.verify import check_graph
from vlcompress.sparse.formats import Bsr, pack, to_dense
from vlcompress.sparse.timing import Effort

Blocky = Callable[..., Tensor]
BLOCKS = [(64, 16), (32, 32), (64, 1), (128, 1), (16, 8), (16, 16)]


def random_layer(blocky: Blocky, block: tuple[int, int], keep: float = 0.3) -> Bsr:
    """Make a random block-sparse weight 128x64."""
    return pack(torch.randn(128, 64, generator=torch.Generator().manual_seed(0)), blocky(128, 64, block, keep), block)


def every_form(bsr: Bsr) -> dict[str, Form]:
    """List the forms of a layer, and fail where there is none."""
    found = forms(bsr)
    assert found
    return found


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: f"{b[0]}x{b[1]}")
def test_every_form_agrees_with_dense_in_two_runtimes(blocky: Blocky, block: tuple[int, int]) -> None:
    bsr = random_layer(blocky, block)
    x = np.random.default_rng(0).standard_normal((1, 5, 64), dtype=np.float32)
    expected = x @ to_dense(bsr).numpy().T
    for form in every_form(bsr).values():
        data = one_layer(bsr, form)
        check_graph(data)
        (in_ort,) = session_from_bytes(data, threads=1).run(None, {"x": x})
        (in_reference,) = ReferenceEvaluator(onnx.load_from_string(data)).run(None, {"x": x})
        np.testing.assert_allclose(in_ort, expected, atol=1e-4)
        np.testing.assert_allclose(in_reference, expected, atol=1e-4)


def test_forms_use_block_gathers_where_columns_are_aligned_and_never_scatter(blocky: Blocky) -> None:
    names = {kind: {name.partition(":")[0] for name in forms(random_layer(blocky, kind))} for kind in BLOCKS}
    assert names[(64, 16)] == {"gather", "transposed"}
    assert names[(64, 1)] == {"transposed"}
    for block in BLOCKS:
        for form in forms(random_layer(blocky, block)).values():
            operators = {
                node.op_type for node in onnx.load_from_string(one_layer(random_layer(blocky, block), form)).graph.node
            }
            assert operators <= {"Reshape", "Gather", "MatMul", "Concat", "Transpose", "Gemm", "Shape", "Slice"}


def test_a_layer_that_leaves_no_columns_out_has_no_form(blocky: Blocky) -> None:
    bsr = random_layer(blocky, (1, 1), keep=0.5)
    assert forms(bsr) == {}
    choice, form = choose_form(bsr, rows=4, threads=1, effort=Effort(1, 0.0, 0))
    assert (choice.picked, form) == ("dense", None)
    assert "no row group leaves out enough columns" in choice.why


def test_the_choice_records_every_form(blocky: Blocky) -> None:
    bsr = random_layer(blocky, (64, 16))
    choice, form = choose_form(bsr, rows=256, threads=1, effort=Effort(3, 0.001, 1))
    assert set(choice.timings) == {"dense", *forms(bsr)}
    assert (form is None) == (choice.picked == "dense")


def exporter_like_graph(weight: Tensor, bias: Tensor) -> ir.Model:
    """Make a graph with the three ways in which the exporter writes a linear layer, all with one weight [N, K]."""
    x, flat = (
        ir.val(name, dtype=ir.DataType.FLOAT, shape=shape) for name, shape in (("x", ("b", "t", 64)), ("f", ("b", 64)))
    )
    turned = ir.val("turned", const_value=ir.tensor(weight.T.contiguous().numpy(), name="turned"))
    plain = ir.val("plain", const_value=ir.tensor(weight.numpy(), name="plain"))
    shift = ir.val("shift", const_value=ir.tensor(bias.numpy(), name="shift"))
    nodes = [
        ir.node("MatMul", [x, turned]),
        ir.node("Transpose", [plain], {"perm": [1, 0]}),
        ir.node("Gemm", [flat, plain, shift], {"transB": 1}),
    ]
    nodes.append(ir.node("MatMul", [x, nodes[1].outputs[0]]))
    results = [nodes[i].outputs[0] for i in (0, 2, 3)]
    for i, value in enumerate(results):
        value.name, value.dtype = f"y{i}", ir.DataType.FLOAT
        value.shape = ir.Shape(("b", 128) if i == 1 else ("b", "t", 128))
    graph = ir.Graph(
        [x, flat], results, nodes=nodes, initializers=[turned, plain, shift], opset_imports={"": OPSET}, name="g"
    )
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("block", [(64, 16), (64, 1)], ids=lambda b: f"{b[0]}x{b[1]}")
def test_every_way_of_the_exporter_is_found_and_rewritten(blocky: Blocky, block: tuple[int, int]) -> None:
    bsr, bias = random_layer(blocky, block), torch.randn(128)
    model = exporter_like_graph(to_dense(bsr), bias)
    feeds = {"x": np.random.randn(2, 3, 64).astype(np.float32), "f": np.random.randn(2, 64).astype(np.float32)}
    expected = session_from_bytes(ir.to_proto(model).SerializeToString(), threads=1).run(None, feeds)
    before = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    fold_transposed_weights(model)
    form = next(iter(every_form(bsr).values()))
    assert lower_layers(model, {"layer.weight": (bsr, form)}) == 3
    prune_unused(model)
    data = ir.to_proto(model).SerializeToString()
    check_graph(data)
    for got, want in zip(session_from_bytes(data, threads=1).run(None, feeds), expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)
    after = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    assert after < 0.3 * before  # the weight is stored once, packed, though it is used three times
