import pytest

from vlcompress.bench.break_even import break_even


def test_the_line_through_the_points() -> None:
    """Time 20 + 100 x kept against 90 dense: equal where 70 % is kept."""
    assert break_even(90, {0.5: 70, 0.7: 50, 0.9: 30}) == pytest.approx(0.3)


def test_always_and_never() -> None:
    assert break_even(100, {0.5: 40, 0.9: 8}) == 0.0
    assert break_even(100, {0.5: 180, 0.9: 120}) is None
    assert break_even(100, {0.5: 99, 0.9: 99}) == 0.0


def test_one_point_tells_of_itself_only() -> None:
    assert break_even(100, {0.7: 50}) == 0.7
    assert break_even(100, {0.7: 150}) is None
