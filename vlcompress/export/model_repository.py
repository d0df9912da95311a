"""An exported model as a model repository of NVIDIA Triton Inference Server, for its ONNX Runtime backend.

    REPOSITORY/NAME/config.pbtxt      batching, queue limits, warm-up
    REPOSITORY/NAME/labels.txt
    REPOSITORY/NAME/preprocessing.json, tokenizer.json   how a client or an ensemble makes its inputs
    REPOSITORY/NAME/manifest.json     where it comes from; Triton ignores it
    REPOSITORY/NAME/1/model.onnx      a file, or a folder of that name if the weights are outside the graph

Field names and their meaning: ``model_configuration.md`` of triton-inference-server/server, ``model_config.proto`` of
triton-inference-server/common, and the README of triton-inference-server/onnxruntime_backend.
"""

import itertools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlcompress.artefacts import read_json, seal, unseal, write_file, writing
from vlcompress.errors import VlcompressError
from vlcompress.export.manifest import ExportManifest, TensorSpec
from vlcompress.export.providers import Provider, parse_provider
from vlcompress.export.runtime import provider_for
from vlcompress.export.target import newest_read
from vlcompress.results import parse, to_json
from vlcompress.sparse.timing import Call, Effort, Timing, compare
from vlcompress.tickets.run import Run

READING = ("preprocessing.json", "tokenizer.json")
"""Files of an exported folder that say how inputs are made."""

TARGET_ORT = "1.27"
"""ONNX Runtime that Triton's main branch builds its backend with (server/build.py, Triton 2.73)."""

STOCK_DOMAINS = ("", "ai.onnx", "com.microsoft")
"""Operator sets that every build of ONNX Runtime has: a custom operator would need a library in Triton's container."""

QUEUE_DELAY_US = 500
"""How long a request may wait for others to join its batch."""
QUEUE_SIZE = 128
"""Requests that may wait; more are answered 503 at once."""
TIMEOUT_US = 2_000_000
"""How long a request may wait in the queue before it is answered 503; a client may ask for less or more."""

TYPES = {
    "tensor(float)": ("TYPE_FP32", np.float32),
    "tensor(float16)": ("TYPE_FP16", np.float16),
    "tensor(int64)": ("TYPE_INT64", np.int64),
    "tensor(int32)": ("TYPE_INT32", np.int32),
    "tensor(bool)": ("TYPE_BOOL", np.bool_),
}

LEVELS = {"all": None, "basic": -1}
"""Graph optimisation levels worth trying, by name, with the number that Triton's backend calls them (None: default)."""

LEVEL_EFFORT = Effort(rounds=7, burst_s=0.02, warmup=1)

Message = Sequence[tuple[str, Any]]
"""Fields of a protobuf message in order; a name may come more than once."""


class Name(str):
    """A word of the text format that is not quoted: an enum value."""


@dataclass(frozen=True)
class GraphFacts:
    """What decides which ONNX Runtime reads a file."""

    opset: int
    ir_version: int
    domains: tuple[str, ...]


@dataclass(frozen=True)
class GraphLevel:
    """The level of graph optimisation that is fastest here, one of `LEVELS`."""

    picked: str
    timings: Mapping[str, Timing]


@dataclass(frozen=True, kw_only=True)
class TritonManifest(GraphFacts):
    """``manifest.json`` of a model in a repository: `ExportManifest`'s inputs and outputs, and how it is served.

    Attributes:
        onnx_manifest_files: hash and size of every file of the exported folder.
        target_ort: release of ONNX Runtime that must read it.
    """

    family: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    padding: Mapping[str, tuple[int, ...]]
    onnx_manifest_files: Mapping[str, Mapping[str, Any]]
    target_ort: str
    provider: str
    max_batch_size: int
    graph_level: GraphLevel


def export_triton(
    run: Run,
    *,
    batch: int = 32,
    threads: int = 1,
    target_ort: str = TARGET_ORT,
    provider: str | None = None,
    say: Callable[[str], None] = print,
) -> tuple[Path, TritonManifest]:
    """Write the run's exported model as a model repository, ``triton/`` in the run's folder.

    Args:
        run: a run that was exported.
        batch: the largest batch that Triton may put together.
        threads: threads of ONNX Runtime inside one operator.
        target_ort: release of ONNX Runtime that the server runs.
        provider: where the server runs it, spelled out; None takes the one that it was exported for.
        say: told where that is not here, so that nothing could be measured.

    Returns:
        The model's folder in the repository, and its manifest.

    Raises:
        VlcompressError: not exported yet, or a file that the target cannot run.
    """
    if not (run.folder / "onnx" / "manifest.json").is_file():
        raise VlcompressError(f"run '{run.folder}' has no exported model: run `vlcompress export` first")
    folder, exported = run.folder / "triton" / model_name(run), run.folder / "onnx"
    chosen = provider_for(provider, read_json(exported / "manifest.json"), say)
    manifest = write_model(exported, folder, batch=batch, threads=threads, target_ort=target_ort, provider=chosen)
    return folder, manifest


def model_name(run: Run) -> str:
    """Name a run's model by family and task ("lxmert_vqa")."""
    recipe = run.result().recipe
    return f"{recipe['model']['family']}_{recipe['data']['task']}".replace("-", "_")


def write_model(
    exported: Path,
    folder: Path,
    *,
    batch: int,
    threads: int,
    target_ort: str,
    provider: str = "cpu",
    effort: Effort = LEVEL_EFFORT,
) -> TritonManifest:
    """Write one model of a repository.

    Args:
        exported: the artefact that `export_onnx` wrote.
        folder: the model's folder; its name is the model's; replaced if it exists.
        batch: see `export_triton`.
        threads: see `export_triton`.
        target_ort: see `export_triton`.
        provider: likewise; it must be here.
        effort: how long to measure each level of graph optimisation.

    Raises:
        VlcompressError: the artefact is damaged, or the target cannot run it.
    """
    document = unseal(exported, "manifest.json")
    described = parse(ExportManifest, document, exported / "manifest.json")
    facts, outside = _graph_facts(exported / "model.onnx")
    check_target(facts, target_ort)
    feeds = [_zeros(described, axes, batch) for axes in buckets(described.padding)]
    timings = compare(_level_calls(exported / "model.onnx", feeds[-1], threads, provider), effort)
    level = min(timings, key=lambda name: timings[name].us)
    manifest = TritonManifest(
        family=described.family,
        inputs=described.inputs,
        outputs=described.outputs,
        padding=described.padding,
        onnx_manifest_files=document["files"],
        target_ort=target_ort,
        provider=provider,
        **vars(facts),
        max_batch_size=batch,
        graph_level=GraphLevel(level, timings),
    )
    config = to_text(_config(folder.name, described, batch, threads, LEVELS[level], parse_provider(provider)))
    with writing(folder) as temporary:
        write_file(temporary / "config.pbtxt", config)
        for name in ("labels.txt", *(name for name in READING if (exported / name).is_file())):
            shutil.copyfile(exported / name, temporary / name)
        _copy_model(exported, temporary / "1" / "model.onnx", outside)
        seal(temporary, "manifest.json", to_json(manifest))
    return manifest


def check_target(facts: GraphFacts, target_ort: str) -> None:
    """Refuse a graph that the target's ONNX Runtime would refuse when it starts.

    Args:
        facts: of the graph.
        target_ort: "MAJOR.MINOR" or "MAJOR.MINOR.PATCH".

    Raises:
        VlcompressError: no such release, or one that is too old, or an operator that it does not have.
    """
    opset, ir_version = newest_read(target_ort)
    if facts.opset > opset or facts.ir_version > ir_version:
        raise VlcompressError(
            f"the exported model has opset {facts.opset} and IR version {facts.ir_version}, but ONNX Runtime "
            f"{target_ort} reads at most {opset} and {ir_version}: give a newer --target-ort, or run "
            f"`vlcompress export --target-ort {target_ort}` first"
        )
    foreign = sorted(set(facts.domains) - set(STOCK_DOMAINS))
    if foreign:
        raise VlcompressError(
            f"the exported model uses operators of '{', '.join(foreign)}', which Triton's ONNX Runtime does not have: "
            "export with --expand"
        )


def buckets(padding: Mapping[str, Sequence[int]]) -> list[dict[str, int]]:
    """List every combination of padded sizes, by axis name, smallest first."""
    names = sorted(padding)
    sizes = (sorted(padding[name]) for name in names)
    return [dict(zip(names, combination, strict=True)) for combination in itertools.product(*sizes)]


def to_text(message: Message, indent: str = "") -> str:
    """Write a message in protobuf's text format: one field a line, nested messages in braces."""
    return "".join(f"{indent}{_field(name, value, indent)}\n" for name, value in message)


def _field(name: str, value: Any, indent: str) -> str:
    if isinstance(value, Name):
        return f"{name}: {value}"
    if isinstance(value, str | bool | int):
        return f"{name}: {json.dumps(value, ensure_ascii=False)}"
    if all(isinstance(item, int) for item in value):
        return f"{name}: {json.dumps(list(value))}"
    return f"{name} {{\n{to_text(value, indent + '  ')}{indent}}}"


def _config(
    name: str, described: ExportManifest, batch: int, threads: int, level: int | None, provider: Provider
) -> Message:
    fixed = {axis: sizes[0] for axis, sizes in described.padding.items() if len(sizes) == 1}
    optimisation = [*([] if level is None else [("graph", [("level", level)])]), *_accelerators(provider)]
    return [
        ("name", name),
        ("backend", "onnxruntime"),
        ("max_batch_size", batch),
        *(("input", _tensor(value, fixed)) for value in described.inputs),
        *(("output", [*_tensor(value, fixed), ("label_filename", "labels.txt")]) for value in described.outputs),
        ("instance_group", _instances(provider)),
        ("dynamic_batching", _batching()),
        *([("optimization", optimisation)] if optimisation else []),
        ("parameters", _parameter("intra_op_thread_count", threads)),
        ("parameters", _parameter("inter_op_thread_count", 1)),
        *(
            ("model_warmup", _warmup(described, axes, size))
            for axes in buckets(described.padding)
            for size in (1, batch)
        ),
    ]


def _instances(provider: Provider) -> Message:
    kind, number = provider.device
    where = [("kind", Name("KIND_GPU")), ("gpus", [number])] if kind == "cuda" else [("kind", Name("KIND_CPU"))]
    return [("count", 1), *where]


def _accelerators(provider: Provider) -> Message:
    """Say which of ONNX Runtime's GPU providers to use, in order, each with its options; nothing on the CPU.

    The keys are ONNX Runtime's own, but for the few of TensorRT that the backend calls otherwise (its README has the
    table). The cache of engines is left to whoever runs the server: this machine's folder is not there.
    """
    if provider.name == "cpu":
        return []
    found = [("cuda", {"use_tf32": "0"})]
    if provider.name == "tensorrt":
        found = [("tensorrt", dict(provider.options)), *found]
    else:
        found[0][1].update(provider.options)
    accelerators = [
        ("gpu_execution_accelerator", [("name", name), *(("parameters", pair) for pair in _pairs(options))])
        for name, options in found
    ]
    return [("execution_accelerators", accelerators)]


def _pairs(options: Mapping[str, str]) -> list[Message]:
    """Translate a provider's options; the device is the instance group's matter."""
    renamed = {"trt_max_workspace_size": "max_workspace_size_bytes"}
    precisions = {"trt_fp16_enable": "FP16", "trt_int8_enable": "INT8"}
    pairs = [
        ("precision_mode", precisions[key]) if key in precisions else (renamed.get(key, key), value)
        for key, value in options.items()
        if key != "device_id" and not (key in precisions and value in ("0", "false"))
    ]
    return [[("key", key), ("value", value)] for key, value in pairs]


def _batching() -> Message:
    policy = [
        ("timeout_action", Name("REJECT")),
        ("default_timeout_microseconds", TIMEOUT_US),
        ("allow_timeout_override", True),
        ("max_queue_size", QUEUE_SIZE),
    ]
    return [("max_queue_delay_microseconds", QUEUE_DELAY_US), ("default_queue_policy", policy)]


def _tensor(value: TensorSpec, fixed: Mapping[str, int]) -> Message:
    """Describe a tensor without its batch axis; an axis with one padded size has that size, others are free (-1)."""
    dims = [_size(axis, fixed) for axis in value.shape[1:]]
    return [("name", value.name), ("data_type", Name(TYPES[value.type][0])), ("dims", dims)]


def _size(axis: str | int, sizes: Mapping[str, int]) -> int:
    return axis if isinstance(axis, int) else sizes.get(axis, -1)


def _parameter(key: str, value: int) -> Message:
    return [("key", key), ("value", [("string_value", str(value))])]


def _warmup(described: ExportManifest, axes: Mapping[str, int], size: int) -> Message:
    """Describe a request of zeros, which are valid in every input: padding, invisible, no features."""
    label = "_".join(f"{axis}{length}" for axis, length in axes.items())
    inputs = [
        ("inputs", [("key", value.name), ("value", [*_tensor(value, axes)[1:], ("zero_data", True)])])
        for value in described.inputs
    ]
    return [("name", f"batch{size}_{label}"), ("batch_size", size), *inputs]


def _zeros(described: ExportManifest, axes: Mapping[str, int], batch: int) -> dict[str, npt.NDArray[Any]]:
    sizes = {**axes, "batch": batch}
    return {
        value.name: np.zeros([_size(axis, sizes) for axis in value.shape], TYPES[value.type][1])
        for value in described.inputs
    }


def _level_calls(model: Path, feed: Mapping[str, npt.NDArray[Any]], threads: int, provider: str) -> dict[str, Call]:
    """Open the model at each level that Triton can be told, on the provider that the server will take.

    Triton cannot switch off a single optimiser, and ONNX Runtime's fused skip-and-normalise kernel can cost more than
    all that its level gains.
    """
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    calls: dict[str, Call] = {}
    for name, level in (("all", levels.ORT_ENABLE_ALL), ("basic", levels.ORT_ENABLE_BASIC)):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level, options.log_severity_level = level, 3
        session = onnxruntime.InferenceSession(model, options, providers=parse_provider(provider).chain())
        calls[name] = partial(session.run, None, feed)
    return calls


def _graph_facts(model: Path) -> tuple[GraphFacts, list[str]]:
    """Read opset, IR version and operator domains of a file, and the names of the files that hold its weights."""
    import onnx

    graph = onnx.load(model, load_external_data=False)
    opsets = {entry.domain: entry.version for entry in graph.opset_import}
    outside = {
        entry.value
        for tensor in graph.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    inlined = {function.domain for function in graph.functions}  # the runtime has their bodies in the file itself
    domains = sorted({node.domain for node in graph.graph.node} - inlined)
    return GraphFacts(opsets.get("", 0), graph.ir_version, tuple(domains)), sorted(outside)


def _copy_model(exported: Path, to: Path, outside: Sequence[str]) -> None:
    """Copy the graph to version 1; with weights outside it, `to` is a folder that holds them all."""
    to.parent.mkdir()
    if not outside:
        shutil.copyfile(exported / "model.onnx", to)
        return
    to.mkdir()
    for name in ("model.onnx", *outside):
        if Path(name).name != name:
            raise VlcompressError(f"weights at '{name}' are not beside '{exported / 'model.onnx'}': export it again")
        shutil.copyfile(exported / name, to / name)
