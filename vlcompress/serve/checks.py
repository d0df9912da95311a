"""Checks of a request's tensors against the model, before any of them reaches it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlcompress.serve.refusal import invalid, shown
from vlcompress.serve.tensors import Array, Arrays, TensorSpec


@dataclass(frozen=True)
class Limits:
    """What a model takes.

    Attributes:
        max_batch: rows of one request.
        max_axis: size of any open axis but the batch.
        axes: the model's own limits of named axes.
    """

    max_batch: int
    max_axis: int
    axes: Mapping[str, int]


def check_inputs(
    specs: Sequence[TensorSpec], inputs: Arrays, datatypes: Mapping[str, str], limits: Limits
) -> dict[str, int]:
    """Check names, datatypes, shapes and values of a request's inputs.

    Args:
        specs: the model's inputs.
        inputs: the request's.
        datatypes: what the request says that they are.
        limits: sizes that are allowed.

    Returns:
        The size of every named axis.

    Raises:
        Refusal: 400 with the first thing that is wrong.
    """
    names = [spec.name for spec in specs]
    for name in inputs:
        if name not in names:
            raise invalid(f"unexpected inference input '{shown(name)}': the model has {', '.join(names)}")
    if len(inputs) != len(specs):
        missing = ", ".join(name for name in names if name not in inputs)
        raise invalid(f"expected {len(specs)} inputs but got {len(inputs)}: missing are {missing}")
    sizes: dict[str, int] = {}
    for spec in specs:
        if datatypes[spec.name] != spec.datatype:
            raise invalid(f"input '{spec.name}' is {datatypes[spec.name]}: the model takes {spec.datatype}")
        _check_shape(spec, inputs[spec.name], sizes)
    _check_sizes(specs, sizes, limits)
    for spec in specs:
        _check_values(spec, inputs[spec.name])
    return sizes


def _check_shape(spec: TensorSpec, array: Array, sizes: dict[str, int]) -> None:
    """Compare with the declared shape; remember the sizes of named axes, which must agree between inputs."""
    wrong = array.ndim != len(spec.shape)
    for found, size in zip(array.shape, spec.shape, strict=False):
        if isinstance(size, int):
            wrong |= found != size
        elif sizes.setdefault(size, found) != found:
            raise invalid(f"input '{spec.name}' has {found} along '{size}', another input has {sizes[size]}")
    if wrong:
        raise invalid(
            f"unexpected shape for input '{spec.name}': expected {spec.public_shape}, got {list(array.shape)}"
        )


def _check_sizes(specs: Sequence[TensorSpec], sizes: Mapping[str, int], limits: Limits) -> None:
    batches = {spec.shape[0] for spec in specs if spec.batched}
    for axis, size in sizes.items():
        allowed = limits.max_batch if axis in batches else min(limits.max_axis, limits.axes.get(axis, limits.max_axis))
        if size > allowed:
            raise invalid(f"size {size} of axis '{axis}' is too large: at most {allowed} is accepted")


def _check_values(spec: TensorSpec, array: Array) -> None:
    if spec.high is not None and spec.low is not None:
        low, high = array.min(), array.max()
        if low < spec.low or high >= spec.high:
            worst = low if low < spec.low else high
            raise invalid(f"input '{spec.name}' holds {worst}: values {spec.low} to {spec.high - 1} are allowed")
    if spec.datatype == "BYTES":
        _check_texts(spec.name, array)


def _check_texts(name: str, array: Array) -> None:
    try:
        for value in array.ravel().tolist():
            value.decode()
    except UnicodeDecodeError:
        raise invalid(f"input '{name}' holds bytes that are not UTF-8 text") from None
