"""Making many pictures with as many processes as pay; what comes does not depend on how many there are."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import ModuleType
from typing import TypeVar

from vlcompress.errors import VlcompressError

T = TypeVar("T")
S = TypeVar("S")

_CHUNK = 32
_WORTH_PROCESSES = 500
"""Pictures from which starting processes pays."""


@contextmanager
def spread(make: Callable[[S], T], items: Sequence[S], processes: int | None) -> Iterator[Iterator[T]]:
    """Apply `make` to each item, in order.

    Args:
        make: a function of a module, or a partial of one; not of the script that runs.
        items: what it is applied to.
        processes: how many make it; None chooses.

    Raises:
        VlcompressError: a process was killed.
    """
    wanted = processes or min(os.cpu_count() or 1, 4)
    if wanted == 1 or (processes is None and len(items) < _WORTH_PROCESSES):
        yield map(make, items)
        return
    with ProcessPoolExecutor(wanted, multiprocessing.get_context("spawn")) as pool:
        with _nothing_to_import():
            made = pool.map(make, items, chunksize=_CHUNK)
        try:
            yield made
        except BrokenProcessPool as error:
            raise VlcompressError(
                f"one of {wanted} processes that make pictures was ended (out of memory?): free some, or processes=1"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupt must not wait for pictures that nobody will read


@contextmanager
def _nothing_to_import() -> Iterator[None]:
    """Hide the script that runs: a spawned process would run it again, down to this very call, if it has no guard."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
