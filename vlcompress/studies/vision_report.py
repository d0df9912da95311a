"""How the study of paper c is shown: tables beside the paper's, charts, and sentences with their figures."""

from collections.abc import Iterator, Mapping

from vlcompress.report.plots import Chart, Point, Reference, Series
from vlcompress.studies.base import Json, StudyReport, Table
from vlcompress.studies.curves import arm, at, curve_chart, curve_table, dense_of, percent, score_text, sparsest
from vlcompress.studies.vision_plan import KINDS

NONE = "none"
_CHANGED = ("random", "perturbed", "complement")


def report(results: Mapping[str, Json]) -> StudyReport:
    """Lay out what the cells that succeeded gave."""
    curves = {name: one for name, one in results.items() if "cells" in one}
    tables = [_highest(results), *_similarity(results), *_kernels(results), *_changed(results), *_starts(results)]
    return StudyReport(
        findings=tuple(findings(results)),
        tables=(*tables, *(curve_table(name, one) for name, one in curves.items() if "changed" not in name)),
        charts=tuple(_charts(results)),
        published=("c1", "c2"),
    )


def findings(results: Mapping[str, Json]) -> Iterator[str]:
    """Say which of the paper's findings hold here."""
    for kind in KINDS:
        yield from _universal(results, kind)
    yield from _similar(results)
    yield from _resilience(results)


def tasks_in(results: Mapping[str, Json]) -> list[str]:
    """Return the tasks that any pre-training was used on."""
    return list(dict.fromkeys(name.split(" on ")[1] for name in results if name.split(" on ")[0] in KINDS))


def matching(curve: Json, name: str) -> set[float]:
    """Return the sparsities of an arm that are within one standard deviation of dense, or within noise of that."""
    outcomes = {cell["sparsity"]: cell["verdict"]["levels"]["matching"]["outcome"] for cell in arm(curve, name)}
    return {sparsity for sparsity, outcome in outcomes.items() if outcome != "fail"}


def _highest(results: Mapping[str, Json]) -> Table:
    """Lay out the paper's tables of highest sparsities."""
    rows = [
        (
            "the pre-training task itself",
            *(_level(results.get(f"{kind} ticket"), "pre-training ticket") for kind in KINDS),
        )
    ]
    for name in ("pre-training ticket", "task ticket"):
        for task in tasks_in(results):
            curves = [results.get(f"{kind} on {task}") for kind in KINDS]
            if any(curve and arm(curve, name) for curve in curves):
                rows.append((f"{name} on {task}", *(_level(curve, name) for curve in curves)))
    return Table("Highest matching sparsity, % (within one s.d. of dense; * within noise)", ("", *KINDS), tuple(rows))


def _level(curve: Json | None, name: str) -> str:
    if curve is None:
        return "failed"
    found = sparsest(curve, "matching", name)
    return f"{100 * found[0]:.2f}{'' if found[1] == 'pass' else ' *'}" if found else NONE


def _similarity(results: Mapping[str, Json]) -> Iterator[Table]:
    if "similarity" in results:
        found = results["similarity"]
        rows = tuple((group["name"], *(_beside_chance(row) for row in group["rows"])) for group in found["groups"])
        header = ("masks", *(f"{100 * level:.1f} %" for level in found["levels"]))
        title = "Masks in common, % (chance; chance with each layer's density) by sparsity"
        yield Table(title, header, rows)


def _beside_chance(row: Mapping[str, float]) -> str:
    return f"{100 * row['overlap']:.1f} ({100 * row['chance']:.1f}; {100 * row['chance_by_layer']:.1f})"


def _kernels(results: Mapping[str, Json]) -> Iterator[Table]:
    there = {kind: results[f"{kind} ticket"] for kind in KINDS if f"{kind} ticket" in results}
    if there:
        levels = [cell["sparsity"] for cell in arm(next(iter(there.values())), "pre-training ticket")]
        rows = tuple((kind, *(f"{100 * share:.1f}" for share in one["zero_kernels"])) for kind, one in there.items())
        header = ("pre-training", *(f"{100 * level:.1f} %" for level in levels))
        yield Table("Kernels without a weight, % of all larger than 1x1, by sparsity", header, rows)


def _changed(results: Mapping[str, Json]) -> Iterator[Table]:
    rows = tuple(row for name, curve in results.items() if "changed" in name for row in _changed_rows(name, curve))
    if rows:
        header = ("start", "ticket at %", "dense", "ticket", *_CHANGED, "complement is at %")
        yield Table("Changed masks from the ticket's own start", header, rows)


def _changed_rows(name: str, curve: Json) -> Iterator[tuple[str, ...]]:
    for ticket in arm(curve, "task ticket"):
        others = [_of_round(curve, one, ticket["round"]) for one in _CHANGED]
        yield (
            name.removeprefix("changed masks, "),
            f"{100 * ticket['sparsity']:.1f}",
            score_text(dense_of(curve)),
            score_text(ticket),
            *(score_text(one) for one in others),
            f"{100 * others[-1]['sparsity']:.1f}",
        )


def _of_round(curve: Json, name: str, number: int) -> Json:
    return next(cell for cell in arm(curve, name) if cell["round"] == number)


def _starts(results: Mapping[str, Json]) -> Iterator[Table]:
    """Lay out what a task's own ticket scores by where it starts from and goes back to."""
    for task, curves in _by_start(results).items():
        levels = [cell["sparsity"] for cell in arm(next(iter(curves.values())), "task ticket")]
        rows = tuple(
            (name, score_text(dense_of(one)), *(score_text(at(one, "task ticket", level)) for level in levels))
            for name, one in curves.items()
        )
        yield Table(
            f"{task}: task tickets by start", ("start", "dense", *(f"{100 * one:.1f} %" for one in levels)), rows
        )


def _by_start(results: Mapping[str, Json]) -> dict[str, dict[str, Json]]:
    found: dict[str, dict[str, Json]] = {}
    for name, curve in results.items():
        start, _, task = name.partition(" on ")
        if task and arm(curve, "task ticket"):
            found.setdefault(task, {})[start.removesuffix(" start")] = curve
    return found


def _charts(results: Mapping[str, Json]) -> Iterator[Chart]:
    for task, curves in _by_start(results).items():
        yield Chart(
            title=f"{task}: task tickets by start",
            x_label="sparsity of the prunable weights, %",
            y_label="accuracy, %",
            series=tuple(_line(name, one, "task ticket") for name, one in curves.items()),
            references=tuple(
                Reference(f"dense, {name} {percent(dense_of(curves[name])):.1f}", percent(dense_of(curves[name])))
                for name in ("random", "supervised")
                if name in curves
            ),
        )
    for name, curve in results.items():
        if name.split(" on ")[0] in KINDS or name.endswith(" ticket"):
            yield curve_chart(f"{name}: score against sparsity", curve)
    if "similarity" in results:
        yield _similarity_chart(results["similarity"])


def _line(title: str, curve: Json, name: str) -> Series:
    return Series(title, tuple(Point(100 * cell["sparsity"], percent(cell)) for cell in arm(curve, name)))


def _similarity_chart(found: Json) -> Chart:
    groups = found["groups"]
    lines = [(group["name"], group["rows"], "overlap") for group in groups]
    lines += [
        ("chance, two", groups[0]["rows"], "chance"),
        ("chance by layer, two", groups[0]["rows"], "chance_by_layer"),
    ]
    return Chart(
        title="Masks of pre-training tickets in common",
        x_label="sparsity of the prunable weights, %",
        y_label="kept by all, % of kept by any",
        series=tuple(
            Series(name, tuple(Point(100 * x, 100 * row[key]) for x, row in zip(found["levels"], rows, strict=True)))
            for name, rows, key in lines
        ),
    )


def _universal(results: Mapping[str, Json], kind: str) -> Iterator[str]:
    own = results.get(f"{kind} ticket")
    if own is None:
        return
    yield f"{kind}: on its own task the ticket matches {_upto(own)}."
    there = [task for task in tasks_in(results) if f"{kind} on {task}" in results]
    matched = [matching(results[f"{kind} on {task}"], "pre-training ticket") for task in there]
    common = set.intersection(*matched) if matched else set()
    if there:
        upto = f"up to {100 * max(common):.2f} %" if common else "at no level"
        yield f"{kind}: one ticket matches on all of {', '.join(there)} {upto}."


def _upto(own: Json) -> str:
    found = sparsest(own, "matching", "pre-training ticket")
    if found is None:
        return "at no level"
    return f"up to {100 * found[0]:.2f} %{'' if found[1] == 'pass' else ' (within noise)'}"


def _similar(results: Mapping[str, Json]) -> Iterator[str]:
    if "similarity" not in results:
        return
    found = results["similarity"]
    place = min(range(len(found["levels"])), key=lambda one: abs(found["levels"][one] - 0.6723))
    for group in found["groups"]:
        row = group["rows"][place]
        yield (
            f"At {100 * found['levels'][place]:.2f} %, {group['name']} have {100 * row['overlap']:.1f} % of the kept "
            f"weights in common; chance gives {100 * row['chance']:.1f}, with each layer's density "
            f"{100 * row['chance_by_layer']:.1f}. (The paper says less than 6.55, and not of how many masks.)"
        )


def _resilience(results: Mapping[str, Json]) -> Iterator[str]:
    """Compare how much changed masks cost from random and from pre-trained weights."""
    for name, curve in results.items():
        if "changed" in name:
            last = arm(curve, "task ticket")[-1]
            costs = [
                f"{one} {percent(_of_round(curve, one, last['round'])) - percent(last):+.2f}" for one in _CHANGED[:2]
            ]
            yield f"{name} at {100 * last['sparsity']:.2f} %: against the ticket, {', '.join(costs)} points."
