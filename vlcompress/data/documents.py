"""Reading JSON lists of objects with errors that say where and what."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from vlcompress.errors import VlcompressError

Row = Mapping[str, Any]
T = TypeVar("T")


def read_document(path: Path) -> Any:
    """Read any JSON document, with a byte order mark or without.

    Raises:
        VlcompressError: no such file, not JSON.
    """
    return _parsed(read_text(path), f"'{path}'")


def read_text(path: Path) -> str:
    """Read a file of text, with a byte order mark or without.

    Raises:
        VlcompressError: no such file, not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise VlcompressError(f"no file at '{path}': give a file that exists") from error
    except UnicodeDecodeError as error:
        raise VlcompressError(f"'{path}' is not UTF-8 text ({error}): it is damaged, or save it as UTF-8") from error


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        kind = "one document was expected, not one a line" if error.msg == "Extra data" else "it is damaged or cut"
        raise VlcompressError(f"{where} is not valid JSON ({error}): {kind}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
        raise VlcompressError(f"{where} holds JSON that no data set has ({error}): it is damaged") from error


def read_rows(path: Path) -> list[Row]:
    """Read a JSON list of objects.

    Raises:
        VlcompressError: no such file, not JSON, not a list of objects.
    """
    return as_rows(path, read_document(path))


def read_lines(path: Path) -> list[Row]:
    """Read a file of one JSON object a line (JSONL).

    Raises:
        VlcompressError: no such file, or a line that is not an object.
    """
    lines = enumerate(read_text(path).split("\n"), start=1)
    return as_rows(path, [_parsed(line, f"'{path}', line {number}") for number, line in lines if line.strip()])


def as_rows(path: Path, document: Any) -> list[Row]:
    """Check that a part of the document at `path` is a list of objects, and give it."""
    if not isinstance(document, list) or not all(isinstance(row, dict) for row in document):
        raise VlcompressError(f"'{path}' does not hold a JSON list of objects where one is expected: check its format")
    return document


def take(path: Path, number: int, row: Row, *names: str) -> tuple[Any, ...]:
    """Take the named values out of a row (counted from 1).

    Raises:
        VlcompressError: the row lacks one of them.
    """
    missing = [name for name in names if name not in row]
    if missing:
        raise VlcompressError(
            f"'{path}', row {number}: no '{missing[0]}' among {sorted(row)}: every row needs {', '.join(names)}"
        )
    return tuple(row[name] for name in names)


def parsed(path: Path, rows: Iterable[Row], make: Callable[[Path, int, Row], T]) -> list[T]:
    """Turn every row into something, saying which row it is that is not in the format.

    Args:
        path: the rows' file, for errors.
        rows: in the order of the file.
        make: is given the path, the row's number (from 1) and the row.

    Raises:
        VlcompressError: as `make` does, or a row whose values are of other types than the format's.
    """
    made: list[T] = []
    for number, row in enumerate(rows, start=1):
        try:
            made.append(make(path, number, row))
        except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise bad_row(path, number, f"it is not in the format ({what})") from error
    return made


def check_unique(path: Path, ids: Iterable[object], what: str = "id") -> None:
    """Refuse a file that uses an id twice.

    Raises:
        VlcompressError: with the id and the rows (counted from 1); an id that is neither a number nor text.
    """
    seen: dict[object, int] = {}
    for number, value in enumerate(ids, start=1):
        check_id(path, number, value, what)
        if value in seen:
            raise VlcompressError(f"'{path}', row {number}: {what} {value} is already in row {seen[value]}: keep one")
        seen[value] = number


def check_id(path: Path, number: int, value: object, what: str = "id") -> None:
    """Refuse an id that is neither a whole number nor text."""
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise bad_row(path, number, f"{what} {value!r} is neither a number nor text")


def bad_row(path: Path, number: int, what: str) -> VlcompressError:
    """Build the error for a row (counted from 1) that does not hold what it must."""
    return VlcompressError(f"'{path}', row {number}: {what}")
