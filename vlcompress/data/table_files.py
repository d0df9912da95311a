"""Files of rows with named columns: CSV, TSV, JSONL, Parquet, and the Arrow streams of `datasets`."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlcompress.data.documents import Row, read_lines, read_text
from vlcompress.data.extras import extra
from vlcompress.errors import VlcompressError

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*_SEPARATORS, ".jsonl", ".parquet", ".arrow")


@dataclass(frozen=True)
class Table:
    """A file whose rows are read in groups.

    Attributes:
        path: of the file.
        columns: their names.
        groups: how many groups.
        read: gives the rows of a group, of the columns that are named.
        classes: names of the column "label"'s numbers; () where the file has none.
    """

    path: Path
    columns: tuple[str, ...]
    groups: int
    read: Callable[[int, Sequence[str]], Sequence[Row]]
    classes: tuple[str, ...] = ()

    def first(self, names: Sequence[str]) -> str:
        """Name the first of these columns that the table has; "" where it has none."""
        return next((name for name in names if name in self.columns), "")


def open_table(path: Path) -> Table:
    """Open a file of rows.

    Raises:
        VlcompressError: damaged, or the package for its format is not installed.
    """
    return _open(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _open(path: Path, changed: int) -> Table:
    """Open a file once; `changed` is its time stamp."""
    if path.suffix == ".parquet":
        return _parquet(path)
    if path.suffix == ".arrow":
        return _arrow(path)
    if path.suffix == ".jsonl":
        rows: Sequence[Row] = read_lines(path)
    else:
        text = io.StringIO(read_text(path), newline="")
        rows = list(csv.DictReader(text, delimiter=_SEPARATORS[path.suffix]))
    return Table(path, tuple(rows[0]) if rows else (), 1, lambda group, columns: rows)


def _parquet(path: Path) -> Table:
    parquet = extra("pyarrow.parquet")
    file = _unbroken(path, lambda: parquet.ParquetFile(path))
    names = _class_names(file.schema_arrow)
    return Table(
        path,
        tuple(file.schema_arrow.names),
        file.num_row_groups,
        lambda group, columns: _unbroken(path, lambda: file.read_row_group(group, columns=[*columns]).to_pylist()),
        names,
    )


def _arrow(path: Path) -> Table:
    arrow, ipc = extra("pyarrow"), extra("pyarrow.ipc")
    table = _unbroken(path, lambda: ipc.open_stream(arrow.memory_map(str(path))).read_all())
    batches = table.to_batches()
    return Table(
        path,
        tuple(table.column_names),
        len(batches),
        lambda group, columns: _unbroken(path, lambda: batches[group].select([*columns]).to_pylist()),
        _class_names(table.schema),
    )


def _unbroken(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (extra("pyarrow").ArrowException, OSError, UnicodeDecodeError) as error:
        kind = "Parquet file" if path.suffix == ".parquet" else "Arrow stream"
        why = " ".join(str(error).split())
        raise VlcompressError(f"'{path}' is not a whole {kind} ({why}): it is damaged or cut") from error


def _class_names(schema: Any) -> tuple[str, ...]:
    """Read the names of the labels, where `datasets` wrote them."""
    metadata: Mapping[bytes, bytes] = schema.metadata or {}
    try:
        said = json.loads(metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    except (KeyError, TypeError, ValueError):
        return ()
    return tuple(map(str, said)) if isinstance(said, list) else ()
