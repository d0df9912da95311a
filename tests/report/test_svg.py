from itertools import pairwise
from xml.etree import ElementTree

import pytest

from vlcompress.report.svg import Chart, Frame, Point, Reference, Series, draw, spread, standalone, ticks


def chart(*series: Series, references: tuple[Reference, ...] = (), y_from_zero: bool = False) -> Chart:
    return Chart("title", "x", "y", series, references, y_from_zero)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (57.3, 71.4), (0.001, 0.0042), (-3, 8), (5, 5), (0, 0), (99.99, 100)]
)
def test_ticks_cover_the_range_evenly_and_are_few(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low <= high <= found[-1]
    assert 2 <= len(found) <= 9
    steps = [b - a for a, b in pairwise(found)]
    assert steps == pytest.approx([steps[0]] * len(steps))


def test_ticks_are_round_numbers() -> None:
    assert ticks(0, 70, 8) == (0, 10, 20, 30, 40, 50, 60, 70)
    assert ticks(0.12, 0.58) == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


def test_labels_move_apart_and_keep_their_order() -> None:
    found = spread([100, 40, 101, 99], gap=15, low=0, high=300)
    rows = sorted(found)
    assert all(b - a >= 15 for a, b in pairwise(rows))
    assert sorted(range(4), key=lambda index: found[index]) == [1, 3, 0, 2]
    assert found[1] == 40  # it was alone: nothing pushed it


def test_labels_at_the_bottom_are_pushed_up_instead_of_out() -> None:
    found = spread([299, 300, 298], gap=15, low=0, high=300)
    assert max(found) == 300
    assert min(found) == 270


def test_higher_values_are_drawn_higher_and_inside() -> None:
    frame = Frame((0, 50, 100), (0, 1))
    assert frame.y(1) < frame.y(0.5) < frame.y(0)
    assert frame.x(0) < frame.x(50) < frame.x(100)


def test_every_series_reference_and_axis_is_named() -> None:
    two = (Series("ticket", (Point(0, 1), Point(10, 2))), Series("random", (Point(10, 0.5),), line=False))
    svg = draw(chart(*two, references=(Reference("dense", 1.5),)))
    assert {"ticket", "random", "dense", "x", "y"} <= set(texts(svg))
    assert svg.count("<polyline") == 1  # a series without a line has points only


def test_an_interval_gives_a_bar_and_stays_inside_the_axis() -> None:
    without = draw(chart(Series("a", (Point(0, 1), Point(1, 2)))))
    with_bars = draw(chart(Series("a", (Point(0, 1, 0.2, 1.4), Point(1, 2, 1.5, 9.5)))))
    assert 'opacity="0.6"' not in without
    assert with_bars.count('opacity="0.6"') == 2
    assert "10" in texts(with_bars)  # the axis reaches over the bar's end


def test_an_axis_of_times_starts_at_zero() -> None:
    points = Series("a", (Point(0, 90), Point(1, 100)))
    assert "20" in texts(draw(chart(points, y_from_zero=True)))
    assert "20" not in texts(draw(chart(points)))


def test_names_cannot_become_markup() -> None:
    svg = draw(chart(Series('<script>&"', (Point(0, 1),))))
    assert "<script>" not in svg
    assert '<script>&"' in texts(svg)


def test_places_on_the_x_axis_may_have_names() -> None:
    series = Series("ticket of vqa", (Point(1, 99.0), Point(2, 97.0)), line=False)
    drawn = draw(Chart("t", "target", "%", (series,), x_names=("vqa", "gqa & co")))
    assert ">vqa</text>" in drawn
    assert ">gqa &amp; co</text>" in drawn
    assert ">0.5</text>" not in drawn


@pytest.mark.parametrize(
    ("name", "width"), [("ticket", 860), ("a name that is too long for the room at the right", 1046.8)]
)
def test_a_long_name_makes_the_drawing_wider(name: str, width: float) -> None:
    drawn = chart(Series(name, (Point(0, 1), Point(1, 2))))
    assert ElementTree.fromstring(draw(drawn)).attrib["viewBox"].split()[2] == f"{width:g}"
    whole = standalone(drawn)
    assert ElementTree.fromstring(whole).attrib["viewBox"].split()[2] == f"{width:g}"
    assert f'width="{width:g}"' in whole
