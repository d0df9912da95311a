"""At real size a layer pruned to 70 % takes at most 0.36 of its dense bytes, in every form that is written."""

import pytest
import torch
from torch import nn

from tests.conftest import make_blocky
from vlcompress.export.functions import pack_panels
from vlcompress.export.lowering import forms
from vlcompress.export.sizes import layer_sizes
from vlcompress.kernels.formats import pack_masked
from vlcompress.kernels.grouped import row_panels
from vlcompress.kernels.linear import BlockSparseLinear

SHAPE = (3072, 768)
DENSE = 4 * SHAPE[0] * SHAPE[1]


@pytest.mark.parametrize("block", [(16, 1), (16, 16), (32, 32), (64, 64), (192, 16)], ids=lambda b: f"{b[0]}x{b[1]}")
def test_values_and_indices_only(block: tuple[int, int]) -> None:
    bsr = pack_masked(torch.randn(SHAPE), make_blocky(*SHAPE, block, 0.3), block)
    assert bsr.nbytes <= 0.36 * DENSE
    panels = row_panels(bsr)
    assert panels is not None
    assert pack_panels(panels).nbytes <= 0.36 * DENSE
    for form in forms(bsr, 1152).values():
        if form.merge == "apart":
            packed = pack_panels(form.groups).nbytes
            assert packed <= 0.36 * DENSE


def test_sizes_stand_beside_the_zipped_masked_weights() -> None:
    block = (16, 16)
    bsr = pack_masked(torch.randn(768, 768), make_blocky(768, 768, block, 0.3), block)
    sizes = layer_sizes(nn.Sequential(BlockSparseLinear(bsr, None)))
    assert sizes.dense == 4 * 768 * 768
    assert sizes.packed == bsr.nbytes
    assert 0.25 * sizes.dense < sizes.zipped_masked < 0.36 * sizes.dense  # random floats do not compress
