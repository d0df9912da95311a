"""Peak memory of one variant, measured in a process of its own: nothing of the others is counted."""

import multiprocessing
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from vlcompress.errors import VlcompressError

Make = Callable[[], Callable[[], object]]
"""Loads a variant and gives the call that runs it once. Importable: a module's function or a partial of one."""


def peak_memory(make: Make, *, calls: int = 3, timeout_s: float = 600.0) -> float:
    """Load a variant in a fresh process, run it, and read its peak memory.

    Args:
        make: see `Make`; it must load from disk, since what it carries along is counted as the base.
        calls: how often to run.
        timeout_s: when to give up.

    Returns:
        What the variant adds at its peak, loading included, to an interpreter with its libraries: megabytes (10^6
        bytes) of resident memory.

    Raises:
        VlcompressError: the process failed or took too long.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(make, calls, there), daemon=True)
    process.start()
    there.close()  # so that the end of the child is seen here
    try:
        found: float | str = here.recv() if here.poll(timeout_s) else f"no result within {timeout_s:g} s"
    except EOFError:
        found = "it ended early (out of memory?)"
    finally:
        process.kill()
        process.join()
    if isinstance(found, str):
        raise VlcompressError(f"cannot measure memory: {found}; leave memory out of the benchmark or free some first")
    return found


def _measure(make: Make, calls: int, result: Connection) -> None:
    import onnxruntime  # noqa: F401 (libraries belong to the base, whichever variant comes)
    import torch  # noqa: F401
    import transformers  # noqa: F401

    try:
        base = _peak_mb()
        call = make()
        for _ in range(calls):
            call()
        result.send(round(_peak_mb() - base, 1))
    except Exception as error:
        result.send(f"{type(error).__name__}: {error}")


def _peak_mb() -> float:
    """Read this process's highest resident memory so far.

    Linux's ru_maxrss starts at what the parent process had, exec included, so its own status file is read instead.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return round(int(line.split()[1]) * 1024 / 1e6, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 1)  # macOS counts bytes
