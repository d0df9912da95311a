"""Reordering what has no order, so that blocks gather what is important.

The feed-forward neurons of a layer can stand in any order, and so can the channels within an attention head: the
value's rows with the output projection's columns, and the rows of query and key with each other. The model computes the
same. Blocks, however, are cut where neighbours stand. The orders are searched on the dense trained weights; θ0 is put
into the same order, so that mask, rewinding and trained weights agree, and the ticket is in that order for good.

The search raises the saliency (sum of scores) that the best blocks of a layer keep at the target sparsity, in turns:
with the order as it is, take the best blocks; with these blocks fixed, each unit has a gain at each place, and units go
where they gain most, the largest gains first. It ends when the saliency no longer rises. It starts from the order as it
is, from the units sorted by saliency, and from the units sorted along the direction in which their saliencies differ
most; the best end counts, so the saliency is never below what it was. (Channel permutations for N:M sparsity,
Pool & Yu, NeurIPS 2021, have the same purpose; the search here is our own.)

Shapes: U units, K blocks across a unit, S places (runs of units that all blocks treat alike).
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vlcompress.artefacts import load_tensors, save_tensors
from vlcompress.errors import unknown
from vlcompress.models.base import Coupling
from vlcompress.pruning.criterion import Criterion
from vlcompress.pruning.pattern import Block, LayerKind, Pattern

TURNS = 20
"""At most so many turns of the search; it ends by itself after about five."""


@dataclass(frozen=True)
class Free:
    """Units whose order is free.

    Attributes:
        kind: of the layer.
        rows: names of the weights whose rows they are (and of whose biases they are entries).
        columns: names of the weights whose columns they are.
        units: how many there are.
        span: a unit may move within its run of so many (a head's width); all of them where any order will do.
    """

    kind: LayerKind
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    units: int
    span: int


@dataclass(frozen=True)
class Permutation:
    """New orders: entry i of an order is the old index of what stands at i.

    Attributes:
        rows: int64 order of the first axis, by name of a weight or bias.
        columns: int64 order of the second axis, by name of a weight.
    """

    rows: Mapping[str, Tensor]
    columns: Mapping[str, Tensor]

    def apply(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Put tensors into the new order; what is not among them is passed over."""
        rows = {name: tensors[name][order] for name, order in self.rows.items() if name in tensors}
        columns = {name: tensors[name][:, order] for name, order in self.columns.items() if name in tensors}
        return {**tensors, **rows, **columns}

    def sha256(self) -> str:
        """Hash names and orders."""
        digest = hashlib.sha256()
        for name, order in sorted(self._tensors().items()):
            digest.update(name.encode() + order.numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write every order as ``rows.NAME`` or ``columns.NAME``."""
        save_tensors(path, {name: order.clone() for name, order in self._tensors().items()})

    @classmethod
    def load(cls, path: Path) -> "Permutation":
        """Read what `save` wrote."""
        named = [(*key.partition("."), order) for key, order in load_tensors(path).items()]
        axes = ({name: order for axis, _, name, order in named if axis == one} for one in ("rows", "columns"))
        return cls(*axes)

    def _tensors(self) -> dict[str, Tensor]:
        both = {"rows": self.rows, "columns": self.columns}
        return {f"{axis}.{name}": order for axis, orders in both.items() for name, order in orders.items()}


def blocks_of(pattern: Pattern) -> dict[LayerKind, Block]:
    """Find the block that is cut from each kind of layer; kinds without blocks are left out."""
    return {kind: part for kind, part in pattern.by_kind.items() if isinstance(part, Block)}


@dataclass(frozen=True)
class Reordering:
    """What the search may reorder; `str` gives what `parse_reordering` reads.

    Attributes:
        kinds: of layers: the neurons of "ffn", the channels within heads of "attention"; none keeps the checkpoint's
            order.
    """

    kinds: tuple[LayerKind, ...] = ()

    def __str__(self) -> str:
        return next(name for name, one in REORDERINGS.items() if one == self)

    def __bool__(self) -> bool:
        return bool(self.kinds)

    def free(self, pattern: Pattern, couplings: Sequence[Coupling]) -> list[Free]:
        """List whose order may change to some effect.

        Args:
            pattern: only layers that it cuts into blocks count.
            couplings: of the model.
        """
        kinds = {*self.kinds} & blocks_of(pattern).keys()
        return [free for one in couplings for free in _free(one) if free.kind in kinds]


REORDERINGS = {
    "": Reordering(),
    "neurons": Reordering(("ffn",)),
    "neurons+channels": Reordering(("ffn", "attention")),
}


def parse_reordering(text: str) -> Reordering:
    """Read "neurons", "neurons+channels", or "" for the checkpoint's order.

    Raises:
        VlcompressError: anything else.
    """
    if text not in REORDERINGS:
        raise unknown("permutation", text, [name for name in REORDERINGS if name])
    return REORDERINGS[text]


def _free(coupling: Coupling) -> Iterator[Free]:
    units, span = coupling.units * coupling.unit_size, coupling.unit_size
    if coupling.kind == "neuron":
        yield Free("ffn", coupling.producers, (coupling.consumer,), units, units)
        return
    value = coupling.constant_from
    yield Free("attention", (value,), (coupling.consumer,), units, span)
    if not coupling.turned:
        yield Free("attention", tuple(name for name in coupling.producers if name != value), (), units, span)


def find_permutation(
    frees: Sequence[Free],
    pattern: Pattern,
    weights: Mapping[str, Tensor],
    names: set[str],
    *,
    criterion: Criterion,
    sparsity: float,
) -> Permutation:
    """Search an order for each of `frees`.

    Args:
        frees: see `Reordering.free`.
        pattern: whose blocks are cut.
        weights: of the dense trained model.
        names: of the weights that are pruned; the others follow and count nothing.
        criterion: scores the weights.
        sparsity: at which the kept blocks are counted, in each layer by itself.
    """
    rows: dict[str, Tensor] = {}
    columns: dict[str, Tensor] = {}
    for free in frees:
        saliency = {name: _saliency(name, weights[name], criterion) for name in names & {*free.rows, *free.columns}}
        if not saliency:
            continue
        profile = profile_of(free, blocks_of(pattern)[free.kind], saliency)
        order = search(profile, free.span, keep=1 - sparsity)
        biases = (name.removesuffix("weight") + "bias" for name in free.rows)
        rows |= dict.fromkeys((*free.rows, *biases), order)
        columns |= dict.fromkeys(free.columns, order)
    return Permutation(rows, columns)


def _saliency(name: str, weight: Tensor, criterion: Criterion) -> Tensor:
    """Compute what adds up to a block's score: squares for a root mean square, the scores themselves for a mean."""
    scores = criterion.scores(name, weight).double()
    return scores if criterion.additive else scores.square()


@dataclass(frozen=True)
class Profile:
    """What each unit brings to the blocks across it.

    Attributes:
        parts: for rows and for columns, how many neighbouring units share a block, and the saliency float64 [U, K].
    """

    parts: tuple[tuple[int, Tensor], ...]

    @property
    def units(self) -> int:
        """Number of units."""
        return len(self.parts[0][1]) if self.parts else 0

    def blocks(self, order: Tensor) -> list[Tensor]:
        """Sum the scores of every block [U / size, K] of each part."""
        return [saliency[order].view(-1, size, saliency.shape[1]).sum(dim=1) for size, saliency in self.parts]

    def best(self, order: Tensor, keep: float) -> tuple[float, list[Tensor]]:
        """Pick the best share `keep` of the blocks: their sum, and which they are, as float64 [U / size, K]."""
        blocks = self.blocks(order)
        flat = torch.cat([one.flatten() for one in blocks])
        top = flat.topk(round(keep * len(flat)))
        flags = torch.zeros_like(flat).index_fill_(0, top.indices, 1.0)
        chosen = torch.split(flags, [one.numel() for one in blocks])
        return float(top.values.sum()), [one.view_as(block) for one, block in zip(chosen, blocks, strict=True)]


def profile_of(free: Free, block: Block, saliency: Mapping[str, Tensor]) -> Profile:
    """Sum each unit's saliency over the blocks across it.

    Args:
        free: the units.
        block: how the weights are cut.
        saliency: [out, in] of those weights of `free` that are pruned.
    """
    rows = [_summed(saliency[name], block.cols) for name in free.rows if name in saliency]
    columns = [_summed(saliency[name].T, block.rows) for name in free.columns if name in saliency]
    sides = ((block.rows, rows), (block.cols, columns))
    return Profile(tuple((size, torch.cat(side, dim=1)) for size, side in sides if side))


def _summed(saliency: Tensor, width: int) -> Tensor:
    """Add up every `width` neighbouring columns: [U, K * width] -> [U, K]."""
    return saliency.reshape(len(saliency), -1, width).sum(dim=2)


def search(profile: Profile, span: int, keep: float) -> Tensor:
    """Search the best order, int64 [U].

    Args:
        profile: of the units.
        span: units move within runs of so many.
        keep: share of the blocks that is kept, in (0, 1].
    """
    saliency_UK = torch.cat([saliency for _, saliency in profile.parts], dim=1)
    keys = (saliency_UK.sum(dim=1), _principal(saliency_UK))
    starts = [torch.arange(profile.units), *(_sorted(key_U, span) for key_U in keys)]
    ends = [_improved(profile, start, span, keep) for start in starts]
    return max(ends, key=lambda end: end[0])[1]


def _sorted(key_U: Tensor, span: int) -> Tensor:
    """Sort each run of `span` units by falling keys."""
    within = key_U.view(-1, span).argsort(dim=1, descending=True, stable=True)
    return (within + span * torch.arange(len(within))[:, None]).flatten()


def _principal(saliency_UK: Tensor) -> Tensor:
    """Project the units [U] on the direction in which they differ most."""
    left_UU: Tensor = torch.linalg.svd(saliency_UK - saliency_UK.mean(dim=0), full_matrices=False)[0]
    return left_UU[:, 0]


def _improved(profile: Profile, order: Tensor, span: int, keep: float) -> tuple[float, Tensor]:
    """Take turns of best blocks and best places for as long as the kept saliency rises."""
    saliency, chosen = profile.best(order, keep)
    for _ in range(TURNS):
        better = _assigned(profile, chosen, span)
        higher, chosen = profile.best(better, keep)
        if higher <= saliency:
            break
        saliency, order = higher, better
    return saliency, order


def _assigned(profile: Profile, chosen: Sequence[Tensor], span: int) -> Tensor:
    """Send each unit to the free place where the chosen blocks keep most of it, largest gains first."""
    room = math.gcd(span, *(size for size, _ in profile.parts))  # units at one place are alike to all blocks
    places = torch.arange(profile.units // room)
    gains_US = sum(
        (saliency @ one[places * room // size].T for (size, saliency), one in zip(profile.parts, chosen, strict=True)),
        torch.zeros(profile.units, len(places), dtype=torch.float64),
    )
    own = torch.arange(profile.units)[:, None] // span == (places * room // span)[None, :]
    gains_US = gains_US.masked_fill(~own, -torch.inf)
    held: list[list[int]] = [[] for _ in places]
    for unit in gains_US.amax(dim=1).argsort(descending=True, stable=True).tolist():
        place = int(gains_US[unit].argmax())
        held[place].append(unit)
        if len(held[place]) == room:
            gains_US[:, place] = -torch.inf
    return torch.tensor([unit for units in held for unit in units])
