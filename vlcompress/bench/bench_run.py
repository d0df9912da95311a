"""The benchmark of a run: five forms of the same model side by side, with the accuracy of each."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlcompress.artefacts import dumps, read_json, write_file
from vlcompress.bench.harness import EFFORT, bench_models, measure
from vlcompress.bench.statistics import latency, paired_ratio
from vlcompress.bench.variants import Variant, bind_torch, make_onnx, make_torch, onnx_variant, torch_variant
from vlcompress.errors import VlcompressError
from vlcompress.export.export_run import export_dense
from vlcompress.models.base import Family
from vlcompress.models.registry import FAMILIES
from vlcompress.sparse.compile import compile_model, load_compiled, thread_count
from vlcompress.sparse.compile_run import block_of
from vlcompress.sparse.timing import Effort
from vlcompress.tasks.base import Task
from vlcompress.tickets.models import dense_model, samples, score_task, ticket_model
from vlcompress.tickets.run import Run
from vlcompress.tickets.ticket import Ticket, load_ticket
from vlcompress.tickets.workbench import Trained

DOCUMENT = "bench.json"
REFERENCES = ("dense", "onnx dense")
"""What speed-ups are ratios to: the model one starts from, and the same model exported without a ticket."""

CURVE_EFFORT = Effort(rounds=9, burst_s=0.05, warmup=2)
Say = Callable[[str], None]


def bench_run(
    run: Run, *, batches: Sequence[int] = (1, 32), threads: int = 1, effort: Effort = EFFORT, say: Say = print
) -> dict[str, Any]:
    """Measure dense, masked, compiled, ONNX dense and ONNX compiled, and write ``bench.json``.

    Args:
        run: a run that was compiled and exported.
        batches: batch sizes, filled with real samples.
        threads: threads of PyTorch and of ONNX Runtime.
        effort: how long to measure each batch size.
        say: told one line at each step.

    Returns:
        What :func:`bench_models` gives, with "accuracy" for each variant and "curve", the latency of every round.

    Raises:
        VlcompressError: not compiled or not exported yet.
        VerificationError: a variant computes something else; nothing is measured then.
    """
    ticket = load_ticket(run.ticket)
    task = score_task(run, ticket)
    say("exporting the dense model to compare with" if not (run.folder / "onnx-dense").is_dir() else "opening models")
    variants = _variants(run, ticket, task, threads)
    inputs = {batch: samples(task, batch)[0] for batch in batches}
    say(f"measuring {len(variants)} variants at batch {', '.join(map(str, batches))} with {threads} thread(s)")
    record = bench_models(variants, inputs, threads=threads, references=REFERENCES, effort=effort)
    say("scoring every variant on the task")
    accuracy = {variant.name: _accuracy(variant, task) for variant in variants}
    say("measuring the ticket of every round")
    curve = _curve(run, ticket, task, max(batches), threads)
    record |= {"command": "vlcompress bench", "accuracy": accuracy, "curve": curve}
    write_file(run.folder / DOCUMENT, dumps(record))
    return record


def _variants(run: Run, ticket: Ticket, task: Task, threads: int) -> list[Variant]:
    """Make the five variants; the ticket's files must be there."""
    files = {"compiled": run.folder / "compiled" / "weights.safetensors", "onnx": run.folder / "onnx" / "model.onnx"}
    for step, file in zip(("compile", "export"), files.values(), strict=True):
        if not file.is_file():
            raise VlcompressError(f"run '{run.folder}' has no '{file}': run `vlcompress {step}` first")
    family, dense = dense_model(run, ticket)
    _, masked = ticket_model(ticket)
    compiled = _load_compiled(run.folder)[1]
    (one,) = samples(task, 1)
    dense_file = run.training("dense") / "weights.safetensors"
    onnx_dense = export_dense(run, threads=threads)
    rows: list[tuple[str, nn.Module, str, Path, Callable[[], tuple[Family, nn.Module]]]] = [
        ("dense", dense, "dense", dense_file, partial(_load_dense, run.folder)),
        ("masked", masked, "masked", run.ticket / "weights.safetensors", partial(_load_masked, run.folder)),
        ("compiled", compiled, "masked", files["compiled"], partial(_load_compiled, run.folder)),
    ]
    torch_variants = [
        torch_variant(name, family, model, truth=truth, file=file, make=partial(make_torch, load, one, threads))
        for name, model, truth, file, load in rows
    ]
    onnx_variants = [
        _onnx(name, file, truth, one, threads)
        for name, file, truth in (("onnx dense", onnx_dense, "dense"), ("onnx compiled", files["onnx"], "masked"))
    ]
    return torch_variants + onnx_variants


def _onnx(name: str, file: Path, truth: str, one: Any, threads: int) -> Variant:
    """Open a file with the settings that its manifest measured to be best."""
    advised = "SkipLayerNormFusion" in read_json(file.parent / "manifest.json")["speed"]["disabled_optimizers"]
    make = partial(make_onnx, file, one, threads, advised)
    return onnx_variant(name, file, truth=truth, threads=threads, disable_skip_layer_norm=advised, make=make)


def _load_dense(folder: Path) -> tuple[Family, nn.Module]:
    return dense_model(Run(folder), load_ticket(folder / "ticket"))


def _load_masked(folder: Path) -> tuple[Family, nn.Module]:
    return ticket_model(load_ticket(folder / "ticket"))


def _load_compiled(folder: Path) -> tuple[Family, nn.Module]:
    compiled = load_compiled(folder / "compiled", {name: family() for name, family in FAMILIES.items()})
    return compiled.family, compiled.model


def _accuracy(variant: Variant, task: Task, batch: int = 256) -> dict[str, Any]:
    """Score a variant in its own runtime on every example."""
    found = task.measure(lambda inputs: torch.from_numpy(variant.bind(inputs)()), batch=batch)
    return {"score": found.mean, "figures": dict(found.figures), "examples": len(task)}


def _curve(run: Run, ticket: Ticket, task: Task, batch: int, threads: int) -> list[dict[str, Any]]:
    """Compile the ticket of every round and measure it against dense, all side by side."""
    (inputs,) = samples(task, batch)
    block = block_of(ticket.document["recipe"]["pruning"]["pattern"])
    family, dense = dense_model(run, ticket)
    cells = [cell for cell in run.document()["cells"] if cell["arm"] == "ticket"]
    calls = {"dense": bind_torch(family, dense, inputs)}
    for cell in cells:
        trained = Trained(run.training("ticket", cell["round"]))
        _, model = dense_model(run, ticket)
        model.load_state_dict(trained.weights())
        compiled, _ = compile_model(family, model, dict(trained.masks()), block, inputs=inputs, threads=threads)
        calls[str(cell["round"])] = bind_torch(family, compiled, inputs)
    with thread_count(threads):
        bursts = measure(calls, CURVE_EFFORT)
    return [
        {
            "round": cell["round"],
            "sparsity": cell["sparsity"],
            "batch": batch,
            "p50_ms": latency(bursts[str(cell["round"])], batch).p50_ms,
            "speedup": asdict(paired_ratio(bursts["dense"], bursts[str(cell["round"])])),
        }
        for cell in cells
    ]
