import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from vlcompress.report.plots import COLOURS, Cell, Chart, HeatMap, Point, Reference, Series, inline, save, standalone

SVG = "{http://www.w3.org/2000/svg}"


def chart(*series: Series, references: tuple[Reference, ...] = (), y_from_zero: bool = False) -> Chart:
    return Chart("title", "x", "y", series, references, y_from_zero)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def markers(svg: str, colour: str) -> list[tuple[float, float]]:
    """Find where points of a colour stand, in the order in which they were drawn."""
    places = (re.findall(r"<title>.*?</g>\s*</g>", svg, re.DOTALL)) or []
    found = (re.search(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', one) for one in places if colour in one)
    return [(float(one[1]), float(one[2])) for one in found if one]


def test_higher_values_are_drawn_higher_and_larger_ones_further_right() -> None:
    places = markers(standalone(chart(Series("a", (Point(0, 1), Point(10, 2), Point(20, 4))))), COLOURS[0])
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert [y for _, y in places] == sorted((y for _, y in places), reverse=True)
    assert len(places) == 3


def test_every_series_reference_and_axis_is_named_in_the_order_of_their_ends() -> None:
    two = (Series("random", (Point(10, 0.5),), line=False), Series("ticket", (Point(0, 1), Point(10, 2))))
    found = texts(standalone(chart(*two, references=(Reference("dense", 1.5),))))
    assert {"x", "y", "title"} <= set(found)
    assert [name for name in found if name in ("ticket", "random", "dense")] == ["ticket", "dense", "random"]


def test_an_interval_is_within_the_axis_and_told_beside_the_point() -> None:
    svg = standalone(chart(Series("a", (Point(0, 1, 0.2, 1.4), Point(1, 2, 1.5, 9.5)))))
    assert "<title>a: 2 (1.5 to 9.5) at 1</title>" in svg
    assert any(float(text) >= 8 for text in texts(svg) if text.isdigit())


def test_an_axis_of_times_starts_at_zero() -> None:
    points = Series("a", (Point(0, 90), Point(1, 100)))
    assert "20" in texts(standalone(chart(points, y_from_zero=True)))
    assert "20" not in texts(standalone(chart(points)))


def test_places_on_the_x_axis_may_have_names() -> None:
    series = Series("ticket of vqa", (Point(1, 99.0), Point(2, 97.0)), line=False)
    found = texts(standalone(Chart("t", "target", "%", (series,), x_names=("vqa", "gqa & co"))))
    assert {"vqa", "gqa & co"} <= set(found)
    assert "0.5" not in found


@pytest.mark.parametrize("name", ['<script>&"', "costs $2 or $3", "_hidden"])
def test_names_are_text_and_nothing_else(name: str) -> None:
    drawn = chart(Series(name, (Point(0, 1),)))
    assert name in texts(standalone(drawn))
    assert "<script>" not in inline(drawn)


def test_a_long_name_makes_the_drawing_wider() -> None:
    short, long = (
        standalone(chart(Series(name, (Point(0, 1), Point(1, 2))))) for name in ("a", "a name that is too long " * 3)
    )
    widths = [float(ElementTree.fromstring(svg).attrib["viewBox"].split()[2]) for svg in (short, long)]
    assert widths[1] > widths[0] + 100


def test_within_a_page_the_drawing_takes_the_colour_of_the_text() -> None:
    drawn = inline(chart(Series("a", (Point(0, 1), Point(1, 2)))))
    assert drawn.startswith('<svg role="img" aria-label="title" style="width:100%')
    assert "currentColor" in drawn
    assert "http" not in drawn
    assert "#ffffff" not in drawn


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_files_repeat_byte_for_byte(suffix: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.{suffix}" for number in range(2)]
    for path in paths:
        save(chart(Series("a", (Point(0, 1, 0.5, 1.5), Point(1, 2)))), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].stat().st_size > 1000


def test_a_long_row_of_a_heat_map_is_folded_into_cells_that_do_not_overlap() -> None:
    cells = tuple(Cell(index / 9, (str(index),), f"cell {index}") for index in range(9))
    svg = inline(HeatMap("map", (("first", cells), ("second", cells[:1]))))
    found = re.findall(r"<title>cell \d</title>\s*<path d=\"(M[^L]*)", svg)
    assert len(set(found)) == 10
