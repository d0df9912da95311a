"""A table of results, as text for a terminal and as Markdown; ``templates/macros.html.j2`` writes it as HTML."""

import io
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Cells as text.

    Attributes:
        title: what it shows; "" where the text around it says so.
        header: a title for each column.
        rows: as many cells each.
        text_columns: columns that are set to the left; the others hold numbers and are set to the right.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: tuple[int, ...] = (0,)


def terminal(table: Table) -> str:
    """Lay a table out in columns, header in bold where standard output is a terminal.

    A terminal that is too narrow for it gets a block of lines for each row instead, a line for each cell.
    """
    from rich.console import Console
    from rich.table import Table as Columns

    at_terminal = sys.stdout.isatty()
    columns = Columns(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold" if at_terminal else "")
    for index, title in enumerate(table.header):
        columns.add_column(title, justify="left" if index in table.text_columns else "right", no_wrap=True)
    for row in table.rows:
        columns.add_row(*row)
    buffer = io.StringIO()
    console = Console(file=buffer, force_terminal=at_terminal, markup=False, highlight=False, emoji=False, width=10_000)
    if at_terminal and console.measure(columns).maximum > Console().width:
        return _blocks(table)
    console.print(columns)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def markdown(table: Table) -> str:
    """Write a table in Markdown, numbers to the right."""
    rule = tuple("---" if index in table.text_columns else "---:" for index in range(len(table.header)))
    return "\n".join(f"| {' | '.join(line)} |" for line in (table.header, rule, *table.rows))


def _blocks(table: Table) -> str:
    rows = ("\n".join(f"{title}: {cell}" for title, cell in zip(table.header, row, strict=True)) for row in table.rows)
    return "\n\n".join(rows)
