"""What the report says about speed: every variant's figures, latency against sparsity, and the layers' choices."""

from collections.abc import Iterator

from vlcompress.artefacts import Json
from vlcompress.report.layer_map import layer_map
from vlcompress.report.markup import figure, folded, paragraph, section, table
from vlcompress.report.plots import Chart, Point, Reference, Series, inline
from vlcompress.report.words import place, speed_words, threads_words

NOT_MEASURED = "not measured yet: run `vlcompress bench`"


def speed_section(facts: Json) -> str:
    """Show latency, throughput, memory, size and accuracy of every variant."""
    if facts["speed"] is None:
        return section("Speed, memory and size", paragraph(NOT_MEASURED, "missing"))
    variants = facts["speed"]["variants"]
    against = (f"× {name}" for name in facts["speed"]["references"])
    header = ("variant", "batch", "p50 ms", "p90 ms", "p99 ms", "examples/s", *against)
    return section(
        "Speed, memory and size",
        paragraph(f"Measured on {place(facts)}; variants took turns, each was first checked for the right scores."),
        table(header, [row for name in variants for row in _latency_rows(name, facts["speed"])]),
        table(
            ("variant", "peak memory MB", "size on disk MB", "accuracy %", "examples", "largest error against truth"),
            [_size_row(name, variant) for name, variant in variants.items()],
        ),
        paragraph(
            "Columns with × give the speed against that variant and its 95 % interval; 2× takes half the time. An "
            "interval that holds 1 means: no difference that this measurement can show. Memory is what the variant "
            "adds to a process of its own. 1 MB is 10⁶ bytes."
        ),
    )


def curve_section(facts: Json) -> str:
    """Show the latency of every round's compiled ticket."""
    title = "Latency against sparsity"
    if not facts["curve"]:
        return section(title, paragraph(NOT_MEASURED, "missing"))
    caption = (
        "Points: the compiled ticket of each round, median. Bars: 95 % interval of its speed against the dense model "
        "in the same rounds of measurement."
    )
    header = ("round", "sparsity %", "batch", "p50 ms", "× dense")
    rows = [
        (
            str(entry["round"]),
            f"{100 * entry['sparsity']:.1f}",
            str(entry["batch"]),
            f"{entry['p50_ms']:.2f}",
            speed_words(entry["speedup"]),
        )
        for entry in facts["curve"]
    ]
    charts = (figure(inline(chart), caption) for chart in curve_charts(facts))
    return section(title, *charts, folded("The same as a table", table(header, rows)))


def curve_charts(facts: Json) -> Iterator[Chart]:
    """Lay out latency (ms a call) against sparsity (percent), a chart for each batch size of the curve."""
    for batch in dict.fromkeys(entry["batch"] for entry in facts["curve"]):
        entries = [entry for entry in facts["curve"] if entry["batch"] == batch]
        compiled = Series("compiled ticket", tuple(_curve_point(entry) for entry in entries))
        dense = _p50(facts, "dense", batch)
        yield Chart(
            title=f"Latency against sparsity at batch {batch}",
            x_label="sparsity of the prunable weights, %",
            y_label=f"median latency at batch {batch}, ms",
            series=(compiled, *_onnx_series(facts, batch)),
            references=() if dense is None else (Reference(f"dense {dense:.2f} ms", dense),),
            y_from_zero=True,
        )


def plan_section(facts: Json) -> str:
    """Show how sparse every layer is, how it runs, and why."""
    drawing = facts["layer_sparsity"] and figure(
        inline(layer_map(facts["layer_sparsity"])),
        "Pruned share of every layer's weights in percent; darker is sparser.",
    )
    if facts["plan"] is None:
        missing = paragraph("How each layer runs is not decided yet: run `vlcompress compile`", "missing")
        return section("Layers", drawing or "", missing)
    plan = facts["plan"]
    header = ("layer", "sparsity %", "runs as", "dense µs", "sparse µs", "why", "shape", "stored as", "bytes")
    rows = [_layer_row(layer) for layer in plan["layers"]]
    sparse = sum(1 for layer in plan["layers"] if layer["choice"]["picked"] != "dense")
    where = plan.get("computed_on") or {"name": plan.get("device", "cpu"), "dtype": "fp32"}  # as earlier plans have it
    return section(
        "Layers",
        drawing or "",
        paragraph(
            f"{sparse} of {len(rows)} pruned layers run sparse, the others dense. Timed on "
            f"{where['name']} in {where['dtype']} "
            f"with {threads_words(plan.get('threads', 1))}. Shapes and sparsities are those after "
            "removing whole heads and neurons, so they can be below the map's."
        ),
        folded("Every layer: timings and choice", table(header, rows, text_columns=(0, 2, 5, 7))),
    )


def _latency_rows(name: str, speed: Json) -> Iterator[tuple[str, ...]]:
    for batch, row in speed["variants"][name]["batches"].items():
        times = (_number(row.get(key)) for key in ("p50_ms", "p90_ms", "p99_ms", "examples_per_s"))
        ratios = (speed_words(row["speedup"].get(to)) if to != name else "1" for to in speed["references"])
        yield name, batch, *times, *ratios


def _size_row(name: str, variant: Json) -> tuple[str, ...]:
    accuracy, nbytes = variant["accuracy"] or {}, variant.get("bytes")
    score, error = accuracy.get("score"), (variant.get("parity") or {}).get("max_abs_error")
    return (
        name,
        _number(variant.get("memory_mb"), 1),
        _number(None if nbytes is None else nbytes / 1e6),
        _number(None if score is None else 100 * score),
        str(accuracy.get("examples", "")),
        "" if error is None else f"{error:.1e}",
    )


def _layer_row(layer: Json) -> tuple[str, ...]:
    choice = layer["choice"]
    times = {name: timing["us"] for name, timing in (choice.get("timings") or {}).items()}
    sparse = min((us for name, us in times.items() if name != "dense"), default=None)
    block = layer.get("block")
    return (
        layer["name"].removesuffix(".weight"),
        f"{100 * layer['sparsity']:.1f}",
        choice["picked"],
        _number(times.get("dense"), 1, missing="–"),  # "why" says why there is none
        _number(sparse, 1, missing="–"),
        choice["why"],
        "×".join(map(str, layer["shape"])),
        f"{layer['format']} {block[0]}×{block[1]}" if block else layer["format"],
        f"{layer['nbytes']:,}" if "nbytes" in layer else "",
    )


def _curve_point(entry: Json) -> Point:
    speedup = entry["speedup"]
    if speedup is None:
        return Point(100 * entry["sparsity"], entry["p50_ms"])
    dense = entry["p50_ms"] * speedup["value"]
    return Point(100 * entry["sparsity"], entry["p50_ms"], dense / speedup["high"], dense / speedup["low"])


def _onnx_series(facts: Json, batch: int) -> Iterator[Series]:
    """Return ONNX Runtime's two points; they are not joined, since no round between them has been exported."""
    at = {"onnx dense": 0.0, "onnx compiled": 100 * facts["ticket"]["sparsity"]}
    times = {name: _p50(facts, name, batch) for name in at}
    points = tuple(Point(at[name], p50) for name, p50 in times.items() if p50 is not None)
    if points:
        yield Series("ONNX Runtime", points, line=False)


def _p50(facts: Json, name: str, batch: int) -> float | None:
    variant = (facts["speed"] or {}).get("variants", {}).get(name) or {"batches": {}}
    p50: float | None = variant["batches"].get(str(batch), {}).get("p50_ms")
    return p50


def _number(value: float | None, digits: int = 2, missing: str = "not measured") -> str:
    return missing if value is None else f"{value:,.{digits}f}"
