import numpy as np
import pytest
import torch
from scipy.stats import bootstrap
from statsmodels.stats.multitest import multipletests

from vlcompress.errors import VlcompressError
from vlcompress.tickets.verdict import corrected, holm, judge, learned


def scores(mean: float, examples: int = 4000, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return (torch.rand(examples, generator=rng) < mean).float()


def worse(dense: torch.Tensor, by: float) -> torch.Tensor:
    """Turn right answers wrong until the mean has fallen by `by`."""
    lost = dense.clone()
    lost[dense.nonzero()[: round(by * len(dense)), 0]] = 0
    return lost


def outcomes(dense: list[torch.Tensor], ticket: list[torch.Tensor]) -> list[str]:
    return [level.outcome for level in judge(dense, ticket).levels.values()]


def test_the_same_scores_pass_every_level() -> None:
    assert outcomes([scores(0.7)], [scores(0.7)]) == ["pass", "pass", "pass"]


def test_a_clear_loss_fails_every_level() -> None:
    dense = scores(0.7)
    assert outcomes([dense], [worse(dense, 0.1)]) == ["fail", "fail", "fail"]


def test_half_a_point_of_seventy_is_relaxed_but_not_strict() -> None:
    dense = scores(0.7)
    verdict = judge([dense], [worse(dense, 0.005)])
    assert verdict["strict"].outcome == "fail"  # paired: the same examples are right in both, so little noise is left
    assert verdict["relaxed"].outcome == "pass"
    assert verdict["relaxed"].low < verdict["relaxed"].margin < verdict["relaxed"].high
    assert verdict["relaxed"].p < 0.05


def test_just_below_the_line_is_within_noise() -> None:
    dense = scores(0.7)
    verdict = judge([dense], [worse(dense, 0.0075)])
    assert verdict["relaxed"].margin < 0
    assert verdict["relaxed"].outcome == "pass within noise"


def test_seeds_give_the_standard_deviation_that_matching_uses() -> None:
    dense = [scores(mean, seed=seed) for seed, mean in enumerate((0.69, 0.70, 0.71))]
    verdict = judge(dense, dense)
    means = torch.stack(dense).double().mean(dim=1)
    assert verdict.dense_sd == pytest.approx(float(means.std()))
    assert verdict["matching"].threshold == pytest.approx(verdict.dense - float(means.std()))
    assert "3 seeds" in verdict.sentence()


@pytest.mark.parametrize(
    ("blind", "gets_one"), [(None, True), (0.285, True), (0.29, False), (0.3, False), (0.9, False)]
)
def test_a_model_no_better_than_one_that_does_not_look_gets_no_verdict(blind: float | None, gets_one: bool) -> None:
    """Dense has 1200 of 4000 right: a 95 % interval of 1.42 points to either side."""
    dense = (torch.arange(4000) < 1200).float()
    verdict = judge([dense], [dense], blind=blind)
    assert {level.outcome for level in verdict.levels.values()} == {"pass" if gets_one else "no verdict"}
    assert learned(0.3, 4000, blind) is gets_one
    assert ("nothing was learned" in verdict.sentence()) is not gets_one
    assert verdict.blind == blind


@pytest.mark.parametrize(("more", "gets_one"), [(0.02, True), (0.0005, False), (0.0, False), (-0.02, False)])
def test_a_blind_baseline_of_each_example_is_compared_example_by_example(more: float, gets_one: bool) -> None:
    """Scores of ten units that lie far apart, as UNITER's objectives do: what a model is better by, it is in each."""
    blind = torch.linspace(0.1, 0.9, 10)
    dense = blind + more + torch.tensor([0.001, -0.001]).repeat(5)
    verdict = judge([dense], [dense], blind=blind)
    assert {level.outcome for level in verdict.levels.values()} == {"pass" if gets_one else "no verdict"}
    assert verdict.blind == pytest.approx(0.5)


def test_without_a_verdict_the_scores_are_still_said() -> None:
    dense = (torch.arange(100) < 30).float()
    assert judge([dense, dense], [dense, dense], blind=0.3).sentence() == (
        "30.00 against 30.00 dense, no verdict (from 2 seeds): the dense model scores 30.00, one that does not look "
        "30.00, so nothing was learned that a ticket could keep or lose (train longer, or on more data)"
    )


def test_one_answer_lost_may_be_none_in_another_sample() -> None:
    dense = torch.ones(1000)
    strict = judge([dense], [worse(dense, 0.001)])["strict"]
    assert (strict.high, strict.outcome) == (0.0, "pass within noise")


def test_two_seeds_have_a_standard_deviation() -> None:
    dense = [scores(0.69), scores(0.71, seed=1)]
    assert judge(dense, dense).dense_sd == pytest.approx(float(torch.stack(dense).mean(dim=1).std()))


def test_a_single_seed_is_called_a_single_seed() -> None:
    verdict = judge([scores(0.7)], [scores(0.7)])
    assert verdict.dense_sd is None
    assert "a single seed" in verdict.sentence()


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Ticket and dense are drawn with the same true mean: the interval of the difference must mostly hold 0."""
    held = 0
    for trial in range(40):
        strict = judge([scores(0.6, 500, trial)], [scores(0.6, 500, 1000 + trial)])["strict"]
        held += strict.low <= 0 <= strict.high
    assert 34 <= held <= 40


def test_scores_that_do_not_pair_are_refused() -> None:
    with pytest.raises(VlcompressError, match="do not pair"):
        judge([scores(0.7)], [scores(0.7, examples=10)])
    with pytest.raises(VlcompressError, match="at least one seed"):
        judge([], [])
    with pytest.raises(VlcompressError, match="at least one seed"):
        judge([scores(0.7), scores(0.7, examples=10)], [scores(0.7)] * 2)
    with pytest.raises(VlcompressError, match="the dense model scores 0"):
        judge([torch.zeros(5)], [torch.zeros(5)])


@pytest.mark.parametrize("examples", [300, 700, 1100, 1500])
def test_the_interval_is_the_95_percent_one_of_a_share(examples: int) -> None:
    """Of 30 % right answers a third is lost: the loss is a share whose normal interval is known."""
    dense = (torch.arange(examples) < 0.3 * examples).float()
    strict = judge([dense], [worse(dense, 0.1)])["strict"]
    error = (0.1 * 0.9 / examples) ** 0.5
    assert strict.low == pytest.approx(-0.1 - 1.96 * error, abs=0.25 * error)
    assert strict.high == pytest.approx(-0.1 + 1.96 * error, abs=0.25 * error)


def test_matching_moves_the_whole_interval_by_one_standard_deviation() -> None:
    dense = [scores(mean, seed=seed) for seed, mean in enumerate((0.69, 0.70, 0.71))]
    verdict = judge(dense, [worse(one, 0.01) for one in dense])
    strict, matching = verdict["strict"], verdict["matching"]
    assert verdict.dense_sd is not None
    assert matching.low - strict.low == pytest.approx(verdict.dense_sd)
    assert matching.high - strict.high == pytest.approx(verdict.dense_sd)


def test_interval_and_p_are_those_of_scipy() -> None:
    """Of one seed, a paired bootstrap over examples; both draw at random, so to a tenth of the width."""
    dense = scores(0.7, 2000)
    ticket = torch.where(torch.rand(2000, generator=torch.Generator().manual_seed(1)) < 0.05, 1 - dense, dense)
    ours = judge([dense], [ticket])["relaxed"]

    def margin(ticket: np.ndarray, dense: np.ndarray, axis: int) -> np.ndarray:
        return ticket.mean(axis=axis) - 0.99 * dense.mean(axis=axis)

    pair = (ticket.double().numpy(), dense.double().numpy())
    theirs = bootstrap(pair, margin, paired=True, n_resamples=10_000, method="percentile", rng=np.random.default_rng(0))
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.1 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.1 * width)
    assert ours.p == pytest.approx((theirs.bootstrap_distribution < 0).mean(), abs=0.03)


@pytest.mark.parametrize(
    "p_values", [[0.01, 0.04, 0.03, 0.005], [0.02, 0.02, 0.9], [0.3], [0.6, 0.7, 0.0005], [0.013] * 5, []]
)
def test_correction_is_that_of_statsmodels(p_values: list[float]) -> None:
    theirs = multipletests(p_values, method="holm")[1] if p_values else []
    assert holm(p_values) == pytest.approx(list(theirs))


def test_rows_without_a_verdict_are_not_counted() -> None:
    dense = scores(0.7)
    good, nothing = judge([dense], [dense])["relaxed"], judge([dense], [dense], blind=0.9)["relaxed"]
    assert corrected([None, good, nothing, good]) == [None, pytest.approx(2 * good.p), None, pytest.approx(2 * good.p)]


def test_so_many_resamples_never_say_that_something_is_impossible() -> None:
    dense = scores(0.7)
    assert 0 < judge([dense], [dense])["relaxed"].p < 0.001
