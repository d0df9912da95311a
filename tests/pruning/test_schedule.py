import pytest

from vlcompress.errors import VlcompressError
from vlcompress.pruning.schedule import Geometric, Linear, Steps, levels, parse_schedule


def test_linear_takes_points_of_the_original_weights() -> None:
    assert levels(Linear(0.1), 0.7) == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    assert levels(Linear(0.1), 0.25) == (0.1, 0.2, 0.25)
    assert levels(Linear(0.1), 0.7, rounds=2) == (0.1, 0.2)


def test_geometric_takes_a_share_of_what_remains() -> None:
    assert levels(Geometric(0.2), 0.5) == pytest.approx((0.2, 0.36, 0.488, 0.5))
    # Chen et al. 2021, the 19 states of ResNet-50
    assert [round(100 * Geometric(0.2).level(n), 2) for n in (2, 3, 4, 18)] == [36.0, 48.8, 59.04, 98.2]


def test_one_shot_is_one_round() -> None:
    assert levels(Steps(), 0.7) == (0.7,)
    assert levels(Steps(), 0.0) == ()


def test_levels_are_passed_one_by_one_up_to_the_target() -> None:
    steps = Steps((0.3, 0.5, 0.9))
    assert levels(steps, 0.9) == (0.3, 0.5, 0.9)
    assert levels(steps, 0.5) == (0.3, 0.5)
    assert levels(steps, 0.7) == (0.3, 0.5, 0.7)
    assert levels(steps, 0.95) == (0.3, 0.5, 0.9, 0.95)
    assert levels(steps, 0.0) == ()
    assert parse_schedule("levels:12.5,70") == Steps((0.125, 0.7))


@pytest.mark.parametrize(
    "text", ["linear:10", "geometric:0.2", "oneshot", "levels:30,50,70,80,90", "levels:12.5", "levels:0.5,1,99.5"]
)
def test_names_are_read_and_written_back(text: str) -> None:
    assert str(parse_schedule(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("linear", "linear:0", "linear:101", "geometric:1", "geometric:x", "cosine", ""),
        *("levels:", "levels:50,50", "levels:70,50", "levels:0,50", "levels:50,100", "levels:x"),
    ],
)
def test_unknown_schedule_names_what_is_allowed(text: str) -> None:
    with pytest.raises(VlcompressError, match=f"unknown schedule '{text}'.*'linear:P'"):
        parse_schedule(text)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5])
def test_sparsity_outside_its_range(sparsity: float) -> None:
    with pytest.raises(VlcompressError, match=r"outside \[0, 1\)"):
        levels(Linear(0.1), sparsity)


def test_a_single_round_stops_at_the_schedules_first_level() -> None:
    assert levels(Linear(0.1), 0.7, 1) == (0.1,)
    assert levels(Linear(0.1), 0.7, 7)[-1] == 0.7


@pytest.mark.parametrize("rounds", [0, 8])
def test_rounds_that_do_not_fit(rounds: int) -> None:
    with pytest.raises(VlcompressError, match=f"rounds {rounds} does not fit.*7 round"):
        levels(Linear(0.1), 0.7, rounds)
