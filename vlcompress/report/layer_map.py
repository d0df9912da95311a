"""The map of layers: a cell for every pruned weight, coloured and labelled by its sparsity, a row for every block."""

import re
from collections.abc import Mapping

from vlcompress.report.plots import Cell, HeatMap

_NUMBERED = re.compile(r"^(.*?\.\d+)\.(.+)$")


def layer_map(sparsity: Mapping[str, float]) -> HeatMap:
    """Lay out the sparsity of every layer.

    Args:
        sparsity: fraction pruned, in [0, 1], by canonical weight name.

    Returns:
        A row for every block. The colours span the values that occur; every cell also shows its number, in percent.
    """
    rows = (
        (_tail(block, 24), tuple(_cell(name, sparsity[name]) for name in names))
        for block, names in by_block(sparsity).items()
    )
    return HeatMap("Sparsity of every layer", tuple(rows))


def by_block(names: Mapping[str, float]) -> dict[str, list[str]]:
    """Group weight names by the numbered block that they are in ("lxmert.encoder.layer.0")."""
    blocks: dict[str, list[str]] = {}
    for name in sorted(names, key=_natural):
        found = _NUMBERED.match(name)
        blocks.setdefault(found[1] if found else name.rsplit(".", 2)[0], []).append(name)
    return blocks


def cell_label(name: str) -> tuple[str, str]:
    """Name a weight within its block in two lines ("attention", "query")."""
    found = _NUMBERED.match(name)
    inside = found[2] if found else name.removesuffix(".weight").rpartition(".")[2]
    parts = [part for part in inside.split(".") if part not in ("weight", "dense")] or ["dense"]
    return parts[0], parts[-1] if len(parts) > 1 else ""


def _cell(name: str, sparsity: float) -> Cell:
    lines = (f"{100 * sparsity:.1f}", *(_short(line, 16) for line in cell_label(name)))
    return Cell(sparsity, lines, f"{name}: {100 * sparsity:.1f} % pruned")


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
