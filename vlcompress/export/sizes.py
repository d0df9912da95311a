"""What packing the pruned layers saves on disk, beside what zipping the masked dense weights would."""

import zlib
from collections.abc import Iterable

from torch import Tensor, nn

from vlcompress.export.manifest import LayerBytes
from vlcompress.kernels.backends import SparseWeight
from vlcompress.kernels.backends import dense as full_weight
from vlcompress.models.base import Config, Family, Head
from vlcompress.sparse.compile import sparse_layers

ZIP_LEVEL = 1
"""zlib's fastest: at the published size the slowest takes minutes and saves a few percent more."""

ZIPPED_BYTES = 100_000_000
"""About so many bytes of weights are zipped; the share of whole layers, evenly chosen, stands for all of them."""


def layer_sizes(model: nn.Module) -> LayerBytes:
    """Count the bytes of a compiled model's packed layers.

    Above ZIPPED_BYTES those of the zipped weights are estimated from a sample of the layers.
    """
    layers = [layer.weight for layer in sparse_layers(model).values()]
    dense = sum(map(_dense_bytes, layers))
    sample = layers[:: 1 + dense // ZIPPED_BYTES]
    share = zipped(map(full_weight, sample)) / max(1, sum(map(_dense_bytes, sample)))
    packed = sum(weight.nbytes for weight in layers)
    return LayerBytes(dense, packed, round(share * dense))


def unpruned_bytes(family: Family, config: Config, head: Head) -> int:
    """Count the bytes of a full-size model's weights in float32; 0 for a model that no configuration describes."""
    if not config:
        return 0
    return sum(4 * parameter.numel() for parameter in family.skeleton(config, head).parameters())


def _dense_bytes(weight: SparseWeight) -> int:
    return weight.values.element_size() * weight.shape[0] * weight.shape[1]


def zipped(weights: Iterable[Tensor]) -> int:
    """Count the bytes of weights, zeros included, after one run of zlib over all of them."""
    compressor, total = zlib.compressobj(ZIP_LEVEL), 0
    for weight in weights:
        total += len(compressor.compress(weight.contiguous().numpy().data))
    return total + len(compressor.flush())
