"""Reading JSON lists of objects with errors that say where and what."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlcompress.errors import VlcompressError

Row = Mapping[str, Any]


def read_document(path: Path) -> Any:
    """Read any JSON document.

    Raises:
        VlcompressError: no such file, not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise VlcompressError(f"no file at '{path}': give a file that exists") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise VlcompressError(f"'{path}' is not valid JSON ({error}): it is damaged or cut") from error


def read_rows(path: Path) -> list[Row]:
    """Read a JSON list of objects.

    Raises:
        VlcompressError: no such file, not JSON, not a list of objects.
    """
    return as_rows(path, read_document(path))


def as_rows(path: Path, document: Any) -> list[Row]:
    """Check that a part of the document at `path` is a list of objects, and give it."""
    if not isinstance(document, list) or not all(isinstance(row, dict) for row in document):
        raise VlcompressError(f"'{path}' does not hold a JSON list of objects where one is expected: check its format")
    return document


def take(path: Path, number: int, row: Row, *names: str) -> tuple[Any, ...]:
    """Give the named values of a row (counted from 1).

    Raises:
        VlcompressError: the row lacks one of them.
    """
    missing = [name for name in names if name not in row]
    if missing:
        raise VlcompressError(
            f"'{path}', row {number}: no '{missing[0]}' among {sorted(row)}: every row needs {', '.join(names)}"
        )
    return tuple(row[name] for name in names)
