"""Which examples a step takes: UNITER's groups of tokens as its official code deals them, the same on resuming."""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor, nn

from tests.training.test_loop import HYPER, Regression, net, state
from tests.training.test_memory import Summed, still
from tests.training.test_placement import objective_of
from vlcompress.devices import Compute, MicroBatch
from vlcompress.errors import VlcompressError
from vlcompress.models.objective import Batch
from vlcompress.models.registry import family_named
from vlcompress.training.loop import train
from vlcompress.training.sampling import TokenSampler, ahead, token_groups, token_lengths
from vlcompress.training.watching import Entry

OFFICIAL = json.loads(
    (Path(__file__).parents[1] / "fixtures/data/uniter/expected_batches/token_bucket_sampler.json").read_text()
)
LENGTHS = OFFICIAL["lens"]


@pytest.mark.evidence("format", "uniter-vqa")
@pytest.mark.parametrize("name", OFFICIAL["batches"])
def test_groups_are_those_of_the_official_sampler(name: str) -> None:
    bucket = int(name.split("_")[1].removeprefix("bucket"))
    dealt = token_groups(LENGTHS, 1024, Random(42), bucket=bucket, drop_last=name.endswith("droplast"))
    assert dealt == OFFICIAL["batches"][name]


def test_steps_go_on_through_epochs_and_a_new_sampler_finds_the_same() -> None:
    sampler = TokenSampler(LENGTHS, 1024, 3, seed=1)
    steps = [sampler.groups(step) for step in range(30)]
    assert all(len(step) == 3 for step in steps)
    groups = [group for step in steps for group in step]
    assert all(len(group) * max(LENGTHS[index] for index in group) <= 1024 for group in groups)
    epoch = token_groups(LENGTHS, 1024, Random(_seed(1, 0)), drop_last=True)
    assert groups[: len(epoch)] == epoch
    assert groups[len(epoch) :][: len(epoch)] != epoch
    assert TokenSampler(LENGTHS, 1024, 3, seed=1).groups(29) == steps[29]
    assert sampler.groups(2) == steps[2]
    assert TokenSampler(LENGTHS, 1024, 3, seed=2).groups(0) != steps[0]


def _seed(seed: int, epoch: int) -> int:
    from vlcompress.training.sampling import mix

    return mix(seed, "epoch", epoch)


def test_examples_that_are_too_long_and_data_that_are_too_few_are_refused() -> None:
    with pytest.raises(VlcompressError, match=r"8 examples of 110 tokens and regions are more .* allow 880 or more"):
        TokenSampler(LENGTHS, 800, 1, seed=0)
    with pytest.raises(VlcompressError, match="5 examples make no group of 1024 tokens"):
        TokenSampler(LENGTHS[:5], 1024, 1, seed=0)


@pytest.mark.parametrize(
    ("name", "task", "lengths"), [("uniter", "vqa", [6, 4]), ("lxmert", "vqa", [6, 4]), ("uniter", "nlvr2", [9, 9])]
)
def test_lengths_are_word_pieces_without_cls_and_sep_and_regions(name: str, task: str, lengths: list[int]) -> None:
    """For two images the text counts twice, as officially."""
    assert token_lengths(objective_of(family_named(name), task)) == lengths


def test_pixels_have_no_such_lengths() -> None:
    with pytest.raises(VlcompressError, match="this model reads pixels; set it to 0"):
        token_lengths(objective_of(family_named("vilt"), "vqa"))


class Logged(Summed):
    """Keeps the sizes of the batches that it has seen."""

    def __init__(self) -> None:
        super().__init__(64)
        self.sizes: list[int] = []

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        self.sizes.append(len(batch.inputs["x"]))
        return super().loss(model, batch)


def test_a_step_learns_the_mean_of_its_groups_also_in_parts() -> None:
    hyper, task = replace(HYPER, tokens=100, batch=2, steps=6), Logged()
    lengths = [1 + index % 7 for index in range(64)]
    learned = train(still(), task, hyper, seed=0, lengths=lengths)
    assert len(task.sizes) == 12
    again = train(still(), Logged(), hyper, seed=0, lengths=lengths, compute=Compute(micro_batch=MicroBatch(3)))
    torch.testing.assert_close(again.state_dict(), learned.state_dict(), rtol=1e-4, atol=1e-5)


def test_an_interrupted_training_goes_on_in_the_same_groups(tmp_path: Path) -> None:
    def die(entry: Entry) -> None:
        if entry.step == 4:
            raise KeyboardInterrupt

    hyper = replace(HYPER, tokens=60, batch=2)
    given = {"seed": 0, "lengths": [1 + index % 7 for index in range(64)]}
    whole = train(net(), Regression(64), hyper, **given)
    where = {"checkpoint": tmp_path / "under-way", "checkpoint_seconds": 0.0, "identity": "x"}
    with pytest.raises(KeyboardInterrupt):
        train(net(), Regression(64), hyper, journal=die, **given, **where)
    assert state(train(net(), Regression(64), hyper, **given, **where)) == state(whole)


def test_more_readers_change_no_bit_of_a_training() -> None:
    given = {"seed": 0, "lengths": [1 + index % 7 for index in range(64)]}
    hyper = replace(HYPER, tokens=60, batch=2)
    few, many = (train(net(), Regression(64), hyper, compute=Compute(readers=count), **given) for count in (1, 4))
    assert state(few) == state(many)


def test_batches_are_made_one_step_ahead_and_no_further_and_the_same() -> None:
    made: list[int] = []

    def make(step: int) -> int:
        made.append(step)
        return 10 * step

    seen = []
    for step, value in ahead(make, 3, 8):
        time.sleep(0.02)
        seen.append((step, value, max(made)))
    assert seen == [(3, 30, 4), (4, 40, 5), (5, 50, 6), (6, 60, 7), (7, 70, 7)]
    assert list(ahead(make, 5, 5)) == []


def test_several_readers_make_as_many_steps_ahead_at_once_and_in_order() -> None:
    together, made = threading.Barrier(3), []

    def make(step: int) -> int:
        together.wait(timeout=10)  # three at a time, or not at all
        made.append(step)
        return 10 * step

    assert list(ahead(make, 2, 8, readers=3)) == [(step, 10 * step) for step in range(2, 8)]
    assert sorted(made) == list(range(2, 8))
    assert list(ahead(make, 5, 5, readers=3)) == []


def test_a_batch_that_cannot_be_made_is_told_at_its_step_and_leaves_no_thread() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise VlcompressError("image 'x' is broken")
        return step

    steps = ahead(make, 0, 5)
    assert [next(steps), next(steps)] == [(0, 0), (1, 1)]
    with pytest.raises(VlcompressError, match="image 'x' is broken"):
        next(steps)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]
