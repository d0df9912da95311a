"""Settling the micro-batch before a training: what is found, what has no effect, what is refused."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.training.test_loop import HYPER, Regression, net
from tests.training.test_memory import Summed
from vlcompress.devices import AUTO, Compute, MicroBatch
from vlcompress.errors import VlcompressError
from vlcompress.models.objective import Batch, Objective
from vlcompress.training import fit
from vlcompress.training.fit import fitted


class OnGpu(Compute):
    """Says that it is a GPU and computes on the CPU."""

    on_gpu = True


@pytest.fixture
def no_gpu_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what needs a real one: the limit on its memory, its precision."""
    from contextlib import nullcontext

    monkeypatch.setattr(fit, "memory_share", lambda compute, share: nullcontext())
    monkeypatch.setattr(fit, "precision", lambda compute: nullcontext())


def settle(task: Objective, compute: Compute) -> tuple[Compute, list[str]]:
    said: list[str] = []
    return fitted(compute, replace(HYPER, batch=8), lambda: (net(), task), said.append), said


@pytest.mark.usefixtures("no_gpu_calls")
@pytest.mark.parametrize(("fits", "found"), [(8, 0), (5, 4), (1, 1)])
def test_auto_takes_the_largest_that_fits(fits: int, found: int) -> None:
    task = Summed()
    task.fits = fits
    compute, said = settle(task, OnGpu(micro_batch=AUTO))
    assert compute.micro_batch == found
    assert f"micro-batch auto: {found or 8} of a step's 8 examples at once" in said[0]


@pytest.mark.usefixtures("no_gpu_calls")
def test_auto_where_nothing_fits_and_where_batches_are_indivisible() -> None:
    task = Summed()
    task.fits = 0
    with pytest.raises(VlcompressError, match="not even one example fits into the memory of cpu"):
        settle(task, OnGpu(micro_batch=AUTO))
    assert settle(Regression(), OnGpu(micro_batch=AUTO))[0].micro_batch == 0


def test_auto_on_the_cpu_and_a_micro_batch_no_smaller_than_the_batch_are_said_to_change_nothing() -> None:
    for asked, line in ((AUTO, "no effect on the CPU"), (MicroBatch(8), "no effect: a step has 8 examples")):
        compute, said = settle(Summed(), Compute(micro_batch=asked))
        assert compute == Compute()
        assert line in said[0]


def test_a_number_is_kept_or_refused_before_training() -> None:
    assert settle(Summed(), Compute(micro_batch=MicroBatch(3))) == (Compute(micro_batch=MicroBatch(3)), [])
    with pytest.raises(VlcompressError, match="lower --batch instead"):
        settle(Regression(), Compute(micro_batch=MicroBatch(3)))


@pytest.mark.usefixtures("no_gpu_calls")
def test_the_probe_takes_whole_steps_with_their_optimizer() -> None:
    class Counted(Summed):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            seen.append(len(batch.inputs["x"]))
            return super().loss(model, batch)

    seen: list[int] = []
    settle(Counted(), OnGpu(micro_batch=AUTO))
    assert seen == [8] * fit.PROBED
    assert not torch.cuda.is_initialized()
