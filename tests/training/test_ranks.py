"""Two processes learn what one does: gloo on the CPU, the same batches, masks held on each, no end without a word."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.training.test_loop import HYPER, Regression, masks
from vlcompress.devices import Compute, MicroBatch
from vlcompress.errors import VlcompressError
from vlcompress.models.objective import Batch
from vlcompress.training.hyperparameters import Hyperparameters
from vlcompress.training.loop import train
from vlcompress.training.memory import check_shared, share_of
from vlcompress.training.ranks import lead, on_devices

TWO = Compute(devices=2)
LENGTHS = [3] * 8 + [5] * 8
"""Of the examples, so that groups of 40 words are eight examples each."""


class Mean(Regression):
    """The regression, which says that its loss is a mean."""

    def share(self, part: Batch) -> float:
        return 1.0 if part.whole is None else len(part.inputs["x"]) / len(part.whole.inputs["x"])


def still() -> nn.Module:
    """A net without dropout, whose second head is never used."""
    torch.manual_seed(7)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Identity(), nn.Linear(8, 1))
    net[1].idle = nn.Linear(8, 2)
    return net


def learned(
    compute: Compute, hyper: Hyperparameters, checkpoint: Path | None = None, seen: list[float] | None = None
) -> dict[str, Tensor]:
    """Train in this process, alone or as one of several."""
    model = still()
    told = None if seen is None else lambda entry: seen.append(entry.loss)
    train(
        model,
        Mean(),
        hyper,
        seed=0,
        masks=masks(),
        compute=compute,
        lengths=LENGTHS,
        checkpoint=checkpoint,
        checkpoint_seconds=0,
        journal=told,
    )
    return {name: value.detach() for name, value in model.state_dict().items()}


def follow(compute: Compute, hyper: Hyperparameters, kept: Path) -> None:
    torch.save(learned(compute, hyper), kept)


CASES = {
    "whole": (HYPER, TWO),
    "in parts": (replace(HYPER, batch=7), replace(TWO, micro_batch=MicroBatch(2))),
    "groups dealt": (replace(HYPER, tokens=40, batch=2), TWO),
    "groups cut": (replace(HYPER, tokens=40, batch=1), TWO),
}


def every_case(folder: Path) -> dict[str, tuple[dict[str, Tensor], list[float]]]:
    found = {}
    for name, (hyper, compute) in CASES.items():
        seen: list[float] = []
        lead(compute, partial(follow, compute, hyper, folder / name))
        found[name] = learned(compute, hyper, seen=seen), seen
    return found


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """Whole batches, uneven parts, and UNITER's groups: weights and losses to rounding, pruned ones bit-zero."""
    found = on_devices(TWO, partial(every_case, tmp_path))
    assert list(found) == list(CASES)
    for name, (hyper, compute) in CASES.items():
        (weights, losses), expected = found[name], list[float]()
        alone = learned(replace(compute, devices=1), hyper, seen=expected)
        torch.testing.assert_close(weights, alone, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
        other = torch.load(tmp_path / name)
        for key, value in weights.items():
            assert torch.equal(value.view(torch.int32), other[key].view(torch.int32))
        for key, mask in masks().items():
            assert (other[key][~mask].view(torch.int32) == 0).all()


class Stuck(Mean):
    """The regression, at whose third batch one process does something else."""

    def __init__(self, what: Callable[[], object] | None) -> None:
        super().__init__()
        self.what, self.batches = what, 0

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        self.batches += 1
        if self.what is not None and self.batches == 3:
            self.what()
        return super().batch(indices, rng)


def stuck(what: Callable[[], object] | None, folder: Path) -> None:
    train(still(), Stuck(what), HYPER, seed=0, masks=masks(), compute=TWO, checkpoint=folder, checkpoint_seconds=0)


def one_of_two(rank: int, what: Callable[[], object], folder: Path) -> None:
    lead(TWO, partial(stuck, what if rank == 1 else None, folder))
    stuck(what if rank == 0 else None, folder)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def mistake() -> None:
    raise VlcompressError("the picture 'm' is not there")


@pytest.mark.parametrize("rank", [0, 1])
def test_killed_with_9_it_says_which_once_and_the_same_call_goes_on_to_the_same_bytes(
    rank: int, tmp_path: Path
) -> None:
    with pytest.raises(VlcompressError, match=f"^process {rank} of those that share the training was ended by SIGKILL"):
        on_devices(TWO, partial(one_of_two, rank, die, tmp_path / "under-way"))
    assert (tmp_path / "under-way" / "checkpoint.json").is_file()
    resumed = on_devices(TWO, partial(whole, tmp_path / "under-way"))
    fresh = on_devices(TWO, partial(whole, tmp_path / "other"))
    assert all(torch.equal(value.view(torch.int32), resumed[name].view(torch.int32)) for name, value in fresh.items())


def whole(folder: Path) -> dict[str, Tensor]:
    lead(TWO, partial(learned, TWO, HYPER, folder))
    return learned(TWO, HYPER, folder)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_mistake_of_one_process_ends_all_with_its_message(rank: int, tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match=r"^the picture 'm' is not there$"):
        on_devices(TWO, partial(one_of_two, rank, mistake, tmp_path))


@pytest.mark.nightly
def test_a_process_that_answers_no_more_is_given_up(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(VlcompressError, match=r"^process 0 lost touch with the others: "):
        on_devices(TWO, partial(one_of_two, 1, stop, tmp_path), timeout=timedelta(seconds=1))
    assert time.monotonic() - started < 30


def bug() -> None:
    raise KeyError("of a bug")


def test_a_bug_keeps_the_lines_where_it_happened(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="of a bug") as caught:
        on_devices(TWO, partial(one_of_two, 1, bug, tmp_path))
    assert "in process 1" in caught.value.__notes__[0]
    assert "in bug" in caught.value.__notes__[0]


def test_one_device_is_this_process() -> None:
    assert on_devices(Compute(), os.getpid) == os.getpid()


def test_a_training_for_several_devices_is_refused_where_they_were_not_started() -> None:
    with pytest.raises(VlcompressError, match="devices 2: a training is shared by processes that"):
        learned(TWO, HYPER)


@pytest.mark.parametrize(
    ("hyper", "devices", "said"),
    [
        (HYPER, 5, "--devices 5: a step has 4 examples, and each device needs one"),
        (replace(HYPER, tokens=40, batch=1), 9, "a group of words and regions may have 8 examples"),
        (replace(HYPER, batch=64), 17, "a step has 16 examples"),
    ],
)
def test_fewer_examples_than_devices_are_refused(hyper: Hyperparameters, devices: int, said: str) -> None:
    with pytest.raises(VlcompressError, match=said):
        check_shared(still(), Mean(), hyper, devices)
    check_shared(still(), Mean(), replace(hyper, batch=hyper.batch * 9 if hyper.tokens else 16), 9)


def test_losses_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(VlcompressError, match=r"--devices: this loss compares.*: train on one device instead"):
        check_shared(still(), Regression(), HYPER, 2)
    with pytest.raises(VlcompressError, match=r"--devices: the model normalises over the batch"):
        check_shared(nn.BatchNorm1d(2), Mean(), HYPER, 2)


def test_shares_are_even_and_leave_nothing_out() -> None:
    for examples in range(3, 20):
        shares = [share_of(rank, 3, examples) for rank in range(3)]
        assert [row for share in shares for row in share] == list(range(examples))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_gradients_are_added_up_once_a_step(tmp_path: Path) -> None:
    """Counted in a group of one: a step in four parts reduces once."""
    from torch import distributed

    from vlcompress.training.sampling import Sampler
    from vlcompress.training.step import Stepper, drawn, optimizer_of, shared_loss

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        model, task, sent = still(), Mean(), list[int]()
        shared = shared_loss(model, task)

        def count(_: object, bucket: distributed.GradBucket) -> torch.futures.Future[Tensor]:
            sent.append(bucket.index())
            done: torch.futures.Future[Tensor] = torch.futures.Future()
            done.set_result(bucket.buffer())
            return done

        shared.register_comm_hook(None, count)
        compute = Compute(micro_batch=MicroBatch(1))
        stepper = Stepper(model, task, optimizer_of(model, HYPER, ""), HYPER, compute, None, None, shared)
        stepper.learn(drawn(task, Sampler(16, 4, 0), 0, 0), 0)
        assert sent == [0]
    finally:
        distributed.destroy_process_group()
