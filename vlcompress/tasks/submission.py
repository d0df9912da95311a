"""The files that benchmarks want predictions in."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any


def json_rows(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Write a JSON list with one object a row, indented by four spaces and with sorted keys, as LXMERT's code does."""
    objects = [dict(zip(names, row, strict=True)) for row in rows]
    return json.dumps(objects, indent=4, sort_keys=True).encode()


def csv_rows(rows: Iterable[Sequence[Any]], header: Sequence[str] = ()) -> bytes:
    """Write rows as CSV with plain line ends."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
