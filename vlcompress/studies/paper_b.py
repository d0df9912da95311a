"""Hashemi et al. (2023) on LXMERT and VQA: low-magnitude, high-magnitude and random pruning from 10 to 90 %.

As the *text* says it: iterative magnitude pruning with training between the rounds, ranked over the whole network; the
high-magnitude network is pruned of its largest weights; masks are held.

As *released*: the authors' code does something else, found by reading it and repeated here.

1. Nothing is trained between the rounds: it is one-shot pruning of the fine-tuned weights.
2. Each tensor is ranked by itself.
3. Biases, LayerNorms and the answer head are pruned as well.
4. Each round takes a tenth of what is left, and stops past the label: the labels 10 to 90 stand for 10.0, 27.1, 34.4,
   41.0, 52.2, 61.3, 71.8, 81.5 and 90.2 %.
5. "High magnitude" takes the mask of the opposite label and prunes, of each tensor, as many weights as that mask keeps:
   a random sample of those that the mask prunes, or, where they are too few, all of them and a random sample of the
   rest. So the smallest weights go first in this arm too.
6. The mask is not held while training again.

Three things differ from that code here: its random masks are drawn weight by weight where ours have an exact count,
its rounds prune ties and one weight more of each tensor, and its head starts from the pre-trained answers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean

import torch

from vlcompress.errors import VlcompressError
from vlcompress.pruning.allocation import Allocation, Global, Uniform
from vlcompress.pruning.criterion import Criterion, HighMagnitude, Magnitude, Random
from vlcompress.pruning.mask import Masks, prune
from vlcompress.pruning.pattern import Unstructured
from vlcompress.results import ArmResult
from vlcompress.studies.base import Choices, StudyCell, StudyReport, StudyRunner, by_magnitude
from vlcompress.studies.curves import Curve, curve_of, curves_report, dense_row, imp_rows, masked_row, near, rounds_of
from vlcompress.studies.tickets import NINE, ticket_recipe
from vlcompress.tickets.engine import columns
from vlcompress.tickets.experiment import Experiment
from vlcompress.tickets.imp import Row, control, judged
from vlcompress.tickets.spec import Trial
from vlcompress.tickets.store import TrainingResult

RELEASED_ROUNDS = (1, 3, 4, 5, 7, 9, 12, 16, 22)
"""Rounds of a tenth of what is left that the code runs for the labels 10 to 90 %."""
RELEASED = tuple(round(1 - 0.9**rounds, 3) for rounds in RELEASED_ROUNDS)


@dataclass(frozen=True)
class LabelledCurve(Curve):
    """A curve, and the labels that its levels have in the released code."""

    labels: tuple[float, ...]


class PaperB:
    """See the top of the file."""

    name = "paper-b"
    title = "low, high and random magnitude on LXMERT VQA, as the text says and as released (Hashemi et al. 2023)"

    def cells(self, choices: Choices) -> Sequence[StudyCell]:
        """Plan the two readings.

        Raises:
            VlcompressError: another family, task or criterion than the paper's.
        """
        if (choices.family, choices.tasks) != ("lxmert", ("vqa",)):
            raise VlcompressError(
                f"study 'paper-b' on {choices.family} and {', '.join(choices.tasks)}: the paper is about lxmert on "
                "vqa; leave --model and --task out"
            )
        by_magnitude(self.name, choices)
        return [_text(choices), _released(choices)]

    def report(self, results: Mapping[str, Curve]) -> StudyReport:
        """Lay out both curves, and what differs between them."""
        curves = {f"as {name}": curve for name, curve in results.items()}
        summary = " ".join(_summary(name, curve) for name, curve in curves.items())
        return curves_report(curves, _findings, published=("b1", "b2"), summary=summary)


def _text(choices: Choices) -> StudyCell:
    levels = choices.levels or NINE
    recipe = ticket_recipe(choices, "vqa", levels)

    def work(runner: StudyRunner) -> Curve:
        bench = runner.bench(recipe)
        seeds = [partial(_text_rows, bench, seed, levels) for seed in choices.seeds]
        return curve_of(bench, judged(columns(runner.engine, seeds), bench.blind))

    count = len(choices.seeds) * (1 + rounds_of(recipe) + 2 * len(levels))
    return StudyCell("text", recipe, count, work, scored=2 * len(choices.seeds) * len(levels))


def _text_rows(bench: Experiment, seed: int, levels: Sequence[float]) -> Iterator[Row]:
    dense, *tickets = imp_rows(bench, seed, levels, "low magnitude")
    yield from (dense, *tickets)
    for _, number, sparsity, _ in tickets:
        masks = _oneshot(bench, dense.result, sparsity, HighMagnitude(), Global())
        yield masked_row(bench, seed, "high magnitude", masks, number)
    yield from (control(bench, seed, "random", row) for row in tickets)


def _released(choices: Choices) -> StudyCell:
    recipe = ticket_recipe(choices, "vqa", NINE).override(pruning={"prunable": "as-released", "allocation": "uniform"})
    wanted = [place for place, label in enumerate(NINE) if near(label, choices.levels)]

    def work(runner: StudyRunner) -> Curve:
        bench = runner.bench(recipe)
        rows = columns(runner.engine, [partial(_released_rows, bench, seed, wanted) for seed in choices.seeds])
        curve = curve_of(bench, judged(rows, bench.blind))
        return LabelledCurve(**vars(curve), labels=tuple(NINE[place] for place in wanted))

    scored = 3 * len(choices.seeds) * len(wanted)
    return StudyCell("released", recipe, len(choices.seeds) + scored, work, scored)


def _released_rows(bench: Experiment, seed: int, wanted: Sequence[int]) -> Iterator[Row]:
    first = dense_row(bench, seed)
    dense = first.result
    yield first
    for arm, masks_of in _RELEASED_ARMS.items():
        for place in wanted:
            masks = masks_of(bench, dense, seed, place)
            label = f"seed {seed} {arm}, label {100 * NINE[place]:.0f} %, not held"
            yield Row(arm, place + 1, masks.sparsity, bench.train(Trial(seed, masks, held=False, scored=True), label))


def _low(bench: Experiment, dense: TrainingResult, seed: int, place: int) -> Masks:
    return _oneshot(bench, dense, RELEASED[place], Magnitude(), Uniform())


def _high(bench: Experiment, dense: TrainingResult, seed: int, place: int) -> Masks:
    return labelled_high(_low(bench, dense, seed, len(NINE) - 1 - place), seed)


def _random(bench: Experiment, dense: TrainingResult, seed: int, place: int) -> Masks:
    return _oneshot(bench, dense, RELEASED[place], Random(seed), Uniform())


_RELEASED_ARMS = {"low magnitude": _low, "high magnitude (as labelled)": _high, "random": _random}
"""The masks of a seed's dense model at the label of a place in `NINE`, by arm."""


def labelled_high(low: Masks, seed: int) -> Masks:
    """Prune of each tensor as many weights as `low` keeps: at random among those that it prunes, then among the rest.

    This is ``high_magnitude_pruning`` of the released code, which takes the pruned weights for the good ones.
    """
    order = Random(seed)
    pruned = {}
    for name, kept in low.items():
        turn = (order.scores(name, kept) + kept).flatten().argsort(stable=True)
        mask = torch.ones(kept.numel(), dtype=torch.bool)
        mask[turn[: int(kept.sum())]] = False
        pruned[name] = mask.view(kept.shape)
    return Masks(pruned)


def _oneshot(
    bench: Experiment, dense: TrainingResult, level: float, criterion: Criterion, allocation: Allocation
) -> Masks:
    weights = dense.weights()
    everything = Masks.keep_all({name: weights[name] for name in bench.prunable.names})
    return prune(weights, everything, level, pattern=Unstructured(), criterion=criterion, allocation=allocation)


def _arms(curve: Curve) -> dict[str, list[ArmResult]]:
    """Sort the cells by arm, level by level: low, high, random."""
    names = dict.fromkeys(cell.arm for cell in curve.cells if cell.arm != "dense")
    return {name: [cell for cell in curve.cells if cell.arm == name] for name in names}


def _summary(name: str, curve: Curve) -> str:
    """Say at how many levels each arm beats the next, and by how much on average."""
    low, high, random = ([cell.percent for cell in cells] for cells in _arms(curve).values())
    sentences = []
    for words, ours, theirs in (("low magnitude", low, high), ("high magnitude", high, random)):
        gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
        other = "high" if theirs is high else "random"
        above = sum(gap > 0 for gap in gaps)
        sentences.append(
            f"{words} is above {other} at {above} of {len(gaps)} levels ({mean(gaps):+.2f} points on average)"
        )
    return f"{name.capitalize()}: {', '.join(sentences)}."


def _findings(name: str, curve: Curve) -> list[str]:
    """Compare the three arms level by level, and say what the paper found surprising."""
    arms = list(_arms(curve))
    low, high, random = _arms(curve).values()
    sentences = []
    for one, other, third in zip(low, high, random, strict=True):
        order = other.percent - third.percent
        verb = "above" if order > 0 else "below"
        sentences.append(
            f"{name}, {100 * one.sparsity:.1f} %: low {one.percent:.2f}, {arms[1]} {other.percent:.2f} (at "
            f"{100 * other.sparsity:.1f} %), random {third.percent:.2f}: high is {abs(order):.2f} {verb} random."
        )
    return sentences
