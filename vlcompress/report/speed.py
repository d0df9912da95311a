"""What the report shows of speed: every variant's metrics, latency against sparsity, and the layers' choices."""

from collections.abc import Iterator

from vlcompress.report.plots import Chart, Point, Reference, Series
from vlcompress.report.report_data import ReportData, Speed, VariantSpeed
from vlcompress.report.sentences import speed_words, threads_words
from vlcompress.report.table import Table
from vlcompress.results import CurvePoint
from vlcompress.sparse.plan import CompilePlan, LayerPlan


def latency_table(speed: Speed) -> Table:
    """Tabulate the latency, throughput and speed of every variant at every batch size."""
    against = (f"× {name}" for name in speed.references)
    header = ("variant", "batch", "p50 ms", "p90 ms", "p99 ms", "examples/s", *against)
    rows = (
        (
            name,
            batch,
            *(f"{value:,.2f}" for value in (row.p50_ms, row.p90_ms, row.p99_ms, row.examples_per_s)),
            *(speed_words(row.speedup.get(to)) if to != name else "1" for to in speed.references),
        )
        for name, variant in speed.variants.items()
        for batch, row in variant.batches.items()
    )
    return Table("", header, tuple(rows))


def size_table(speed: Speed) -> Table:
    """Tabulate the memory, size, accuracy and correctness of every variant."""
    header = ("variant", "peak memory MB", "size on disk MB", "accuracy %", "examples", "largest error against truth")
    return Table("", header, tuple(_size_row(name, variant) for name, variant in speed.variants.items()))


def curve_table(curve: tuple[CurvePoint, ...]) -> Table:
    """Tabulate the latency of every round's compiled ticket."""
    rows = (
        (str(one.round), f"{100 * one.sparsity:.1f}", str(one.batch), f"{one.p50_ms:.2f}", speed_words(one.speedup))
        for one in curve
    )
    return Table("", ("round", "sparsity %", "batch", "p50 ms", "× dense"), tuple(rows))


def curve_charts(data: ReportData) -> Iterator[Chart]:
    """Lay out latency (ms a call) against sparsity (percent), a chart for each batch size of the curve."""
    curve = data.curve or ()
    for batch in dict.fromkeys(one.batch for one in curve):
        compiled = Series("compiled ticket", tuple(_curve_point(one) for one in curve if one.batch == batch))
        dense = data.speed.p50("dense", batch) if data.speed else None
        yield Chart(
            title=f"Latency against sparsity at batch {batch}",
            x_label="sparsity of the prunable weights, %",
            y_label=f"median latency at batch {batch}, ms",
            series=(compiled, *_onnx_series(data, batch)),
            references=() if dense is None else (Reference(f"dense {dense:.2f} ms", dense),),
            y_from_zero=True,
        )


def layer_table(plan: CompilePlan) -> Table:
    """Tabulate how sparse every layer is, how it runs, and why."""
    rows = tuple(_layer_row(layer) for layer in plan.layers)
    sparse = sum(layer.choice.picked != "dense" for layer in plan.layers)
    where = plan.computed_on
    title = (
        f"{sparse} of {len(rows)} pruned layers run sparse, the others dense. Timed on {where['name']} in "
        f"{where['dtype']} with {threads_words(plan.threads)}. Shapes and sparsities are those after removing whole "
        "heads and neurons, so they can be below the map's."
    )
    header = ("layer", "sparsity %", "runs as", "dense µs", "sparse µs", "why", "shape", "stored as", "bytes")
    return Table(title, header, rows, text_columns=(0, 2, 5, 7))


def _size_row(name: str, variant: VariantSpeed) -> tuple[str, ...]:
    accuracy = variant.accuracy
    return (
        name,
        _number(variant.memory_mb, 1),
        _number(None if variant.bytes is None else variant.bytes / 1e6),
        _number(None if accuracy is None else 100 * accuracy.score),
        "" if accuracy is None else str(accuracy.examples),
        f"{variant.parity['max_abs_error']:.1e}",
    )


def _layer_row(layer: LayerPlan) -> tuple[str, ...]:
    times = {name: timing.us for name, timing in layer.choice.timings.items()}
    sparse = min((us for name, us in times.items() if name != "dense"), default=None)
    block = layer.block
    return (
        layer.name.removesuffix(".weight"),
        f"{100 * layer.sparsity:.1f}",
        layer.choice.picked,
        _number(times.get("dense"), 1, missing="–"),  # "why" says why there is none
        _number(sparse, 1, missing="–"),
        layer.choice.why,
        "×".join(map(str, layer.shape)),
        f"{layer.format} {block[0]}×{block[1]}" if block else layer.format,
        f"{layer.nbytes:,}",
    )


def _curve_point(one: CurvePoint) -> Point:
    if one.speedup is None:
        return Point(100 * one.sparsity, one.p50_ms)
    dense = one.p50_ms * one.speedup.value
    return Point(100 * one.sparsity, one.p50_ms, dense / one.speedup.high, dense / one.speedup.low)


def _onnx_series(data: ReportData, batch: int) -> Iterator[Series]:
    """Lay out ONNX Runtime's two points; they are not joined, since no round between them has been exported."""
    at = {"onnx dense": 0.0, "onnx compiled": 100 * data.ticket.sparsity}
    times = {name: data.speed.p50(name, batch) if data.speed else None for name in at}
    points = tuple(Point(at[name], p50) for name, p50 in times.items() if p50 is not None)
    if points:
        yield Series("ONNX Runtime", points, line=False)


def _number(value: float | None, digits: int = 2, missing: str = "not measured") -> str:
    return missing if value is None else f"{value:,.{digits}f}"
