"""Checks of the machine and the installation: what `vlcompress doctor` says.

Nothing heavy is imported at the top, since the checks must also run where torch or ONNX Runtime is broken.
"""

import importlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import vlcompress
from vlcompress.bench.environment import cores, installed, load_average

Status = Literal["ok", "warn", "fail"]
Range = tuple[tuple[int, ...], tuple[int, ...]]

PACKAGE = Path(vlcompress.__file__).parent
PYTHON: Range = ((3, 11), (3, 14))
TORCH: Range = ((2, 11), (3,))
TRANSFORMERS: Range = ((5, 17), (6,))
"""Lowest version, and the first one that is too high: as in pyproject.toml (a test compares them)."""

LOW_DISK_GB, FULL_DISK_GB = 5.0, 0.5
"""Runs of the built-in data take some hundred MB; one of the published size keeps several checkpoints of 0.7 GB."""


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        status: "ok"; "warn" where something works less well; "fail" where commands will not work.
        what: what was found.
        fix: what to do about it; "" where all is well.
    """

    name: str
    status: Status
    what: str
    fix: str = ""


def checkup(home: Path) -> list[Check]:
    """Look at everything the commands need; changes nothing.

    Args:
        home: folder for runs, existing or not.
    """
    return [
        in_range("python", ".".join(map(str, sys.version_info[:3])), PYTHON, "install Python 3.11, 3.12 or 3.13"),
        _package("torch", TORCH),
        _package("transformers", TRANSFORMERS),
        _guarded("gpu", _gpu),
        _guarded("devices", _devices),
        _guarded("triton", _triton),
        onnx_distributions(installed("onnxruntime"), installed("onnxruntime-gpu")),
        _guarded("onnxruntime session", _onnx_session),
        _guarded("providers", _providers),
        weights(PACKAGE / "weights"),
        _guarded("threads", _threads),
        writable(home),
        disk(home, shutil.disk_usage(_existing(home)).free),
    ]


def checkup_text(checks: list[Check]) -> str:
    """Lay out the findings, a line each, with the fix under those that need one."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.status:<4}  {check.name:<{width}}  {check.what}")
        if check.fix:
            lines.append(f"{'':<4}  {'':<{width}}  fix: {check.fix}")
    counts = {status: sum(check.status == status for check in checks) for status in ("ok", "warn", "fail")}
    return "\n".join([*lines, f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed"])


def in_range(name: str, found: str, allowed: Range, fix: str) -> Check:
    """Compare a version ("2.13.0+cpu") with its lowest and its first too high one."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", found.partition("+")[0])[:3])
    low, high = (".".join(map(str, bound)) for bound in allowed)
    if allowed[0] <= numbers < allowed[1]:
        return Check(name, "ok", found)
    return Check(name, "fail", f"{found} is not in the range from {low} up to, not including, {high}", fix)


def onnx_distributions(cpu: str | None, gpu: str | None) -> Check:
    """Judge which of the two ONNX Runtime distributions are installed (versions; None where one is not).

    Both write the same Python package, and the one installed last wins in silence.
    """
    name = "onnxruntime"
    if cpu and gpu:
        again = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'vlcompress[gpu]' (or [cpu])"
        return Check(
            name, "fail", f"both onnxruntime {cpu} and onnxruntime-gpu {gpu}: they overwrite each other", again
        )
    if not (cpu or gpu):
        return Check(
            name, "warn", "not installed: export and bench need it", "pip install 'vlcompress[cpu]' (or [gpu])"
        )
    return Check(name, "ok", f"onnxruntime {cpu}" if cpu else f"onnxruntime-gpu {gpu}")


def weights(path: Path) -> Check:
    """Check that the built-in pre-trained weights came with the package."""
    names = sorted(file.stem for file in path.glob("*.safetensors"))
    if names:
        return Check("built-in weights", "ok", ", ".join(names))
    fix = "reinstall the package, or make them with `vlcompress pretrain`, or prune with --checkpoint"
    return Check("built-in weights", "fail", "none: `vlcompress prune` with its defaults cannot start", fix)


def writable(home: Path) -> Check:
    """Check that runs can be written, by writing: permissions alone do not tell a read-only file system."""
    try:
        with tempfile.TemporaryFile(dir=_existing(home)):
            return Check("home", "ok", f"'{home}' can be written")
    except OSError as error:
        return Check("home", "fail", f"'{home}' cannot be written: {error.strerror}", "give another folder with --home")


def disk(home: Path, free: int) -> Check:
    """Judge the free disk space, in bytes."""
    gb = free / 1e9
    found = f"{gb:.1f} GB free for '{home}'"
    fix = "free some space, or give another folder with --home"
    if gb < FULL_DISK_GB:
        return Check("disk", "fail", found, fix)
    return Check("disk", "warn" if gb < LOW_DISK_GB else "ok", found, fix if gb < LOW_DISK_GB else "")


def threads_check(threads: int, cores: int, load: float | None) -> Check:
    """Judge torch's threads and the machine's load against the cores that this process may use."""
    found = f"torch uses {threads} of {cores} cores" + ("" if load is None else f", load average {load:.1f}")
    if threads > cores:
        return Check("threads", "warn", found, f"set OMP_NUM_THREADS={cores}: more threads than cores slow each other")
    if load is not None and load > cores:
        return Check("threads", "warn", found, "wait for other programs to end before you measure speed")
    return Check("threads", "ok", found)


def session_check(providers: list[str], gpu: bool) -> Check:
    """Judge the providers of a real ONNX Runtime session, on a machine with or without a GPU."""
    found = ", ".join(name for name in providers if name != "AzureExecutionProvider")  # that one calls a remote server
    if gpu and "CUDAExecutionProvider" not in providers:
        fix = "for ONNX on the GPU: pip uninstall -y onnxruntime && pip install 'vlcompress[gpu]'"
        return Check("onnxruntime session", "warn", f"runs on {found} only, though there is a GPU", fix)
    return Check("onnxruntime session", "ok", f"runs on {found}")


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    """Turn whatever a broken package raises into a finding."""
    try:
        return look()
    except ModuleNotFoundError as error:
        return Check(name, "warn", f"not looked at: {error.name} is not installed")
    except Exception as error:  # a broken binary may raise anything; the doctor must go on
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        return Check(name, "fail", said, "reinstall that package in a fresh virtual environment")


def _package(name: str, allowed: Range) -> Check:
    """Import a package that everything needs, and judge its version."""
    fix = f"pip install '{name}>={'.'.join(map(str, allowed[0]))},<{'.'.join(map(str, allowed[1]))}'"
    try:
        found = str(importlib.import_module(name).__version__)
    except ModuleNotFoundError:
        return Check(name, "fail", "not installed", fix)
    except Exception as error:  # a broken binary may raise anything; the doctor must go on
        return Check(name, "fail", f"cannot be imported: {error}".splitlines()[0], fix)
    return in_range(name, found, allowed, fix)


def _gpu() -> Check:
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        return Check("gpu", "ok", f"{torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}")
    return Check("gpu", "ok", "none seen by torch: everything runs on the CPU")


def _devices() -> Check:
    """List what --device and --dtype may be here."""
    found = importlib.import_module("vlcompress.devices").usable()
    return Check("devices", "ok", "; ".join(f"{device}: {', '.join(dtypes)}" for device, dtypes in found.items()))


def _providers() -> Check:
    """List what --provider may be here."""
    return Check("providers", "ok", ", ".join(importlib.import_module("vlcompress.export.runtime").available()))


def _triton() -> Check:
    found = installed("triton")
    if found:
        return Check("triton", "ok", found)
    if importlib.import_module("torch").cuda.is_available():
        return Check(
            "triton", "warn", "not installed: block-sparse GPU kernels are off", "pip install 'vlcompress[gpu]'"
        )
    return Check("triton", "ok", "not installed, and not needed without a GPU")


def _onnx_session() -> Check:
    """Open and run a model of one node: a provider can be listed and yet fail to load."""
    ort: Any = importlib.import_module("onnxruntime")
    session = ort.InferenceSession(_identity_model(), providers=ort.get_available_providers())
    session.run(None, {"x": importlib.import_module("numpy").zeros((1,), "float32")})
    torch = importlib.import_module("torch")
    return session_check(list(session.get_providers()), bool(torch.cuda.is_available()))


def _identity_model() -> bytes:
    onnx: Any = importlib.import_module("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    x, y = (helper.make_tensor_value_info(name, kind, [1]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "doctor", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def _threads() -> Check:
    return threads_check(importlib.import_module("torch").get_num_threads(), cores(), load_average())


def _existing(path: Path) -> Path:
    """Find the nearest folder above that exists."""
    path = path.absolute()
    return next(parent for parent in (path, *path.parents) if parent.exists())
