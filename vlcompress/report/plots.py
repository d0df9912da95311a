"""Charts and heat maps by matplotlib: SVG within a page, and files of their own (SVG, PNG, PDF).

Colours are those of Okabe and Ito (told apart by colour-blind readers), and every series has a marker of its own as
well. Within a page text and axes take the page's colour (currentColor), so a chart fits a light and a dark page. The
same chart gives the same bytes.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcompress.artefacts import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#808080")
MARKERS = ("o", "s", "^", "D", "v")
STYLES = ("-", "--", "-.", ":")
INK, PAPER = "#1f2328", "#ffffff"
"""Text and ground of a plot that is a file; within a page the ink becomes currentColor and the ground transparent."""
FORMATS = ("svg", "png", "pdf")
CHART_INCHES = (8.6, 4.6)
CELL_INCHES = (0.95, 0.48)
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and read aloud
    "svg.hashsalt": "vlcompress",  # else names within the file are random
    "text.parse_math": False,  # names with dollar signs are no formulas
    "axes.facecolor": "none",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "ytick.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": INK,
    "grid.alpha": 0.13,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Point:
    """A measurement; `low` and `high` bound its interval, in the unit of y, None where there is none."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """Points that belong together; `line` joins them."""

    name: str
    points: tuple[Point, ...]
    line: bool = True


@dataclass(frozen=True)
class Reference:
    """A level to compare with: a dashed line across the chart."""

    name: str
    y: float


@dataclass(frozen=True)
class Chart:
    """Series over an x axis.

    Attributes:
        title: for readers who hear the page; drawn where the chart is a file.
        x_label, y_label: axis titles, with units.
        series: at most 7, the number of colours.
        references: levels to compare with.
        y_from_zero: whether the y axis must show 0 (for times, where lengths are compared).
        x_names: names of the places 1, 2, 3 ... on the x axis, where x is no quantity.
        curves: whether series have so many points that none is marked, over a logarithmic y axis.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    references: tuple[Reference, ...] = ()
    y_from_zero: bool = False
    x_names: tuple[str, ...] = ()
    curves: bool = False


@dataclass(frozen=True)
class Cell:
    """A value of a heat map; `lines` are written into the cell, `tip` is shown where a pointer rests on it."""

    value: float
    lines: tuple[str, ...]
    tip: str


@dataclass(frozen=True)
class HeatMap:
    """Named rows of cells, from pale (the lowest value that occurs) to deep; long rows go on in the next line."""

    title: str
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    per_line: int = 8


Plot = Chart | HeatMap


def inline(plot: Plot) -> str:
    """Draw an ``<svg>`` element for a page: it shrinks with the page, takes its colours, and says its title aloud."""
    width, drawing = _svg(plot, titled=False, transparent=True)
    drawing = drawing.replace(INK, "currentColor")
    start = f'<svg role="img" aria-label="{escape(plot.title)}" style="width:100%;max-width:{width:.0f}px;height:auto"'
    # A page knows these names without being told, and refers to nothing outside itself.
    return re.sub(r' xmlns(:xlink)?="[^"]*"| (width|height)="[\d.]+pt"| version="[^"]*"', "", drawing).replace(
        "<svg", start, 1
    )


def standalone(plot: Plot) -> str:
    """Draw an SVG file: the title above, on a light ground of its own, which reads on dark pages too."""
    return _svg(plot, titled=True, transparent=False)[1] + "\n"


def save(plot: Plot, path: Path) -> None:
    """Write a plot as the file that its suffix names, one of `FORMATS`; an earlier file is replaced."""
    if path.suffix == ".svg":
        write_file(path, standalone(plot))
        return
    with _figure(plot, titled=True) as figure:
        buffer = io.BytesIO()
        dates: dict[str, Any] = {"metadata": {"CreationDate": None}} if path.suffix == ".pdf" else {}
        figure.savefig(buffer, format=path.suffix[1:], bbox_inches="tight", dpi=200, facecolor=PAPER, **dates)
    write_file(path, buffer.getvalue())


def save_all(plots: Mapping[str, Plot], folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write plots by their names into a folder, each in every format (of `FORMATS`), and list the files."""
    files = {folder / f"{name}.{suffix}": plot for name, plot in plots.items() for suffix in formats}
    for path, plot in files.items():
        save(plot, path)
    return list(files)


def _svg(plot: Plot, *, titled: bool, transparent: bool) -> tuple[float, str]:
    """Draw; returns the width on a screen in pixels, and the ``<svg>`` element."""
    with _figure(plot, titled=titled) as figure:
        buffer = io.StringIO()
        ground = "none" if transparent else PAPER
        figure.savefig(buffer, format="svg", bbox_inches="tight", facecolor=ground, metadata={"Date": None})
    whole = buffer.getvalue()
    drawing = re.sub(r"<metadata>.*?</metadata>\s*", "", whole[whole.index("<svg") :], flags=re.DOTALL).rstrip()
    drawing = re.sub(r'<g id="tip:([^"]*)">', r"<g><title>\1</title>", drawing)
    points = re.search(r'viewBox="0 0 ([\d.]+)', drawing)
    assert points is not None, "matplotlib writes a viewBox"
    return float(points[1]) * 100 / 72, drawing


@contextmanager
def _figure(plot: Plot, *, titled: bool) -> Iterator["Figure"]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=CHART_INCHES if isinstance(plot, Chart) else _map_inches(plot))
        axes = figure.add_subplot()
        if isinstance(plot, Chart):
            _draw_chart(plot, axes)
        else:
            _draw_map(plot, axes)
        if titled:
            axes.set_title(plot.title, loc="left", fontsize=12)
        yield figure


def _draw_chart(chart: Chart, axes: "Axes") -> None:
    axes.set(xlabel=chart.x_label, ylabel=chart.y_label)
    lines = [_draw_reference(reference, axes) for reference in chart.references]
    draw = _draw_curve if chart.curves else _draw_series
    lines += [draw(index, series, axes) for index, series in enumerate(chart.series)]
    if chart.x_names:
        axes.set_xticks(range(1, len(chart.x_names) + 1), chart.x_names)
        axes.set_xlim(0, len(chart.x_names) + 1)
    else:
        _fit_x([point.x for series in chart.series for point in series.points], axes)
    if chart.curves:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    if chart.y_from_zero:
        axes.set_ylim(bottom=0)
    ends = [reference.y for reference in chart.references]
    ends += [max(series.points, key=lambda point: point.x).y for series in chart.series]
    order = sorted(range(len(lines)), key=lambda index: -ends[index])  # names stand in the order of what they name
    names = [reference.name for reference in chart.references] + [series.name for series in chart.series]
    axes.legend(
        [lines[index] for index in order],
        [names[index] for index in order],
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
    )


def _fit_x(places: Sequence[float], axes: "Axes") -> None:
    """Begin at 0 where nothing lies below, and mark no half steps or rounds."""
    from matplotlib.ticker import MaxNLocator

    if all(x >= 0 for x in places):
        axes.set_xlim(left=0)
    if all(float(x).is_integer() for x in places):
        axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", steps=[1, 2, 2.5, 5, 10], integer=True))


def _draw_reference(reference: Reference, axes: "Axes") -> "Line2D":
    return axes.axhline(reference.y, linestyle="--", linewidth=1, color=INK, alpha=0.7)


def _draw_series(index: int, series: Series, axes: "Axes") -> "Line2D":
    """Draw points, intervals and the line that joins them; what it returns stands for the series in the legend."""
    from matplotlib.lines import Line2D
    from matplotlib.transforms import ScaledTranslation

    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    points = sorted(series.points, key=lambda point: point.x)
    if series.line:
        axes.plot([point.x for point in points], [point.y for point in points], color=colour, linewidth=2)
    # Intervals stand a little beside their points, so that those of several series can be told apart.
    beside = axes.transData + ScaledTranslation(1.5 * index / 72, 0, axes.figure.dpi_scale_trans)
    for point in points:
        if point.low is not None and point.high is not None:
            bounds = [point.low, point.high]
            axes.update_datalim([(point.x, bound) for bound in bounds])
            axes.plot([point.x] * 2, bounds, color=colour, alpha=0.6, marker="_", transform=beside, clip_on=False)
        tip = f"tip:{series.name}: {_reading(point)}"
        axes.plot([point.x], [point.y], color=colour, marker=marker, linestyle="", clip_on=False, gid=tip)
    return Line2D([], [], color=colour, marker=marker, linestyle="-" if series.line else "", linewidth=2)


def _draw_curve(index: int, series: Series, axes: "Axes") -> "Line2D":
    """Draw a line of many points, none of them marked."""
    colour, style = COLOURS[index % len(COLOURS)], STYLES[index % len(STYLES)]
    xs, ys = [point.x for point in series.points], [point.y for point in series.points]
    return axes.plot(xs, ys, color=colour, linewidth=1.5, linestyle=style, gid=f"tip:{series.name}")[0]


def _reading(point: Point) -> str:
    interval = "" if point.low is None or point.high is None else f" ({point.low:.4g} to {point.high:.4g})"
    return f"{point.y:.4g}{interval} at {point.x:.4g}"


def _map_inches(heat_map: HeatMap) -> tuple[float, float]:
    lines = sum(-(-len(cells) // heat_map.per_line) for _, cells in heat_map.rows)
    return CELL_INCHES[0] * (heat_map.per_line + 2), CELL_INCHES[1] * max(lines, 1) / 0.77


def _draw_map(heat_map: HeatMap, axes: "Axes") -> None:
    from matplotlib import colormaps

    values = [cell.value for _, cells in heat_map.rows for cell in cells]
    low, high = min(values), max(values)
    line = 0
    for name, cells in heat_map.rows:
        axes.text(-0.1, line + 0.5, name, ha="right", va="center", fontsize=9)
        for index, cell in enumerate(cells):
            share = (cell.value - low) / (high - low) if high > low else 0.5
            place = (index % heat_map.per_line, line + index // heat_map.per_line)
            _draw_cell(
                cell, place, colormaps["Blues"](0.1 + 0.9 * share), "#ffffff" if share > 0.5 else "#111111", axes
            )
        line += -(-len(cells) // heat_map.per_line)
    axes.set(xlim=(0, heat_map.per_line), ylim=(line, 0))
    axes.set_axis_off()


def _draw_cell(cell: Cell, place: tuple[int, int], colour: Sequence[float], ink: str, axes: "Axes") -> None:
    from matplotlib.patches import Rectangle

    column, line = place
    axes.add_patch(Rectangle((column, line), 0.97, 0.95, color=colour, linewidth=0, gid=f"tip:{cell.tip}"))
    for index, text in enumerate(cell.lines):
        below = line + (0.25, 0.54, 0.79)[index]
        axes.text(column + 0.485, below, text, ha="center", va="center", fontsize=8 if index == 0 else 6.5, color=ink)
