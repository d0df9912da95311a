"""One version of a model in memory: opened, measured, warmed up, with its queue."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vlcompress.artefacts import unseal
from vlcompress.data.published_tokenizer import PublishedTokenizer
from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError
from vlcompress.export.samples import check_samples, read_samples
from vlcompress.serve.batcher import Batcher, Execution, Policy, batched
from vlcompress.serve.checks import Limits
from vlcompress.serve.demo import Demo
from vlcompress.serve.engines.base import Engine
from vlcompress.serve.index import Index, read_index
from vlcompress.serve.metrics import Metrics, ModelMetrics
from vlcompress.serve.padding import padding_of
from vlcompress.serve.preprocessing import Preprocessing
from vlcompress.serve.refusal import Refusal
from vlcompress.serve.settings import Settings
from vlcompress.serve.stats import Stats
from vlcompress.serve.stored import ARTEFACT, StoredVersion
from vlcompress.serve.tensors import DATATYPES, Arrays, TensorSpec
from vlcompress.serve.tuning import Parallel, Throughput, choose_parallel, seconds_of


@dataclass(eq=False)
class LoadedModel:
    """A version that can be asked.

    Attributes:
        name, version: as clients call it.
        source: where it came from.
        engine: runs it.
        batcher: its queue.
        limits: what requests may hold.
        labels: of its classes; may be empty.
        vocabulary: of its words; None where there is none beside the model.
        parallel: threads and sessions that it runs with.
        origin: "family" and "task" that it was trained for, as far as its documents say.
        preprocessing: what it reads; None where neither its documents nor its family say so.
        demo: opens pictures to try it on; None where the server was given none.
        index: what retrieval searches; None where the server was given none.
        facts: what metrics and the page say about it (sparsity, block).
        stats: what it has done.
    """

    name: str
    version: int
    source: StoredVersion
    engine: Engine
    batcher: Batcher
    limits: Limits
    labels: tuple[str, ...]
    vocabulary: WordPiece | None
    parallel: Parallel
    origin: Mapping[str, str]
    preprocessing: Preprocessing | None
    demo: Callable[[], Demo] | None
    index: Index | None
    facts: Mapping[str, str]
    metrics: ModelMetrics
    stats: Stats = field(default_factory=Stats)

    def executed(self, execution: Execution) -> None:
        """Count an execution."""
        self.stats.executed(execution.rows, execution.waits, execution.merge_s, execution.run_s, execution.split_s)
        self.metrics.batch.observe(execution.rows)
        self.metrics.rows.inc(execution.rows)
        self.metrics.inference.observe(execution.run_s)
        for wait in execution.waits:
            self.metrics.queue.observe(wait)

    def info(self) -> tuple[str, ...]:
        """Label the metric that says what is loaded."""
        facts = (self.facts.get("sparsity", ""), self.facts.get("block", ""))
        return (self.name, str(self.version), *facts, self.engine.backend, self.engine.provider)


def load(name: str, source: StoredVersion, settings: Settings, metrics: Metrics) -> LoadedModel:
    """Open a version, choose its threads and sessions, and warm it up.

    Raises:
        VlcompressError: a missing or damaged file, another provider than the one asked for, a model that cannot run.
    """
    document = _document(source, settings)
    parallel, measured = _parallel(source, settings, document)
    engine = open_engine(source, settings, parallel, document)
    padding = padding_of(engine.inputs, document.get("padding", {}))
    max_batch = settings.max_batch if batched(engine) else 1
    sizes = usual_sizes(engine, document)
    together = rows_an_answer(engine, sizes, source.document("preprocessing.json").get("rows"))
    _verify(engine, source, document, settings)
    row_s = _warm_up(engine, sizes, max(together, max_batch // together * together)) if settings.warmup else 0.0
    merges = engine.rows_apart and together == 1
    policy = Policy(parallel.sessions, max_batch, settings.batch_window_ms / 1000, settings.queue_rows, merges)
    observer, origin = _Later(), _origin(source)
    loaded = LoadedModel(
        name=name,
        version=source.version,
        source=source,
        engine=engine,
        batcher=Batcher(engine, padding, policy, observer, row_s),
        limits=Limits(max_batch, settings.max_axis, _axis_limits(source)),
        labels=_labels(source, engine),
        vocabulary=_vocabulary(source),
        parallel=Parallel(parallel.threads, parallel.sessions, measured),
        origin=origin,
        preprocessing=_preprocessing(source, origin.get("family"), document),
        demo=settings.demo,
        index=None if settings.index is None else read_index(settings.index),
        facts=_facts(source),
        metrics=ModelMetrics(metrics, name, source.version),
    )
    observer.model = loaded
    return loaded


def open_engine(source: StoredVersion, settings: Settings, parallel: Parallel, document: Mapping[str, Any]) -> Engine:
    """Open a model with so many threads and sessions.

    Args:
        source: the model.
        settings: backend, and where it computes.
        parallel: threads and sessions.
        document: the artefact's document; it may name optimizers to switch off.
    """
    if settings.backend == "torch":
        from vlcompress.serve.engines.torch_engine import TorchEngine

        if settings.provider != "cpu":
            raise VlcompressError(f"provider '{settings.provider}' is for onnx: with --backend torch give --device")
        return TorchEngine(source.model, threads=parallel.threads, compute=settings.compute)
    from vlcompress.serve.engines.onnx_engine import OnnxEngine

    disabled = document.get("speed", {}).get("disabled_optimizers", ())
    return OnnxEngine(
        source.model,
        threads=parallel.threads,
        sessions=parallel.sessions,
        provider=settings.provider,
        disabled=disabled,
    )


def usual_sizes(engine: Engine, document: Mapping[str, Any]) -> dict[str, int]:
    """Choose axis sizes that a model is usually run at: the largest that its manifest names, or its own example's.

    A model need not run at any size: one that reads pixels wants whole patches.
    """
    named = {axis: max(sizes) for axis, sizes in document.get("padding", {}).items() if sizes}
    return {**engine.example_sizes, **named}


def example(specs: Sequence[TensorSpec], sizes: Mapping[str, int], rows: int, size: int = 8) -> Arrays:
    """Make inputs of ones (text "1"; ids 0 where 1 is not allowed) at these sizes of named axes, else at `size`."""
    arrays: Arrays = {}
    for spec in specs:
        axes = [axis if isinstance(axis, int) else sizes.get(axis, size) for axis in spec.shape[1:]]
        first = [rows if spec.batched else spec.shape[0]] if spec.shape else []
        value: Any = b"1" if spec.datatype == "BYTES" else int(spec.high is None or spec.high > 1)
        arrays[spec.name] = np.full((*first, *axes), value, dtype=DATATYPES[spec.datatype])  # type: ignore[arg-type]
    return arrays


class _Later:
    """Passes executions on to a model that is not built yet when its queue is."""

    model: LoadedModel | None = None

    def executed(self, execution: Execution) -> None:
        if self.model is not None:
            self.model.executed(execution)


def _document(source: StoredVersion, settings: Settings) -> Mapping[str, Any]:
    """Read the artefact's document and check the files that it seals; {} for a bare .onnx file."""
    name = ARTEFACT[settings.backend][2]
    return unseal(source.folder, name) if (source.folder / name).is_file() else {}


def _parallel(
    source: StoredVersion, settings: Settings, document: Mapping[str, Any]
) -> tuple[Parallel, tuple[Throughput, ...]]:
    def timed(parallel: Parallel) -> tuple[Engine, Arrays]:
        engine = open_engine(source, settings, parallel, document)
        rows = min(8, settings.max_batch) if batched(engine) else 1
        return engine, example(engine.inputs, usual_sizes(engine, document), rows)

    return choose_parallel(settings.threads, settings.sessions, timed, _weight_bytes(source.model))


def _weight_bytes(model: Path) -> int:
    """Count the bytes of a model's files on disk."""
    files = model.rglob("*") if model.is_dir() else model.parent.glob(f"{model.name}*")
    return sum(file.stat().st_size for file in files if file.is_file())


def rows_an_answer(engine: Engine, sizes: Mapping[str, int], told: int | None = None) -> int:
    """Run the smallest batch: one row, or the two rows of a statement about two images.

    Args:
        engine, sizes: of the model.
        told: the rows that the model's documents say; without them both are tried.

    Raises:
        VlcompressError: the model cannot run on inputs of its own shapes.
    """
    for rows in (1, 2) if told is None else (told,):
        try:
            outputs = engine.run(example(engine.inputs, sizes, rows))
        except Refusal as error:
            failure = error
        else:
            return max(1, rows // max([1, *(len(array) for array in outputs.values() if array.ndim)]))
    raise VlcompressError(f"the model fails on inputs of its own shapes ({failure}): export it again") from failure


def _verify(engine: Engine, source: StoredVersion, document: Mapping[str, Any], settings: Settings) -> None:
    """Repeat the samples that an exported folder holds: it may have been exported on another processor.

    Raises:
        VerificationError: it answers otherwise here.
    """
    samples = read_samples(source.folder) if settings.backend == "onnx" and "precision" in document else None
    if samples is not None:
        check_samples(
            samples, lambda inputs: engine.run(dict(inputs))["logits"], document["precision"], settings.provider
        )


def _warm_up(engine: Engine, sizes: Mapping[str, int], rows: int) -> float:
    """Run the largest batch; give the seconds of a row in it.

    Raises:
        VlcompressError: the model cannot run on it.
    """
    try:
        feeds = example(engine.inputs, sizes, rows)
        engine.run(feeds)
        return seconds_of(lambda: engine.run(feeds)) / rows
    except Refusal as error:
        raise VlcompressError(f"the model fails on {rows} rows ({error}): give another --max-batch") from error


def _labels(source: StoredVersion, engine: Engine) -> tuple[str, ...]:
    path = source.find("labels.txt")
    if path is None:
        return tuple(getattr(engine, "labels", ()))
    return tuple(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"))


def _vocabulary(source: StoredVersion) -> WordPiece | None:
    """Read vocab.txt, or the tokenizer.json of a model that brought its own."""
    path = source.find("vocab.txt")
    if path is not None:
        return WordPiece.load(path)
    own = source.find("tokenizer.json")
    return None if own is None else PublishedTokenizer.read(own.read_text(encoding="utf-8"))


def _origin(source: StoredVersion) -> dict[str, str]:
    """Read family and task from the run that the model belongs to, or from its own documents as far as they say."""
    recipe = source.document("run.json").get("recipe")
    if recipe is not None:
        return {"family": recipe["model"]["family"], "task": recipe["data"]["task"]}
    documents = (source.document("manifest.json"), source.document("config.json"))
    found = next((one for one in documents if "family" in one), {})
    return {key: found[key] for key in ("family", "task") if key in found}


def _axis_limits(source: StoredVersion) -> dict[str, int]:
    """Read the longest text that the model's position embeddings reach."""
    longest = source.document("config.json").get("config", {}).get("max_position_embeddings")
    return {"text": int(longest)} if longest else {}


def _preprocessing(source: StoredVersion, name: str | None, document: Mapping[str, Any]) -> Preprocessing | None:
    """Read preprocessing.json; of older files the manifest, or the family of this name."""
    found = source.document("preprocessing.json") or document.get("preprocessing")
    config = source.document("config.json").get("config")
    if found is not None and "square" in found and "mean" not in found:  # written before it was told
        found = None
    if found is None and name is not None and config:
        from vlcompress.models.registry import FAMILIES, family_named  # brings torch along

        found = family_named(name, config).preprocessing(config) if name in FAMILIES else None
    return None if found is None else Preprocessing.read(found)


def _facts(source: StoredVersion) -> dict[str, str]:
    """Read the sparsity (of the prunable weights) and the block of the ticket, where a document says so."""
    places = (source.folder, source.folder.parent / "compiled")
    path = next((place / "plan.json" for place in places if (place / "plan.json").is_file()), None)
    if path is None:
        return {}
    plan = unseal(path.parent, path.name, check=False)
    pattern = str(plan.get("pattern", ""))
    return {"sparsity": f"{plan.get('sparsity', 0.0):.4g}", "block": pattern.removeprefix("block:")}
