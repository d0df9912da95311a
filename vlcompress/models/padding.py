"""Padding: inputs of nearly one size are padded to the same one, so that they share an execution or a CUDA graph.

Only an axis that the model masks is padded: one that an input named ``...mask`` covers as [batch, axis, ...]. Every
input is padded with 0 there, the mask too, so the model does not see the padding.
"""

from collections.abc import Mapping, Sequence


def masked_axes(shapes: Mapping[str, Sequence[int | str]]) -> frozenset[str]:
    """Find the axes that may be padded.

    Args:
        shapes: of each input by its name; a string names an axis that may vary, the batch first.
    """
    masks = (shape[1:] for name, shape in shapes.items() if name.endswith("mask"))
    return frozenset(axis for shape in masks for axis in shape if isinstance(axis, str))


def bucket(size: int, sizes: Sequence[int]) -> int:
    """Pick the smallest of the rising `sizes` that holds `size`, or `size` itself where none does."""
    return next((one for one in sizes if one >= size), size)
