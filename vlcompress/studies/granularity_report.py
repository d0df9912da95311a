"""What the study `granularity` says and draws: pure functions of its results."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from vlcompress.report.accuracy import SPARSITY, score_chart
from vlcompress.report.plots import Chart, Series
from vlcompress.report.table import Table
from vlcompress.results import ArmResult
from vlcompress.studies.curves import Curve, Difference, margin_text, point, score_text, verdict_table
from vlcompress.studies.latency import FileSpeed, Speeds

SPEED_BATCH = "32"
"""The batch size that layers were chosen for."""


@dataclass(frozen=True)
class ComparedCurve(Curve):
    """A curve of which some levels were compared with another curve's.

    Attributes:
        task: that was trained.
        rounds: by level in per cent, the round that reaches it.
        differences: likewise, from the other curve.
        gone: likewise, the weights of which nothing is left (first seed).
    """

    task: str
    rounds: Mapping[str, int]
    differences: Mapping[str, Difference]
    gone: Mapping[str, tuple[str, ...]]

    def cell(self, level: str) -> ArmResult:
        """Find the cell of a level, by its round."""
        return next(cell for cell in self.arm("ticket") if cell.round == self.rounds[level])


@dataclass(frozen=True)
class PatternResult(ComparedCurve):
    """A pattern, compared with unstructured pruning."""

    pattern: str


@dataclass(frozen=True)
class OptionResult(ComparedCurve):
    """An option of the recipe, compared with the same pattern without it."""

    option: str


@dataclass(frozen=True)
class SpeedResult:
    """The speed of every pattern."""

    task: str
    speed: Speeds


Result = PatternResult | OptionResult | SpeedResult
Results = Mapping[str, Result]
Patterns = Mapping[str, PatternResult]
Options = Mapping[str, OptionResult]


def row_name(pattern: str, level: str) -> str:
    """Name a ticket in the measured speeds."""
    return f"{pattern} at {level} %"


def tables(results: Results) -> Iterator[Table]:
    """Lay out for each task score and speed by pattern, the verdicts, and the options."""
    for task in _tasks(results):
        patterns, options, speed = _patterns(results, task), _options(results, task), _speed_of(results, task)
        if patterns:
            yield _overview(task, patterns, speed)
            yield verdict_table(f"{task}: against dense", "pattern", list(_judged(patterns)))
        if options:
            yield _option_table(task, options)


def charts(results: Results) -> Iterator[Chart]:
    """Draw for each task the score against sparsity, and against the speed that was measured."""
    for task in _tasks(results):
        patterns, speed = _patterns(results, task), _speed_of(results, task)
        if patterns:
            yield _by_sparsity(task, patterns)
            if speed:
                yield _by_speed(task, patterns, speed)


def findings(results: Results) -> Iterator[str]:
    """Say what blocks cost, what is as good as dense, what is faster, and which options help."""
    for task in _tasks(results):
        patterns, speed = _patterns(results, task), _speed_of(results, task)
        yield from (f"{task}: {sentence}" for sentence in _costs(patterns))
        yield from (f"{task}: {sentence}" for sentence in _cut(patterns))
        yield from (f"{task}: {sentence}" for sentence in _passing(patterns))
        yield from (f"{task}: {sentence}" for sentence in _fastest(patterns, speed))
        yield from (f"{task}: {sentence}" for sentence in _helping(_options(results, task)))


def _tasks(results: Results) -> list[str]:
    return list(dict.fromkeys(result.task for result in results.values()))


def _patterns(results: Results, task: str) -> dict[str, PatternResult]:
    return {one.pattern: one for one in results.values() if isinstance(one, PatternResult) and one.task == task}


def _options(results: Results, task: str) -> dict[str, OptionResult]:
    return {one.option: one for one in results.values() if isinstance(one, OptionResult) and one.task == task}


def _speed_of(results: Results, task: str) -> Speeds | None:
    return next((one.speed for one in results.values() if isinstance(one, SpeedResult) and one.task == task), None)


def _judged(patterns: Patterns) -> Iterator[tuple[str, ArmResult]]:
    yield "dense", next(iter(patterns.values())).dense
    for pattern, result in patterns.items():
        yield from ((pattern, result.cell(level)) for level in result.rounds)


def _overview(task: str, patterns: Patterns, speed: Speeds | None) -> Table:
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
    dense = next(iter(patterns.values())).dense
    size = f"{speed.dense.bytes / 1e6:.2f}" if speed else "–"
    rows: list[tuple[str, ...]] = [("dense", "0", score_text(dense), "", "", "0", "1", "1", size)]
    rows += [_row(name, one, level, speed) for name, one in patterns.items() for level in one.rounds]
    where = f"; speed of the first seed's, ONNX Runtime, {speed.threads} thread" if speed else ""
    return Table(f"{task}: score and measured speed by pattern{where}", header, tuple(rows), text_columns=(0, 4))


def _row(pattern: str, result: PatternResult, level: str, speed: Speeds | None) -> tuple[str, ...]:
    cell = result.cell(level)
    gap = "" if pattern == "unstructured" else margin_text(result.differences[level])
    found = _measured(speed, pattern, level)
    times = [_ratio(found, batch) for batch in ("1", SPEED_BATCH)]
    size = f"{found.bytes / 1e6:.2f}" if found else "–"
    gone = str(len(result.gone[level]))
    return (pattern, level, score_text(cell), gap, cell.outcome("relaxed"), gone, *times, size)


def _measured(speed: Speeds | None, pattern: str, level: str) -> FileSpeed | None:
    """Look up the speeds of a ticket; None where it was not measured, or could not be exported."""
    found = speed.tickets.get(row_name(pattern, level)) if speed else None
    return found if isinstance(found, FileSpeed) else None


def _ratio(found: FileSpeed | None, batch: str) -> str:
    if not found:
        return "–"
    ratio = found.batches[batch].speedup
    return f"{ratio.value:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"


def _option_table(task: str, options: Options) -> Table:
    header = ("option", "at %", "seeds", "score", "difference ± s.d.", "95 % interval", "p (worse)")
    rows = tuple(_option_row(name, one, level) for name, one in options.items() for level in one.rounds)
    return Table(f"{task}: options, each against the same pattern without it, points", header, rows)


def _option_row(name: str, result: OptionResult, level: str) -> tuple[str, ...]:
    found, points = result.differences[level], [100 * one for one in result.differences[level].points]
    spread = f" ± {stdev(points):.2f}" if len(points) > 1 else ""
    interval = f"{100 * found.low:+.2f} to {100 * found.high:+.2f}"
    score = score_text(result.cell(level))
    return (name, level, str(len(points)), score, f"{mean(points):+.2f}{spread}", interval, f"{found.p:.3f}")


def _by_sparsity(task: str, patterns: Patterns) -> Chart:
    points = {name: [(100 * cell.sparsity, cell) for cell in one.arm("ticket")] for name, one in patterns.items()}
    return _chart(f"{task}: score against sparsity, by pattern", SPARSITY, patterns, points)


def _by_speed(task: str, patterns: Patterns, speed: Speeds) -> Chart:
    def points(pattern: str, result: PatternResult) -> list[tuple[float, ArmResult]]:
        found = {level: _measured(speed, pattern, level) for level in result.rounds}
        times = {level: one.batches[SPEED_BATCH].speedup.value for level, one in found.items() if one}
        return [(value, result.cell(level)) for level, value in times.items()]

    return _chart(
        f"{task}: score against measured speed, by pattern ({', '.join(_levels(patterns))} % pruned)",
        f"times faster than dense in ONNX Runtime, batch {SPEED_BATCH}, {speed.threads} thread",
        patterns,
        {name: points(name, one) for name, one in patterns.items()},
    )


def _levels(patterns: Patterns) -> list[str]:
    return list(next(iter(patterns.values())).rounds)


def _chart(
    title: str, x_label: str, patterns: Patterns, points: Mapping[str, Sequence[tuple[float, ArmResult]]]
) -> Chart:
    first = next(iter(patterns.values()))
    series = (Series(name, tuple(point(x, cell) for x, cell in found)) for name, found in points.items() if found)
    return score_chart(title, first.metric, first.dense.percent, series, x_label)


def _costs(patterns: Patterns) -> Iterator[str]:
    """Say at each level what the best and the worst structure cost against unstructured pruning."""
    if "unstructured" not in patterns or len(patterns) < 2:
        return
    for level in patterns["unstructured"].rounds:
        costs = {name: one.differences[level] for name, one in patterns.items() if name != "unstructured"}
        best, worst = (pick(costs, key=lambda name: costs[name].margin) for pick in (max, min))
        yield (
            f"at {level} % unstructured pruning keeps {score_text(patterns['unstructured'].cell(level))}; the "
            f"structure that costs least is {best}, {margin_text(costs[best])} points (95 % interval), the one that "
            f"costs most {worst}, {margin_text(costs[worst])}."
        )


def _cut(patterns: Patterns) -> Iterator[str]:
    """Say which patterns lose whole weight matrices: a global ranking can cut a model through there."""
    for level in _levels(patterns) if patterns else ():
        gone = {name: len(one.gone[level]) for name, one in patterns.items() if one.gone[level]}
        if gone:
            listed = ", ".join(f"{name} {count}" for name, count in gone.items())
            yield f"at {level} % the global ranking leaves nothing of some weight matrices (first seed): {listed}."


def _passing(patterns: Patterns) -> Iterator[str]:
    """Say the sparsest relaxed ticket of every pattern."""
    found = {name: one.sparsest("relaxed") for name, one in patterns.items()}
    listed = [f"{name} {f'{100 * one[0]:.0f} % ({one[1]})' if one else 'none'}" for name, one in found.items()]
    if listed:
        yield f"the sparsest ticket that passes relaxed: {', '.join(listed)}."


def _fastest(patterns: Patterns, speed: Speeds | None) -> Iterator[str]:
    """Say the fastest ticket that passes relaxed, and what unstructured pruning is worth without blocks."""
    found = {
        (name, level): one
        for name, result in patterns.items()
        for level in result.rounds
        if (one := _measured(speed, name, level))
    }
    if not found or speed is None:
        return
    good = [(name, level) for name, level in found if patterns[name].cell(level).passes("relaxed")]
    nothing = next((why for name, level in found if (why := patterns[name].cell(level).nothing_learned)), "")
    if good:
        best = max(good, key=lambda key: found[key].batches[SPEED_BATCH].speedup.value)
        yield f"the fastest ticket that does not fail relaxed is {row_name(*best)}: {_speeds(found[best])}."
    elif nothing:
        yield f"{nothing}."
    else:
        yield "no measured ticket passes relaxed, so there is no speed without a loss."
    if plain := [key for key in found if key[0] == "unstructured"]:
        gains = found[plain[-1]].batches[SPEED_BATCH].speedup.low > 1
        so = "some of its units are empty, and removed" if gains else "a mask alone makes nothing faster"
        yield f"{row_name(*plain[-1])} runs at {_speeds(found[plain[-1]])}: {so}."
    where = speed.environment
    if where["load_average"] is not None and where["load_average"] > where["cores"]:
        yield (
            f"the machine was busy while speeds were measured (load average {where['load_average']:g} on "
            f"{where['cores']} cores): run the study again on a quiet one; nothing is trained twice."
        )


def _speeds(found: FileSpeed) -> str:
    return f"{_ratio(found, '1')} × dense at batch 1, {_ratio(found, SPEED_BATCH)} × at batch {SPEED_BATCH}"


def _helping(options: Options) -> Iterator[str]:
    """Sort the options into those that help, those that hurt, and those that cannot be told from doing nothing."""
    for level in dict.fromkeys(level for one in options.values() for level in one.rounds):
        found = {name: one.differences[level] for name, one in options.items() if level in one.rounds}
        groups = {
            "help": [name for name, one in found.items() if one.low > 0],
            "hurt": [name for name, one in found.items() if one.high < 0],
        }
        groups["make no difference that can be told"] = [
            name for name in found if not any(name in group for group in groups.values())
        ]
        listed = [
            f"{', '.join(f'{name} ({margin_text(found[name])})' for name in names)} {verb}"
            for verb, names in groups.items()
            if names
        ]
        yield f"at {level} %, of the options {'; '.join(listed)}."


def summary(results: Results) -> str:
    """Say for each task what every pattern costs at the middle level, and what is the fastest without a loss."""
    return " ".join(sentence for task in _tasks(results) for sentence in _summary(results, task))


def _summary(results: Results, task: str) -> Iterator[str]:
    patterns = _patterns(results, task)
    if "unstructured" in patterns:
        levels = _levels(patterns)
        level = levels[len(levels) // 2]
        others = {name: one.differences[level] for name, one in patterns.items() if name != "unstructured"}
        costs = [f"{name} {100 * found.margin:+.2f}" for name, found in others.items()]
        score = score_text(patterns["unstructured"].cell(level))
        yield f"{task}: at {level} % unstructured pruning keeps {score}; points from it: {', '.join(costs)}."
        yield from (
            sentence[:1].upper() + sentence[1:] for sentence in _cut(patterns) if sentence.startswith(f"at {level} %")
        )
    yield from (
        sentence[:1].upper() + sentence[1:] for sentence in list(_fastest(patterns, _speed_of(results, task)))[:2]
    )
    yield from (sentence[:1].upper() + sentence[1:] for sentence in _helping(_options(results, task)))
