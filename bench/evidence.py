"""Record which tests show that a cell (a family on a task) does as its official code does.

python -m bench.evidence

A test says what it shows by ``@pytest.mark.evidence(kind, cell, ...)``: the kind is one of
`vlcompress.tasks.support_matrix.MARKS`, a cell is "uniter-vqa", or a task alone where every family shares what was
tested (its metric). The tests that are marked run, and only if all pass is the record written that `vlcompress tasks`
reads; `tests/tasks/test_support_matrix.py` compares it with the markers.
"""

import ast
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from vlcompress.artefacts import write_file
from vlcompress.tasks.support_matrix import EVIDENCE, Evidence

ROOT = Path(__file__).parents[1]


def marked() -> Evidence:
    """Read the markers of every test: {cell: {kind: [test]}}, tests by pytest's names."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for test, (kind, *cells) in _markers(ast.parse(path.read_text(encoding="utf-8"))):
            for cell in cells:
                found[cell][kind].append(f"{path.relative_to(ROOT).as_posix()}::{test}")
    return {cell: dict(sorted(kinds.items())) for cell, kinds in sorted(found.items())}


def _markers(module: ast.Module) -> Iterator[tuple[str, list[str]]]:
    for function in module.body:
        for one in function.decorator_list if isinstance(function, ast.FunctionDef) else ():
            if isinstance(one, ast.Call) and ast.unparse(one.func) == "pytest.mark.evidence":
                yield function.name, [ast.literal_eval(argument) for argument in one.args]


def main() -> None:
    """Run the marked tests and write the record."""
    evidence = marked()
    tests = sorted({test for kinds in evidence.values() for named in kinds.values() for test in named})
    subprocess.run([sys.executable, "-m", "pytest", *tests], cwd=ROOT, check=True)
    write_file(EVIDENCE, json.dumps(evidence, indent=1) + "\n")


if __name__ == "__main__":
    main()
