"""Check and measure on a GPU all that waits for one: products, whole models, training, and a task end to end.

    python bench/gpu.py --out record.json [--seconds 480] [--only gate,linears] [--dry-run]

It runs from the working tree with torch, triton, transformers and numpy; nothing is installed. Each step is a process
of its own that writes the record after every unit of work, so that a crash, a lost device or a kill loses one unit.
No kernel configuration is timed before it was compared with float64 here: where it is wrong its figures are missing,
and the exit code is 1. ``--dry-run`` walks the same code on the CPU in Triton's interpreter and measures nothing.
"""

import argparse
import datetime
import importlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

STEPS = ("gate", "linears", "models", "training", "task")
TRIES = 3
"""How often a step is taken up again after its process ended early."""
GRACE_S = 5.0
"""Seconds after which a step that passed the limit is killed."""
LOST = 3
"""Exit code of a step that lost its device: what follows in the same process could not work."""

Json = dict[str, Any]
Calls = Mapping[str, Sequence[Callable[[], object]]]


@dataclass(frozen=True)
class Scale:
    """What is measured; ``Scale()`` is the full run.

    Attributes:
        shapes: (N, K, activation) of linears.
        rows: M of linears.
        blocks, sparsities, skews: of their weights; skews are standard deviations of log-normal scales of block rows.
        dtype: torch's name of it.
        repeats: runs of a configuration that must agree bit by bit.
        families, size, batches: whole models.
        model_sparsities: of their block-sparse forms.
        training_batches: of a training step.
        steps: training steps of the task.
    """

    shapes: Sequence[tuple[int, int, str]] = (
        (3072, 768, "none"),
        (768, 3072, "none"),
        (768, 768, "none"),
        (3072, 3072, "none"),
        (3072, 768, "gelu"),
    )
    rows: Sequence[int] = (16384, 1152, 4096, 640, 32)
    blocks: Sequence[tuple[int, int]] = ((128, 64), (64, 64), (32, 32))
    sparsities: Sequence[float] = (0.5, 0.7, 0.9)
    skews: Sequence[float] = (0.0, 1.0)
    device: str = "cuda"
    dtype: str = "bfloat16"
    repeats: int = 100
    families: Sequence[str] = ("lxmert", "uniter", "vilt")
    size: str = "base"
    batches: Sequence[int] = (256, 32, 1)
    model_blocks: Sequence[tuple[int, int]] = ((64, 64), (32, 32))
    model_sparsities: Sequence[float] = (0.7, 0.5, 0.9)
    training_batches: Sequence[int] = (32, 256)
    steps: int = 200


DRY = Scale(
    shapes=((64, 32, "none"), (32, 64, "gelu")),
    rows=(64,),
    blocks=((16, 16), (32, 16)),
    sparsities=(0.5,),
    skews=(0.0, 1.0),
    device="cpu",
    dtype="bfloat16",
    repeats=2,
    size="tiny",
    batches=(1,),
    model_blocks=((16, 16),),
    model_sparsities=(0.7,),
    training_batches=(2,),
    steps=2,
)


@dataclass
class Run:
    """One step at work on the record.

    Attributes:
        step: its name.
        path: of the record, which is written after every unit.
        until: when no more may be begun, in seconds since the epoch.
        dry: whether each call is made once and nothing is measured.
    """

    step: str
    path: Path
    until: float
    dry: bool
    record: Json = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scale = DRY if self.dry else Scale()
        self.record = self.record or json.loads(self.path.read_text())

    def units(self, step: str | None = None) -> Json:
        """Look up what was done of a step, this one by default, by unit."""
        units: Json = self.record["steps"].setdefault(step or self.step, {"units": {}})["units"]
        return units

    def unit(self, what: str, make: Callable[[], object], needs: float = 5.0, step: str | None = None) -> None:
        """Do one unit of work and record its result, its error, or that there was no time for it.

        Args:
            what: its name; what has been begun before is not begun again.
            make: gives its result as JSON.
            needs: seconds; at least as many as the longest unit of the step took.
            step: where it is recorded, if not under this step.
        """
        units = self.units(step)
        if what in units:
            return
        needs = max([needs, *(unit.get("seconds", 0.0) for unit in units.values())])
        if not self.dry and time.time() + needs > self.until:
            units[what] = {"state": "left out", "why": f"it takes about {needs:.0f} s, and fewer were left"}
            return self.save()
        units[what] = {"state": "started"}
        self.save()
        started = time.time()
        result = self.attempt(what, make)
        done = {"state": "failed"} if result is None else {"state": "done", "result": result}
        units[what] = {**done, "seconds": round(time.time() - started, 1)}
        self.save()
        return None

    def attempt(self, what: str, make: Callable[[], Any]) -> Any:
        """Call `make`; None where it fails, with the error recorded."""
        try:
            return make()
        except Exception as error:
            text = f"{type(error).__name__}: {str(error).strip()[:300]}"
            self.record["failures"].append({"step": self.step, "what": what, "error": text})
            self.save()
            if not self.dry and device_lost():
                sys.exit(LOST)
            return None

    def save(self) -> None:
        """Write the record whole or not at all."""
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.record, indent=1, allow_nan=False) + "\n")
        temporary.replace(self.path)

    def graphed(self, what: str, calls: Calls) -> dict[str, Json | None]:
        """Time calls in CUDA graphs, in turn, in microseconds; those that fail are recorded and left out."""
        from vlcompress.kernels import timing

        def tried(one: Sequence[Callable[[], object]]) -> bool:
            one[0]()
            if not self.dry:
                timing.capture(one).replay()
            return True

        able = {name: one for name, one in calls.items() if self.attempt(f"{what}: {name}", lambda one=one: tried(one))}  # type: ignore[misc]
        if self.dry:
            return dict.fromkeys(able)
        return {name: vars(found) for name, found in timing.interleaved(able).items()} if able else {}

    def clocked(self, calls: Mapping[str, Callable[[], object]]) -> dict[str, Json | None]:
        """Time calls from the host until the device is done, in shuffled turns, in microseconds."""
        from vlcompress.sparse.timing import Effort, compare

        if self.dry:
            for call in calls.values():
                call()
            return dict.fromkeys(calls)

        def waited(call: Callable[[], object]) -> None:
            call()
            synchronize()

        waiting = {name: partial(waited, call) for name, call in calls.items()}
        return {name: vars(found) for name, found in compare(waiting, Effort(rounds=9, burst_s=0.03)).items()}


def synchronize() -> None:
    """Wait for the device, if there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device_lost() -> bool:
    """Tell whether an error has left the device unusable for this process."""
    try:
        synchronize()
    except Exception:
        return True
    return False


def run_step(name: str, path: Path, until: float, dry: bool) -> None:
    """Do what is left of one step, in this process."""
    import torch

    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    run = Run(name, path, until, dry)
    run.units()
    # Products need torch and Triton alone: what models need is not loaded for them.
    work = importlib.import_module("bench.gpu_linears" if name in ("gate", "linears") else "bench.gpu_models")
    getattr(work, name)(run)
    run.save()


def child(name: str, path: Path, until: float, dry: bool) -> str:
    """Do a step in a process of its own; "done", or how it ended."""
    command = [sys.executable, str(Path(__file__).resolve()), "--step", name, "--out", str(path), "--until", str(until)]
    left = None if dry else max(1.0, until - time.time() + GRACE_S)
    try:
        code = subprocess.run([*command, *["--dry-run"] * dry], timeout=left, check=False).returncode
    except subprocess.TimeoutExpired:
        return "killed at the time limit"
    return "done" if code == 0 else f"ended early with exit code {code}"


def conduct(name: str, path: Path, until: float, dry: bool) -> None:
    """Do a step, taking it up again where its process ended early and had got further."""
    began = 0
    for _ in range(TRIES):
        ended = child(name, path, until, dry)
        record = json.loads(path.read_text())
        step = record["steps"].setdefault(name, {"units": {}})
        step["ended"] = [*step.get("ended", []), ended]
        Run(name, path, until, dry, record).save()
        if not ended.startswith("ended early") or len(step["units"]) == began:
            return
        began = len(step["units"])


def new_record(options: argparse.Namespace, chosen: Sequence[str]) -> Json:
    """Begin a record without any result."""
    steps: Json = {name: {"units": {}} for name in chosen}
    asked = {"seconds": options.seconds, "steps": list(chosen)}
    head = {"measured": not options.dry_run, "asked": asked, "environment": environment()}
    return {**head, "failures": [], "steps": steps}


def environment() -> Json:
    """Describe device, driver, clocks, versions, commit and time."""
    import torch

    query = "name,driver_version,clocks.sm,clocks.mem,power.draw,power.limit,temperature.gpu"
    return {
        "nvidia_smi": {query: _output("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader")},
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": _version("triton"),
        "transformers": _version("transformers"),
        "python": sys.version.split()[0],
        "commit": _output("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


# ---- What is printed ----

GOALS = {0.5: (1.3, 1.7), 0.7: (1.9, 2.8), 0.9: (2.9, 2.8)}
"""Over cuBLAS at M = 16384, uniform masks, the best block: the first step's and the goal, by sparsity."""
GOAL_SHAPES, GOAL_ROWS = ((3072, 768), (768, 3072)), 16384
MODEL_GOALS = {0.5: 1.3, 0.7: 1.7, 0.9: 2.2}
"""Goals for whole models at batch 256 over the compiled dense one, by sparsity."""


def report(record: Json) -> Iterator[str]:
    """Yield the tables, a line at a time."""
    for name, step in record["steps"].items():
        yield f"\n== {name}: {', '.join(step.get('ended', ['not begun']))}"
        for what, unit in step["units"].items():
            yield f"{what}: {unit['state']}{' ' + unit['why'] if 'why' in unit else ''}"
            yield from (f"    {line}" for line in _lines(unit.get("result")))
    yield "\n== goals"
    yield from _goals(record)
    for failure in record["failures"]:
        yield f"failed in {failure['step']}: {failure['what']}: {failure['error']}"


def _lines(result: Any) -> Iterator[str]:
    """Yield a unit's rows: one a line, with times as medians."""
    for row in result if isinstance(result, list) else [result] if result else []:
        yield "  ".join(f"{name} {_cell(value)}" for name, value in row.items())


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        median = value.get("median_us", value.get("us"))
        return f"{median:.1f} us" if median else " ".join(f"{name}={_cell(part)}" for name, part in value.items())
    return "not measured" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _goals(record: Json) -> Iterator[str]:
    rows = [row for row in results(record, "linears") if row["activation"] == "none" and not row["skew"]]
    for (n, k), (sparsity, (first, goal)) in itertools.product(GOAL_SHAPES, GOALS.items()):
        key = (n, k, GOAL_ROWS, sparsity)
        ours = [row["over"] for row in rows if (row["n"], row["k"], row["m"], row["sparsity"]) == key]
        wanted = f"over cuBLAS {first}, then {goal} wanted, {_best(over.get('cublas') for over in ours)}"
        yield f"({n}, {k}), M = {GOAL_ROWS}, {100 * sparsity:g} %: {wanted}"
        if sparsity == 0.5:
            yield f"    over 2:4 more than 1 wanted, {_best(over.get('2:4') for over in ours)}"
        bsr = (ratio for over in ours for name, ratio in over.items() if name.startswith("torch bsr"))
        yield f"    over torch's BSR 2 wanted, {_best(bsr)}"
    for sparsity, goal in MODEL_GOALS.items():
        forms = [row for row in results(record, "models") if row.get("sparsity") == sparsity and row["batch"] == 256]
        found = _best(row["over_compiled_dense"] for row in forms if row["pattern"] not in ("neuron+head", "2:4"))
        yield f"whole models, batch 256, {100 * sparsity:g} %: over compiled dense {goal} wanted, {found}"


def results(record: Json, step: str) -> Iterator[Json]:
    """Yield the rows of a step."""
    for unit in record["steps"].get(step, {"units": {}})["units"].values():
        yield from unit.get("result") or []


def _best(found: Any) -> str:
    ratios = [ratio for ratio in found if ratio is not None]
    return f"{max(ratios):.2f} measured (best of {len(ratios)})" if ratios else "not measured"


def green(record: Json) -> bool:
    """Tell whether no configuration that was checked is wrong; one whose check did not end is."""
    units = record["steps"].get("gate", {"units": {}})["units"].values()
    return all(unit["state"] == "left out" or unit.get("result", {}).get("green", False) for unit in units)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the record, JSON")
    parser.add_argument("--seconds", type=float, default=480.0, help="nothing that would end later is begun")
    parser.add_argument("--only", default=",".join(STEPS), help=f"steps of {', '.join(STEPS)}")
    parser.add_argument("--dry-run", action="store_true", help="walk the code at tiny sizes without a GPU; no figures")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    unknown = set(options.only.split(",")) - set(STEPS)
    if unknown:
        parser.error(f"unknown steps {', '.join(sorted(unknown))}: allowed are {', '.join(STEPS)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the steps and print the tables; 1 where a kernel is wrong, else 0."""
    options = _options(arguments)
    if options.dry_run:
        # Inductor would compile C++ for minutes; that every family compiles whole is tested by itself.
        os.environ |= {"TRITON_INTERPRET": "1", "TORCH_COMPILE_DISABLE": "1"}
    import torch

    if not options.dry_run and not torch.cuda.is_available():
        print("no CUDA device: nothing was measured")
        return 0
    if options.step:
        run_step(options.step, options.out, options.until, options.dry_run)
        return 0
    until = time.time() + options.seconds
    chosen = [name for name in STEPS if name in options.only.split(",")]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    Run(chosen[0], options.out, until, options.dry_run, new_record(options, chosen)).save()
    for name in chosen:
        conduct(name, options.out, until, options.dry_run)
    record = json.loads(options.out.read_text())
    print(*report(record), sep="\n")
    return 0 if green(record) else 1


if __name__ == "__main__":
    sys.exit(main())
