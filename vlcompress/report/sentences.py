"""A report's sentences: what was found, what is slower, and what nobody has measured. Pure functions of its data."""

from collections.abc import Iterator, Mapping, Sequence

from vlcompress.artefacts import Json
from vlcompress.devices import spelt
from vlcompress.report.report_data import ArmScore, ReportData, Speed, VariantSpeed
from vlcompress.results import ArmResult, BatchResult, Ratio
from vlcompress.tickets.verdict import CONFIDENCE, corrected

FEW_CALLS = 100
"""With fewer calls than this, the 99th percentile is one of the slowest calls and says little."""


def headline(data: ReportData) -> str:
    """Say in one sentence what was found, whether it is faster, by how much, and where that was measured."""
    return f"{_found(data)}; {_faster(data)}."


def seeds_words(count: int) -> str:
    """Name a number of seeds; one is called a single seed."""
    return "a single seed" if count == 1 else f"{count} seeds"


def non_inferior(arms: Sequence[ArmResult | ArmScore]) -> str:
    """Say which arms are within 1 % of dense with 95 % confidence, corrected for their number.

    Returns:
        a sentence without its end, "" where no arm has a verdict.
    """
    values = zip(arms, corrected([arm.levels["relaxed"] if arm.levels else None for arm in arms]), strict=True)
    asked = [(f"{arm.arm} at {100 * arm.sparsity:.1f} %", p) for arm, p in values if p is not None]
    surely = [name for name, p in asked if p <= 1 - CONFIDENCE]
    several = f", Holm's correction for {len(asked)} comparisons" if len(asked) > 1 else ""
    said = f"within 1 % of dense with 95 % confidence (non-inferiority{several}): {', '.join(surely) or 'none'}"
    return said if asked else ""


def speed_words(speedup: Ratio | None) -> str:
    """Write a speed ratio with its interval: "1.42× (1.38 to 1.45)"."""
    if not speedup:
        return "not measured"
    return f"{speedup.value:.2f}× ({speedup.low:.2f} to {speedup.high:.2f})"


def comparison(speedup: Ratio, reference: str = "dense") -> str:
    """Say whether a variant is faster than another; an interval that holds 1 means that one cannot tell."""
    if speedup.low <= 1 <= speedup.high:
        return f"as fast as {reference} as far as one can tell, {speed_words(speedup)}"
    if speedup.low > 1:
        return f"{speed_words(speedup)} as fast as {reference}"
    return f"slower than {reference}, {speed_words(speedup)} of its speed"


def own_reference(name: str, references: Sequence[str]) -> str:
    """Name what a variant is to be compared with: the dense model in the same runtime, where that was measured."""
    return "onnx dense" if name == "onnx compiled" and "onnx dense" in references else references[0]


def caveats(data: ReportData) -> list[str]:
    """List what is slower, what could not be told apart, and what has not been measured."""
    lines = [*_seed_caveats(data), *_computed(data), *_missing(data), *_speed_caveats(data), *_plan_caveats(data)]
    return lines or ["Nothing: every part has been measured, and nothing is slower than dense."]


def place(data: ReportData) -> str:
    """Say where the speed was measured."""
    environment, speed = data.environment or {}, data.speed
    assert speed is not None, "there is no place of what was not measured"
    on_gpu = speed.device.startswith("cuda")  # a GPU that is there need not be the one that was measured
    machine = environment.get("gpu" if on_gpu else "cpu") or "an unknown machine"
    dtype = f" in {speed.dtype}" if speed.dtype != "fp32" else ""
    return f"{machine}{dtype}" + ("" if on_gpu else f", {threads_words(speed.threads)}")


def threads_words(count: int) -> str:
    """Name a number of threads."""
    return "1 thread" if count == 1 else f"{count} threads"


def _found(data: ReportData) -> str:
    ticket, dense = data.ticket, data.dense
    outcome = ticket.levels["relaxed"].outcome if ticket.levels else "fail"
    reached = {
        "pass": "which reaches the 99 % line",
        "pass within noise": "which is below the 99 % line, but within noise of it",
        "no verdict": "which says nothing: the dense model is no better than one that does not look",
    }.get(outcome, "which fails the 99 % line")
    return (
        f"The {data.recipe['pruning']['pattern']} ticket at {100 * ticket.sparsity:.1f} % sparsity scores "
        f"{ticket.score:.2f} against {dense.score:.2f} dense ({100 * ticket.of_dense:.1f} %), {reached} "
        f"({seeds_words(ticket.seeds)})"
    )


def _faster(data: ReportData) -> str:
    variants = data.speed.variants if data.speed else {}
    compiled = variants.get("compiled")
    if compiled is None:
        return "whether it is faster is not measured yet (a mask alone makes nothing faster): run `vlcompress bench`"
    batch, row = next(iter(compiled.batches.items()))
    gain = comparison(row.speedup["dense"])
    return f"compiled, it is {gain}{_exported(variants, batch)} (batch {batch}, on {place(data)})"


def _exported(variants: Mapping[str, VariantSpeed], batch: str) -> str:
    """Say what the ticket gains in ONNX Runtime, apart from what that runtime gives the dense model too."""
    exported = variants.get("onnx compiled")
    ratio = exported and exported.batches[batch].speedup.get("onnx dense")
    return f"; exported, it is {comparison(ratio, 'dense in ONNX Runtime')}" if ratio else ""


def _seed_caveats(data: ReportData) -> Iterator[str]:
    if data.ticket.seeds == 1:
        yield (
            "The accuracy is that of a single seed: another seed may turn a narrow verdict. "
            "Repeat with `vlcompress prune --seeds 0,1,2`."
        )


def _computed(data: ReportData) -> Iterator[str]:
    said = data.computed_on
    if said:
        yield f"Trained on {spelt(said)}: whole batches in float32 on the CPU give other bits."


def _missing(data: ReportData) -> Iterator[str]:
    if data.plan is None:
        yield "Not compiled yet: run `vlcompress compile`."
    if data.onnx is None:
        yield "Not exported yet: run `vlcompress export --format onnx`."
    if data.speed is None:
        yield "Speed, memory and size are not measured yet: run `vlcompress bench`."
        return
    if data.curve is None:
        yield "Latency against sparsity is not measured yet: run `vlcompress bench`."
    unscored = [name for name, variant in data.speed.variants.items() if variant.accuracy is None]
    if unscored:
        yield f"Accuracy is not measured for: {', '.join(unscored)}. Their scores were checked on the timed samples."


def _speed_caveats(data: ReportData) -> Iterator[str]:
    if data.speed is None:
        return
    for name, batch, row in _measured(data.speed):
        reference = own_reference(name, data.speed.references)
        speedup = row.speedup.get(reference)
        if name != reference and speedup and speedup.low <= 1:
            yield f"{name} at batch {batch} is {comparison(speedup, reference)}."
        exported = row.speedup.get("onnx dense")
        if name == "compiled" and exported and exported.high < 1:
            yield f"At batch {batch} the dense model in ONNX Runtime is faster than the compiled one in PyTorch."
    calls = [row.calls for _, _, row in _measured(data.speed)]
    if calls and min(calls) < FEW_CALLS:
        yield f"p99 rests on as few as {min(calls)} calls: there it is close to the slowest call."
    yield from _busy(data.environment or {})


def _measured(speed: Speed) -> Iterator[tuple[str, str, BatchResult]]:
    """Walk every variant's name, batch size and row."""
    for name, variant in speed.variants.items():
        for batch, row in variant.batches.items():
            yield name, batch, row


def _busy(environment: Json) -> Iterator[str]:
    load, cores = environment.get("load_average"), environment.get("cores")
    if load is not None and cores and load > cores:
        yield (
            f"The machine was busy (load average {load:g} on {cores} cores): ratios hold, since variants took turns, "
            "but milliseconds would be fewer on an idle one."
        )


def _plan_caveats(data: ReportData) -> Iterator[str]:
    if data.plan is None:
        return
    dense = [layer for layer in data.plan.layers if layer.choice.picked == "dense"]
    measured = sum(1 for layer in dense if layer.choice.timings)
    if dense:
        yield (
            f"{len(dense)} of {len(data.plan.layers)} pruned layers run dense: {measured} because no sparse "
            f"form was measured clearly faster, {len(dense) - measured} for a reason that the plan gives."
        )
