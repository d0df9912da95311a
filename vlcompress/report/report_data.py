"""The numbers of a report, from the files of a run: what the page shows and ``report.json`` holds.

Only ``run.json`` must be there. What `compile`, `export` and `bench` add is read where it is found and None where not,
so that a report can be made at any time and says what is missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from vlcompress.artefacts import Json, read_json
from vlcompress.errors import VlcompressError
from vlcompress.export.manifest import ExportBytes, GraphSpeed, TensorSpec
from vlcompress.export.parity import Parity
from vlcompress.recipe import parse_recipe
from vlcompress.report.losses import LossCurve, loss_curves
from vlcompress.results import (
    Accuracy,
    ArmResult,
    BatchResult,
    BenchResult,
    CurvePoint,
    DataRead,
    Level,
    RunResult,
    VariantResult,
    Verdict,
    absent,
    load,
)
from vlcompress.sparse.plan import CompilePlan, read_plan
from vlcompress.tickets.run import Run

VARIANTS = ("dense", "masked", "compiled", "onnx dense", "onnx compiled", "onnx int8")


@dataclass(frozen=True)
class ArmScore:
    """An arm at one level: its score in percent.

    Attributes:
        arm, round, sparsity: as in `ArmResult`.
        score: mean over seeds.
        seeds: how many.
        sd: standard deviation over seeds, None for a single seed.
        low, high: one standard deviation to each side, or with a single seed the bootstrap's 95 % interval of the
            difference from dense; None for the dense model of a single seed.
        of_dense: share of the dense model's score.
        levels: of the verdict; None for dense.
    """

    arm: str
    round: int
    sparsity: float
    score: float
    seeds: int
    sd: float | None
    low: float | None
    high: float | None
    of_dense: float
    levels: Mapping[str, Level] | None


@dataclass(frozen=True)
class BlockCost:
    """The ticket against the control "unstructured" in one round, scores in percent.

    Attributes:
        round: of both.
        sparsity, unstructured_sparsity: of each.
        ticket, unstructured: mean scores.
        seeds: how many.
        cost: difference, positive where blocks cost something.
        cost_sd: its standard deviation over seeds, None for a single seed.
    """

    round: int
    sparsity: float
    unstructured_sparsity: float
    ticket: float
    unstructured: float
    seeds: int
    cost: float
    cost_sd: float | None


@dataclass(frozen=True)
class VariantSpeed(VariantResult):
    """A variant, with its accuracy where that was measured."""

    accuracy: Accuracy | None


@dataclass(frozen=True)
class Speed:
    """What `bench` measured, variants in the order of the work."""

    device: str
    dtype: str
    threads: int
    references: tuple[str, ...]
    variants: Mapping[str, VariantSpeed]

    def p50(self, name: str, batch: int) -> float | None:
        """Look up a variant's median in ms a call."""
        variant = self.variants.get(name)
        row = variant.batches.get(str(batch)) if variant else None
        return row.p50_ms if row else None


@dataclass(frozen=True)
class ExportFacts:
    """What a report says of `ExportManifest`."""

    opset: int
    inputs: tuple[TensorSpec, ...]
    padding: Mapping[str, tuple[int, ...]]
    parity: Mapping[str, Parity]
    speed: GraphSpeed
    bytes: ExportBytes


@dataclass(frozen=True)
class ReportData:
    """Everything that a report says; None is what has not been measured.

    Attributes:
        run: name of the run's folder.
        recipe, metric, data, prunable_weights, layer_sparsity, versions, computed_on: as in `RunResult`.
        arms: every arm at every level, dense first.
        ticket: the last of its rounds.
        block_cost: by round, where the control "unstructured" was run.
        plan: of ``plan.json``.
        onnx: of the exported ``manifest.json``.
        speed, curve, environment: of ``bench.json``.
        losses: of the trainings' logs, where they are beside the run.
    """

    run: str
    recipe: Json
    metric: str
    data: DataRead
    prunable_weights: int | None
    arms: tuple[ArmScore, ...]
    ticket: ArmScore
    block_cost: tuple[BlockCost, ...] | None
    layer_sparsity: Mapping[str, float] | None
    plan: CompilePlan | None
    onnx: ExportFacts | None
    speed: Speed | None
    curve: tuple[CurvePoint, ...] | None
    environment: Json | None
    losses: tuple[LossCurve, ...] | None
    versions: Mapping[str, str] | None
    computed_on: Mapping[str, str] | None = absent()

    @property
    def dense(self) -> ArmScore:
        """The dense model."""
        return next(arm for arm in self.arms if arm.arm == "dense")

    def toml(self) -> str:
        """Write the recipe as TOML, every field spelt out."""
        import tomli_w

        return tomli_w.dumps(parse_recipe(self.recipe).document())


def report_data(run: Run) -> ReportData:
    """Gather what a report says.

    Raises:
        VlcompressError: not a finished run, or one of its files is damaged.
    """
    if not run.is_finished:
        raise VlcompressError(
            f"'{run.folder}' is not a finished run (it has no run.json): run `vlcompress prune` to its end, "
            "or give the folder of another run"
        )
    result = run.result()
    bench_file = run.folder / "bench.json"
    bench = load(BenchResult, bench_file) if bench_file.is_file() else None
    compiled = _optional(run.folder / "compiled" / "plan.json")
    arms = tuple(_arm(cell) for cell in result.cells)
    return ReportData(
        run=run.folder.name,
        recipe=result.recipe,
        metric=result.metric,
        data=result.data,
        prunable_weights=result.prunable_weights,
        arms=arms,
        ticket=[arm for arm in arms if arm.arm == "ticket"][-1],
        block_cost=block_cost(result),
        layer_sparsity=result.layer_sparsity,
        plan=read_plan(compiled["plan"]) if compiled else None,
        onnx=_onnx(run.folder / "onnx" / "manifest.json"),
        speed=_speed(bench) if bench else None,
        curve=bench.curve or None if bench else None,
        environment=bench.environment if bench else None,
        losses=loss_curves(run, result),
        versions=result.versions,
        computed_on=result.computed_on,
    )


def block_cost(result: RunResult) -> tuple[BlockCost, ...] | None:
    """Compare the ticket with the control "unstructured", round by round; None if one of the arms is not there."""
    plain = {cell.round: cell for cell in result.arm("unstructured")}
    pairs = [(cell, plain[cell.round]) for cell in result.arm("ticket") if cell.round in plain]
    return tuple(_cost(*pair) for pair in pairs) or None


def _cost(ticket: ArmResult, plain: ArmResult) -> BlockCost:
    costs = [100 * (b - a) for a, b in zip(ticket.scores, plain.scores, strict=True)]
    return BlockCost(
        round=ticket.round,
        sparsity=ticket.sparsity,
        unstructured_sparsity=plain.sparsity,
        ticket=100 * mean(ticket.scores),
        unstructured=100 * mean(plain.scores),
        seeds=len(costs),
        cost=mean(costs),
        cost_sd=_sd(costs),
    )


def _arm(cell: ArmResult) -> ArmScore:
    scores = [100 * score for score in cell.scores]
    low, high = _interval(scores, cell.verdict)
    return ArmScore(
        arm=cell.arm,
        round=cell.round,
        sparsity=cell.sparsity,
        score=mean(scores),
        seeds=len(scores),
        sd=_sd(scores),
        low=low,
        high=high,
        of_dense=mean(scores) / (100 * cell.verdict.dense) if cell.verdict else 1.0,
        levels=cell.verdict.levels if cell.verdict else None,
    )


def _interval(scores: Sequence[float], verdict: Verdict | None) -> tuple[float | None, float | None]:
    spread = _sd(scores)
    if spread is not None:
        return mean(scores) - spread, mean(scores) + spread
    if verdict is None:
        return None, None  # the bootstrap pairs every arm with dense: dense itself is the line they are compared with
    strict = verdict["strict"]
    return 100 * (verdict.dense + strict.low), 100 * (verdict.dense + strict.high)


def _sd(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def _speed(bench: BenchResult) -> Speed:
    said, scores = bench.computed_on or {}, bench.accuracy or {}
    variants = {
        name: VariantSpeed(**{**vars(row), "batches": _by_size(row.batches)}, accuracy=scores.get(name))
        for name, row in sorted(bench.variants.items(), key=lambda item: _rank(item[0]))
    }
    return Speed(said.get("device", "cpu"), said.get("dtype", "fp32"), bench.threads, bench.references, variants)


def _by_size(batches: Mapping[str, BatchResult]) -> dict[str, BatchResult]:
    return {size: batches[size] for size in sorted(batches, key=int)}


def _rank(variant: str) -> tuple[int, str]:
    """Order variants as the work goes; JSON has put them in the order of the alphabet."""
    return VARIANTS.index(variant) if variant in VARIANTS else len(VARIANTS), variant


def _onnx(file: Path) -> ExportFacts | None:
    return load(ExportFacts, file) if file.is_file() else None


def _optional(path: Path) -> Json | None:
    return read_json(path) if path.is_file() else None
