"""What the study `granularity` says and draws: pure functions of its results."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, stdev

from vlcompress.report.plots import Chart, Point, Reference, Series
from vlcompress.report.table import Table
from vlcompress.studies.base import Json
from vlcompress.studies.curves import (
    arm,
    dense_of,
    deviation,
    margin_text,
    percent,
    score_text,
    sparsest,
    verdict_table,
)
from vlcompress.tickets.verdict import RELAXED

Results = Mapping[str, Json]
SPEED_BATCH = "32"
"""The batch size that layers were chosen for."""


def row_name(pattern: str, level: str) -> str:
    """Name a ticket in the measured speeds."""
    return f"{pattern} at {level} %"


def tables(results: Results) -> Iterator[Table]:
    """Lay out for each task score and speed by pattern, the verdicts, and the levers."""
    for task in _tasks(results):
        patterns, levers, speed = _of(results, task, "pattern"), _of(results, task, "lever"), _speed_of(results, task)
        if patterns:
            yield _overview(task, patterns, speed)
            yield verdict_table(f"{task}: against dense", "pattern", list(_judged(patterns)))
        if levers:
            yield _lever_table(task, levers)


def charts(results: Results) -> Iterator[Chart]:
    """Draw for each task the score against sparsity, and against the speed that was measured."""
    for task in _tasks(results):
        patterns, speed = _of(results, task, "pattern"), _speed_of(results, task)
        if patterns:
            yield _by_sparsity(task, patterns)
            if speed:
                yield _by_speed(task, patterns, speed)


def findings(results: Results) -> Iterator[str]:
    """Say what blocks cost, what is as good as dense, what is faster, and which levers help."""
    for task in _tasks(results):
        patterns, speed = _of(results, task, "pattern"), _speed_of(results, task)
        yield from (f"{task}: {sentence}" for sentence in _costs(patterns))
        yield from (f"{task}: {sentence}" for sentence in _cut(patterns))
        yield from (f"{task}: {sentence}" for sentence in _passing(patterns))
        yield from (f"{task}: {sentence}" for sentence in _fastest(patterns, speed))
        yield from (f"{task}: {sentence}" for sentence in _helping(_of(results, task, "lever")))


def _tasks(results: Results) -> list[str]:
    return list(dict.fromkeys(result["task"] for result in results.values()))


def _of(results: Results, task: str, kind: str) -> dict[str, Json]:
    """Pick the results of a task by pattern, or by lever."""
    return {result[kind]: result for result in results.values() if result["task"] == task and kind in result}


def _speed_of(results: Results, task: str) -> Json | None:
    return next((one["speed"] for one in results.values() if one["task"] == task and "speed" in one), None)


def _cell(result: Json, level: str) -> Json:
    """Find the cell of a level, by its round."""
    return next(cell for cell in arm(result, "ticket") if cell["round"] == result["rounds"][level])


def _judged(patterns: Results) -> Iterator[tuple[str, Json]]:
    yield "dense", dense_of(next(iter(patterns.values())))
    for pattern, result in patterns.items():
        yield from ((pattern, _cell(result, level)) for level in result["rounds"])


def _overview(task: str, patterns: Results, speed: Json | None) -> Table:
    header = (
        "pattern",
        "at %",
        "score",
        "points from unstructured (95 %)",
        "relaxed",
        "matrices gone",
        *(f"× dense, batch {batch}" for batch in ("1", SPEED_BATCH)),
        "MB",
    )
    dense = dense_of(next(iter(patterns.values())))
    size = f"{speed['dense']['bytes'] / 1e6:.2f}" if speed else "–"
    rows: list[tuple[str, ...]] = [("dense", "0", score_text(dense), "", "", "0", "1", "1", size)]
    rows += [_row(name, one, level, speed) for name, one in patterns.items() for level in one["rounds"]]
    where = f"; speed of the first seed's, ONNX Runtime, {speed['threads']} thread" if speed else ""
    return Table(f"{task}: score and measured speed by pattern{where}", header, tuple(rows), text_columns=(0, 4))


def _row(pattern: str, result: Json, level: str, speed: Json | None) -> tuple[str, ...]:
    cell = _cell(result, level)
    gap = "" if pattern == "unstructured" else margin_text(result["differences"][level])
    relaxed = cell["verdict"]["levels"]["relaxed"]["outcome"]
    found = _measured(speed, pattern, level)
    times = [_ratio(found, batch) for batch in ("1", SPEED_BATCH)]
    size = f"{found['bytes'] / 1e6:.2f}" if found else "–"
    return (pattern, level, score_text(cell), gap, relaxed, str(len(result["gone"][level])), *times, size)


def _measured(speed: Json | None, pattern: str, level: str) -> Json | None:
    """Look up the speeds of a ticket; None where it was not measured, or could not be exported."""
    found = (speed or {}).get("tickets", {}).get(row_name(pattern, level))
    return found if found and "batches" in found else None


def _ratio(found: Json | None, batch: str) -> str:
    if not found:
        return "–"
    ratio = found["batches"][batch]["speedup"]
    return f"{ratio['value']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"


def _lever_table(task: str, levers: Results) -> Table:
    header = ("lever", "at %", "seeds", "score", "difference ± s.d.", "95 % interval", "p (worse)")
    rows = tuple(_lever_row(name, one, level) for name, one in levers.items() for level in one["rounds"])
    return Table(f"{task}: levers, each against the same pattern without it, points", header, rows)


def _lever_row(name: str, result: Json, level: str) -> tuple[str, ...]:
    found, points = result["differences"][level], [100 * point for point in result["differences"][level]["points"]]
    spread = f" ± {stdev(points):.2f}" if len(points) > 1 else ""
    interval = f"{100 * found['low']:+.2f} to {100 * found['high']:+.2f}"
    score = score_text(_cell(result, level))
    return (name, level, str(len(points)), score, f"{mean(points):+.2f}{spread}", interval, f"{found['p']:.3f}")


def _by_sparsity(task: str, patterns: Results) -> Chart:
    return _chart(
        f"{task}: score against sparsity, by pattern",
        "sparsity of the prunable weights, %",
        patterns,
        {name: [(100 * cell["sparsity"], cell) for cell in arm(one, "ticket")] for name, one in patterns.items()},
    )


def _by_speed(task: str, patterns: Results, speed: Json) -> Chart:
    def points(pattern: str, result: Json) -> list[tuple[float, Json]]:
        found = {level: _measured(speed, pattern, level) for level in result["rounds"]}
        times = {level: one["batches"][SPEED_BATCH]["speedup"]["value"] for level, one in found.items() if one}
        return [(value, _cell(result, level)) for level, value in times.items()]

    return _chart(
        f"{task}: score against measured speed, by pattern ({', '.join(_levels(patterns))} % pruned)",
        f"times faster than dense in ONNX Runtime, batch {SPEED_BATCH}, {speed['threads']} thread",
        patterns,
        {name: points(name, one) for name, one in patterns.items()},
    )


def _levels(patterns: Results) -> list[str]:
    return list(next(iter(patterns.values()))["rounds"])


def _chart(title: str, x_label: str, patterns: Results, points: Mapping[str, Sequence[tuple[float, Json]]]) -> Chart:
    first = next(iter(patterns.values()))
    dense = percent(dense_of(first))
    series = tuple(Series(name, tuple(_point(x, cell) for x, cell in found)) for name, found in points.items() if found)
    references = (Reference(f"dense {dense:.2f}", dense), Reference("99 % of dense", RELAXED * dense))
    return Chart(title, x_label, f"{first['metric']}, %", series, references)


def _point(x: float, cell: Json) -> Point:
    score, spread = percent(cell), deviation(cell)
    return Point(x, score) if spread is None else Point(x, score, score - spread, score + spread)


def _costs(patterns: Results) -> Iterator[str]:
    """Say at each level what the best and the worst structure cost against unstructured pruning."""
    if "unstructured" not in patterns or len(patterns) < 2:
        return
    for level in patterns["unstructured"]["rounds"]:
        costs = {name: one["differences"][level] for name, one in patterns.items() if name != "unstructured"}
        best, worst = (pick(costs, key=lambda name: costs[name]["margin"]) for pick in (max, min))
        yield (
            f"at {level} % unstructured pruning keeps {score_text(_cell(patterns['unstructured'], level))}; the "
            f"structure that costs least is {best}, {margin_text(costs[best])} points (95 % interval), the one that "
            f"costs most {worst}, {margin_text(costs[worst])}."
        )


def _cut(patterns: Results) -> Iterator[str]:
    """Say which patterns lose whole weight matrices: a global ranking can cut a model through there."""
    for level in _levels(patterns) if patterns else ():
        gone = {name: len(one["gone"][level]) for name, one in patterns.items() if one["gone"][level]}
        if gone:
            listed = ", ".join(f"{name} {count}" for name, count in gone.items())
            yield f"at {level} % the global ranking leaves nothing of some weight matrices (first seed): {listed}."


def _passing(patterns: Results) -> Iterator[str]:
    """Say the sparsest relaxed ticket of every pattern."""
    found = {name: sparsest(one, "relaxed") for name, one in patterns.items()}
    listed = [f"{name} {f'{100 * one[0]:.0f} % ({one[1]})' if one else 'none'}" for name, one in found.items()]
    if listed:
        yield f"the sparsest ticket that passes relaxed: {', '.join(listed)}."


def _fastest(patterns: Results, speed: Json | None) -> Iterator[str]:
    """Say the fastest ticket that passes relaxed, and what unstructured pruning is worth without blocks."""
    found = {
        (name, level): one
        for name, result in patterns.items()
        for level in result["rounds"]
        if (one := _measured(speed, name, level))
    }
    if not found or speed is None:
        return
    good = [key for key in found if _outcome(patterns, *key) != "fail"]
    if good:
        best = max(good, key=lambda key: found[key]["batches"][SPEED_BATCH]["speedup"]["value"])
        yield f"the fastest ticket that does not fail relaxed is {row_name(*best)}: {_speeds(found[best])}."
    else:
        yield "no measured ticket passes relaxed, so there is no speed without a loss."
    if plain := [key for key in found if key[0] == "unstructured"]:
        gains = found[plain[-1]]["batches"][SPEED_BATCH]["speedup"]["low"] > 1
        so = "some of its units are empty, and removed" if gains else "a mask alone makes nothing faster"
        yield f"{row_name(*plain[-1])} runs at {_speeds(found[plain[-1]])}: {so}."
    where = speed["environment"]
    if where["load_average"] is not None and where["load_average"] > where["cores"]:
        yield (
            f"the machine was busy while speeds were measured (load average {where['load_average']:g} on "
            f"{where['cores']} cores): run the study again on a quiet one; nothing is trained twice."
        )


def _outcome(patterns: Results, pattern: str, level: str) -> str:
    return str(_cell(patterns[pattern], level)["verdict"]["levels"]["relaxed"]["outcome"])


def _speeds(found: Json) -> str:
    return f"{_ratio(found, '1')} × dense at batch 1, {_ratio(found, SPEED_BATCH)} × at batch {SPEED_BATCH}"


def _helping(levers: Results) -> Iterator[str]:
    """Sort the levers into those that help, those that hurt, and those that cannot be told from doing nothing."""
    for level in dict.fromkeys(level for one in levers.values() for level in one["rounds"]):
        found = {name: one["differences"][level] for name, one in levers.items() if level in one["rounds"]}
        groups = {
            "help": [name for name, one in found.items() if one["low"] > 0],
            "hurt": [name for name, one in found.items() if one["high"] < 0],
        }
        groups["make no difference that can be told"] = [
            name for name in found if not any(name in group for group in groups.values())
        ]
        listed = [
            f"{', '.join(f'{name} ({margin_text(found[name])})' for name in names)} {verb}"
            for verb, names in groups.items()
            if names
        ]
        yield f"at {level} %, of the levers {'; '.join(listed)}."


def summary(results: Results) -> str:
    """Say for each task what every pattern costs at the middle level, and what is the fastest without a loss."""
    return " ".join(sentence for task in _tasks(results) for sentence in _summary(results, task))


def _summary(results: Results, task: str) -> Iterator[str]:
    patterns = _of(results, task, "pattern")
    if "unstructured" in patterns:
        levels = _levels(patterns)
        level = levels[len(levels) // 2]
        others = {name: one["differences"][level] for name, one in patterns.items() if name != "unstructured"}
        costs = [f"{name} {100 * found['margin']:+.2f}" for name, found in others.items()]
        score = score_text(_cell(patterns["unstructured"], level))
        yield f"{task}: at {level} % unstructured pruning keeps {score}; points from it: {', '.join(costs)}."
        yield from (
            sentence[:1].upper() + sentence[1:] for sentence in _cut(patterns) if sentence.startswith(f"at {level} %")
        )
    yield from (
        sentence[:1].upper() + sentence[1:] for sentence in list(_fastest(patterns, _speed_of(results, task)))[:2]
    )
    yield from (sentence[:1].upper() + sentence[1:] for sentence in _helping(_of(results, task, "lever")))
