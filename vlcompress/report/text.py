"""Results as plain text for the terminal."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from vlcompress.artefacts import Json
from vlcompress.bench.environment import cores
from vlcompress.devices import cpu_model, spelt
from vlcompress.export.container import ContainerManifest
from vlcompress.export.manifest import ExportManifest, LayerBytes, NativeSpeed
from vlcompress.export.model_repository import TritonManifest
from vlcompress.export.predict import Prediction
from vlcompress.models.registry import FAMILIES
from vlcompress.pruning.schedule import levels
from vlcompress.pruning.target import Target
from vlcompress.recipe import Recipe
from vlcompress.report.sentences import non_inferior
from vlcompress.report.table import Table, terminal
from vlcompress.report.table import markdown as as_markdown
from vlcompress.report.verification import task_line
from vlcompress.results import (
    LEVELS,
    Accuracy,
    ArmResult,
    BatchResult,
    BenchResult,
    ReachedResult,
    RunResult,
    VariantResult,
    Verdict,
    nothing_learned,
)
from vlcompress.sparse.choice import LayerChoice
from vlcompress.sparse.plan import CompilePlan, LayerPlan
from vlcompress.tasks.support_matrix import LEGEND, rows
from vlcompress.tickets.imp import count_trainings
from vlcompress.tickets.run import Run

_UNMEASURED = (
    "speed and size: not measured yet (a mask alone makes nothing faster); "
    "run `vlcompress compile`, `export` and `bench`",
)


def run_text(run: Run, reached: ReachedResult | None = None) -> str:
    """Say what a run found: a row for each arm and level, the verdict on the ticket, and what a target came to."""
    result = run.result()
    header = ("arm", "sparsity %", "score", "of dense %", "strict", "matching", "relaxed (99 %)")
    ticket, seeds = result.ticket, len(result.ticket.scores)
    passing = [one.sparsity for one in result.arm("ticket") if one.verdict and one.verdict["relaxed"].outcome == "pass"]
    best = f"{100 * max(passing):.1f} %" if passing else "no level"
    assert ticket.verdict is not None
    return "\n".join(
        [
            terminal(Table("", header, tuple(_arm_row(arm) for arm in result.cells))),
            "",
            f"score: {result.metric}, {result.data.examples} examples, "
            + ("a single seed" if seeds == 1 else f"mean of {seeds} seeds"),
            *_other_metrics(result),
            *computed_text(result.computed_on),
            f"sparsest ticket that passes relaxed: {best}; the ticket at {100 * ticket.sparsity:.1f} %: "
            f"{ticket.verdict['relaxed'].outcome}",
            *_hint(passing, ticket),
            *filter(None, [non_inferior(result.cells)]),
            *_nothing_learned(ticket.verdict),
            f"run: {run.folder}",
            *(_UNMEASURED if reached is None else reached_text(ticket.verdict, reached, run.recipe().pruning.target)),
        ]
    )


def reached_text(verdict: Verdict, reached: ReachedResult, target: Target) -> list[str]:
    """Say what a ticket with a target has come to: what was measured, and in one sentence what it is worth."""
    speed, size = reached.speedup, reached.bytes
    threads = "one thread" if reached.threads == 1 else f"{reached.threads} threads"
    return [
        f"exported and measured beside dense: {reached.ticket.p50_ms:.3g} against {reached.dense.p50_ms:.3g} ms "
        f"({speed.value:.2f} times, 95 % interval {speed.low:.2f} to {speed.high:.2f}), "
        f"{size['ticket'] / 1e6:.1f} against {size['dense'] / 1e6:.1f} MB; asked for: {target}"
        f"{_missed(reached, target)}",
        f"{speed.value:.1f} times as fast as dense on {_where(reached.environment)} (ONNX Runtime, batch "
        f"{reached.batch}, {threads}), {100 * verdict.ticket:.1f} against {100 * verdict.dense:.1f}, "
        f"{verdict['relaxed'].outcome}",
    ]


def _missed(reached: ReachedResult, target: Target) -> str:
    """Say by how much a speed was missed, where that is more than 5 %, and how busy the machine was."""
    off = abs(reached.speedup.value / target.value - 1) if target.kind == "speedup" else 0.0
    load = reached.environment.get("load_average")
    return f", missed by {off:.0%} at a load of {load}: prices and speeds take a quiet machine" if off > 0.05 else ""


def _where(measured: Json) -> str:
    """Name the machine of a measurement: "this machine", or what another one was."""
    if measured.get("cpu") == cpu_model() and measured.get("cores") == cores():
        return "this machine"
    return f"another machine, where it was measured ({measured.get('cpu')}, {measured.get('cores')} cores)"


def computed_text(computed_on: Mapping[str, str] | None) -> list[str]:
    """Say where something was trained and in what, unless that is float32 on the CPU."""
    return [f"trained on {spelt(computed_on)}"] if computed_on else []


def _other_metrics(result: RunResult) -> list[str]:
    """Say the benchmark's other metrics, of the dense model and of the ticket."""
    pairs = ((name, before, result.ticket.figures[name]) for name, before in result.cells[0].figures.items())
    told = ", ".join(f"{name} {100 * mean(before):.2f} → {100 * mean(after):.2f}" for name, before, after in pairs)
    return [f"beside it, dense → ticket: {told}"] if told else []


def _hint(passing: Sequence[float], ticket: ArmResult) -> list[str]:
    """Say how to get the ticket that passes where the last one does not: its trainings are there."""
    if not passing or max(passing) >= ticket.sparsity:
        return []
    return [
        f"for the one that passes: the same command with --sparsity {max(passing):.3g} (its rounds are trained already)"
    ]


def _nothing_learned(verdict: Verdict) -> list[str]:
    if verdict["relaxed"].outcome != "no verdict" or verdict.blind is None:
        return []
    return [nothing_learned(verdict.dense, verdict.blind)]


def dry_run_text(recipe: Recipe, name: str) -> str:
    """Say what a recipe would train, for a run of this name."""
    pruning = recipe.pruning
    plan = levels(pruning.schedule, pruning.sparsity, pruning.rounds or None)
    return "\n".join(
        [
            f"run {name}: {count_trainings(recipe)} trainings",
            f"{_steps_of(recipe, plan)} ({pruning.pattern}, {pruning.schedule}{_not_trained(pruning.weights)})",
            f"controls: {', '.join(pruning.controls) or 'none'}; seeds: {', '.join(map(str, pruning.seeds))}",
        ]
    )


def _not_trained(weights: str) -> str:
    return "" if weights == "rewound" else f"; what stays is {weights} and not trained again"


def _arm_row(arm: ArmResult) -> tuple[str, ...]:
    start = (arm.arm, f"{100 * arm.sparsity:.1f}", f"{100 * arm.score:.2f}")
    if arm.verdict is None:
        return (*start, "100.0", "", "", "")
    of_dense = f"{100 * arm.score / arm.verdict.dense:.1f}"
    return (*start, of_dense, *(arm.verdict[name].outcome for name in LEVELS))


def tasks_text(record: dict[str, Any], *, markdown: bool = False) -> str:
    """Lay out the table of families and tasks, as text or as Markdown."""
    header = ("task", *FAMILIES, "metric")
    text_columns = tuple(range(len(header))) if markdown else (0,)
    table = Table("", header, tuple(map(tuple, rows(record, markdown=markdown))), text_columns)
    if not markdown:
        return f"{terminal(table)}\n\n{LEGEND}"
    ticks = LEGEND.replace("with p: its", "ticks: its").replace("f: files", "files").replace("m: the", "the")
    return f"{as_markdown(table)}\n\n{ticks}"


def prediction_text(found: Prediction) -> str:
    """Say what was predicted, and its score where the answers are published."""
    said = f"{found.examples} examples of {found.task} {found.split}: {found.file}"
    if found.score is None:
        return f"{said}\nits answers are not published: hand the file in to learn the score"
    figures = "".join(f", {name} {100 * value:.2f}" for name, value in (found.figures or {}).items())
    return f"{said}\n{found.metric} {100 * found.score:.2f}{figures}"


def plan_text(folder: Path, plan: CompilePlan, *, explain: bool = False) -> str:
    """Say how a ticket was compiled: a row for each kind of layer, and what was removed.

    If asked, a row for each layer, and the reason why it runs so.
    """
    kinds: dict[str, list[LayerPlan]] = {}
    for layer in plan.layers:
        name = layer.name.removesuffix(".weight")
        kinds.setdefault(name if explain else re.sub(r"\.\d+(?=\.)", ".*", name), []).append(layer)
    rows = tuple(_kind_row(kind, layers) for kind, layers in kinds.items())
    sparse = sum(layer.choice.picked != "dense" for layer in plan.layers)
    removed = {
        kind: sum(units.units - len(units.kept) for units in plan.kept if units.kind == kind)
        for kind in ("head", "neuron")
    }
    gone = sum(not units.kept for units in plan.kept)
    stored = sum(layer.nbytes for layer in plan.layers)
    dense = sum(4 * layer.shape[0] * layer.shape[1] for layer in plan.layers)
    return "\n".join(
        [
            terminal(Table("", ("layers", "", "sparsity %", "M", "dense µs", "sparse µs", "runs"), rows)),
            "",
            f"{sparse} of {len(plan.layers)} layers run sparse, the others dense, as measured on "
            f"{plan.computed_on['name']} in {plan.computed_on['dtype']} "
            f"with {plan.threads} thread(s); --explain says why, layer by layer",
            f"removed for good: {removed['head']} attention heads, {removed['neuron']} feed-forward neurons"
            + (f", among them all of {gone} layer{'s' if gone > 1 else ''}, which are gone" if gone else ""),
            f"pruned layers on disk: {_mb(stored)}, written dense {_mb(dense)}; "
            f"largest difference from the masked model {plan.max_abs_error:.1e}",
            *(_explained({layer.name: layer.choice for layer in plan.layers}) if explain else ()),
            f"compiled: {folder}",
        ]
    )


def _explained(choices: Mapping[str, LayerChoice]) -> list[str]:
    """Say for each layer what was measured and why it is as it is."""
    lines = ["", "why, layer by layer:"]
    for name, choice in choices.items():
        times = ", ".join(f"{form} {timing.us:.0f} µs" for form, timing in choice.timings.items())
        measured = f" (measured: {times})" if times else ""
        lines.append(f"  {name.removesuffix('.weight')}: {choice.picked}, because {choice.why}{measured}")
    return [*lines, ""]


def export_text(folder: Path, manifest: ExportManifest, *, explain: bool = False) -> str:
    """Say what was exported, how it was checked, and if asked why each layer is written as it is."""
    parity, speed = manifest.parity["samples"], manifest.speed
    times = {name: timing.us for name, timing in speed.timings.items()}
    dense = min(us for name, us in times.items() if name.startswith("dense"))
    picked = min(us for name, us in times.items() if name.startswith(speed.picked))
    lowered = sum(layer.form != "dense" for layer in manifest.layers)
    return "\n".join(
        [
            f"parity on {parity.samples} real samples: answers agree on {100 * parity.answer_agreement:.1f} %, "
            f"max abs error {parity.max_abs_error:.1e}",
            f"{lowered} of {len(manifest.layers)} packed layers are written sparse; the file runs in "
            f"{picked / 1e3:.2f} ms against {dense / 1e3:.2f} ms for the same weights written dense "
            f"({speed.threads} thread(s))",
            f"size: {_mb(manifest.bytes.model)}{_unpruned(manifest.bytes.unpruned)}; what is left, written dense: "
            f"{_mb(manifest.bytes.dense)}",
            *_with_kernel(manifest.native),
            *_layers_on_disk(manifest.bytes.pruned_layers),
            *task_line(manifest.task_score),
            *(_explained({layer.name: layer.choice for layer in manifest.layers}) if explain else ()),
            f"opset {manifest.opset}; switch off in ONNX Runtime: {', '.join(speed.disabled_optimizers) or 'nothing'}",
            f"exported: {folder / 'model.onnx'}",
        ]
    )


def _unpruned(size: int) -> str:
    return f", {_mb(size)} before pruning (float32 weights)" if size else ""


def _with_kernel(native: NativeSpeed | None) -> list[str]:
    """Say what the native kernel makes of the file, and whether sessions will take it."""
    if native is None:
        return []
    (kind,) = native.timings.keys() - {"off"}
    ms, without = (native.timings[name].us / 1e3 for name in (kind, "off"))
    taken = "sessions of this project take it" if ms < without else "so it stays off"
    return [f"with the native kernel in {kind}: {ms:.2f} ms against {without:.2f} ms without, {taken}"]


def _layers_on_disk(sizes: LayerBytes) -> list[str]:
    if not sizes.dense:
        return []
    packed, zipped = sizes.packed / sizes.dense, sizes.zipped_masked / sizes.dense
    return [
        f"pruned layers: {_mb(sizes.packed)} packed, {packed:.2f} times the {_mb(sizes.dense)} that they take dense; "
        f"the masked dense weights zipped: {zipped:.2f} (and dense again once they are read)"
    ]


def triton_text(folder: Path, manifest: TritonManifest) -> str:
    """Say what went into a model repository, and how to start the server on it."""
    times = {name: found.us / 1e3 for name, found in manifest.graph_level.timings.items()}
    sizes = ", ".join(f"{axis} {'/'.join(map(str, lengths))}" for axis, lengths in manifest.padding.items())
    return "\n".join(
        [
            f"opset {manifest.opset}, IR version {manifest.ir_version}: read by ONNX Runtime {manifest.target_ort}",
            f"batches up to {manifest.max_batch_size}; clients pad to {sizes}",
            f"graph optimisations: {manifest.graph_level.picked} "
            f"({', '.join(f'{name} {ms:.2f} ms' for name, ms in times.items())} a full batch here)",
            f"model: {folder}",
            f"start: tritonserver --model-repository={folder.parent}",
        ]
    )


def container_text(folder: Path, manifest: ContainerManifest) -> str:
    """Say what is in a build folder, and how to run it."""
    image, port = manifest.image, manifest.port
    return "\n".join(
        [
            f"model {manifest.name}, {len(manifest.requirements)} pinned requirements, no root, health check",
            f"build: docker build --tag {image} {folder}",
            f"run: docker run --read-only --publish 127.0.0.1:{port}:{port} --env VLCOMPRESS_TOKEN {image}",
            f"on KServe: kubectl apply --filename {folder / 'kserve.yaml'}",
        ]
    )


def bench_text(result: BenchResult) -> str:
    """Say what a benchmark measured: a row for each variant and batch size."""
    checked = "every variant was checked against its truth on the timed inputs; variants alternate in one process"
    return "\n".join([terminal(bench_table(result)), "", *machine_text(result), checked])


def bench_table(result: BenchResult) -> Table:
    """Lay out a row for each variant and batch size."""
    ratios = (f"× {name} (95 %)" for name in result.references)
    header = ("variant", "batch", "p50 ms", "p90 ms", "p99 ms", "per s", *ratios, "disk", "RAM MB", "score")
    rows = tuple(
        _bench_row(name, batch, row, variant, (result.accuracy or {}).get(name))
        for name, variant in result.variants.items()
        for batch, row in variant.batches.items()
    )
    return Table("", header, rows)


def machine_text(result: BenchResult) -> list[str]:
    """Say on what a benchmark was measured."""
    environment = result.environment
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    return [
        f"{environment['cpu']}, {environment['cores']} cores, {result.threads} thread(s), load "
        f"{environment['load_average']}; {packages}",
        *place_text(result.computed_on or {}, result.provider or "cpu"),
    ]


def place_text(compute: Mapping[str, str], provider: str) -> list[str]:
    """Say where each runtime ran, unless that is float32 on the CPU."""
    device, dtype = compute.get("device", "cpu"), compute.get("dtype", "fp32")
    if (device, dtype, provider) == ("cpu", "fp32", "cpu"):
        return []
    return [f"PyTorch on {compute.get('name', device)} in {dtype}; ONNX Runtime on provider {provider}"]


def _steps_of(recipe: Recipe, plan: Sequence[float]) -> str:
    """Say how far each round goes: in sparsity, or on the way to a target, which is priced when it is run."""
    target = recipe.pruning.target
    said = ", ".join(f"{100 * level / (plan[-1] if target else 1):.4g} %" for level in plan)
    return f"towards {target}: {said} of the way" if target else f"levels: {said}"


def _kind_row(kind: str, layers: Sequence[LayerPlan]) -> tuple[str, ...]:
    """Lay out layers of one kind: their mean sparsity, the sums of their times, and how many run how."""
    timings = [layer.choice.timings for layer in layers]
    dense = [of_one["dense"].us for of_one in timings if "dense" in of_one]
    sparse = [min(one.us for name, one in of_one.items() if name != "dense") for of_one in timings if len(of_one) > 1]
    picked = Counter(layer.choice.picked for layer in layers)
    rows = sorted({layer.rows for layer in layers})
    return (
        kind,
        str(len(layers)) if len(layers) > 1 else "",
        f"{100 * mean(layer.sparsity for layer in layers):.1f}",
        f"{rows[0]} to {rows[-1]}" if len(rows) > 1 else str(rows[0]),
        f"{sum(dense):.0f}" if dense else "-",
        f"{sum(sparse):.0f}" if sparse else "-",
        ", ".join(f"{name} {count}" for name, count in picked.items()) if len(picked) > 1 else next(iter(picked)),
    )


def _bench_row(
    name: str, batch: str, row: BatchResult, variant: VariantResult, accuracy: Accuracy | None
) -> tuple[str, ...]:
    return (
        name,
        batch,
        f"{row.p50_ms:.2f}",
        f"{row.p90_ms:.2f}",
        f"{row.p99_ms:.2f}",
        f"{row.examples_per_s:.0f}",
        *(f"{one.value:.2f} ({one.low:.2f}-{one.high:.2f})" for one in row.speedup.values()),
        _mb(variant.bytes) if variant.bytes else "-",
        f"{variant.memory_mb:.0f}" if variant.memory_mb else "-",
        f"{100 * accuracy.score:.2f}" if accuracy else "-",
    )


def _mb(count: int) -> str:
    return f"{count / 1e6:.2f} MB"


def native_text(status: Json) -> str:
    """Say whether the native library is there, and what it is."""
    if not status["built"]:
        return "native kernel: not built (run `vlcompress native build`); exported files run with standard operators"
    return "\n".join(
        [
            f"native kernel: built; instruction sets of this processor: {', '.join(status['instruction_sets'])}",
            f"compiler: {status['compiler']}",
            f"ONNX Runtime operator: {'yes' if status['onnxruntime'] else 'no'}",
            f"library: {status['library']}",
        ]
    )
