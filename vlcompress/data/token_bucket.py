"""UNITER's batches of about equal work: examples of like length, as many as fit a number of tokens.

The order is that of the official TokenBucketSampler (github ChenRocks/UNITER, ``data/sampler.py``) for the same lengths
and the same state of Python's random generator.
"""

from collections.abc import Iterator, Sequence
from random import Random

from vlcompress.errors import VlcompressError

BUCKET = 8192
"""Examples that are sorted together."""
MULTIPLE = 8
"""A batch grows by this many examples."""


def token_batches(
    lengths: Sequence[int],
    max_tokens: int,
    rng: Random,
    *,
    bucket: int = BUCKET,
    multiple: int = MULTIPLE,
    drop_last: bool = False,
) -> list[list[int]]:
    """Deal all examples into batches, in random order.

    A batch's cost is its number of examples times the longest length in its bucket's batches so far.

    Args:
        lengths: tokens and regions of each example.
        max_tokens: most that a batch may cost.
        rng: shuffles the examples, then the batches.
        bucket: examples that are sorted together.
        multiple: a batch's size is a multiple of this, but for the last one of a bucket.
        drop_last: leave out that last one.

    Raises:
        VlcompressError: `multiple` examples of one length cost more than `max_tokens`.
    """
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches = [
        batch
        for start in range(0, len(order), bucket)
        for batch in _deal(order[start : start + bucket], lengths, max_tokens, multiple, drop_last)
    ]
    rng.shuffle(batches)
    return batches


def _deal(
    indices: Sequence[int], lengths: Sequence[int], max_tokens: int, multiple: int, drop_last: bool
) -> Iterator[list[int]]:
    """Deal one bucket, longest examples first."""
    ranked = sorted(indices, key=lambda index: lengths[index], reverse=True)
    batch: list[int] = []
    longest = 0
    for start in range(0, len(ranked), multiple):
        group = ranked[start : start + multiple]
        longest = max(longest, lengths[group[0]])
        if longest * (len(batch) + multiple) > max_tokens:
            if not batch:
                raise VlcompressError(
                    f"{multiple} examples of {longest} tokens are more than max_tokens {max_tokens}: allow "
                    f"{multiple * longest} or more"
                )
            yield batch
            batch = []
        batch = [*batch, *group]
    if batch and not drop_last:
        yield batch
