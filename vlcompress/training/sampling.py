"""Which examples a step takes, and where its chance comes from: functions of (seed, step) alone."""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from vlcompress.errors import VlcompressError
from vlcompress.models.objective import Objective
from vlcompress.training.hyperparameters import Hyperparameters

Made = TypeVar("Made")

BUCKET = 8192
"""Examples that UNITER's official sampler sorts by length together."""
MULTIPLE = 8
"""A group of it grows by so many examples."""
_SPECIAL = 2  # [CLS] and [SEP], which the official lengths do not count


class StepSampler(Protocol):
    """Says which examples a step takes."""

    def groups(self, step: int) -> list[list[int]]:
        """Pick the examples of step `step` (from 0), in groups that are each a batch by itself."""


@dataclass(frozen=True)
class Sampler:
    """Which examples a step takes: a fresh permutation each epoch, the last incomplete batch dropped."""

    examples: int
    batch: int
    seed: int

    def groups(self, step: int) -> list[list[int]]:
        """See `StepSampler`: all in one group."""
        return [self.indices(step)]

    def indices(self, step: int) -> list[int]:
        """Pick the examples of step `step` (from 0)."""
        per_epoch = max(1, self.examples // self.batch)
        epoch, position = divmod(step, per_epoch)
        order = _permutation(self.examples, self.seed, epoch)
        return order[position * self.batch : (position + 1) * self.batch].tolist()


def ahead(make: Callable[[int], Made], first: int, last: int, readers: int = 1) -> Iterator[tuple[int, Made]]:
    """Make what each step takes while the steps before it are computed: in order, as many steps ahead as threads.

    Args:
        make: a function of the step alone; what it raises is raised at its step.
        first, last: steps to make, `last` not among them.
        readers: threads, each at a step of its own.
    """
    with ThreadPoolExecutor(readers, "batches") as threads:
        coming = deque(threads.submit(make, step) for step in range(first, min(first + readers, last)))
        for step in range(first, last):
            made = coming.popleft().result()
            if step + readers < last:
                coming.append(threads.submit(make, step + readers))
            yield step, made


def clocked(items: Iterator[Made], waited: Callable[[float], None]) -> Iterator[Made]:
    """Pass items on, and tell how many seconds each was waited for."""
    while True:
        started = time.monotonic()
        try:
            item = next(items)
        except StopIteration:
            return
        waited(time.monotonic() - started)
        yield item


class TokenSampler:
    """Groups of examples of like length, as many as fit a number of tokens: UNITER's batches.

    Args:
        lengths: tokens and regions of each example.
        tokens: most that a group may have, padding included.
        count: groups a step; officially GPUs x accumulated steps.
        seed: of the order.

    Raises:
        VlcompressError: the longest examples are too long, or there are too few for a group.
    """

    def __init__(self, lengths: Sequence[int], tokens: int, count: int, seed: int) -> None:
        self._lengths, self._tokens, self._count, self._seed = lengths, tokens, count, seed
        self._starts = [0]  # of each epoch, in groups
        self._epoch: tuple[int, list[list[int]]] = (-1, [])
        if not self._of(0):
            raise VlcompressError(
                f"{len(lengths)} examples make no group of {tokens} tokens ({MULTIPLE} examples or more): give more "
                "data, or set training.tokens to 0"
            )

    def groups(self, step: int) -> list[list[int]]:
        """See `StepSampler`; epochs follow one another without a gap."""
        return [self._group(number) for number in range(step * self._count, (step + 1) * self._count)]

    def _group(self, number: int) -> list[int]:
        while self._starts[-1] <= number:
            self._starts.append(self._starts[-1] + len(self._of(len(self._starts) - 1)))
        epoch = next(at for at in range(len(self._starts) - 1, -1, -1) if self._starts[at] <= number)
        return self._of(epoch)[number - self._starts[epoch]]

    def _of(self, epoch: int) -> list[list[int]]:
        if self._epoch[0] != epoch:
            rng = Random(mix(self._seed, "epoch", epoch))
            self._epoch = (epoch, token_groups(self._lengths, self._tokens, rng, drop_last=True))
        return self._epoch[1]


def token_groups(
    lengths: Sequence[int], tokens: int, rng: Random, *, bucket: int = BUCKET, drop_last: bool
) -> list[list[int]]:
    """Deal all examples into groups, in random order.

    The order is that of UNITER's official TokenBucketSampler (ChenRocks/UNITER, ``data/sampler.py``) for the same
    lengths and the same state of Python's random generator. A group's cost is its number of examples times the longest
    length in its bucket's groups so far.

    Args:
        lengths: tokens and regions of each example.
        tokens: most that a group may cost.
        rng: shuffles the examples, then the groups.
        bucket: examples that are sorted together.
        drop_last: leave out the last group of each bucket, as is done in training.

    Raises:
        VlcompressError: `MULTIPLE` examples of one length cost more than `tokens`.
    """
    order = list(range(len(lengths)))
    rng.shuffle(order)
    buckets = (order[start : start + bucket] for start in range(0, len(order), bucket))
    groups = [group for one in buckets for group in _deal(one, lengths, tokens, drop_last)]
    rng.shuffle(groups)
    return groups


def _deal(indices: Sequence[int], lengths: Sequence[int], tokens: int, drop_last: bool) -> Iterator[list[int]]:
    """Deal one bucket, longest examples first."""
    ranked = sorted(indices, key=lambda index: lengths[index], reverse=True)
    group: list[int] = []
    longest = 0
    for start in range(0, len(ranked), MULTIPLE):
        more = ranked[start : start + MULTIPLE]
        longest = max(longest, lengths[more[0]])
        if longest * (len(group) + MULTIPLE) > tokens:
            if not group:
                raise VlcompressError(
                    f"{MULTIPLE} examples of {longest} tokens and regions are more than training.tokens {tokens}: "
                    f"allow {MULTIPLE * longest} or more"
                )
            yield group
            group = []
        group = [*group, *more]
    if group and not drop_last:
        yield group


def token_lengths(objective: Objective) -> list[int]:
    """Count word pieces and regions of every example, as UNITER's official loaders do.

    Every example is read for it, once.

    Raises:
        VlcompressError: examples without text, or of pixels.
    """
    return [_length(objective, index) for index in range(len(objective))]


def _length(objective: Objective, index: int) -> int:
    inputs = objective.batch([index], generator(0, "length", index)).inputs
    if "pixel_values" in inputs or "attention_mask" not in inputs:
        raise VlcompressError("training.tokens counts words and regions: this model reads pixels; set it to 0")
    words = inputs["attention_mask"]
    regions = inputs.get("visual_attention_mask")
    count = inputs["visual_feats"][..., 0].numel() if regions is None and "visual_feats" in inputs else 0
    return int(words.sum()) - _SPECIAL * len(words) + (count if regions is None else int(regions.sum()))


def sampler_of(examples: int, hyper: Hyperparameters, seed: int, lengths: Sequence[int] = ()) -> StepSampler:
    """Make what says which examples a step takes.

    Args:
        examples: how many there are.
        hyper: of the training.
        seed: of the order.
        lengths: of each example, where `hyper.tokens` counts them.
    """
    if hyper.tokens:
        return TokenSampler(lengths, hyper.tokens, hyper.batch, seed)
    return Sampler(examples, min(hyper.batch, examples), seed)


@lru_cache(maxsize=1)
def _permutation(examples: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(examples, generator=generator(seed, "epoch", epoch))


def mix(seed: int, purpose: str, step: int) -> int:
    """Derive a 63-bit seed for one purpose at one step."""
    digest = hashlib.blake2b(f"{seed}:{purpose}:{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, purpose: str, step: int) -> torch.Generator:
    """Make the source of chance for one purpose at one step."""
    return torch.Generator().manual_seed(mix(seed, purpose, step))
