"""HTML from plain values: everything that goes in as text is escaped."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from vlcompress.report.style import CSS


def whole_page(title: str, parts: Iterable[str]) -> str:
    """Return an HTML document of ready-made parts that refers to nothing outside itself."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph; `kind` is its CSS class."""
    return f'<p class="{escape(kind)}">{_prose(text)}</p>' if kind else f"<p>{_prose(text)}</p>"


def section(title: str, *parts: str, level: int = 2) -> str:
    """Put ready-made HTML under a heading; `level` is deeper than 2 inside another section."""
    heading = f"<section><h{level}>{escape(title)}</h{level}>\n"
    return heading + "\n".join(part for part in parts if part) + "\n</section>"


def figure(drawing: str, caption: str) -> str:
    """Put a drawing above the text that says how to read it."""
    return f"<figure>{drawing}<figcaption>{escape(caption)}</figcaption></figure>"


def listing(lines: Sequence[str]) -> str:
    """Return a list of sentences."""
    return "<ul>" + "".join(f"<li>{_prose(line)}</li>" for line in lines) + "</ul>"


def code(text: str) -> str:
    """Return text as it stands, in a fixed-width font."""
    return f"<pre>{escape(text)}</pre>"


def folded(summary: str, content: str) -> str:
    """Hide ready-made HTML until the reader asks for it."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: Sequence[int] = (0,)) -> str:
    """Return a table that scrolls sideways where the window is too narrow.

    Args:
        header: one title a column.
        rows: cells as text.
        text_columns: columns that are set to the left; the others hold numbers and are set to the right.
    """
    kinds = ["text" if column in text_columns else "number" for column in range(len(header))]
    head = "".join(f'<th class="{kind}">{escape(title)}</th>' for kind, title in zip(kinds, header, strict=True))
    body = "".join(f"<tr>{_cells(row, kinds)}</tr>\n" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def facts_table(facts: Mapping[str, Any]) -> str:
    """Return names and values, a row each; nested values are joined, missing ones left out."""
    rows = [(name.replace("_", " "), _plain(value)) for name, value in facts.items() if value is not None]
    return table(("what", "value"), rows, text_columns=(0, 1))


def _prose(text: str) -> str:
    """Escape a sentence, and set what stands between backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _cells(row: Sequence[str], kinds: Sequence[str]) -> str:
    pairs = zip(row, kinds, strict=True)
    return "".join(f'<td class="{kind}{_width(cell)}">{escape(cell)}</td>' for cell, kind in pairs)


def _width(cell: str) -> str:
    """Mark sentences, so that a narrow window does not set them one word a line; names have no spaces to break at."""
    return " long" if len(cell) > 24 and " " in cell else ""


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(inner) for inner in value)
    return f"{value:,}" if type(value) is int else str(value)
