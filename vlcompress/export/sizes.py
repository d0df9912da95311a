"""What packing the pruned layers saves on disk, beside what zipping the masked dense weights would."""

import zlib
from collections.abc import Iterable

from torch import Tensor, nn

from vlcompress.artefacts import Json
from vlcompress.sparse.compile import sparse_layers
from vlcompress.sparse.formats import to_dense

ZIP_LEVEL = 1
"""zlib's fastest: at the published size the slowest takes minutes and saves a few percent more."""


def layer_sizes(model: nn.Module) -> Json:
    """Give the bytes of a compiled model's packed layers: "dense", "packed" (values and indices), "zipped_masked"."""
    layers = [layer.bsr for layer in sparse_layers(model).values()]
    return {
        "dense": sum(bsr.values.element_size() * bsr.shape[0] * bsr.shape[1] for bsr in layers),
        "packed": sum(bsr.nbytes for bsr in layers),
        "zipped_masked": zipped(to_dense(bsr) for bsr in layers),
    }


def zipped(weights: Iterable[Tensor]) -> int:
    """Count the bytes of weights, zeros included, after one run of zlib over all of them."""
    compressor, total = zlib.compressobj(ZIP_LEVEL), 0
    for weight in weights:
        total += len(compressor.compress(weight.contiguous().numpy().data))
    return total + len(compressor.flush())
