"""Lowered layers compute what the dense MatMul does, in graphs that ONNX accepts."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from vlcompress.export.choose import one_layer
from vlcompress.export.lowering import Form, aligned_width, forms
from vlcompress.export.runtime import session_from_bytes
from vlcompress.export.verify import check_graph
from vlcompress.kernels.formats import BlockSparseWeight, pack_masked, unpack

Blocky = Callable[..., Tensor]
BLOCKS = [(64, 16), (32, 32), (64, 1), (128, 1), (16, 8), (16, 16)]


def random_layer(blocky: Blocky, block: tuple[int, int], keep: float = 0.3) -> BlockSparseWeight:
    """Make a random block-sparse weight 128x64."""
    return pack_masked(
        torch.randn(128, 64, generator=torch.Generator().manual_seed(0)), blocky(128, 64, block, keep), block
    )


def every_form(bsr: BlockSparseWeight) -> dict[str, Form]:
    """List the forms of a layer, and fail where there is none."""
    found = forms(bsr, 5)
    assert found
    return found


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: f"{b[0]}x{b[1]}")
def test_every_form_agrees_with_dense_in_two_runtimes(blocky: Blocky, block: tuple[int, int]) -> None:
    bsr = random_layer(blocky, block)
    x = np.random.default_rng(0).standard_normal((1, 5, 64), dtype=np.float32)
    expected = x @ unpack(bsr).numpy().T
    for form in every_form(bsr).values():
        data = one_layer(bsr, form)
        check_graph(data)
        (in_ort,) = session_from_bytes(data, threads=1).run(None, {"x": x})
        (in_reference,) = ReferenceEvaluator(onnx.load_from_string(data)).run(None, {"x": x})
        np.testing.assert_allclose(in_ort, expected, atol=1e-4)
        np.testing.assert_allclose(in_reference, expected, atol=1e-4)


def test_forms_use_block_gathers_where_columns_are_aligned_and_never_scatter(blocky: Blocky) -> None:
    names = {kind: {name.partition(":")[0] for name in forms(random_layer(blocky, kind), 5)} for kind in BLOCKS}
    assert names[(64, 16)] == {"rows", "gather", "transposed"}
    assert names[(64, 1)] == {"transposed"}
    for block in BLOCKS:
        for form in forms(random_layer(blocky, block), 5).values():
            operators = {
                node.op_type for node in onnx.load_from_string(one_layer(random_layer(blocky, block), form)).graph.node
            }
            assert operators <= {"Reshape", "Gather", "MatMul", "Concat", "Transpose", "Gemm", "Shape", "Slice"}


def test_the_fewer_rows_the_more_is_merged(blocky: Blocky) -> None:
    bsr = pack_masked(torch.randn(1024, 256), blocky(1024, 256, (64, 16), 0.3), (64, 16))
    few, many = (
        max(len(form.groups.groups) for form in forms(bsr, rows).values() if form.merge not in ("apart", "one"))
        for rows in (100, 1000)
    )
    assert few < many


def test_a_layer_never_becomes_hundreds_of_nodes(blocky: Blocky) -> None:
    """Graphs of ten thousand nodes take more than 20 s to load."""
    bsr = pack_masked(torch.randn(1024, 16), blocky(1024, 16, (8, 4), 0.2), (8, 4))
    assert forms(bsr, 1 << 20)
    assert all(len(form.groups.groups) <= 64 for form in forms(bsr, 1 << 20).values())


def test_a_layer_that_leaves_no_columns_out_has_no_form(blocky: Blocky) -> None:
    assert forms(random_layer(blocky, (1, 1), keep=0.5), 5) == {}


def test_aligned_width() -> None:
    assert aligned_width(range(16, 48), 64) == 16
    assert aligned_width([*range(0, 8), *range(24, 32)], 64) == 8
    assert aligned_width(range(4, 20), 64) == 1
    assert aligned_width(range(32), 100) == 1
