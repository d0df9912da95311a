"""The benchmark of a run: the forms of the same model side by side, with the accuracy of each."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlcompress.artefacts import read_json
from vlcompress.bench.harness import EFFORT, bench_models
from vlcompress.bench.statistics import latency, paired_ratio
from vlcompress.bench.variants import Variant, bind_torch, make_onnx, make_torch, onnx_variant, torch_variant
from vlcompress.devices import CPU, Compute, placed, precision
from vlcompress.errors import VlcompressError
from vlcompress.export.export_run import compiled_of, export_dense
from vlcompress.export.parity import BOUNDS, Bound, bound_in, looser
from vlcompress.export.runtime import provider_for
from vlcompress.models.base import Family
from vlcompress.results import Accuracy, BenchResult, CurvePoint, save
from vlcompress.sparse.compile import compile_model, thread_count
from vlcompress.sparse.runner import fast_answer
from vlcompress.sparse.timing import Effort, interleave
from vlcompress.tasks.base import Task
from vlcompress.tickets.models import dense_model, samples, score_task, ticket_model
from vlcompress.tickets.run import Run
from vlcompress.tickets.store import TrainingResult
from vlcompress.tickets.ticket import Ticket, load_ticket, weights_file

DOCUMENT = "bench.json"
REFERENCES = ("dense", "onnx dense")
"""What speed-ups are ratios to: the model one starts from, and the same model exported without a ticket."""

INT8 = "onnx int8"
"""The file that `vlcompress export --quantize int8` has put beside the float32 one."""

CURVE_EFFORT = Effort(rounds=9, burst_s=0.05, warmup=2)
Say = Callable[[str], None]


def bench_run(
    run: Run,
    *,
    batches: Sequence[int] = (1, 32),
    threads: int = 1,
    compute: Compute = CPU,
    provider: str | None = None,
    effort: Effort = EFFORT,
    say: Say = print,
) -> BenchResult:
    """Measure dense, masked, compiled, ONNX dense and compiled, and in int8 if there is one, and write ``bench.json``.

    Args:
        run: a run that was compiled and exported.
        batches: batch sizes, filled with real samples.
        threads: threads of PyTorch and of ONNX Runtime.
        compute: where the PyTorch variants run, and in what.
        provider: where the exported files run, spelled out; None takes the one that they were exported for.
        effort: how long to measure each batch size.
        say: told one line at each step.

    Returns:
        What ``bench.json`` holds.

    Raises:
        VlcompressError: not compiled or not exported yet, or no such provider.
        VerificationError: a variant computes something else; nothing is measured then.
    """
    _check_made(run)
    chosen = provider_for(provider, read_json(run.folder / "onnx" / "manifest.json"), say)
    ticket = load_ticket(run.ticket)
    task = score_task(run, ticket)
    say("exporting the dense model to compare with" if not (run.folder / "onnx-dense").is_dir() else "opening models")
    with precision(compute):
        variants = _variants(run, ticket, task, threads, compute, chosen, say)
        inputs = {batch: samples(task, batch)[0] for batch in batches}
        say(f"measuring {len(variants)} variants at batch {', '.join(map(str, batches))} with {threads} thread(s)")
        record = bench_models(
            variants, inputs, threads=threads, references=REFERENCES, effort=effort, bound=bound_in(compute)
        )
        say("scoring every variant on the task")
        accuracy = {variant.name: _accuracy(variant, task) for variant in variants}
        say("measuring the ticket of every round")
        curve = _curve(run, ticket, task, max(batches), threads, compute)
    result = replace(
        record,
        command="vlcompress bench",
        computed_on=compute.describe(),
        provider=chosen,
        accuracy=accuracy,
        curve=tuple(curve),
    )
    save(result, run.folder / DOCUMENT)
    return result


def _check_made(run: Run) -> None:
    files = {"compiled": run.folder / "compiled" / "weights.safetensors", "onnx": run.folder / "onnx" / "model.onnx"}
    for step, file in zip(("compile", "export"), files.values(), strict=True):
        if not file.is_file():
            raise VlcompressError(f"run '{run.folder}' has no '{file}': run `vlcompress {step}` first")


def _variants(
    run: Run, ticket: Ticket, task: Task, threads: int, compute: Compute, provider: str, say: Say
) -> list[Variant]:
    """Make the variants; the ticket's files must be there."""
    (one,) = samples(task, 1)
    files = {
        "dense": run.training("dense") / "weights.safetensors",
        "masked": weights_file(run.ticket),
        "compiled": run.folder / "compiled" / "weights.safetensors",
    }
    loaders = {"dense": _load_dense, "masked": _load_masked, "compiled": _load_compiled}
    torch_variants = []
    for name, load in loaders.items():
        family, model = load(run.folder, compute, say)
        answer, truth = fast_answer(family, model, ticket.head, compute), "dense" if name == "dense" else "masked"
        # In another process memory is counted as the system does, which sees nothing of a GPU's.
        make = None if compute.on_gpu else partial(make_torch, partial(load, run.folder, compute), one, threads)
        torch_variants.append(torch_variant(name, model, answer, truth=truth, file=files[name], make=make))
    onnx_files = {"onnx dense": (export_dense(run, threads=threads), "dense")}
    onnx_files["onnx compiled"] = run.folder / "onnx" / "model.onnx", "masked"
    if (run.folder / "onnx-int8" / "model.onnx").is_file():
        onnx_files[INT8] = run.folder / "onnx-int8" / "model.onnx", "masked"
    onnx_variants = [_onnx(name, *said, one, threads, provider, bound_in(compute)) for name, said in onnx_files.items()]
    return torch_variants + onnx_variants


def _onnx(name: str, file: Path, truth: str, one: Any, threads: int, provider: str, bound: Bound) -> Variant:
    make = partial(make_onnx, file, one, threads) if provider == "cpu" else None
    allowed = looser(BOUNDS["int8"], bound) if name == INT8 else bound
    return onnx_variant(name, file, truth=truth, threads=threads, provider=provider, make=make, bound=allowed)


def _silent(line: str) -> None:
    """Say nothing: what there is to say about a model is said once, in the first process."""


def _load_dense(folder: Path, compute: Compute, say: Say = _silent) -> tuple[Family, nn.Module]:
    family, model = dense_model(Run(folder), load_ticket(folder / "ticket"))
    return family, placed(model, compute)


def _load_masked(folder: Path, compute: Compute, say: Say = _silent) -> tuple[Family, nn.Module]:
    family, model = ticket_model(load_ticket(folder / "ticket"))
    return family, placed(model, compute)


def _load_compiled(folder: Path, compute: Compute, say: Say = _silent) -> tuple[Family, nn.Module]:
    compiled = compiled_of(Run(folder), compute, say)
    return compiled.family, compiled.model


def _accuracy(variant: Variant, task: Task, batch: int = 256) -> Accuracy:
    """Score a variant in its own runtime on every example."""
    found = task.measure(lambda inputs: torch.from_numpy(variant.bind(inputs)()), batch=batch)
    return Accuracy(found.mean, len(task), dict(found.figures))


def _curve(run: Run, ticket: Ticket, task: Task, batch: int, threads: int, compute: Compute) -> list[CurvePoint]:
    """Compile the ticket of every round and measure it against dense, all side by side."""
    (inputs,) = samples(task, batch)
    block = ticket.recipe.pruning.pattern.storage
    family, dense = dense_model(run, ticket)
    cells = run.result().arm("ticket")
    calls = {"dense": bind_torch(dense, fast_answer(family, dense, ticket.head, compute), inputs)}
    for cell in cells:
        trained = TrainingResult(run.training("ticket", cell.round))
        _, model = dense_model(run, ticket)
        model.load_state_dict(trained.weights())
        compiled, _ = compile_model(
            family, model, dict(trained.masks()), block, inputs=inputs, threads=threads, compute=compute
        )
        answer = fast_answer(family, compiled, ticket.head, compute)
        calls[str(cell.round)] = bind_torch(compiled, answer, inputs)
    with thread_count(threads):
        bursts = interleave(calls, CURVE_EFFORT)
    return [
        CurvePoint(
            round=cell.round,
            sparsity=cell.sparsity,
            batch=batch,
            p50_ms=latency(bursts[str(cell.round)], batch).p50_ms,
            speedup=paired_ratio(bursts["dense"], bursts[str(cell.round)]),
        )
        for cell in cells
    ]
