"""Patterns: the shape of what is pruned together. A pattern turns scores of weights into scores of units, and back."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from vlcompress.errors import VlcompressError
from vlcompress.pruning.mixture import SAME, LayerKind, Mixture, Units


class Pattern(Protocol):
    """How the weights of a matrix group into units that are pruned together."""

    @property
    def unit(self) -> int:
        """Number of weights in a unit."""

    @property
    def spares(self) -> tuple[int, int] | None:
        """(n, m) where the n highest-scored of every m consecutive units always stay; None where any unit may go."""

    @property
    def reach(self) -> float:
        """The largest share of a weight that can go, in (0, 1]."""

    def check(self, name: str, shape: torch.Size) -> None:
        """Raise VlcompressError if a weight of this shape does not divide into units."""

    def unit_scores(self, scores: Tensor) -> Tensor:
        """Return the score of each unit as float32 [units] in row-major order, from scores of the weights [out, in]."""

    def unit_means(self, scores: Tensor) -> Tensor:
        """Return the mean score of each unit as float32 [units], from scores of either sign."""

    def spread(self, kept_units: Tensor, shape: torch.Size) -> Tensor:
        """Return the weight mask [out, in] from a bool for each unit [units]."""


class _Single:
    """Every weight is a unit of its own."""

    unit: ClassVar[int] = 1

    def unit_scores(self, scores: Tensor) -> Tensor:
        """Return the scores flat."""
        return scores.reshape(-1)

    def unit_means(self, scores: Tensor) -> Tensor:
        """Return the scores flat."""
        return scores.reshape(-1)

    def spread(self, kept_units: Tensor, shape: torch.Size) -> Tensor:
        """Return the bools in the weight's shape."""
        return kept_units.reshape(shape)


@dataclass(frozen=True)
class Unstructured(_Single):
    """Any weight may go."""

    spares: ClassVar[None] = None
    reach: ClassVar[float] = 1.0

    def __str__(self) -> str:
        return "unstructured"

    def check(self, name: str, shape: torch.Size) -> None:
        """Accept every shape."""


@dataclass(frozen=True)
class NofM(_Single):
    """`kept` of every `of` consecutive weights along the input dimension of a weight [out, in] stay.

    At sparsity `reach` exactly so many stay of each group. Below that, as in the rounds before, weights compete as
    unstructured ones do, but none of the `kept` highest-scored of its group can go: what is left always holds an
    n:m mask of the final sparsity.
    """

    kept: int
    of: int

    def __str__(self) -> str:
        return f"{self.kept}:{self.of}"

    @property
    def spares(self) -> tuple[int, int]:
        """The pattern itself."""
        return self.kept, self.of

    @property
    def reach(self) -> float:
        """1 - n/m."""
        return 1 - self.kept / self.of

    def check(self, name: str, shape: torch.Size) -> None:
        """Refuse a weight that is no matrix, or whose inputs do not divide into groups."""
        _check_matrix(self, name, shape)
        if shape[1] % self.of:
            raise VlcompressError(
                f"pattern '{self}' does not divide weight '{name}' {tuple(shape)}: {self.of} must divide its "
                f"{shape[1]} inputs; use 'unstructured', a block:RxC that divides, or a size of the model whose widths "
                f"are multiples of {self.of}"
            )


@dataclass(frozen=True)
class Block:
    """Blocks of `rows` outputs by `cols` inputs on a weight [out, in]."""

    rows: int
    cols: int
    spares: ClassVar[None] = None
    reach: ClassVar[float] = 1.0

    def __str__(self) -> str:
        return f"block:{self.rows}x{self.cols}"

    @property
    def unit(self) -> int:
        """Number of weights in a block."""
        return self.rows * self.cols

    def check(self, name: str, shape: torch.Size) -> None:
        """Refuse a weight that is not a matrix of whole blocks."""
        _check_matrix(self, name, shape)
        if shape[0] % self.rows or shape[1] % self.cols:
            raise VlcompressError(
                f"pattern '{self}' does not divide weight '{name}' {tuple(shape)}: use a block whose rows divide "
                f"{shape[0]} and whose columns divide {shape[-1]}, for example block:{_nearest(self, shape)}"
            )

    def unit_scores(self, scores: Tensor) -> Tensor:
        """Return the L2 norm of each block over the root of its size, so that blocks of all sizes compare."""
        out, width = scores.shape
        blocks = scores.reshape(out // self.rows, self.rows, width // self.cols, self.cols)
        return (blocks.float().square().sum(dim=(1, 3)) / self.unit).sqrt().reshape(-1)

    def unit_means(self, scores: Tensor) -> Tensor:
        """Return the mean of each block."""
        out, width = scores.shape
        blocks = scores.reshape(out // self.rows, self.rows, width // self.cols, self.cols)
        return blocks.float().mean(dim=(1, 3)).reshape(-1)

    def spread(self, kept_units: Tensor, shape: torch.Size) -> Tensor:
        """Repeat each block's bool over its weights."""
        grid = kept_units.reshape(shape[0] // self.rows, 1, shape[1] // self.cols, 1)
        return grid.expand(-1, self.rows, -1, self.cols).reshape(shape)


def _check_matrix(pattern: Block | NofM, name: str, shape: torch.Size) -> None:
    if len(shape) != 2:
        raise VlcompressError(
            f"pattern '{pattern}' is for matrices and weight '{name}' {tuple(shape)} is none (a convolution): use "
            "'unstructured'"
        )


def share_of_weights(pattern: Pattern, sparsity: float) -> float:
    """Return the share of each weight's units that goes at a sparsity; what is `SAME` as the pattern's reach is it.

    Raises:
        VlcompressError: the pattern keeps more than that.
    """
    if sparsity > pattern.reach + SAME:
        raise VlcompressError(
            f"sparsity {sparsity:g} is out of reach of pattern '{pattern}', which prunes {100 * pattern.reach:g} %: "
            f"give sparsity {pattern.reach:.6g} or less, or another pattern"
        )
    return pattern.reach if abs(sparsity - pattern.reach) <= SAME else sparsity


_KINDS: Mapping[LayerKind, Units] = {"attention": Units("head"), "ffn": Units("neuron")}
"""The units that each kind of layer has."""

_SHORT: Mapping[str, tuple[LayerKind, ...]] = {
    "head": ("attention",),
    "neuron": ("ffn",),
    "neuron+head": ("attention", "ffn"),
    "head+neuron": ("attention", "ffn"),
}


def parse_pattern(text: str) -> Pattern | Mixture:
    """Read ``unstructured``, ``block:RxC``, ``n:m``, ``head``, ``neuron``, ``neuron+head``, or a mixture by layer.

    A mixture is KIND=PATTERN[,KIND=PATTERN] with the kinds ``attention`` (a pattern of weights, or ``head``) and
    ``ffn`` (a pattern of weights, or ``neuron``), for example ``attention=head,ffn=block:192x16``.

    Raises:
        VlcompressError: anything else.
    """
    if text in _SHORT:
        return Mixture(tuple((kind, _KINDS[kind]) for kind in _SHORT[text]))
    if "=" in text:
        return _mixture(text)
    return of_weights(text, text)


def _mixture(text: str) -> Mixture:
    parts: dict[LayerKind, Units | Pattern] = {}
    for part in text.split(","):
        name, _, pattern = part.partition("=")
        kind = next((kind for kind in _KINDS if kind == name), None)
        if kind is None or kind in parts:
            raise _unknown(text)
        parts[kind] = _KINDS[kind] if pattern == _KINDS[kind].kind else of_weights(pattern, text)
    return Mixture(tuple(parts.items()))


def of_weights(text: str, whole: str = "") -> Pattern:
    """Read ``unstructured``, ``block:RxC`` or ``n:m`` (n of every m kept, 1 <= n < m), the patterns of a single weight.

    Args:
        text: what is read.
        whole: what it is a part of, for the error; "" where it stands alone.

    Raises:
        VlcompressError: anything else.
    """
    if text == "unstructured":
        return Unstructured()
    if match := re.fullmatch(r"block:([1-9]\d*)x([1-9]\d*)", text):
        return Block(int(match[1]), int(match[2]))
    match = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise _unknown(whole or text)
    return NofM(int(match[1]), int(match[2]))


def _unknown(text: str) -> VlcompressError:
    return VlcompressError(
        f"unknown pattern '{text}': allowed are 'unstructured', 'block:RxC' (rows x columns, e.g. block:16x16), "
        "'n:m' (n < m kept of every m inputs, e.g. 2:4), 'head', 'neuron', 'neuron+head', and mixtures such as "
        "'attention=head,ffn=block:192x16'"
    )


def _nearest(block: Block, shape: torch.Size) -> str:
    return f"{math.gcd(block.rows, shape[0])}x{math.gcd(block.cols, shape[-1])}"
