"""HTML from templates: everything that goes in as text is escaped."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from vlcompress.report.plots import Plot, inline
from vlcompress.report.table import Table

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> Markup:
    """Fill in a file of ``templates/``; the result may go into another template as it is."""
    return Markup(_environment().get_template(template).render(values))


def details(values: Mapping[str, Any]) -> Table:
    """Tabulate names and values, a row each; nested values are joined, missing ones left out."""
    rows = ((name.replace("_", " "), _plain(value)) for name, value in values.items() if value is not None)
    return Table("", ("what", "value"), tuple(rows), text_columns=(0, 1))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters |= {"prose": _prose, "drawing": _drawing}
    environment.globals["css"] = Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))
    return environment


def _prose(text: str) -> Markup:
    """Escape a sentence, and set what stands between backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _drawing(plot: Plot) -> Markup:
    return Markup(inline(plot))


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(inner) for inner in value)
    return f"{value:,}" if type(value) is int else str(value)
