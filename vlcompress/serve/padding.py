"""Padding of requests, by the rule of `vlcompress.models.padding`, and of numpy arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlcompress.models.padding import bucket, masked_axes
from vlcompress.serve.tensors import Array, Arrays, TensorSpec

Shapes = tuple[tuple[int, ...], ...]
"""For each input its shape without the batch axis: requests of equal shapes can be merged."""


@dataclass(frozen=True)
class Padding:
    """The buckets of a model.

    Attributes:
        specs: the model's inputs.
        buckets: by axis name the sizes to pad to, rising; a size above the last one stays as it is.
    """

    specs: tuple[TensorSpec, ...]
    buckets: Mapping[str, tuple[int, ...]]

    def target(self, sizes: Mapping[str, int]) -> Shapes:
        """Choose the shapes that inputs with these named sizes are padded to."""
        padded = {axis: bucket(size, self.buckets.get(axis, ())) for axis, size in sizes.items()}
        return tuple(
            tuple(size if isinstance(size, int) else padded[size] for size in spec.shape[1:]) for spec in self.specs
        )

    def merge(self, requests: Sequence[Arrays], target: Shapes) -> Arrays:
        """Stack the requests' rows, padded with 0 to the target shapes."""
        return {
            spec.name: _stack([inputs[spec.name] for inputs in requests], shape)
            for spec, shape in zip(self.specs, target, strict=True)
        }


def padding_of(specs: Sequence[TensorSpec], sizes: Mapping[str, Sequence[int]]) -> Padding:
    """Build the padding of a model.

    Args:
        specs: its inputs.
        sizes: the buckets that its manifest names; those of axes without a mask are left out.
    """
    masked = masked_axes({spec.name: spec.shape for spec in specs})
    buckets = {axis: tuple(sorted(values)) for axis, values in sizes.items() if axis in masked}
    return Padding(tuple(specs), buckets)


def unpadded(array: Array, spec: TensorSpec, sizes: Mapping[str, int]) -> Array:
    """Cut an output back to the request's own sizes along the axes that it shares with the inputs.

    Args:
        array: the output's rows of this request.
        spec: the output.
        sizes: the request's sizes of named axes.
    """
    own = [sizes.get(size, found) for size, found in zip(spec.shape[1:], array.shape[1:], strict=True)]  # type: ignore[arg-type]
    if tuple(own) == array.shape[1:]:
        return array
    return array[(slice(None), *(slice(size) for size in own))]


def _stack(arrays: Sequence[Array], shape: tuple[int, ...]) -> Array:
    if all(array.shape[1:] == shape for array in arrays):
        # A lone tensor is not copied, unless it lies askew in the request's body.
        return np.require(arrays[0], requirements=["A", "C"]) if len(arrays) == 1 else np.concatenate(arrays)
    rows = sum(len(array) for array in arrays)
    stacked = np.zeros((rows, *shape), dtype=arrays[0].dtype)
    at = 0
    for array in arrays:
        stacked[(slice(at, at + len(array)), *(slice(size) for size in array.shape[1:]))] = array
        at += len(array)
    return stacked
