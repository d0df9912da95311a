"""The exact k smallest of hundreds of millions of scores, without sorting or concatenating them.

A radix select on the bits of the scores: non-negative float32 numbers are ordered as their bit patterns are, so a
histogram of the upper 16 bits finds the bucket that holds the k-th smallest, and a second one of the lower 16 bits
inside that bucket finds its exact value. The scores are produced again for each of the passes (two to find the
threshold, one to use it), tensor by tensor and piece by piece, so that the memory needed does not grow with the model.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlcompress.errors import VlcompressError

PIECE = 1 << 20
"""Scores handled at a time: a few MB of working memory, which stays in the cache between the operations."""

_LOW_BITS = 16
_LOW_MASK = (1 << _LOW_BITS) - 1
_BUCKETS = 1 << _LOW_BITS
_INFINITY = 0x7F800000
_MAGNITUDE = 0x7FFFFFFF
_SPARED = _INFINITY + 1
"""The key of what no cut reaches: above that of the largest finite score."""


@dataclass(frozen=True)
class Source:
    """Scores of the units of one weight, made when they are asked for.

    Attributes:
        name: canonical weight name.
        units: how many scores there are.
        scores: gives scores [stop - start], float32, finite, >= 0, of the units start <= unit < stop in flat order.
        alive: gives bool [stop - start]: False for units that an earlier round pruned; None where none was.
        spares: (n, m) keeps the n highest of every m consecutive units whatever the cut; None lets any unit go. The
            units are a multiple of m.
    """

    name: str
    units: int
    scores: Callable[[int, int], Tensor]
    alive: Callable[[int, int], Tensor] | None = None
    spares: tuple[int, int] | None = None

    @property
    def removable(self) -> int:
        """How many units can go."""
        return self.units if self.spares is None else self.units - self.units // self.spares[1] * self.spares[0]


@dataclass(frozen=True)
class Threshold:
    """The cut: every key below `key` goes, and the first `ties` units (in order) whose key equals it.

    A unit's key is 0 if it is already pruned, above all others if its source spares it, else the bit pattern of its
    score plus 1.
    """

    key: int
    ties: int


def ordered(signed: Tensor) -> Tensor:
    """Map float32 numbers of either sign to numbers >= 0 in the same order, for a `Source`.

    The bits of a number, negated for a negative one, are its place among all floats; halved, they leave room for both
    signs. So the last bit of the fraction is lost: numbers that differ in it alone tie.
    """
    bits = signed.contiguous().view(torch.int32)
    place = torch.where(bits < 0, -(bits & _MAGNITUDE), bits)
    return ((place >> 1) + (_INFINITY >> 1)).view(torch.float32)


def smallest(sources: Sequence[Source], count: int) -> Threshold:
    """Find the cut below which lie exactly `count` units of all sources together.

    Args:
        sources: the weights in the order in which ties are broken.
        count: how many units go, 0 <= count <= all that can; already pruned ones go first and are counted.

    Raises:
        VlcompressError: `count` out of range, or a score that is not a finite number >= 0.
    """
    total = sum(source.removable for source in sources)
    if not 0 <= count <= total:
        raise VlcompressError(f"cannot prune {count} of {total} units: give a number between 0 and {total}")
    if count == 0:
        return Threshold(key=0, ties=0)
    upper, before = _bucket_of(_histogram(sources, lambda keys: keys >> _LOW_BITS), count)
    lower, below = _bucket_of(
        _histogram(sources, lambda keys: keys[keys >> _LOW_BITS == upper] & _LOW_MASK), count - before
    )
    return Threshold(key=(upper << _LOW_BITS) | lower, ties=count - before - below)


def kept_units(sources: Sequence[Source], threshold: Threshold) -> dict[str, Tensor]:
    """Mark what the cut keeps of each weight, bool [units] (True = keep)."""
    ties = threshold.ties
    kept = {}
    for source in sources:
        keep = torch.empty(source.units, dtype=torch.bool)
        for start, keys in _pieces(source):
            piece = keys > threshold.key
            equal = keys == threshold.key
            found = int(equal.sum())
            if found > ties:  # the first `ties` of them go, in order of index: the rest stay
                piece |= equal & (equal.cumsum(0) > ties)
            ties = max(0, ties - found)
            keep[start : start + len(keys)] = piece
        kept[source.name] = keep
    return kept


def _pieces(source: Source) -> Iterator[tuple[int, Tensor]]:
    """Walk a source's keys, about PIECE at a time and its groups whole, each with its first index."""
    of = source.spares[1] if source.spares else 1
    size = max(1, PIECE // of) * of
    for start in range(0, source.units, size):
        yield start, _keys(source, start, min(start + size, source.units))


def _keys(source: Source, start: int, stop: int) -> Tensor:
    scores = source.scores(start, stop)
    keys = scores.contiguous().view(torch.int32)
    low, high = torch.aminmax(keys)  # negative numbers and NaN with the sign bit are < 0, infinities and NaN are on top
    if int(low) < 0 or int(high) >= _INFINITY:
        raise VlcompressError(
            f"weight '{source.name}' gives a score that is not a finite number >= 0: "
            "training has diverged or the checkpoint is damaged; lower the learning rate or use another checkpoint"
        )
    keys = keys + 1
    keys = keys if source.alive is None else keys * source.alive(start, stop)
    return keys if source.spares is None else _sparing(keys, *source.spares)


def _sparing(keys: Tensor, kept: int, of: int) -> Tensor:
    """Lift the `kept` highest of every `of` keys out of a cut's reach; of equals the later stay, of the pruned none."""
    groups = keys.view(-1, of)
    highest = groups.sort(dim=1, stable=True).indices[:, of - kept :]
    spared = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, highest, True)
    return groups.masked_fill(spared & (groups > 0), _SPARED).view(-1)


def _histogram(sources: Sequence[Source], digit: Callable[[Tensor], Tensor]) -> Tensor:
    counts = torch.zeros(_BUCKETS, dtype=torch.int64)
    for source in sources:
        for _, keys in _pieces(source):
            counts += torch.bincount(digit(keys), minlength=_BUCKETS)
    return counts


def _bucket_of(counts: Tensor, rank: int) -> tuple[int, int]:
    """Find the bucket that holds the rank-th smallest (from 1), and how many lie in the buckets before it."""
    ends = counts.cumsum(0)
    bucket = int(torch.searchsorted(ends, rank))
    return bucket, int(ends[bucket] - counts[bucket])
