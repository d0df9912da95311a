"""How the study of paper c is shown: tables beside the paper's, charts, and sentences with their figures."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from vlcompress.report.accuracy import SPARSITY
from vlcompress.report.plots import Chart, Point, Reference, Series
from vlcompress.report.table import Table
from vlcompress.results import ArmResult
from vlcompress.studies.base import StudyReport
from vlcompress.studies.curves import Curve, curve_table, score_text

KINDS = {"supervised": "classification", "simclr": "simclr", "moco": "moco"}
"""The three pre-trainings, with the task that each is."""
PRETRAINING_TICKET, TASK_TICKET = "pre-training ticket", "task ticket"
CHANGED = ("random", "perturbed", "complement")
CLOSEST = 0.6723
"""The sparsity at which the paper compares masks."""


@dataclass(frozen=True)
class KernelCurve(Curve):
    """A pre-training's ticket on its own task, and by round the share of kernels without a weight."""

    zero_kernels: tuple[float, ...]


@dataclass(frozen=True)
class InCommon:
    """What masks have in common, and what chance gives: of the whole network, and with each layer's density."""

    overlap: float
    chance: float
    chance_by_layer: float


@dataclass(frozen=True)
class MaskGroup:
    """Masks that are compared, and what they have in common in each round."""

    name: str
    rows: tuple[InCommon, ...]


@dataclass(frozen=True)
class Similarity:
    """Masks compared at each level."""

    levels: tuple[float, ...]
    groups: tuple[MaskGroup, ...]


Result = Curve | Similarity
Results = Mapping[str, Result]
Curves = Mapping[str, Curve]


def vision_report(results: Results) -> StudyReport:
    """Lay out what the cells that succeeded gave."""
    curves = {name: one for name, one in results.items() if isinstance(one, Curve)}
    similarity = next((one for one in results.values() if isinstance(one, Similarity)), None)
    tables = [_highest(curves), *_similarity(similarity), *_kernels(curves), *_changed(curves)]
    tables += [_by_start(task, starts) for task, starts in _starts(curves).items()]
    tables += [curve_table(name, one) for name, one in curves.items() if "changed" not in name]
    return StudyReport(
        findings=tuple(findings(curves, similarity)),
        tables=tuple(tables),
        charts=tuple(_charts(curves, similarity)),
        published=("c1", "c2"),
    )


def findings(curves: Curves, similarity: Similarity | None = None) -> Iterator[str]:
    """Say which of the paper's findings hold here."""
    for kind in KINDS:
        yield from _universal(curves, kind)
    if similarity:
        yield from _in_common(similarity)
    yield from _resilience(curves)


def _tasks(curves: Curves) -> list[str]:
    """List the tasks that any pre-training was used on."""
    return list(dict.fromkeys(name.split(" on ")[1] for name in curves if name.split(" on ")[0] in KINDS))


def _highest(curves: Curves) -> Table:
    """Lay out the paper's tables of highest sparsities."""
    own = [_level(curves.get(f"{kind} ticket"), PRETRAINING_TICKET) for kind in KINDS]
    rows = [("the pre-training task itself", *own)]
    for name in (PRETRAINING_TICKET, TASK_TICKET):
        for task in _tasks(curves):
            found = [curves.get(f"{kind} on {task}") for kind in KINDS]
            if any(curve and curve.arm(name) for curve in found):
                rows.append((f"{name} on {task}", *(_level(curve, name) for curve in found)))
    return Table("Highest matching sparsity, % (within one s.d. of dense; * within noise)", ("", *KINDS), tuple(rows))


def _level(curve: Curve | None, name: str) -> str:
    if curve is None:
        return "failed"
    found = curve.sparsest("matching", name)
    return f"{100 * found[0]:.2f}{'' if found[1] == 'pass' else ' *'}" if found else "none"


def _similarity(found: Similarity | None) -> Iterator[Table]:
    if found:
        rows = tuple((group.name, *(_beside_chance(row) for row in group.rows)) for group in found.groups)
        title = "Masks in common, % (chance; chance with each layer's density) by sparsity"
        yield Table(title, ("masks", *_percents(found.levels)), rows)


def _beside_chance(row: InCommon) -> str:
    return f"{100 * row.overlap:.1f} ({100 * row.chance:.1f}; {100 * row.chance_by_layer:.1f})"


def _percents(levels: Iterable[float]) -> list[str]:
    return [f"{100 * level:.1f} %" for level in levels]


def _kernels(curves: Curves) -> Iterator[Table]:
    found = {kind: curves.get(f"{kind} ticket") for kind in KINDS}
    there = {kind: one for kind, one in found.items() if isinstance(one, KernelCurve)}
    if there:
        levels = [cell.sparsity for cell in next(iter(there.values())).arm(PRETRAINING_TICKET)]
        rows = tuple((kind, *(f"{100 * share:.1f}" for share in one.zero_kernels)) for kind, one in there.items())
        title = "Kernels without a weight, % of all larger than 1x1, by sparsity"
        yield Table(title, ("pre-training", *_percents(levels)), rows)


def _changed(curves: Curves) -> Iterator[Table]:
    rows = tuple(row for name, curve in curves.items() if "changed" in name for row in _changed_rows(name, curve))
    if rows:
        header = ("start", "ticket at %", "dense", "ticket", *CHANGED, "complement is at %")
        yield Table("Changed masks from the ticket's own start", header, rows)


def _changed_rows(name: str, curve: Curve) -> Iterator[tuple[str, ...]]:
    for ticket in curve.arm(TASK_TICKET):
        others = [_of_round(curve, one, ticket.round) for one in CHANGED]
        start, level = name.removeprefix("changed masks, "), f"{100 * ticket.sparsity:.1f}"
        scores = [score_text(one) for one in (curve.dense, ticket, *others)]
        yield start, level, *scores, f"{100 * others[-1].sparsity:.1f}"


def _of_round(curve: Curve, name: str, number: int) -> ArmResult:
    return next(cell for cell in curve.arm(name) if cell.round == number)


def _starts(curves: Curves) -> dict[str, dict[str, Curve]]:
    """Sort the curves with task tickets by task, then by what they start from."""
    found: dict[str, dict[str, Curve]] = {}
    for name, curve in curves.items():
        start, _, task = name.partition(" on ")
        if task and curve.arm(TASK_TICKET):
            found.setdefault(task, {})[start.removesuffix(" start")] = curve
    return found


def _by_start(task: str, starts: Curves) -> Table:
    """Lay out what a task's own ticket scores by where it starts from and goes back to."""
    levels = [cell.sparsity for cell in next(iter(starts.values())).arm(TASK_TICKET)]
    rows = tuple(
        (name, score_text(one.dense), *(score_text(one.at(TASK_TICKET, level)) for level in levels))
        for name, one in starts.items()
    )
    return Table(f"{task}: task tickets by start", ("start", "dense", *_percents(levels)), rows)


def _charts(curves: Curves, similarity: Similarity | None) -> Iterator[Chart]:
    """Draw for each task the tickets found on it, and those of each pre-training; then the masks in common."""
    for task, starts in _starts(curves).items():
        yield _chart(f"{task}: task tickets by start", starts, TASK_TICKET)
    for task in _tasks(curves):
        found = {kind: curves[f"{kind} on {task}"] for kind in KINDS if f"{kind} on {task}" in curves}
        yield _chart(f"{task}: tickets of each pre-training", found, PRETRAINING_TICKET)
    if similarity:
        yield _similarity_chart(similarity)


def _chart(title: str, curves: Curves, name: str) -> Chart:
    dense = {start: curve.dense.percent for start, curve in curves.items() if start in ("random", *KINDS)}
    return Chart(
        title=title,
        x_label=SPARSITY,
        y_label=f"{next(iter(curves.values())).metric}, %",
        series=tuple(
            Series(start, tuple(Point(100 * cell.sparsity, cell.percent) for cell in curve.arm(name)))
            for start, curve in curves.items()
        ),
        references=tuple(Reference(f"dense, {start} {score:.1f}", score) for start, score in dense.items()),
    )


def _similarity_chart(found: Similarity) -> Chart:
    groups = found.groups
    lines = [(group.name, group.rows, "overlap") for group in groups]
    lines += [(f"{words}, two", groups[0].rows, words.replace(" ", "_")) for words in ("chance", "chance by layer")]
    return Chart(
        title="Masks of pre-training tickets in common",
        x_label=SPARSITY,
        y_label="kept by all, % of kept by any",
        series=tuple(
            Series(
                name, tuple(Point(100 * x, 100 * getattr(row, key)) for x, row in zip(found.levels, rows, strict=True))
            )
            for name, rows, key in lines
        ),
    )


def _universal(curves: Curves, kind: str) -> Iterator[str]:
    """Say how far a pre-training's ticket matches on its own task, and on all tasks at one level."""
    if not (own := curves.get(f"{kind} ticket")):
        return
    found = own.sparsest("matching", PRETRAINING_TICKET)
    noise = " (within noise)" if found and found[1] != "pass" else ""
    yield f"{kind}: on its own task the ticket matches {_upto(found and found[0])}{noise}."
    there = [task for task in _tasks(curves) if f"{kind} on {task}" in curves]
    if there:
        common = set.intersection(*(_matching(curves[f"{kind} on {task}"]) for task in there))
        yield f"{kind}: one ticket matches on all of {', '.join(there)} {_upto(max(common, default=None))}."


def _matching(curve: Curve) -> set[float]:
    """List the sparsities at which the ticket is within one standard deviation of dense, or within noise of that."""
    return {cell.sparsity for cell in curve.arm(PRETRAINING_TICKET) if cell.passes("matching")}


def _upto(sparsity: float | None) -> str:
    return "at no level" if sparsity is None else f"up to {100 * sparsity:.2f} %"


def _in_common(found: Similarity) -> Iterator[str]:
    place = min(range(len(found.levels)), key=lambda one: abs(found.levels[one] - CLOSEST))
    for group in found.groups:
        row = group.rows[place]
        yield (
            f"At {100 * found.levels[place]:.2f} %, {group.name} have {100 * row.overlap:.1f} % of the kept "
            f"weights in common; chance gives {100 * row.chance:.1f}, with each layer's density "
            f"{100 * row.chance_by_layer:.1f}. (The paper says less than 6.55, and not of how many masks.)"
        )


def _resilience(curves: Curves) -> Iterator[str]:
    """Compare how much changed masks cost from random and from pre-trained weights."""
    for name, curve in curves.items():
        if "changed" in name:
            last = curve.arm(TASK_TICKET)[-1]
            others = {one: _of_round(curve, one, last.round) for one in CHANGED[:2]}
            costs = [f"{one} {cell.percent - last.percent:+.2f}" for one, cell in others.items()]
            yield f"{name} at {100 * last.sparsity:.2f} %: against the ticket, {', '.join(costs)} points."
