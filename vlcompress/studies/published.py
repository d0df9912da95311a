"""What the papers report, as data: it stands beside our figures in every report, marked as another's data."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vlcompress.errors import unknown


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table.

    Attributes:
        name: the row's title.
        values: one for each column; None where the paper has none.
        sd: standard deviations over seeds, () where the paper gives none.
    """

    name: str
    values: tuple[float | None, ...]
    sd: tuple[float | None, ...] = ()

    def cells(self) -> tuple[str, ...]:
        """Write the row, "69.98 ± 0.05"."""
        deviations = self.sd or (None,) * len(self.values)
        return tuple(_cell(value, sd) for value, sd in zip(self.values, deviations, strict=True))


@dataclass(frozen=True)
class PublishedTable:
    """A table of a paper.

    Attributes:
        paper: authors, title, venue.
        where: the table's number there.
        title: what it shows.
        columns: their titles.
        rows: see `PublishedRow`.
    """

    paper: str
    where: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[PublishedRow, ...]


def published_table(name: str) -> PublishedTable:
    """Look up a table by its id ("a1", Table 1 of paper a).

    Raises:
        VlcompressError: there is none of that id.
    """
    tables = _tables()
    if name not in tables:
        raise unknown("published table", name, tables)
    return tables[name]


@cache
def _tables() -> dict[str, PublishedTable]:
    document = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
    return {row["id"]: _table(document["papers"][row["paper"]], row) for row in document["tables"]}


def _table(paper: str, row: dict[str, Any]) -> PublishedTable:
    rows = tuple(PublishedRow(one["name"], tuple(one["values"]), tuple(one.get("sd", ()))) for one in row["rows"])
    return PublishedTable(paper, row["where"], row["title"], tuple(row["columns"]), rows)


def _cell(value: float | None, sd: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:g}" if sd is None else f"{value:g} ± {sd:g}"
