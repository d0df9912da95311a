"""Results as plain text for the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlcompress.artefacts import Json
from vlcompress.models.registry import FAMILIES
from vlcompress.pruning.schedule import levels
from vlcompress.recipe import Recipe
from vlcompress.sparse.plan import LayerPlan, Plan
from vlcompress.tasks.support_matrix import LEGEND, rows
from vlcompress.tickets.run import Run
from vlcompress.tickets.verdict import nothing_learned


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out cells in columns: the first to the left, the others to the right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def run_text(run: Run) -> str:
    """Say what a run found: a row for each arm and level, then the verdict on the ticket."""
    document = run.document()
    rows = [_cell_row(cell) for cell in document["cells"]]
    ticket = [cell for cell in document["cells"] if cell["arm"] == "ticket"][-1]
    passing = [
        cell["sparsity"]
        for cell in document["cells"]
        if cell["arm"] == "ticket" and cell["verdict"]["levels"]["relaxed"]["outcome"] == "pass"
    ]
    best = f"{100 * max(passing):.1f} %" if passing else "no level"
    seeds = document["recipe"]["pruning"]["seeds"]
    return "\n".join(
        [
            table(("arm", "sparsity %", "score", "of dense %", "strict", "matching", "relaxed (99 %)"), rows),
            "",
            f"score: {document['metric']}, {document['data']['examples']} examples, "
            + ("a single seed" if len(seeds) == 1 else f"mean of {len(seeds)} seeds"),
            *_figures(document["cells"]),
            *computed_text(document),
            f"sparsest ticket that passes relaxed: {best}; the ticket at {100 * ticket['sparsity']:.1f} %: "
            f"{ticket['verdict']['levels']['relaxed']['outcome']}",
            *_hint(passing, ticket),
            *_nothing_learned(ticket),
            f"run: {run.folder}",
            "speed and size: not measured yet (a mask alone makes nothing faster); "
            "run `vlcompress compile`, `export` and `bench`",
        ]
    )


def computed_text(document: Mapping[str, Any]) -> list[str]:
    """Say where something was trained and in what, unless that is float32 on the CPU."""
    said = document.get("computed_on")
    return [f"trained on {said['device']} in {said['dtype']}"] if said else []


def _figures(cells: Sequence[dict[str, Any]]) -> list[str]:
    """Say the benchmark's other figures, of the dense model and of the ticket."""
    dense, ticket = cells[0], [cell for cell in cells if cell["arm"] == "ticket"][-1]
    means = [
        (name, *(100 * sum(cell["figures"][name]) / len(cell["figures"][name]) for cell in (dense, ticket)))
        for name in dense.get("figures", {})
    ]
    told = ", ".join(f"{name} {before:.2f} → {after:.2f}" for name, before, after in means)
    return [f"beside it, dense → ticket: {told}"] if told else []


def _hint(passing: Sequence[float], ticket: dict[str, Any]) -> list[str]:
    """Say how to get the ticket that passes where the last one does not: its trainings are there."""
    if not passing or max(passing) >= ticket["sparsity"]:
        return []
    return [
        f"for the one that passes: the same command with --sparsity {max(passing):.3g} (its rounds are trained already)"
    ]


def _nothing_learned(ticket: dict[str, Any]) -> list[str]:
    verdict = ticket["verdict"]
    if verdict["levels"]["relaxed"]["outcome"] != "no verdict":
        return []
    return [nothing_learned(verdict["dense"], verdict["blind"])]


def dry_run_text(recipe: Recipe, name: str) -> str:
    """Say what a recipe would train, for a run of this name."""
    pruning = recipe.pruning
    plan = levels(pruning.schedule, pruning.sparsity, pruning.rounds or None)
    chains = 1 + pruning.controls.count("unstructured")
    single = sum(control != "unstructured" for control in pruning.controls)
    trainings = len(pruning.seeds) * (1 + chains * len(plan) + single)
    return "\n".join(
        [
            f"run {name}: {trainings} trainings",
            f"levels: {', '.join(f'{100 * level:g} %' for level in plan)} ({pruning.pattern}, {pruning.schedule})",
            f"controls: {', '.join(pruning.controls) or 'none'}; seeds: {', '.join(map(str, pruning.seeds))}",
        ]
    )


def _cell_row(cell: dict[str, Any]) -> tuple[str, ...]:
    score = sum(cell["scores"]) / len(cell["scores"])
    if cell["verdict"] is None:
        return (cell["arm"], "0.0", f"{100 * score:.2f}", "100.0", "", "", "")
    levels_ = cell["verdict"]["levels"]
    return (
        cell["arm"],
        f"{100 * cell['sparsity']:.1f}",
        f"{100 * score:.2f}",
        f"{100 * score / cell['verdict']['dense']:.1f}",
        *(levels_[name]["outcome"] for name in ("strict", "matching", "relaxed")),
    )


def tasks_text(record: dict[str, Any], *, markdown: bool = False) -> str:
    """Lay out the table of families and tasks, as text or as Markdown."""
    header = ("task", *FAMILIES, "metric")
    body = rows(record, markdown=markdown)
    if not markdown:
        return f"{table(header, body)}\n\n{LEGEND}"
    lines = [header, ["---"] * len(header), *body]
    ticks = LEGEND.replace("with p: its", "ticks: its").replace("f: files", "files").replace("m: the", "the")
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{ticks}"


def prediction_text(document: dict[str, Any]) -> str:
    """Say what was predicted, and its score where the answers are published."""
    said = f"{document['examples']} examples of {document['task']} {document['split']}: {document['file']}"
    if "score" not in document:
        return f"{said}\nits answers are not published: hand the file in to learn the score"
    figures = "".join(f", {name} {100 * value:.2f}" for name, value in document["figures"].items())
    return f"{said}\n{document['metric']} {100 * document['score']:.2f}{figures}"


def plan_text(folder: Path, plan: Plan, *, explain: bool = False) -> str:
    """Say how a ticket was compiled: a row for each layer, what was removed, and if asked the reason for each layer."""
    rows = [_layer_row(layer) for layer in plan.layers]
    sparse = sum(layer.choice.picked != "dense" for layer in plan.layers)
    removed = {
        kind: sum(units.units - len(units.kept) for units in plan.kept if units.kind == kind)
        for kind in ("head", "neuron")
    }
    stored = sum(layer.nbytes for layer in plan.layers)
    dense = sum(4 * layer.shape[0] * layer.shape[1] for layer in plan.layers)
    return "\n".join(
        [
            table(("layer", "sparsity %", "M", "dense µs", "sparse µs", "runs"), rows),
            "",
            f"{sparse} of {len(plan.layers)} layers run sparse, the others dense, as measured on "
            f"{plan.computed_on['name']} in {plan.computed_on['dtype']} "
            f"with {plan.threads} thread(s); plan.json says why for each",
            f"removed for good: {removed['head']} attention heads, {removed['neuron']} feed-forward neurons",
            f"pruned layers on disk: {_mb(stored)} of {_mb(dense)} dense; "
            f"largest difference from the masked model {plan.max_abs_error:.1e}",
            *(_explained({layer.name: layer.choice.to_json() for layer in plan.layers}) if explain else ()),
            f"compiled: {folder}",
        ]
    )


def _explained(choices: Mapping[str, dict[str, Any]]) -> list[str]:
    """Say for each layer what was measured and why it is as it is."""
    lines = ["", "why, layer by layer:"]
    for name, choice in choices.items():
        times = ", ".join(f"{form} {timing['us']:.0f} µs" for form, timing in choice["timings"].items())
        measured = f" (measured: {times})" if times else ""
        lines.append(f"  {name.removesuffix('.weight')}: {choice['picked']}, because {choice['why']}{measured}")
    return [*lines, ""]


def export_text(folder: Path, manifest: dict[str, Any], *, explain: bool = False) -> str:
    """Say what was exported, how it was checked, and if asked why each layer is written as it is."""
    parity, speed = manifest["parity"]["samples"], manifest["speed"]
    times = {name: timing["us"] for name, timing in speed["timings"].items()}
    dense = min(us for name, us in times.items() if name.startswith("dense"))
    picked = min(us for name, us in times.items() if name.startswith(speed["picked"]))
    lowered = sum(layer["form"] != "dense" for layer in manifest["layers"])
    return "\n".join(
        [
            f"parity on {parity['samples']} real samples: answers agree on {100 * parity['answer_agreement']:.1f} %, "
            f"max abs error {parity['max_abs_error']:.1e}",
            f"{lowered} of {len(manifest['layers'])} packed layers are written sparse; the file runs in "
            f"{picked / 1e3:.2f} ms against {dense / 1e3:.2f} ms for the same weights written dense "
            f"({speed['threads']} thread(s))",
            f"size: {_mb(manifest['bytes']['model'])} against {_mb(manifest['bytes']['dense'])} written dense",
            *_layers_on_disk(manifest["bytes"]["pruned_layers"]),
            *_task_line(manifest["task_score"]),
            *(_explained({layer["name"]: layer["choice"] for layer in manifest["layers"]}) if explain else ()),
            f"opset {manifest['opset']}; switch off in ONNX Runtime: "
            f"{', '.join(speed['disabled_optimizers']) or 'nothing'}",
            f"exported: {folder / 'model.onnx'}",
        ]
    )


def verify_text(found: dict[str, Any]) -> str:
    """Say that a file still answers as its PyTorch model does."""
    lines = [
        f"{name}: {parity['samples']} examples, answers agree on {100 * parity['answer_agreement']:.1f} %, "
        f"max abs error {parity['max_abs_error']:.1e}, relative {parity['max_rel_error']:.1e}"
        for name, parity in found["parity"].items()
    ]
    where = f"{found['precision']} on provider {found['provider']}"
    return "\n".join(
        [*lines, *_task_line(found["task_score"]), *_placement(found), f"verified ({where}): {found['file']}"]
    )


def _placement(found: Mapping[str, Any]) -> list[str]:
    """Say which provider took how many nodes, and what kinds of them were left to the CPU."""
    lines = []
    for name, kinds in found.get("placement", {}).items():
        left = f" ({', '.join(kinds)})" if name == "CPUExecutionProvider" else ""
        lines.append(f"{name}: {sum(kinds.values())} nodes{left}")
    return lines


def _layers_on_disk(sizes: dict[str, int]) -> list[str]:
    if not sizes["dense"]:
        return []
    packed, zipped = sizes["packed"] / sizes["dense"], sizes["zipped_masked"] / sizes["dense"]
    return [
        f"pruned layers: {_mb(sizes['packed'])} packed, {packed:.2f} of {_mb(sizes['dense'])} dense; "
        f"the masked dense weights zipped: {zipped:.2f} (and dense again once they are read)"
    ]


def _task_line(task: dict[str, float] | None) -> list[str]:
    if task is None:
        return []
    return [
        f"score on the task: {100 * task['file']:.2f}, float32 {100 * task['fp32']:.2f}, "
        f"a drop of {100 * task['drop']:.2f} points"
    ]


def triton_text(folder: Path, manifest: dict[str, Any]) -> str:
    """Say what went into a model repository, and how to start the server on it."""
    times = {name: found["us"] / 1e3 for name, found in manifest["graph_level"]["timings"].items()}
    sizes = ", ".join(f"{axis} {'/'.join(map(str, lengths))}" for axis, lengths in manifest["padding"].items())
    return "\n".join(
        [
            f"opset {manifest['opset']}, IR version {manifest['ir_version']}: read by ONNX Runtime "
            f"{manifest['target_ort']}",
            f"batches up to {manifest['max_batch_size']}; clients pad to {sizes}",
            f"graph optimisations: {manifest['graph_level']['picked']} "
            f"({', '.join(f'{name} {ms:.2f} ms' for name, ms in times.items())} a full batch here)",
            f"model: {folder}",
            f"start: tritonserver --model-repository={folder.parent}",
        ]
    )


def container_text(folder: Path, manifest: dict[str, Any]) -> str:
    """Say what is in a build folder, and how to run it."""
    image, port = manifest["image"], manifest["port"]
    return "\n".join(
        [
            f"model {manifest['name']}, {len(manifest['requirements'])} pinned requirements, no root, health check",
            f"build: docker build --tag {image} {folder}",
            f"run: docker run --read-only --publish 127.0.0.1:{port}:{port} --env VLCOMPRESS_TOKEN {image}",
            f"on KServe: kubectl apply --filename {folder / 'kserve.yaml'}",
        ]
    )


def bench_text(record: dict[str, Any]) -> str:
    """Say what a benchmark measured: a row for each variant and batch size."""
    ratios = [f"× {name} (95 %)" for name in record["references"]]
    header = ("variant", "batch", "p50 ms", "p90 ms", "p99 ms", "per s", *ratios, "disk", "RAM MB", "score")
    rows = [
        _bench_row(name, batch, found, variant, record["accuracy"][name]["score"])
        for name, variant in record["variants"].items()
        for batch, found in variant["batches"].items()
    ]
    environment = record["environment"]
    packages = ", ".join(f"{name} {found}" for name, found in environment["packages"].items())
    return "\n".join(
        [
            table(header, rows),
            "",
            f"{environment['cpu']}, {environment['cores']} cores, {record['threads']} thread(s), load "
            f"{environment['load_average']}; {packages}",
            *_bench_place(record),
            "every variant was checked against its truth on the timed inputs; variants alternate in one process",
        ]
    )


def _bench_place(record: Mapping[str, Any]) -> list[str]:
    """Say where each runtime ran, unless that is float32 on the CPU."""
    said, provider = record.get("computed_on") or {}, record.get("provider", "cpu")
    usual = (said.get("device", "cpu"), said.get("dtype", "fp32"), provider) == ("cpu", "fp32", "cpu")
    torch = f"PyTorch on {said.get('name')} in {said.get('dtype')}"
    return [] if usual else [f"{torch}; ONNX Runtime on provider {provider}"]


def _layer_row(layer: LayerPlan) -> tuple[str, ...]:
    timings = layer.choice.timings
    sparse = [timing.us for name, timing in timings.items() if name != "dense"]
    return (
        layer.name.removesuffix(".weight"),
        f"{100 * layer.sparsity:.1f}",
        str(layer.rows),
        f"{timings['dense'].us:.0f}" if "dense" in timings else "-",
        f"{min(sparse):.0f}" if sparse else "-",
        layer.choice.picked,
    )


def _bench_row(name: str, batch: str, found: dict[str, Any], variant: dict[str, Any], score: float) -> tuple[str, ...]:
    ratios = [f"{one['value']:.2f} ({one['low']:.2f}-{one['high']:.2f})" for one in found["speedup"].values()]
    return (
        name,
        batch,
        f"{found['p50_ms']:.2f}",
        f"{found['p90_ms']:.2f}",
        f"{found['p99_ms']:.2f}",
        f"{found['examples_per_s']:.0f}",
        *ratios,
        _mb(variant["bytes"]) if variant["bytes"] else "-",
        f"{variant['memory_mb']:.0f}" if variant["memory_mb"] else "-",
        f"{100 * score:.2f}",
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
