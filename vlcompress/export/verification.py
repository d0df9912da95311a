"""Check a copied folder by itself: without its run, its data and torch, by the samples that lie in it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from vlcompress.artefacts import unseal
from vlcompress.errors import VlcompressError
from vlcompress.export.parity import Parity, Precision
from vlcompress.export.runtime import open_exported
from vlcompress.export.samples import FILE, check_samples, read_samples
from vlcompress.results import absent

STORED = "stored samples"
"""What the record of such a comparison is called in "parity"."""


@dataclass(frozen=True)
class TaskScore:
    """Scores on the task, in [0, 1]: the file's, the float32 model's, and what the file loses."""

    file: float
    fp32: float
    drop: float


@dataclass(frozen=True, kw_only=True)
class VerifyResult:
    """What a check of an exported file found.

    Attributes:
        file: its path.
        provider: that it ran on, spelled out.
        computed_on: where the PyTorch model ran, and in what; not there for a folder by itself.
        parity: by kind of input, or of `STORED` alone.
        task_score: in lower precision.
        placement: off the CPU, the nodes that each provider took, by kind of operator.
    """

    file: str
    precision: Precision
    provider: str
    computed_on: Mapping[str, str] | None = absent()
    parity: Mapping[str, Parity]
    task_score: TaskScore | None = None
    placement: Mapping[str, Mapping[str, int]] | None = absent()


def has_truth(file: Path, run: Path | None, say: Callable[[str], None] = print) -> bool:
    """Tell whether a file can be compared with its PyTorch model, by `vlcompress.export.export_run.verify_file`.

    Args:
        file: model.onnx of an exported artefact.
        run: its run, where that was named: then nothing else will do.
        say: told where only torch is missing.
    """
    if run is not None:
        return True
    if not (file.resolve().parent.parent / "compiled" / "plan.json").is_file():
        return False
    if find_spec("torch") is None:
        say("torch is not installed: the file is compared with its stored samples, not with its PyTorch model")
        return False
    return True


def verify_folder(
    file: Path, *, threads: int = 1, provider: str | None = None, say: Callable[[str], None] = print
) -> VerifyResult:
    """Check a folder by itself: the hashes of its files, and its answers to the samples that lie in it.

    Args:
        file: model.onnx of an exported artefact.
        threads: threads of ONNX Runtime.
        provider: where the file runs, spelled out; None takes the one that it was exported for.
        say: told where that is not there.

    Raises:
        VlcompressError: no manifest, an altered file, no samples.
        VerificationError: the file answers otherwise than where it was exported.
    """
    if not file.is_file():
        raise VlcompressError(f"no ONNX model at '{file}': give a file that `vlcompress export` wrote, or its folder")
    manifest, samples = unseal(file.parent, "manifest.json"), read_samples(file.parent)
    if samples is None:
        raise VlcompressError(
            f"'{file.parent}' has no {FILE}, it was exported before samples were kept: give its run with --run, or "
            "export it again"
        )
    session, chosen = open_exported(file, provider, threads=threads, say=say)
    found = check_samples(
        samples, lambda inputs: session.run(["logits"], dict(inputs))[0], manifest["precision"], chosen
    )
    return VerifyResult(file=str(file), precision=manifest["precision"], provider=chosen, parity={STORED: found})
