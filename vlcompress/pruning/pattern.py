"""Patterns: the shape of what is pruned together. A pattern turns scores of weights into scores of units, and back."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from vlcompress.errors import VlcompressError
from vlcompress.models.base import Coupling
from vlcompress.pruning.criterion import Criterion
from vlcompress.pruning.select import Source, ordered

LayerKind = Literal["attention", "ffn"]
LAYER_KINDS: tuple[LayerKind, ...] = ("attention", "ffn")

SAME = 1e-6
"""Sparsities this close are the same: what a pattern reaches is often no short decimal, and is reported with six."""


@dataclass(frozen=True)
class Contest:
    """Units that are pruned to one share, for an allocation to say which of them compete.

    Attributes:
        sources: scores of the units.
        share: fraction of the units that goes, in [0, 1].
        spread: turns bools [units], by the source's name, into weight masks [out, in], by the weight's name.
    """

    sources: list[Source]
    share: float
    spread: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


class Pattern(ABC):
    """What goes together when a model is pruned. `str` gives the name that `parse_pattern` reads."""

    own_sparsity: float | None = None
    """The one sparsity that the pattern is for (1 - n/m of n:m); None where any will do."""

    @property
    @abstractmethod
    def by_kind(self) -> Mapping[LayerKind, "WeightPattern"]:
        """The pattern of weights in each kind of layer; kinds that lose whole units, or nothing, are left out."""

    @property
    def storage(self) -> tuple[int, int]:
        """Rows and columns of the block that the compiler packs in: every block of the pattern divides it."""
        blocks = [pattern.block for pattern in self.by_kind.values()]
        return math.lcm(*(rows for rows, _ in blocks)), math.lcm(*(cols for _, cols in blocks))

    @abstractmethod
    def reach_in(self, sizes: Mapping[str, int], couplings: Sequence[Coupling]) -> float:
        """Find the largest sparsity, in [0, 1], of all prunable weights together.

        Args:
            sizes: number of weights of every prunable weight.
            couplings: of the model.
        """

    @abstractmethod
    def share(self, sparsity: float, sizes: Mapping[str, int], couplings: Sequence[Coupling] = ()) -> float:
        """Find the share of what the pattern covers that must go, so that `sparsity` of all prunable weights goes.

        Raises:
            VlcompressError: more than can go.
        """

    @abstractmethod
    def check(self, shapes: Mapping[str, torch.Size], couplings: Sequence[Coupling], sparsity: float) -> None:
        """Refuse what cannot work: weights that do not divide into units, and a sparsity out of reach.

        Args:
            shapes: of every prunable weight.
            couplings: of the model.
            sparsity: fraction of all prunable weights that is to go.
        """

    @abstractmethod
    def contests(
        self,
        weights: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        sparsity: float,
        criterion: Criterion,
        couplings: Sequence[Coupling],
    ) -> Iterator[Contest]:
        """Score the units and say what share of them goes; see `vlcompress.pruning.mask.prune`."""


class WeightPattern(Pattern):
    """A pattern that groups the weights of each matrix by itself.

    A new one is a dataclass of this base with `read`, `__str__` and what differs from single weights, and a line in
    `vlcompress.pruning.patterns.PATTERNS`.
    """

    form: ClassVar[str]
    """How its name is written, for the error that lists what is allowed."""
    unit: int = 1
    """Number of weights in a unit."""
    spares: tuple[int, int] | None = None
    """(n, m) where the n highest-scored of every m consecutive units always stay; None where any unit may go."""
    reach: float = 1.0
    """The largest share of a weight that can go, in (0, 1]."""
    block: tuple[int, int] = (1, 1)
    """Rows and columns that the compiler may pack a weight in."""

    @classmethod
    @abstractmethod
    def read(cls, text: str) -> Self | None:
        """Read the pattern's name; None for what is the name of another."""

    def check_weight(self, name: str, shape: torch.Size) -> None:
        """Raise VlcompressError if a weight of this shape does not divide into units."""

    def unit_scores(self, scores: Tensor) -> Tensor:
        """Score each unit, float32 [units] in row-major order, from scores of the weights [out, in]."""
        return scores.reshape(-1)

    def unit_means(self, scores: Tensor) -> Tensor:
        """Average the scores of each unit, float32 [units], from scores of either sign."""
        return scores.reshape(-1)

    def spread(self, kept_units: Tensor, shape: torch.Size) -> Tensor:
        """Make the weight mask [out, in] from a bool for each unit [units]."""
        return kept_units.reshape(shape)

    @property
    def by_kind(self) -> Mapping[LayerKind, "WeightPattern"]:
        """The pattern itself, everywhere."""
        return dict.fromkeys(LAYER_KINDS, self)

    def reach_in(self, sizes: Mapping[str, int], couplings: Sequence[Coupling]) -> float:
        return self.reach

    def share(self, sparsity: float, sizes: Mapping[str, int], couplings: Sequence[Coupling] = ()) -> float:
        """Take the sparsity itself: every prunable weight is covered. What is `SAME` as the pattern's reach is it.

        Raises:
            VlcompressError: the pattern keeps more than that.
        """
        if sparsity > self.reach + SAME:
            raise VlcompressError(
                f"sparsity {sparsity:g} is out of reach of pattern '{self}', which prunes {100 * self.reach:g} %: "
                f"give sparsity {self.reach:.6g} or less, or another pattern"
            )
        return self.reach if abs(sparsity - self.reach) <= SAME else sparsity

    def check(self, shapes: Mapping[str, torch.Size], couplings: Sequence[Coupling], sparsity: float) -> None:
        """Hold the pattern against every weight, and the sparsity against its reach."""
        for name, shape in shapes.items():
            self.check_weight(name, shape)
        self.share(sparsity, {})

    def contests(
        self,
        weights: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        sparsity: float,
        criterion: Criterion,
        couplings: Sequence[Coupling],
    ) -> Iterator[Contest]:
        """Let the units of all weights lose one share."""
        sources = [self._source(name, weights[name], mask, criterion) for name, mask in masks.items()]
        shapes = {name: mask.shape for name, mask in masks.items()}
        yield Contest(
            sources,
            self.share(sparsity, {}),
            lambda kept: {name: self.spread(kept[name], shape) for name, shape in shapes.items()},
        )

    def _source(self, name: str, weight: Tensor, mask: Tensor, criterion: Criterion) -> Source:
        self.check_weight(name, weight.shape)
        if self.unit == 1:  # scored piece by piece, so that the scores never stand in memory as a whole
            flat, alive = weight.detach().reshape(-1), mask.reshape(-1)
            scores_of = partial(_piece, criterion, name, flat)
            return Source(name, len(flat), scores_of, lambda a, b: alive[a:b], self.spares)
        scores = criterion.scores(name, weight)
        units = ordered(self.unit_means(scores)) if criterion.additive else self.unit_scores(scores)
        alive_units = self.unit_scores(mask.float()) > 0
        return Source(name, len(units), lambda a, b: units[a:b], lambda a, b: alive_units[a:b], self.spares)


def _piece(criterion: Criterion, name: str, flat: Tensor, start: int, stop: int) -> Tensor:
    scores = criterion.scores(name, flat[start:stop], start)
    return ordered(scores) if criterion.additive else scores


@dataclass(frozen=True)
class Unstructured(WeightPattern):
    """Any weight may go."""

    form: ClassVar[str] = "'unstructured'"

    def __str__(self) -> str:
        return "unstructured"

    @classmethod
    def read(cls, text: str) -> Self | None:
        """Read ``unstructured``."""
        return cls() if text == "unstructured" else None


@dataclass(frozen=True)
class NofM(WeightPattern):
    """`kept` of every `of` consecutive weights along the input dimension of a weight [out, in] stay.

    At sparsity `reach` exactly so many stay of each group. Below that, as in the rounds before, weights compete as
    unstructured ones do, but none of the `kept` highest-scored of its group can go: what is left always holds an
    n:m mask of the final sparsity.
    """

    form: ClassVar[str] = "'n:m' (n < m kept of every m inputs, e.g. 2:4)"
    kept: int
    of: int

    def __str__(self) -> str:
        return f"{self.kept}:{self.of}"

    @classmethod
    def read(cls, text: str) -> Self | None:
        """Read ``n:m`` with 1 <= n < m."""
        match = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", text)
        return cls(int(match[1]), int(match[2])) if match and int(match[1]) < int(match[2]) else None

    @property
    def spares(self) -> tuple[int, int]:  # type: ignore[override]
        """The pattern itself."""
        return self.kept, self.of

    @property
    def reach(self) -> float:  # type: ignore[override]
        """1 - n/m."""
        return 1 - self.kept / self.of

    @property
    def own_sparsity(self) -> float:  # type: ignore[override]
        """1 - n/m: below it, groups keep more than n."""
        return self.reach

    def check_weight(self, name: str, shape: torch.Size) -> None:
        """Refuse a weight that is no matrix, or whose inputs do not divide into groups."""
        _check_matrix(self, name, shape)
        if shape[1] % self.of:
            raise VlcompressError(
                f"pattern '{self}' does not divide weight '{name}' {tuple(shape)}: {self.of} must divide its "
                f"{shape[1]} inputs; use 'unstructured', a block:RxC that divides, or a size of the model whose widths "
                f"are multiples of {self.of}"
            )


@dataclass(frozen=True)
class Block(WeightPattern):
    """Blocks of `rows` outputs by `cols` inputs on a weight [out, in]."""

    form: ClassVar[str] = "'block:RxC' (rows x columns, e.g. block:16x16)"
    rows: int
    cols: int

    def __str__(self) -> str:
        return f"block:{self.rows}x{self.cols}"

    @classmethod
    def read(cls, text: str) -> Self | None:
        """Read ``block:RxC``."""
        match = re.fullmatch(r"block:([1-9]\d*)x([1-9]\d*)", text)
        return cls(int(match[1]), int(match[2])) if match else None

    @property
    def block(self) -> tuple[int, int]:  # type: ignore[override]
        """Rows and columns."""
        return self.rows, self.cols

    @property
    def unit(self) -> int:  # type: ignore[override]
        """Number of weights in a block."""
        return self.rows * self.cols

    def check_weight(self, name: str, shape: torch.Size) -> None:
        """Refuse a weight that is not a matrix of whole blocks."""
        _check_matrix(self, name, shape)
        if shape[0] % self.rows or shape[1] % self.cols:
            rows, cols = math.gcd(self.rows, shape[0]), math.gcd(self.cols, shape[-1])
            raise VlcompressError(
                f"pattern '{self}' does not divide weight '{name}' {tuple(shape)}: use a block whose rows divide "
                f"{shape[0]} and whose columns divide {shape[-1]}, for example block:{rows}x{cols}"
            )

    def unit_scores(self, scores: Tensor) -> Tensor:
        """Take the L2 norm of each block over the root of its size, so that blocks of all sizes compare."""
        return (self._cut(scores).square().sum(dim=(1, 3)) / self.unit).sqrt().reshape(-1)

    def unit_means(self, scores: Tensor) -> Tensor:
        """Average each block."""
        return self._cut(scores).mean(dim=(1, 3)).reshape(-1)

    def _cut(self, scores: Tensor) -> Tensor:
        out, width = scores.shape
        return scores.reshape(out // self.rows, self.rows, width // self.cols, self.cols).float()

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
