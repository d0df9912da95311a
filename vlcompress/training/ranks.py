"""Several devices for one training: a process each, on one machine.

The first process (rank 0) does the whole work: it opens data, prunes, scores, writes and talks. The others wait for a
training, of which each learns its share of every batch, with its own copy of weights, optimizer and masks; gradients
are added up once a step by PyTorch's DistributedDataParallel (NCCL between GPUs, gloo on the CPU). A process that
started them watches over all: the first that fails ends the others, and its message is the one that is told.
"""

import os
import pickle
import re
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

import torch
from torch import distributed

from vlcompress.devices import Compute
from vlcompress.errors import VlcompressError

Result = TypeVar("Result")
Job = Callable[[], object]
"""What every other process is to do; sent to it pickled, so a function of a module with its arguments."""

TIMEOUT = timedelta(minutes=30)
"""How long one process waits in a step for the others before it gives them up."""
GRACE = 2.0
"""Seconds for what failed last to tell what failed first, and for a process to end by itself."""


@dataclass(frozen=True)
class _Place:
    """A process among those that share trainings.

    Attributes:
        rank: its number; 0 leads.
        compute: of rank 0.
        meeting: the file over which they find one another.
        timeout: see `TIMEOUT`.
        jobs: of rank 0, to each other process; of the others, from rank 0.
    """

    rank: int
    compute: Compute
    meeting: Path
    timeout: timedelta
    jobs: Sequence[Connection]

    def join(self) -> None:
        """Meet the others, once."""
        if distributed.is_initialized():
            return
        if self.compute.on_gpu:
            torch.cuda.set_device(self.rank)
        distributed.init_process_group(
            "nccl" if self.compute.on_gpu else "gloo",
            init_method=f"file://{self.meeting}",
            rank=self.rank,
            world_size=self.compute.devices,
            timeout=self.timeout,
        )


_place: _Place | None = None

_SILENCE = re.compile("gloo|pair closure|[Tt]imed out|[Cc]onnection (closed|reset)")
"""What is in gloo's errors where another process is gone or silent; they have no type of their own."""


class _LostError(VlcompressError):
    """A process no longer hears from another one, which has most likely failed itself."""


class _EndedError(VlcompressError):
    """A process was ended without a word."""


def rank_here() -> int:
    """Return this process's number among those that share a training; 0 where it is alone."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def check_place(compute: Compute) -> None:
    """Refuse to share a training with processes that were not started.

    Raises:
        VlcompressError: this is not one of `compute.devices` processes of `on_devices`.
    """
    if not distributed.is_initialized() or distributed.get_world_size() != compute.devices:
        raise VlcompressError(
            f"devices {compute.devices}: a training is shared by processes that vlcompress.training.ranks.on_devices "
            "has started, as `prune --devices` does; take one device otherwise"
        )


def here(compute: Compute) -> Compute:
    """Return what this process computes on, given what rank 0 does."""
    return compute.of_rank(0 if _place is None else _place.rank)


def lead(compute: Compute, job: Job) -> None:
    """Have the other processes, if several devices are to share it, begin with the training that this one does next."""
    if compute.devices == 1 or _place is None:
        return
    for other in _place.jobs:
        other.send_bytes(pickle.dumps(job))
    _place.join()


def on_devices(compute: Compute, work: Callable[[], Result], timeout: timedelta = TIMEOUT) -> Result:
    """Do `work`, whose trainings the devices share: in this process if there is one device, else in the first of them.

    Args:
        compute: with how many devices.
        work: a function of a module with its arguments; what it gives is given back, so both must be picklable.
        timeout: how long a process may keep the others waiting in a step.

    Raises:
        VlcompressError: a process failed, or was ended; whatever else `work` raises.
    """
    if compute.devices == 1:
        return work()
    with tempfile.TemporaryDirectory() as folder:
        processes, reports = _start(compute, work, Path(folder) / "meeting", timeout)
        try:
            result: Result = _outcome(processes, reports)  # type: ignore[assignment]
            return result
        except Exception:
            _end(processes, 0.0)
            raise
        finally:
            _end(processes, GRACE)


def _start(
    compute: Compute, work: Job, meeting: Path, timeout: timedelta
) -> tuple[list[BaseProcess], list[Connection]]:
    """Start every process; what each has to report can be read from a pipe, which ends when the process does."""
    # a fork of this process could use neither a GPU nor gradients that it has used: they are of one that has imported
    context = get_context("forkserver")
    context.set_forkserver_preload(["vlcompress.training.loop"])
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are here, whatever the machine's name resolves to
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # it warns of find_unused_parameters at each training
    jobs = [context.Pipe(duplex=False) for _ in range(1, compute.devices)]
    ways = [tuple(sender for _, sender in jobs), *((receiver,) for receiver, _ in jobs)]
    processes, reports = list[BaseProcess](), list[Connection]()
    for rank, way in enumerate(ways):
        report, told = context.Pipe(duplex=False)
        place = _Place(rank, compute, meeting, timeout, way)
        processes.append(context.Process(target=_run, args=(place, work if rank == 0 else None, told), daemon=True))
        processes[-1].start()
        told.close()
        reports.append(report)
    for receiver, sender in jobs:
        receiver.close()
        sender.close()
    return processes, reports


def _outcome(processes: Sequence[BaseProcess], reports: Sequence[Connection]) -> object:
    """Wait for what rank 0 gives, or for the failure that ends all."""
    listening, faults = list(reports), list[Exception]()
    while listening and (ready := wait(listening, GRACE if faults else None)):
        for report in [one for one in reports if one in ready]:
            listening.remove(report)
            rank = reports.index(report)
            result, fault = _read(report, rank, processes[rank])
            if fault is None and rank == 0 and not faults:
                return result
            faults += [] if fault is None else [fault]
    raise min(faults, key=_distance)


def _read(report: Connection, rank: int, process: BaseProcess) -> tuple[object, Exception | None]:
    try:
        result, fault = pickle.loads(report.recv_bytes())
    except EOFError:
        process.join(GRACE)
        code = process.exitcode or 0
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return None, _EndedError(
            f"process {rank} of those that share the training was {how} (the machine may have run out of memory): the "
            "same command goes on from the last checkpoint"
        )
    return result, fault


def _distance(fault: Exception) -> int:
    """Say how far a failure is from its cause: a mistake, then an end without a word, then errors that follow."""
    return 3 if isinstance(fault, _LostError) else 1 if isinstance(fault, _EndedError) else 0


def _end(processes: Sequence[BaseProcess], patience: float) -> None:
    for process in processes:
        process.join(patience)
        process.kill()
        process.join()


def _run(place: _Place, work: Job | None, told: Connection) -> None:
    """Be one of the processes."""
    global _place
    _place = place
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if work is None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C goes to all: rank 0 ends the others
    if not place.compute.on_gpu:
        torch.set_num_threads(max(1, torch.get_num_threads() // place.compute.devices))
    try:
        _tell(told, (work or partial(_follow, place))(), None)
    except KeyboardInterrupt:
        sys.exit(1)
    except Exception as fault:
        _tell(told, None, _as_told(fault, place.rank))
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _tell(told: Connection, result: object, fault: Exception | None) -> None:
    """Report, all in what is sent: a connection's own pickles leave tensors with a process that is about to end."""
    told.send_bytes(pickle.dumps((result, fault)))


def _follow(place: _Place) -> None:
    """Do what rank 0 sends, until it has ended."""
    while True:
        try:
            job: Job = pickle.loads(place.jobs[0].recv_bytes())
        except EOFError:
            return
        place.join()
        job()


def _as_told(fault: Exception, rank: int) -> Exception:
    """Make a failure what can be sent to the process that tells it; a bug keeps the lines where it happened."""
    lost = isinstance(fault, distributed.DistError | ConnectionError)
    if lost or (isinstance(fault, RuntimeError) and _SILENCE.search(str(fault))):
        return _LostError(f"process {rank} lost touch with the others: {str(fault).splitlines()[0]}")
    if isinstance(fault, VlcompressError | OSError):
        return fault
    fault.add_note(f"in process {rank}:\n{''.join(traceback.format_exception(fault))}")
    try:
        pickle.loads(pickle.dumps(fault))
    except Exception:
        return RuntimeError("\n".join(fault.__notes__))
    return fault


def _end_with_parent() -> None:
    """End this process when the one that started it has gone, whatever this one waits for."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
