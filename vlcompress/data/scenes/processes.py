"""Making many pictures with as many processes as pay; what comes does not depend on how many there are."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
S = TypeVar("S")

_CHUNK = 32
_WORTH_PROCESSES = 500
"""Pictures from which starting processes pays."""


@contextmanager
def spread(make: Callable[[S], T], items: Sequence[S], processes: int | None) -> Iterator[Iterator[T]]:
    """Apply `make` to each item, in order; `processes` None chooses how many make it."""
    wanted = processes or min(os.cpu_count() or 1, 4)
    if wanted == 1 or (processes is None and len(items) < _WORTH_PROCESSES):
        yield map(make, items)
        return
    with multiprocessing.get_context("spawn").Pool(wanted) as pool:
        yield pool.imap(make, items, chunksize=_CHUNK)
