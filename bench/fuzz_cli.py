"""Try the command line with random options, files and environments: does every mistake end as it should?

    python -m bench.fuzz_cli [--tries 2000] [--first 0] [--seed 0] [--patience 1.5] [--only NUMBER]

A try is a command with options drawn from what fits and what does not, on a tiny run of which a file may be damaged, in
an environment that may be hostile: no HOME, a home that cannot be written, a full disk, 20 columns, a closed pipe; a
few in an interpreter of their own, with the locale C or with ``-O``. It must end with exit code 0, 2 (3 for a failed
check) or 130, at most one line on stderr that begins with "error: ", which is the last one, no traceback, and nothing
half-written. What is still at work after `patience` seconds is interrupted as by Ctrl-C, and must end with 130.

Tries are processes forked from one that has imported everything, so that two thousand take minutes. Every try is drawn
from its number and the seed alone: `--only` repeats one and prints what it printed.
"""

import argparse
import gc
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from vlcompress.cli.main import COMMANDS, INTERRUPTED, main

NUMBERS = ("-1", "0", "1", "2", "7", "1e400", "nan", "-inf", "0.5", "1.5", "99999999999999999999", "9" * 5000, "x", "")
WORDS = (
    "",
    " ",
    "-",
    "--",
    "vqa",
    "tiny",
    "a\nb",
    "é",
    "\udce9",
    "x" * 300,
    "{}",
    "%s",
    "a=b",
    "1,2,,",
    "None",
)
FITTING = {
    "family": ("lxmert", "uniter", "vilt", "resnet"),
    "model": ("lxmert", "uniter", "vilt", "resnet"),
    "task": ("vqa", "gqa", "nlvr2", "retrieval", "classification"),
    "tasks": ("vqa", "gqa"),
    "size": ("tiny",),
    "source": ("scenes:tiny", "scenes:huge", "scenes:"),
    "data": ("scenes:tiny", "scenes:huge", "scenes:"),
    "pattern": ("unstructured", "block:16x16", "2:4", "neuron+head", "block:0x0", "block:7x", "block:16x16@all"),
    "block": ("16x16", "neuron+head", "0x4", "axb"),
    "schedule": ("linear:10", "geometric:0.2", "levels:50,40", "linear:0", "levels:"),
    "sparsity": ("0.5", "0.9", "1", "0"),
    "controls": ("random", "shuffle", "none", "all"),
    "seeds": ("0", "0,1", "0,0", "1.5", "-1"),
    "levels": ("0.2", "0.5,0.7", "2", "a"),
    "criterion": ("magnitude", "gradient", "random"),
    "name": ("tickets", "vision", "paper-b", "overlap", "no-such-study", "lxmert"),
    "url": ("127.0.0.1:1", "nowhere", "http://[", "h:99999"),
    "port": ("0", "1", "70000"),
    "device": ("cpu", "cuda", "cuda:7", "tpu"),
    "provider": ("cpu", "cuda", "tensorrt"),
}
"""Words by the name of a parameter: some that fit, and some that nearly do."""

LIMIT = 4096
"""Bytes that a file may have where the disk is "full"."""


@dataclass(frozen=True)
class Try:
    """One call of the command line.

    Attributes:
        arguments: of ``vlcompress``.
        place: name of what is hostile about the environment; "" is nothing.
        damage: what happens to a file of the run before, by number; None leaves it whole.
    """

    arguments: tuple[str, ...]
    place: str = ""
    damage: int | None = None


@dataclass
class Outcome:
    """How a try ended: its exit code (negative: a signal), stderr, and what it left half-written."""

    code: int
    stderr: str
    left: list[str] = field(default_factory=list)

    def wrong(self) -> str:
        """Say what is wrong with it; "" where nothing is."""
        errors = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        if self.code not in (0, 2, 3, 130):
            return f"exit code {self.code}"
        # Python itself tells of an interruption that falls into a finalizer.
        if "Traceback" in self.stderr and not (self.code == INTERRUPTED and "Exception ignored in" in self.stderr):
            return "a traceback"
        if self.code in (2, 3) and (len(errors) != 1 or not self.stderr.rstrip("\n").endswith(errors[0])):
            helped = self.stderr.startswith("Usage: ")  # a group without a command prints its help
            return "" if helped else f"{len(errors)} lines of error"
        if self.code == 0 and errors:
            return "an error, and exit code 0"
        return f"left half-written: {', '.join(self.left)}" if self.left else ""


# ---- What is tried ----


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """List the commands that do something, with the words that call them."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from leaves(found, (*path, name))


def draw(number: int, seed: int, stage: Path) -> Try:
    """Draw a try from its number."""
    rng = random.Random(f"{seed} {number}")
    path, command = rng.choice(list(leaves(main)))
    arguments = list(path)
    for parameter in command.params:
        arguments += _drawn(rng, parameter, stage)
    if rng.random() < 0.05:
        arguments.insert(rng.randrange(len(arguments) + 1), rng.choice(["--bogus", "-x", "surplus", *WORDS]))
    place = rng.choice(list(PLACES)) if rng.random() < 0.4 else ""
    if place in APART and rng.random() < 0.7:  # they take seconds
        place = ""
    damage = rng.randrange(1 << 30) if rng.random() < 0.4 else None
    return Try(tuple(arguments), place, damage)


def _drawn(rng: random.Random, parameter: click.Parameter, stage: Path) -> list[str]:
    if isinstance(parameter, click.Argument):
        return [_value(rng, parameter, stage)] if rng.random() < 0.8 else []
    name = max(parameter.opts, key=len)
    if parameter.name == "home":
        return [name, str(stage / "runs")] if rng.random() < 0.8 else [name, _path(rng, stage)]
    if parameter.name == "size":
        return [name, "tiny" if rng.random() < 0.95 else rng.choice(WORDS)]
    if parameter.name == "port":
        return [name, rng.choice(FITTING["port"])]
    if rng.random() > 0.25:
        return []
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return [rng.choice([*parameter.opts, *parameter.secondary_opts])]
    return [name, _value(rng, parameter, stage)]


def _value(rng: random.Random, parameter: click.Parameter, stage: Path) -> str:
    kind = parameter.type
    pools: list[Sequence[str]] = [FITTING.get(parameter.name or "", ())] * 3
    if isinstance(kind, click.Choice):
        pools += [tuple(map(str, kind.choices))] * 4
    if isinstance(kind, click.Path) or parameter.name in ("run", "models", "model", "recipe", "folder", "source"):
        return _path(rng, stage) if rng.random() < 0.85 else rng.choice(WORDS)
    if kind in (click.INT, click.FLOAT) or isinstance(kind, click.IntRange | click.FloatRange):
        pools += [NUMBERS] * 6
    pools += [WORDS, NUMBERS]
    return rng.choice(rng.choice([pool for pool in pools if pool]))


def _path(rng: random.Random, stage: Path) -> str:
    """Draw a path: of the run, of nothing, or of something else."""
    run = next((stage / "runs").glob("lxmert*"))
    real = [run, run, run, *(run / name for name in ("onnx", "ticket", "compiled", "run.json", "onnx/model.onnx"))]
    odd = [*sorted((stage / "odd").iterdir()), stage / "missing", Path("/dev/null"), Path("/sys/x")]
    return str(rng.choice(real + odd))


# ---- Where it is tried ----


def _no_home() -> None:
    os.environ.pop("HOME", None)


def _home_read_only() -> None:
    os.environ["HOME"] = os.environ["XDG_CACHE_HOME"] = os.environ["VLCOMPRESS_HOME"] = "/proc/self"


def _disk_full() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))


def _narrow() -> None:
    os.environ["COLUMNS"] = "20"


def _closed_pipe() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)


PLACES: Mapping[str, Callable[[], None]] = {
    "no HOME": _no_home,
    "home read-only": _home_read_only,
    "disk full": _disk_full,
    "20 columns": _narrow,
    "closed pipe": _closed_pipe,
    "locale C": lambda: None,
    "python -O": lambda: None,
}
"""What is done in the process before; the last two take an interpreter of their own."""
APART = {
    "locale C": ([], {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "python -O": (["-O"], {}),
}


def prepare(stage: Path) -> None:
    """Make a tiny run with all that later commands take, and files of every odd kind."""
    home = ["--home", str(stage / "runs")]
    prune = ["prune", "--model", "lxmert", "--size", "tiny", "--steps", "1", "--seeds", "0", "--control", "none"]
    for arguments in ([*prune, "--pattern", "block:16x16", "--sparsity", "0.5"], ["compile"], ["export"]):
        errors = stage / "stderr"
        if _forked(Try((*arguments, *home)), stage, errors, patience=600.0):
            raise SystemExit(f"the run that all tries need was not made: {errors.read_text()}")
    odd = stage / "odd"
    odd.mkdir()
    (odd / "empty").write_bytes(b"")
    (odd / "noise").write_bytes(random.Random(0).randbytes(2000))
    (odd / "list.json").write_text("[1, 2]")
    (odd / "deep.json").write_text("[" * 100_000)
    (odd / "wrong.toml").write_text('[model]\nfamily = 3\n[pruning]\nsparsity = "much"\n')
    (odd / "huge.toml").write_text(f"[pruning]\nseeds = [{'9' * 5000}]\n")
    (odd / "latin.toml").write_bytes('[model]\nfamily = "lxm\u00e9rt"\n'.encode("latin-1"))
    (odd / "noise.onnx").write_bytes(random.Random(1).randbytes(500))
    (odd / "dangling").symlink_to(stage / "nowhere")
    (odd / "loop").symlink_to(odd / "loop")
    (odd / "folder").mkdir()
    (odd / "folder" / "run.json").write_text("{}")


def damaged(run: Path, number: int) -> None:
    """Cut, fill with noise, empty, remove, or change a value in one file of a run."""
    rng = random.Random(number)
    path = rng.choice(sorted(path for path in run.rglob("*") if path.is_file()))
    data = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.7:
        document = json.loads(data)
        key = rng.choice(sorted(document)) if isinstance(document, dict) and document else None
        if key is not None:
            document[key] = rng.choice([None, -1, "x", [], {}, 1e308])
            data = json.dumps(document).encode()
    else:
        data = rng.choice([data[: len(data) // 2], rng.randbytes(len(data) % 5000), b"", data + b"x"])
    path.unlink()  # a link to the stage's
    if rng.random() < 0.8:
        path.write_bytes(data)


def attempt(one: Try, stage: Path, patience: float) -> Outcome:
    """Do a try on a copy of the stage, in a process of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "stage"
        shutil.copytree(stage, folder, symlinks=True, copy_function=os.link)
        run = next((folder / "runs").glob("lxmert*"))
        if one.damage is not None:
            damaged(run, one.damage)
        here = Try(tuple(word.replace(str(stage), str(folder)) for word in one.arguments), one.place)
        errors = Path(temporary) / "stderr"
        errors.touch()
        code = _apart(here, folder, errors, patience) if one.place in APART else _forked(here, folder, errors, patience)
        left = [] if code < 0 else [str(path.relative_to(folder)) for path in half_written(folder)]
        return Outcome(code, errors.read_text(errors="replace"), left)


def half_written(folder: Path) -> Iterator[Path]:
    """List files under a temporary name (see `vlcompress.artefacts`)."""
    for path in folder.rglob(".*"):
        if path.name.count(".") > 1 or path.suffix in (".tmp", ".part"):
            yield path


def _forked(one: Try, folder: Path, errors: Path, patience: float) -> int:
    child = os.fork()
    if child:
        return _waited(child, patience)
    try:
        os.setsid()
        os.chdir(folder)
        with errors.open("wb") as file:
            os.dup2(file.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        os.dup2(1, 0)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        if one.place:
            PLACES[one.place]()
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        signal.setitimer(signal.ITIMER_REAL, patience)
        main(list(one.arguments), prog_name="vlcompress")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    os._exit(code)


def _waited(child: int, patience: float) -> int:
    """Wait for a process, and kill it where it does not end long after it was interrupted."""
    end = time.monotonic() + patience + 30
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGKILL


def _apart(one: Try, folder: Path, errors: Path, patience: float) -> int:
    flags, environment = APART[one.place]
    command = [sys.executable, *flags, "-m", "vlcompress", *one.arguments]
    paths = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    more = {**environment, "PYTHONPATH": paths, "XDG_CACHE_HOME": str(folder / "cache")}
    with errors.open("wb") as file, subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=file, stdin=subprocess.DEVNULL, env=os.environ | more,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            return process.wait(timeout=patience + 20)  # it imports everything first
        except subprocess.TimeoutExpired:  # what Ctrl-C does is seen in the other tries
            os.killpg(process.pid, signal.SIGKILL)
            return INTERRUPTED


def import_everything() -> None:
    """Load what commands load, once for all tries."""
    import importlib
    import pkgutil

    import vlcompress

    for name in ("recipe", "tickets", "sparse", "export", "bench", "report", "studies", "serve"):
        package = importlib.import_module(f"vlcompress.{name}")
        for found in pkgutil.walk_packages(getattr(package, "__path__", []), f"vlcompress.{name}."):
            if "ray" not in found.name:
                importlib.import_module(found.name)
    assert vlcompress
    assert COMMANDS


def fuzz(tries: Sequence[int], seed: int, patience: float) -> Iterator[tuple[int, Try, Outcome]]:
    """Do the tries of these numbers."""
    import_everything()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a shell starts in the background
    gc.freeze()
    with tempfile.TemporaryDirectory() as temporary:
        stage = Path(temporary) / "stage"
        stage.mkdir()
        prepare(stage)
        for number in tries:
            one = draw(number, seed, stage)
            yield number, one, attempt(one, stage, patience)


def run(arguments: Sequence[str] | None = None) -> int:
    """Fuzz as asked; the exit code is 1 where a try ended as it must not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first try: many can be done in pieces")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=1.5, help="seconds until a try is interrupted")
    parser.add_argument("--only", type=int, help="repeat the try of this number, and print what it printed")
    options = parser.parse_args(arguments)
    numbers = range(options.first, options.first + options.tries) if options.only is None else [options.only]
    codes: dict[int, int] = {}
    bad = 0
    for number, one, outcome in fuzz(numbers, options.seed, options.patience):
        codes[outcome.code] = codes.get(outcome.code, 0) + 1
        if wrong := outcome.wrong():
            bad += 1
            print(f"{number}: {wrong} [{one.place}, damage {one.damage}]: {ascii(' '.join(one.arguments))[:300]}")
            print("    " + "\n    ".join(ascii(line)[:200] for line in outcome.stderr.splitlines()[-4:]), flush=True)
        if options.only is not None:
            print(one, outcome.code, outcome.stderr, sep="\n")
    print(f"{len(numbers)} tries, exit codes {dict(sorted(codes.items()))}, {bad} ended as they must not")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(run())
