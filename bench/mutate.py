"""Change the code in small ways and see whether the tests beside it notice.

    pip install cosmic-ray==8.7.0
    python -m bench.mutate vlcompress/pruning [...] [--sample 60] [--seed 0] [--out FILE]
    python -m bench.mutate --again --out FILE
    python -m bench.mutate --table

Works on a copy of the last commit. A change is one operator of Cosmic Ray at one place: a sum for a difference, a bound
that moves by one, a condition turned round, a number that differs by one. It is killed when a test of the mirror tree
fails, first those of the module and then those of its folder; what nothing there notices is listed with its line.
`--table` writes the page beside the records; what is kept there on purpose begins with "equivalent: ".
"""

import argparse
import contextlib
import difflib
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "bench" / "results" / "mutants"
OPERATORS = (
    *(f"ReplaceBinaryOperator_{pair}" for pair in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul")),
    *(f"ReplaceBinaryOperator_{pair}" for pair in ("Mod_Mul", "BitAnd_BitOr", "Pow_Mul")),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt")),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Is_IsNot", "IsNot_Is")),
    *(f"ReplaceUnaryOperator_{pair}" for pair in ("USub_UAdd", "Delete_Not", "Delete_Invert")),
    *("AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "NumberReplacer", "ZeroIterationForLoop"),
)
Document = dict[str, Any]

TIMEOUT_S = 300
"""For tests of unchanged code; those of changed code get three times as long as these took."""
BESIDE = {
    "vlcompress/serve/decode.py": ("serve/test_decode.py", "serve/test_protocol.py", "serve/test_binary.py"),
    "vlcompress/export/parity.py": ("export/test_parity.py", "export/test_verify.py"),
    "vlcompress/training/checkpoint.py": ("training/test_loop.py",),
    "vlcompress/training/hyperparameters.py": ("training/test_loop.py", "tickets/test_spec.py"),
    "vlcompress/training/language.py": ("tickets/test_language.py",),
    "vlcompress/training/step.py": ("training/test_loop.py",),
    "vlcompress/training/trackers.py": ("training/test_watching.py",),
}
"""Modules that are held by tests of another name, under tests/; with `--own` these are all."""
IMPORTED = Path("imported.txt")
OURS = ("vlcompress", "tests", "bench", "conftest")


@dataclass
class Mutant:
    """One change of one module: the operator, which of the places it fits, and the changed line."""

    module: str
    operator: str
    occurrence: int
    line: str
    fate: str = ""
    """killed, timeout or survived."""
    kept: str = ""
    """Why it may survive; written into the record by whoever has read it."""


def mutants(module: Path, operators: Iterable[str]) -> Iterator[tuple[Mutant, str]]:
    """Make every mutant of a module by these operators, with its text."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    code = module.read_text()
    for name in operators:
        occurrence = 0
        while (changed := mutate_code(code, get_operator(f"core/{name}")(), occurrence)) is not None:
            lines = difflib.unified_diff(code.splitlines(), changed.splitlines(), n=0, lineterm="")
            said = " ".join(line for line in list(lines)[2:] if not line.startswith("-"))
            yield Mutant(str(module), name, occurrence, said), changed
            occurrence += 1


def tests_of(module: Path, own_alone: bool) -> list[list[str]]:
    """Name the module's tests of the mirror tree, and then the others of its folder, as pytest takes them."""
    folder = Path("tests") / module.parent.relative_to("vlcompress")
    own = [str(Path("tests") / name) for name in BESIDE.get(str(module), ())]
    if not own and (named := folder / f"test_{module.stem}.py").exists():
        own = [str(named)]
    if not own:
        return [[str(folder)]]
    return [own] if own_alone else [own, [str(folder), *(f"--ignore={name}" for name in own)]]


def passes(tests: list[str], limit_s: float) -> bool | None:
    """Run tests in a child of this process, which has the heavy imports behind it; None where they take too long."""
    child = os.fork()
    if child == 0:
        os.setsid()
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        import pytest

        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-n", "0", *tests])
        IMPORTED.write_text("\n".join(sys.modules))
        os._exit(code)
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def warm_up(tests: list[str]) -> float:
    """Run tests of unchanged code, import here what they import of others, and return how long a run takes then.

    Bytecode is kept now and no longer then: a changed module may be as old and as long as the unchanged one.
    """
    sys.dont_write_bytecode = False
    for _ in range(2):
        started = time.monotonic()
        if not passes(tests, TIMEOUT_S):
            raise SystemExit(f"{tests} fail, or take longer than {TIMEOUT_S} s, without any change")
        took_s = time.monotonic() - started
        for name in IMPORTED.read_text().splitlines():
            if name.split(".")[0] not in OURS:
                with contextlib.suppress(Exception):  # what only looks like a module, or belongs to the run
                    importlib.import_module(name)
    sys.dont_write_bytecode = True
    return took_s


def fate(module: Path, own: bool, limit_s: float) -> str:
    """Say what becomes of the module as it stands on disk."""
    for tests in tests_of(module, own):
        result = passes(tests, limit_s)
        if not result:
            return "timeout" if result is None else "killed"
    return "survived"


def sampled(folder: Path, sample: int, seed: int) -> list[tuple[Mutant, str]]:
    """Draw mutants of all modules of a folder (or of one module)."""
    modules = [folder] if folder.suffix == ".py" else sorted(folder.glob("*.py"))
    pool = [pair for module in modules if module.name != "__init__.py" for pair in mutants(module, OPERATORS)]
    chosen = random.Random(seed).sample(pool, min(sample, len(pool)))
    print(f"{folder}: {len(chosen)} of {len(pool)} mutants", flush=True)
    return chosen


def survivors_of(record: Document) -> list[tuple[Mutant, str]]:
    """Make the survivors of a record again, wherever their lines have gone, but for those that are kept on purpose."""
    wanted = {_key(one): one for one in record["survivors"] if not one.get("kept")}
    found = {
        _key(asdict(mutant)): (mutant, changed)
        for module in sorted({one["module"] for one in wanted.values()})
        for mutant, changed in mutants(Path(module), {key[1] for key in wanted if key[0] == module})
        if _key(asdict(mutant)) in wanted
    }
    return list(found.values())


def _key(mutant: Document) -> tuple[str, str, str]:
    return mutant["module"], mutant["operator"], mutant["line"].split("@@")[-1]


def tried(chosen: list[tuple[Mutant, str]], own: bool) -> Iterator[Mutant]:
    """Try mutants one by one."""
    suites = {tuple(tests_of(Path(mutant.module), own)[-1]) for mutant, _ in chosen}
    limit_s = 10 + 3 * sum(warm_up(list(tests)) for tests in sorted(suites))
    for mutant, changed in chosen:
        module = Path(mutant.module)
        original = module.read_text()
        Path(importlib.util.cache_from_source(mutant.module)).unlink(missing_ok=True)
        module.write_text(changed)
        try:
            mutant.fate = fate(module, own, limit_s)
        finally:
            module.write_text(original)
        if mutant.fate == "survived":
            print(f"survived: {mutant.module} {mutant.operator} {mutant.line}", flush=True)
        yield mutant


def recorded(before: Document, done: list[Mutant]) -> Document:
    """Add what was found so far to a record; a mutant that has been tried before counts once."""
    again = {_key(asdict(mutant)) for mutant in done}
    old = [one for one in before["survivors"] if _key(one) not in again]
    new = [asdict(mutant) for mutant in done if mutant.fate == "survived"]
    tried_before = before["tried"] or len(done)
    return before | {"tried": tried_before, "killed": tried_before - len(old + new), "survivors": old + new}


def page() -> str:
    """Write the page of all records: what was tried, what was noticed, and why the rest is kept."""
    rows, reasons = [], []
    for path in sorted(RECORDS.glob("*.json")):
        record = json.loads(path.read_text())
        kept = [one for one in record["survivors"] if one["kept"].startswith("equivalent")]
        left, tried = len(record["survivors"]) - len(kept), record["tried"]
        share = 100 * record["killed"] / max(1, tried - len(kept))
        rows.append(
            f"| [`{record['code']}`]({path.name}) | {tried} | {record['killed']} | {len(kept)} | {left} | {share:.1f} |"
        )
        reasons += [_line(one) for one in record["survivors"]]
    return PAGE.format(rows="\n".join(rows), reasons="\n".join(reasons))


def _line(survivor: Document) -> str:
    """Say of a survivor where it is, what was changed, and why it is kept."""
    where, change = survivor["module"].removeprefix("vlcompress/"), survivor["line"].split("@@")[-1].strip()
    return f"- `{where}`: ``{change.lstrip('+').strip()}``: {survivor['kept'] or 'open'}"


PAGE = """# Mutants

Small changes to the code, and whether the tests beside it notice (Cosmic Ray 8.7.0; the sample is drawn with the seed
in each record): `python -m bench.mutate FOLDER --sample 60 --out FILE`, then `--again --out FILE` once its survivors
have been read, then `--table` for this page. A survivor is killed by a test of the promise behind the line, or kept
with its reason (`kept` in the record): it is equivalent where no result, error or measurement can tell it from the
original. The last column is the share killed of what is not equivalent; the goal is 95 %.

| code | tried | killed | equivalent | open | % |
|---|---|---|---|---|---|
{rows}

## What is kept

{reasons}
"""


def main() -> None:
    """Parse, copy the commit, run, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--sample", type=int, default=60, help="mutants of each folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--again", action="store_true", help="the survivors of --out instead")
    parser.add_argument("--own", action="store_true", help="only a module's own tests, where it has a file of them")
    parser.add_argument("--table", action="store_true", help="write the page of the records, and try nothing")
    asked = parser.parse_args()
    if asked.table:
        (RECORDS / "README.md").write_text(page())
        return
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()
    before: Document = json.loads(asked.out.read_text()) if asked.again else {"tried": 0, "survivors": []}
    named = ", ".join(str(one).removeprefix("vlcompress/") for one in asked.folders)
    before = {"code": named, **before, "commit": commit, "seed": before.get("seed", asked.seed)}
    out = asked.out and asked.out.absolute()
    with tempfile.TemporaryDirectory() as copy:
        subprocess.run(f"git archive {commit} | tar -x -C '{copy}'", shell=True, check=True, cwd=ROOT)
        os.chdir(copy)
        sys.path.insert(0, copy)
        os.environ["PYTHONPATH"] = copy
        os.environ["TRITON_INTERPRET"] = "1"  # as tests/conftest.py has it, before anything is imported
        import torch

        torch.set_num_threads(1)
        parts = (
            [survivors_of(before)] if asked.again else (sampled(one, asked.sample, asked.seed) for one in asked.folders)
        )
        done: list[Mutant] = []
        for mutant in (one for part in parts for one in tried(part, asked.own)):
            done.append(mutant)
            if out:  # after each: a run that is stopped has shown something
                out.write_text(json.dumps(recorded(before, done), indent=1) + "\n")
    found = recorded(before, done)
    print(f"{found['killed']} of {found['tried']} killed ({100 * found['killed'] / max(1, found['tried']):.1f} %)")


if __name__ == "__main__":
    main()
