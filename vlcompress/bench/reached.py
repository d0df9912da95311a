"""What a ticket with a target has come to: its exported file beside dense's, measured on this machine."""

from vlcompress.bench.environment import environment
from vlcompress.bench.harness import OPENINGS, measure_openings
from vlcompress.bench.statistics import latency, paired_ratio
from vlcompress.errors import VlcompressError
from vlcompress.export.export_run import artefact_folder, export_dense, export_run
from vlcompress.export.manifest import load_manifest
from vlcompress.export.onnx import Style
from vlcompress.export.runtime import open_exported
from vlcompress.export.verify import feed
from vlcompress.results import ReachedResult, load, save
from vlcompress.sparse.compile_run import compile_run
from vlcompress.sparse.timing import Call, Effort
from vlcompress.tickets.experiment import Say
from vlcompress.tickets.models import samples, score_task
from vlcompress.tickets.run import Run
from vlcompress.tickets.ticket import load_ticket

DOCUMENT = "reached.json"
SECONDS = 40.0
EFFORT = Effort(rounds=9, burst_s=0.1, warmup=1)


def reach(run: Run, say: Say) -> ReachedResult:
    """Compile and export a run's ticket for what its recipe's target names, and measure it; or find that done.

    Args:
        run: a finished run whose recipe has a target.
        say: told one line at each step.

    Raises:
        VlcompressError: no target, or an export that is not possible.
        VerificationError: an export that answers otherwise than PyTorch.
    """
    target = run.recipe().pruning.target
    if not target:
        raise VlcompressError(f"run '{run.folder}' has no target: give `prune` --speedup, or see `vlcompress bench`")
    if (run.folder / DOCUMENT).is_file():
        return load(ReachedResult, run.folder / DOCUMENT)
    say("compiling the ticket, exporting it and dense")
    compile_run(run, batch=target.batch, threads=target.threads)
    export_run(run, batch=target.batch, threads=target.threads, say=say)
    dense = export_dense(run, batch=target.batch, threads=target.threads)
    files = {"dense": dense, "ticket": artefact_folder(run, Style()) / "model.onnx"}
    (inputs,) = samples(score_task(run, load_ticket(run.ticket)), target.batch)

    def opened(name: str) -> Call:
        session, _ = open_exported(files[name], "cpu", threads=target.threads, say=say)
        arrays = feed(session, inputs)
        return lambda: session.run(None, arrays)

    rounds = measure_openings({name: [opened(name) for _ in range(OPENINGS)] for name in files}, EFFORT, SECONDS)
    result = ReachedResult(
        environment=environment(),
        target=str(target),
        batch=target.batch,
        threads=target.threads,
        dense=latency(rounds["dense"], target.batch),
        ticket=latency(rounds["ticket"], target.batch),
        speedup=paired_ratio(rounds["dense"], rounds["ticket"]),
        bytes={name: load_manifest(file.parent).bytes.model for name, file in files.items()},
    )
    save(result, run.folder / DOCUMENT)
    return result
