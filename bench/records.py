"""What the scripts share: where records lie, how they are written, and how tables say where they are from."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlcompress.artefacts import write_file
from vlcompress.bench.environment import environment

RESULTS = Path(__file__).parent / "results"

Json = dict[str, Any]


def write_record(command: str, found: Mapping[str, Any], out: Path | None) -> None:
    """Print what a command measured, with the machine that it was measured on, and write it where asked."""
    text = json.dumps({"command": command, "environment": environment(), **found}, indent=2)
    print(text)
    if out:
        write_file(out, text + "\n")


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a table."""
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *rows))


def where(environments: Sequence[Json]) -> str:
    """Say where and when measurements were made: what is the same in all of them once, loads and times as ranges."""
    environments = sorted(environments, key=lambda one: str(one["time"]))
    first, last = environments[0], environments[-1]
    loads = [one["load_average"] for one in environments]
    packages = ", ".join(f"{name} {version}" for name, version in first["packages"].items() if name != "numpy")
    commits = ", ".join(sorted({str(one["commit"]) for one in environments}))
    return (
        f"{first['cpu']}, {first['cores']} cores, {first['memory_gb']} GB, {first['os']}, Python {first['python']}; "
        f"{packages}; commit {commits}; {first['time']} to {last['time']}, load average at the start of each "
        f"measurement {min(loads)} to {max(loads)}."
    )
