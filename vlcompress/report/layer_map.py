"""The map of layers: a cell for every pruned weight, coloured and labelled by its sparsity, a row for every block."""

import re
from collections.abc import Mapping
from html import escape

from vlcompress.report.svg import canvas, text

CELL_WIDTH, CELL_HEIGHT, PER_ROW, MARGIN = 92, 46, 8, 170
PALE, DEEP = (222, 235, 247), (8, 48, 107)
"""Ends of the colour scale: one hue from light to dark, which every reader can order."""

_NUMBERED = re.compile(r"^(.*?\.\d+)\.(.+)$")


def layer_map(sparsity: Mapping[str, float]) -> str:
    """Draw the sparsity of every layer.

    Args:
        sparsity: fraction pruned, in [0, 1], by canonical weight name.

    Returns:
        One ``<svg>`` element. The colours span the values that occur; every cell also shows its number.
    """
    parts: list[str] = []
    line = 0
    low, high = min(sparsity.values()), max(sparsity.values())
    for block, names in by_block(sparsity).items():
        parts.append(text(MARGIN - 10, line * CELL_HEIGHT + 27, _tail(block, 24), anchor="end", size=12))
        for index, name in enumerate(names):
            row, column = line + index // PER_ROW, index % PER_ROW
            share = (sparsity[name] - low) / (high - low) if high > low else 0.5
            parts.append(_cell(MARGIN + column * CELL_WIDTH, row * CELL_HEIGHT, name, sparsity[name], share))
        line += -(-len(names) // PER_ROW)
    return canvas(MARGIN + PER_ROW * CELL_WIDTH, line * CELL_HEIGHT, "Sparsity of every layer", parts)


def by_block(names: Mapping[str, float]) -> dict[str, list[str]]:
    """Group weight names by the numbered block that they are in ("lxmert.encoder.layer.0")."""
    blocks: dict[str, list[str]] = {}
    for name in sorted(names, key=_natural):
        found = _NUMBERED.match(name)
        blocks.setdefault(found[1] if found else name.rsplit(".", 2)[0], []).append(name)
    return blocks


def cell_label(name: str) -> tuple[str, str]:
    """Return the two lines that say which weight of its block it is ("attention", "query")."""
    found = _NUMBERED.match(name)
    inside = found[2] if found else name.removesuffix(".weight").rpartition(".")[2]
    parts = [part for part in inside.split(".") if part not in ("weight", "dense")] or ["dense"]
    return parts[0], parts[-1] if len(parts) > 1 else ""


def _cell(x: float, y: float, name: str, sparsity: float, share: float) -> str:
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(PALE, DEEP, strict=True))
    ink = "#ffffff" if share > 0.5 else "#111111"
    first, second = cell_label(name)
    middle = x + CELL_WIDTH / 2 - 1
    return (
        f'<g><rect x="{x}" y="{y}" width="{CELL_WIDTH - 2}" height="{CELL_HEIGHT - 2}" rx="3" '
        f'fill="rgb({red},{green},{blue})"/><title>{escape(name)}: {100 * sparsity:.1f} % pruned</title>'
        + text(middle, y + 15, f"{100 * sparsity:.1f}", anchor="middle", fill=ink, size=12)
        + text(middle, y + 28, _short(first, 16), anchor="middle", fill=ink, size=10)
        + text(middle, y + 39, _short(second, 16), anchor="middle", fill=ink, size=10)
        + "</g>"
    )


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"


def _tail(name: str, length: int) -> str:
    """Leave out leading parts until the name fits."""
    while len(name) > length and "." in name:
        name = name.partition(".")[2]
    return _short(name, length)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort "layer.10" after "layer.9"."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
