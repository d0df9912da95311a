"""Charts as plain SVG text: points with intervals, lines, reference lines, and labels that do not collide.

Colours are those of Okabe and Ito (told apart by colour-blind readers), and every series has a marker of its own as
well. Text and axes take the page's colour (currentColor), so a chart fits a light and a dark page.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#808080")
WIDTH, HEIGHT = 860, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 200, 14, 52
NAME_AT, LETTER = 34, 7.2
"""Where names begin, from the right end of the axis, and the width of most letters, in pixels."""
TITLE = 30
"""Height of a title above a chart that stands alone."""
LABEL_GAP = 17
"""Pixels between the base lines of two labels."""


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
    """What to draw.

    Attributes:
        title: for readers who hear the page.
        x_label, y_label: axis titles, with units.
        series: at most 7, the number of colours.
        references: levels to compare with.
        y_from_zero: whether the y axis must show 0 (for times, where lengths are compared).
        x_names: names of the places 1, 2, 3 ... on the x axis, where x is no quantity.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    references: tuple[Reference, ...] = ()
    y_from_zero: bool = False
    x_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """The plotted ranges, and where they are on the drawing."""

    x_ticks: tuple[float, ...]
    y_ticks: tuple[float, ...]

    def x(self, value: float) -> float:
        """Return the pixel column of a value."""
        low, high = self.x_ticks[0], self.x_ticks[-1]
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Return the pixel row of a value."""
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def draw(chart: Chart) -> str:
    """Draw a chart.

    Returns:
        One ``<svg>`` element; text in it is escaped.
    """
    frame = _frame(chart)
    parts = [
        *_axes(chart, frame),
        *(_reference(reference, frame) for reference in chart.references),
        *(_series(index, series, frame) for index, series in enumerate(chart.series)),
        *_labels(chart, frame),
    ]
    return canvas(_width(chart), HEIGHT, chart.title, parts)


def canvas(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    """Wrap shapes into an ``<svg>`` element that shrinks with the page and says its title aloud."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}" '
        f'style="width:100%;max-width:{width:g}px;height:auto" font-family="system-ui, sans-serif" font-size="13">'
        + "\n".join(parts)
        + "</svg>"
    )


def standalone(chart: Chart) -> str:
    """Draw a chart as a file: its title above it, on a light background of its own, which reads on dark pages too."""
    size = f"0 {-TITLE} {_width(chart):g} {HEIGHT + TITLE:g}"
    style = 'style="background:#fff;color:#1f2328;max-width:100%" xmlns="http://www.w3.org/2000/svg"'
    start, rest = draw(chart).split(">", 1)
    opened = re.sub(r'style="[^"]*"', style, re.sub(r'viewBox="[^"]*"', f'viewBox="{size}"', start))
    ground = f'<rect y="{-TITLE}" width="{_width(chart):g}" height="{HEIGHT + TITLE}" fill="#fff"/>'
    return f"{opened}>{ground}{text(LEFT, -8, chart.title, size=15)}{rest}\n"


def text(x: float, y: float, content: str, *, anchor: str = "start", fill: str = "currentColor", size: int = 13) -> str:
    """Write text with its base line at y; `anchor` is "start", "middle" or "end"."""
    style = f'text-anchor="{anchor}" fill="{fill}" font-size="{size}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(content)}</text>'


def ticks(low: float, high: float, count: int = 6) -> tuple[float, ...]:
    """Return round numbers, evenly spaced, that cover [low, high]: about `count` of them, at least two."""
    if high <= low:
        low, high = low - (abs(low) or 1.0) / 20, high + (abs(high) or 1.0) / 20
    step = _round_step((high - low) / count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(round(index * step, 10) for index in range(first, last + 1))


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart so that neighbours are `gap` apart, in the same order, as near to `wanted` as can be.

    Positions stay in [low, high] while there is room for them all.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed: list[float] = []
    for index in order:
        placed.append(max(wanted[index], placed[-1] + gap if placed else low))
    limit = high
    for rank in reversed(range(len(placed))):
        placed[rank] = min(placed[rank], limit)
        limit = placed[rank] - gap
    return [placed[order.index(index)] for index in range(len(wanted))]


def _round_step(rough: float) -> float:
    scale = 10.0 ** math.floor(math.log10(rough))
    return next(factor for factor in (1, 2, 2.5, 5, 10) if factor * scale >= rough * 0.999) * scale


def _frame(chart: Chart) -> Frame:
    points = [point for series in chart.series for point in series.points]
    ys = [bound for point in points for bound in (point.y, point.low, point.high) if bound is not None]
    ys += [reference.y for reference in chart.references] + ([0.0] if chart.y_from_zero else [])
    xs = [0.0, *(point.x for point in points)]
    x_ticks = tuple(float(place) for place in range(len(chart.x_names) + 2)) if chart.x_names else ()
    return Frame(x_ticks or ticks(min(xs), max(xs), 8), ticks(min(ys), max(ys)))


def _axes(chart: Chart, frame: Frame) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    middle = (TOP + bottom) / 2
    return [
        *(_line(LEFT, frame.y(tick), right, frame.y(tick), 'opacity="0.13"') for tick in frame.y_ticks),
        *(text(LEFT - 8, frame.y(tick) + 4, f"{tick:g}", anchor="end") for tick in frame.y_ticks),
        *(_line(frame.x(tick), bottom, frame.x(tick), bottom + 5) for tick in frame.x_ticks),
        *(text(frame.x(tick), bottom + 20, name, anchor="middle") for tick, name in _x_names(chart, frame)),
        _line(LEFT, bottom, right, bottom),
        text((LEFT + right) / 2, HEIGHT - 10, chart.x_label, anchor="middle"),
        f'<g transform="rotate(-90 16 {middle})">{text(16, middle, chart.y_label, anchor="middle")}</g>',
    ]


def _x_names(chart: Chart, frame: Frame) -> list[tuple[float, str]]:
    """Return what stands under the x axis, and where."""
    if chart.x_names:
        return [(float(place), name) for place, name in enumerate(chart.x_names, start=1)]
    return [(tick, f"{tick:g}") for tick in frame.x_ticks]


def _reference(reference: Reference, frame: Frame) -> str:
    y = frame.y(reference.y)
    return _line(LEFT, y, WIDTH - RIGHT, y, 'stroke-dasharray="6 4" opacity="0.7"')


def _series(index: int, series: Series, frame: Frame) -> str:
    colour = COLOURS[index % len(COLOURS)]
    ordered = sorted(series.points, key=lambda point: point.x)
    path = " ".join(f"{frame.x(point.x):.1f},{frame.y(point.y):.1f}" for point in ordered)
    joined = f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>' if series.line else ""
    bars = "".join(_bar(point, frame, colour, 4 * index) for point in ordered)
    return joined + bars + "".join(_marked(index, series.name, point, frame) for point in ordered)


def _bar(point: Point, frame: Frame, colour: str, shift: float) -> str:
    """Draw an interval, a few pixels beside its point so that those of several series can be told apart."""
    if point.low is None or point.high is None:
        return ""
    x, low, high = frame.x(point.x) + shift, frame.y(point.low), frame.y(point.high)
    caps = "".join(f"M{x - 4:.1f},{y:.1f}h8" for y in (low, high))
    return f'<path d="M{x:.1f},{low:.1f}V{high:.1f}{caps}" stroke="{colour}" stroke-width="1.5" opacity="0.6"/>'


def _marked(index: int, name: str, point: Point, frame: Frame) -> str:
    interval = "" if point.low is None or point.high is None else f" ({point.low:.4g} to {point.high:.4g})"
    title = f"<title>{escape(name)}: {point.y:.4g}{interval} at {point.x:.4g}</title>"
    return f"<g>{marker(index, frame.x(point.x), frame.y(point.y))}{title}</g>"


def marker(index: int, x: float, y: float) -> str:
    """Draw the marker of the series with that index, centred on (x, y)."""
    shapes: tuple[Callable[[], str], ...] = (
        lambda: f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"',
        lambda: f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"',
        lambda: f'<path d="M{x:.1f},{y - 5.5:.1f}l5.5,9.5h-11z"',
        lambda: f'<path d="M{x:.1f},{y - 6:.1f}l6,6l-6,6l-6,-6z"',
        lambda: f'<path d="M{x:.1f},{y + 5.5:.1f}l5.5,-9.5h-11z"',
    )
    return f'{shapes[index % len(shapes)]()} fill="{COLOURS[index % len(COLOURS)]}"/>'


def _width(chart: Chart) -> float:
    """Return the drawing's width: WIDTH, or more where a name at the right is long."""
    names = [one.name for one in chart.series] + [one.name for one in chart.references]
    return max(WIDTH, WIDTH - RIGHT + NAME_AT + LETTER * max(map(len, names), default=0))


def _labels(chart: Chart, frame: Frame) -> list[str]:
    """Name every series and reference at the right, as near as can be to where it ends, with a thin leader."""
    ends = [_end(series, frame) for series in chart.series]
    ends += [(WIDTH - RIGHT, frame.y(reference.y)) for reference in chart.references]
    names = [series.name for series in chart.series] + [reference.name for reference in chart.references]
    rows = spread([y for _, y in ends], LABEL_GAP, TOP, HEIGHT - BOTTOM)
    parts = []
    for index, (name, (x, y), row) in enumerate(zip(names, ends, rows, strict=True)):
        at = WIDTH - RIGHT + NAME_AT - 12
        parts.append(_line(x + 7, y, at - 8, row, 'opacity="0.35"'))
        sign = marker(index, at, row) if index < len(chart.series) else _line(at - 6, row, at + 6, row, _DASHED)
        parts.append(sign + text(at + 12, row + 4, name))
    return parts


_DASHED = 'stroke-dasharray="4 3"'


def _end(series: Series, frame: Frame) -> tuple[float, float]:
    last = max(series.points, key=lambda point: point.x)
    return frame.x(last.x), frame.y(last.y)


def _line(x1: float, y1: float, x2: float, y2: float, style: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor" {style}/>'
