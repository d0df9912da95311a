"""Padding of requests, by the rule of `vlcompress.models.padding`, and of numpy arrays."""

import ast
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

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
    axes = zip(spec.shape[1:], array.shape[1:], strict=True)
    own = [found if isinstance(axis, int) else axis_size(axis, sizes, found) for axis, found in axes]
    if tuple(own) == array.shape[1:]:
        return array
    return array[(slice(None), *(slice(size) for size in own))]


def axis_size(axis: str, sizes: Mapping[str, int], otherwise: int) -> int:
    """Compute the size of an output's axis, which is a name or an expression of names.

    The tracer writes RefCOCO's scores as "Max(0, regions + text - Min(text, regions + text))".

    Args:
        axis: as the graph has it.
        sizes: by name.
        otherwise: what to give where it is neither.
    """
    if axis in sizes:
        return sizes[axis]
    try:
        return _evaluated(_parsed(axis), sizes)
    except (KeyError, SyntaxError, ValueError):
        return otherwise


@lru_cache(maxsize=256)
def _parsed(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _evaluated(node: ast.expr, sizes: Mapping[str, int]) -> int:
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=name):
            return sizes[name]
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_evaluated(left, sizes), _evaluated(right, sizes))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            return _FUNCTIONS[name](_evaluated(argument, sizes) for argument in arguments)
    raise ValueError("not an expression of sizes")


_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}
_FUNCTIONS: Mapping[str, Callable[[Iterable[int]], int]] = {"Max": max, "Min": min}


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
