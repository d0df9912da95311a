"""The verdict: is the ticket as good as the dense model? Three levels, three outcomes, and how sure one can be.

Levels (Gan et al. 2022; Chen et al. 2021): *strict*, at least the dense score; *matching*, within one standard
deviation of it; *relaxed*, at least 99 % of it. Scores are paired: the same examples for ticket and dense, the same
seeds for both. The interval is a percentile bootstrap over examples and, where there are several, over seeds.

Its p is that of non-inferiority: small where the ticket is surely not below. A table asks several of those at once, so
what is said of a table is corrected for their number (Holm 1979).

Where the dense model is no better than the blind baseline, nothing was learned that a ticket could keep or lose,
and there is no verdict.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vlcompress.errors import VlcompressError
from vlcompress.results import Level, Outcome, Verdict
from vlcompress.tasks.base import Blind

RELAXED = 0.99
CONFIDENCE = 0.95
RESAMPLES = 2000
TWO_SIDED = 1.96
"""Standard errors of a 95 % interval."""


def learned(dense: float, examples: int, blind: float | None) -> bool:
    """Tell whether a model's mean score, in [0, 1], is surely above the blind baseline's, where it is known.

    The interval is that of a share of so many examples.
    """
    return blind is None or _surely(dense - blind, dense * (1 - dense), examples)


def learned_more(dense_N: Tensor, blind_N: Tensor) -> bool:
    """Tell whether a model's scores of examples, in [0, 1], are surely above the blind baseline's on the same ones."""
    more_N = dense_N - blind_N
    return _surely(float(more_N.mean()), float(more_N.var(correction=0)), len(more_N))


def _surely(margin: float, variance: float, examples: int) -> bool:
    return margin - TWO_SIDED * math.sqrt(variance / examples) > 0


def judge(dense: Sequence[Tensor], ticket: Sequence[Tensor], *, blind: Blind = None) -> Verdict:
    """Compare per-example scores.

    Args:
        dense: for each seed, scores [examples] float in [0, 1] of the dense model.
        ticket: the same seeds and examples, of the ticket.
        blind: score of the blind baseline, or its scores [examples], in [0, 1]; None where it is not known.

    Raises:
        VlcompressError: no seed, different shapes, or a dense model that scores nothing.
    """
    dense_SN, ticket_SN = _paired(dense, ticket)
    resampled_dense_B, resampled_ticket_B = _resample(dense_SN, ticket_SN)
    dense_mean, ticket_mean = float(dense_SN.mean()), float(ticket_SN.mean())
    seeds, examples = dense_SN.shape
    sd = _sd(dense_SN)
    spread = float(resampled_dense_B.std()) if sd is None else sd
    thresholds = {
        "strict": (dense_mean, resampled_dense_B),
        "matching": (dense_mean - spread, resampled_dense_B - spread),
        "relaxed": (RELAXED * dense_mean, RELAXED * resampled_dense_B),
    }
    levels = {
        name: _level(name, ticket_mean, threshold, resampled_ticket_B - resampled_B)
        for name, (threshold, resampled_B) in thresholds.items()
    }
    if isinstance(blind, Tensor):
        shows, blind = learned_more(dense_SN.mean(dim=0), blind), float(blind.double().mean())
    else:
        shows = learned(dense_mean, examples, blind)
    if not shows:
        levels = {name: dataclasses.replace(level, outcome="no verdict") for name, level in levels.items()}
    return Verdict(seeds, examples, dense_mean, ticket_mean, sd, _sd(ticket_SN), levels, blind)


def _paired(dense: Sequence[Tensor], ticket: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack the scores of both, float64 [seeds, examples], and refuse what cannot be compared."""
    dense_SN, ticket_SN = _stack(dense), _stack(ticket)
    if dense_SN.shape != ticket_SN.shape:
        raise VlcompressError(
            f"ticket scores {tuple(ticket_SN.shape)} and dense scores {tuple(dense_SN.shape)} do not pair: "
            "score both on the same split with the same seeds"
        )
    check_dense(dense_SN)
    return dense_SN, ticket_SN


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for their number, so that one false finding among all is as rare as it is said (Holm 1979).

    Returns:
        a p value in [0, 1] for each, in the order given.
    """
    raised, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        raised[place] = highest
    return raised


def corrected(levels: Sequence[Level | None]) -> list[float | None]:
    """Correct the p values of a table's verdicts for their number.

    Args:
        levels: one of each row; None for dense. A row without a verdict asks nothing.

    Returns:
        a p value for each row, None where nothing is asked.
    """
    asked = {row: level.p for row, level in enumerate(levels) if level and level.outcome != "no verdict"}
    found = dict(zip(asked, holm(list(asked.values())), strict=True))
    return [found.get(row) for row in range(len(levels))]


def check_dense(scores: Tensor) -> None:
    """Refuse a dense model against which nothing can be judged.

    Args:
        scores: of its examples, float of any shape.

    Raises:
        VlcompressError: their mean is 0.
    """
    if not scores.double().mean() > 0:
        raise VlcompressError("the dense model scores 0: train it longer before judging a ticket against it")


def _level(name: str, ticket: float, threshold: float, margins_B: Tensor) -> Level:
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(bound) for bound in torch.quantile(margins_B, torch.tensor([tail, 1 - tail]).double()))
    margin = ticket - threshold
    outcome: Outcome = "pass" if margin >= 0 else "pass within noise" if high >= 0 else "fail"
    below = (int((margins_B < 0).sum()) + 1) / (len(margins_B) + 1)  # never 0: so many resamples cannot tell
    return Level(name, threshold, outcome, margin, low, high, below)


def _resample(dense_SN: Tensor, ticket_SN: Tensor) -> tuple[Tensor, Tensor]:
    """Draw RESAMPLES paired bootstrap samples over examples and over seeds, and average each."""
    rng = torch.Generator().manual_seed(0)
    seeds, examples = dense_SN.shape
    means = torch.empty(2, RESAMPLES, dtype=torch.float64)
    both_2SN = torch.stack([dense_SN, ticket_SN])
    for draw in range(RESAMPLES):
        chosen = torch.randint(examples, (examples,), generator=rng)
        whose = torch.randint(seeds, (seeds,), generator=rng)
        means[:, draw] = both_2SN[:, whose][:, :, chosen].mean(dim=(1, 2))
    return means[0], means[1]


def _stack(scores: Sequence[Tensor]) -> Tensor:
    if not scores or len({tuple(one.shape) for one in scores}) != 1:
        raise VlcompressError("scores of at least one seed, all of the same examples, are needed for a verdict")
    return torch.stack(list(scores)).double()


def _sd(scores_SN: Tensor) -> float | None:
    """Standard deviation over seeds of the mean score; None of a single seed."""
    return float(scores_SN.mean(dim=1).std()) if len(scores_SN) > 1 else None
