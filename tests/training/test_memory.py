"""Batches learned in parts: the whole batch's gradients, in every cell where that can be, and a plain no elsewhere."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.tasks.conftest import VOCABULARY
from tests.training.test_loop import HYPER, Regression, net, state
from tests.training.test_placement import CELLS, batch_of, model_of, objective_of
from vlcompress.devices import CPU, Compute, MicroBatch
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Head
from vlcompress.models.language import language_part
from vlcompress.models.objective import Batch, Objective
from vlcompress.models.registry import family_named
from vlcompress.models.uniter.pretraining import MIX, UniterPretrainingObjective
from vlcompress.tasks.language import WordsAlone
from vlcompress.training.adversarial import Adversarial, parse_perturbation
from vlcompress.training.distillation import Distilled
from vlcompress.training.loop import train
from vlcompress.training.memory import check_divisible, largest_that_fits, parts

WHOLE = [("resnet", task) for task in ("classification", "simclr", "moco")]
"""Cells that batch normalisation keeps from learning in parts."""


class Summed(Regression):
    """The regression, which says that its loss is a mean, with something to stumble over."""

    fits = 1 << 30

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        if len(batch.inputs["x"]) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().loss(model, batch)

    def share(self, part: Batch) -> float:
        return 1.0 if part.whole is None else len(part.inputs["x"]) / len(part.whole.inputs["x"])


def gradients(model: nn.Module, objective: Objective, batch: Batch, examples: int, most: int) -> tuple[Tensor, Tensor]:
    """Give the loss and all gradients in one vector."""
    divisible = check_divisible(model, objective)
    model.zero_grad()
    total = torch.zeros(())
    for part in parts(batch, examples, most):
        loss = divisible.loss(model, part) * divisible.share(part)
        loss.backward()
        total += loss.detach()
    return total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def check(model: nn.Module, objective: Objective, seed: int = 0) -> None:
    """Compare one example at a time, and two, with all at once."""
    for module in model.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    batch, examples = batch_of(objective, seed), len(objective)
    loss, whole = gradients(model, objective, batch, examples, 0)
    assert examples > 1
    assert whole.abs().max() > 0
    for most in range(1, examples):
        summed, accumulated = gradients(model, objective, batch, examples, most)
        torch.testing.assert_close(summed, loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(accumulated, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "task"), [cell for cell in CELLS if cell not in WHOLE and cell[0] != "encoder"])
def test_every_cell_learns_the_same_in_parts(name: str, task: str) -> None:
    family = family_named(name)
    objective = objective_of(family, task)
    check(model_of(family, objective.head), objective)


@pytest.mark.parametrize("name", sorted(MIX))
def test_every_objective_of_uniters_pretraining(name: str) -> None:
    family = family_named("uniter")
    drawn = objective_of(family, "pretraining")._objective
    check(
        model_of(family, Head("pretraining")),
        UniterPretrainingObjective(drawn.examples, VOCABULARY, mix={name: 1}, word_rate=0.4),
    )


@pytest.mark.parametrize("name", ["lxmert", "uniter"])
def test_words_alone_and_adversarial_training(name: str) -> None:
    family = family_named(name)
    vqa = objective_of(family, "vqa")
    check(
        model_of(family, Head("pretraining", ("",))),
        WordsAlone(language_part(family), vqa, VOCABULARY, VOCABULARY.unk_id),
    )
    check(
        model_of(family, Head("answers", ("red", "blue"))), Adversarial(vqa, family, parse_perturbation("text+image"))
    )


@pytest.mark.parametrize(("name", "task"), [("lxmert", "vqa"), ("uniter", "refcoco"), ("uniter", "vcr")])
def test_distillation(name: str, task: str) -> None:
    family = family_named(name)
    objective = objective_of(family, task)
    teacher = model_of(family, objective.head)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    check(model_of(family, objective.head), Distilled(objective, family, teacher, 1.0))


@pytest.mark.parametrize(("name", "task"), WHOLE)
def test_batch_normalisation_is_refused(name: str, task: str) -> None:
    family = family_named(name)
    objective = objective_of(family, task)
    with pytest.raises(VlcompressError, match="micro-batches: the model normalises over the batch"):
        check_divisible(model_of(family, objective.head), objective)


def test_a_loss_that_does_not_say_how_it_adds_up_is_refused_before_the_first_step() -> None:
    with pytest.raises(VlcompressError, match="does not say how it adds up"):
        train(net(), Regression(), HYPER, seed=0, compute=Compute(micro_batch=MicroBatch(2)))


def test_a_loss_that_compares_examples_is_refused_also_where_it_is_wrapped() -> None:
    """CLIP's loss is one of logits, and every text of a batch is compared with every image."""
    family = family_named("lxmert")
    task = objective_of(family, "vqa")
    task.compares = True
    for objective in (task, Distilled(task, family, net(), 1.0), Adversarial(task, family, parse_perturbation("text"))):
        with pytest.raises(VlcompressError, match="this loss compares the examples of a batch with one another"):
            check_divisible(net(), objective)


def still() -> nn.Module:
    return nn.Sequential(*(layer for layer in net() if not isinstance(layer, nn.Dropout)))


@pytest.mark.parametrize("optimizer", ["bertadam", "adamw", "sgd"])
def test_a_training_in_parts_is_the_same_up_to_rounding(optimizer: str) -> None:
    hyper = replace(HYPER, optimizer=optimizer)
    whole = train(still(), Summed(), hyper, seed=0).state_dict()
    for size in (1, 3):
        losses: list[float] = []
        in_parts = train(
            still(),
            Summed(),
            hyper,
            seed=0,
            compute=Compute(micro_batch=MicroBatch(size)),
            journal=lambda entry, seen=losses: seen.append(entry.loss),
        )
        torch.testing.assert_close(in_parts.state_dict(), whole, rtol=1e-4, atol=1e-5)
        assert len(losses) == HYPER.steps


def test_parts_no_smaller_than_the_batch_change_no_bit() -> None:
    same = train(net(), Summed(), HYPER, seed=0, compute=Compute(micro_batch=MicroBatch(HYPER.batch)))
    assert state(same) == state(train(net(), Regression(), HYPER, seed=0))


@pytest.mark.parametrize(("fits", "said"), [(2, "2 fit, add --micro-batch 2"), (0, "nor does a single one")])
def test_out_of_memory_names_what_fits(fits: int, said: str) -> None:
    task = Summed()
    task.fits = fits
    with pytest.raises(VlcompressError, match=f"step 0 does not fit .* with 4 examples at once.*{said}"):
        train(net(), task, HYPER, seed=0)


def test_out_of_memory_of_what_cannot_be_learned_in_parts() -> None:
    class Whole(Regression):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(VlcompressError, match="with 4 examples at once: lower --batch, or take bf16"):
        train(net(), Whole(), HYPER, seed=0)


@pytest.mark.parametrize(
    ("room", "found", "tried"), [(100, 100, [100]), (30, 25, [100, 50, 25]), (1, 1, [100, 50, 25, 13, 7, 4, 2, 1])]
)
def test_the_largest_that_fits_is_found_by_halving(room: int, found: int, tried: Sequence[int]) -> None:
    asked = []

    def attempt(size: int) -> None:
        asked.append(size)
        if size > room:
            raise torch.OutOfMemoryError

    assert largest_that_fits(attempt, 100) == found
    assert asked == list(tried)


def test_micro_batches_are_part_of_a_training_s_name_and_nothing_else_is() -> None:
    assert CPU.identity() == {}
    assert Compute(micro_batch=MicroBatch(8)).identity() == {"device": "cpu", "dtype": "fp32", "micro_batch": "8"}
