"""The command line of a script that measures the graphs of bench.onnx_cpu: a record as JSON, and its table."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.onnx_tables import RESULTS
from vlcompress.artefacts import dumps, write_file

Json = dict[str, Any]


def record(about: str, name: str, measure: Callable[[Path, str], Json], table: Callable[[Json], str]) -> None:
    """Measure as the command line asks, write results/onnx/NAME.json and NAME.md, and print the table.

    Args:
        about: the script's docstring; its first line describes it.
        name: of the record.
        measure: takes the folder of graphs and the size of LXMERT.
        table: lays a record out in Markdown.
    """
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("runs/onnx-cpu"))
    parser.add_argument("--size", default="base", help="of LXMERT; others than base are for trying the script out")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json")
    said = parser.parse_args()
    found = measure(said.work, said.size)
    write_file(said.out, dumps(found))
    write_file(said.out.with_suffix(".md"), table(found))
    print(table(found))
