"""Results as types, and their files: ``run.json``, ``bench.json``, ``bench-serve.json``.

A field's name is its key in the file. A field that is `absent` when None is left out of the file; every other is
written. Keys that a type does not know are ignored, so that a file of a later version can be read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from statistics import mean, stdev
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from vlcompress.artefacts import Json, dumps, read_json, write_file
from vlcompress.errors import VlcompressError

LEVELS = ("strict", "matching", "relaxed")
Result = TypeVar("Result")
Outcome = Literal["pass", "pass within noise", "fail", "no verdict"]


def absent() -> Any:
    """Declare a field that the file lacks where the value is None."""
    return field(default=None, metadata={"absent": True})


@dataclass(frozen=True)
class Level:
    """One level of the verdict.

    Attributes:
        name: one of `LEVELS`.
        threshold: the score to reach, in [0, 1].
        outcome: "pass" where the ticket's mean reaches it; "pass within noise" where it does not, but the interval of
            the difference does; "fail" otherwise; "no verdict" where nothing was learned.
        margin: ticket's mean minus threshold.
        low, high: 95 % interval of the margin.
        p: one-sided bootstrap p value against "the ticket is below the threshold" (non-inferiority): the share of
            resamples below it, counted with one more that is. Small means surely not below.
    """

    name: str
    threshold: float
    outcome: Outcome
    margin: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Verdict:
    """Ticket against dense.

    Attributes:
        seeds: how many; a single seed says nothing about other seeds.
        examples: how many examples each was scored on.
        dense, ticket: mean score over seeds, in [0, 1].
        dense_sd, ticket_sd: standard deviation over seeds, None for a single seed.
        levels: by name, strict, matching, relaxed.
        blind: score of the question-only baseline, or of chance, in [0, 1]; None where it is not known.
    """

    seeds: int
    examples: int
    dense: float
    ticket: float
    dense_sd: float | None
    ticket_sd: float | None
    levels: Mapping[str, Level]
    blind: float | None = None

    def __getitem__(self, name: str) -> Level:
        return self.levels[name]

    def sentence(self) -> str:
        """Say it in one line."""
        from_seeds = "a single seed" if self.seeds == 1 else f"{self.seeds} seeds"
        outcomes = ", ".join(f"{name}: {self[name].outcome}" for name in LEVELS)
        relaxed = self["relaxed"]
        compared = f"{100 * self.ticket:.2f} against {100 * self.dense:.2f} dense"
        if self.blind is not None and relaxed.outcome == "no verdict":
            return f"{compared}, no verdict (from {from_seeds}): {nothing_learned(self.dense, self.blind)}"
        return (
            f"{compared} ({100 * self.ticket / self.dense:.1f} %), "
            f"{outcomes} (from {from_seeds}; margin to the 99 % line {100 * relaxed.margin:+.2f}, "
            f"95 % interval {100 * relaxed.low:+.2f} to {100 * relaxed.high:+.2f})"
        )


def nothing_learned(dense: float, blind: float) -> str:
    """Say why there is no verdict: scores in [0, 1] of the dense model, and of the question-only baseline."""
    return (
        f"the dense model scores {100 * dense:.2f}, one that does not look {100 * blind:.2f}, so nothing was learned "
        "that a ticket could keep or lose (train longer, or on more data)"
    )


@dataclass(frozen=True)
class ArmResult:
    """One arm of the comparison at one level.

    Attributes:
        arm: "dense", "ticket", or a control's name.
        round: number of pruning rounds behind it; 0 for dense.
        sparsity: of the first seed's mask, fraction of the prunable weights.
        scores: of each seed, in the recipe's order, in [0, 1].
        figures: the benchmark's other metrics, each seed's, in [0, 1].
        trainings: each seed's, by name.
        verdict: against dense; None for dense itself.
    """

    arm: str
    round: int
    sparsity: float
    scores: tuple[float, ...]
    trainings: tuple[str, ...]
    verdict: Verdict | None
    figures: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """Mean over seeds, in [0, 1]."""
        return sum(self.scores) / len(self.scores)

    @property
    def percent(self) -> float:
        """Mean over seeds, in per cent."""
        return 100 * mean(self.scores)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds, in per cent; None for a single seed."""
        return 100 * stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def levels(self) -> Mapping[str, Level] | None:
        """The verdict's levels; None for dense itself."""
        return self.verdict.levels if self.verdict else None

    def passes(self, level: str) -> bool:
        """Whether the verdict at one of `LEVELS` is a pass, be it within noise; no verdict is none."""
        return self.outcome(level) in ("pass", "pass within noise")

    @property
    def nothing_learned(self) -> str:
        """Why there is no verdict, as a sentence; "" where there is one, and for dense itself."""
        if self.verdict is None or self.verdict.blind is None or self.outcome("relaxed") != "no verdict":
            return ""
        return nothing_learned(self.verdict.dense, self.verdict.blind)

    def outcome(self, level: str) -> str:
        """Look up the verdict at one of `LEVELS`; "" for dense itself."""
        return self.verdict[level].outcome if self.verdict else ""


@dataclass(frozen=True)
class DataRead:
    """Fingerprints of what was trained on and scored on, and how many examples were scored."""

    train: str
    score: str
    examples: int


@dataclass(frozen=True)
class RunResult:
    """``run.json``: all about a run that is the same each time it is run, so no times and no paths.

    Attributes:
        recipe: as its document; `parse_recipe` reads it.
        recipe_sha256: of that document.
        data: what was read.
        metric: the score's name.
        cells: every arm at every level, dense first.
        theta0_sha256: of θ0, the weights that training started from.
        vocabulary_sha256: of the word pieces.
        prunable_weights, backbone_weights: how many there are.
        layer_sparsity: fraction pruned of every weight of the ticket, by canonical name.
        versions: of the packages that computed it.
        computed_on: device and dtype, unless that is float32 on the CPU.
        masks_from: "file" and its "sha256", where the masks were imported.
    """

    recipe: Json
    recipe_sha256: str
    data: DataRead
    metric: str
    cells: tuple[ArmResult, ...]
    theta0_sha256: str | None = absent()
    vocabulary_sha256: str | None = absent()
    prunable_weights: int | None = absent()
    backbone_weights: int | None = absent()
    layer_sparsity: Mapping[str, float] | None = absent()
    versions: Mapping[str, str] | None = absent()
    computed_on: Mapping[str, str] | None = absent()
    masks_from: Mapping[str, str] | None = absent()

    def arm(self, name: str) -> list[ArmResult]:
        """Pick an arm's levels, in the order of its rounds."""
        return [cell for cell in self.cells if cell.arm == name]

    @property
    def ticket(self) -> ArmResult:
        """The last round."""
        return self.arm("ticket")[-1]


@dataclass(frozen=True)
class Latency:
    """Latency of one variant at one batch size, in milliseconds a call.

    Attributes:
        p50_ms: median over all calls.
        p90_ms: 90th percentile.
        p99_ms: 99th percentile; with fewer than 100 calls it is close to the slowest one.
        spread_ms: interquartile range of all calls.
        calls: calls measured, warm-up aside.
        examples_per_s: batch size over the median.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    spread_ms: float
    calls: int
    examples_per_s: float


@dataclass(frozen=True)
class Ratio:
    """How many times faster one variant is than another, with a 95 % bootstrap interval over rounds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Speedup(Ratio):
    """A ratio that is `significant` if its interval leaves out 1: else the two are as fast, as far as one can tell."""

    significant: bool


@dataclass(frozen=True)
class BatchResult(Latency):
    """A variant at one batch size, with its speed by reference."""

    speedup: Mapping[str, Speedup] = field(default_factory=dict)


@dataclass(frozen=True)
class Accuracy:
    """Score of a variant in its own runtime, in [0, 1], the benchmark's other metrics, and on how many examples."""

    score: float
    examples: int
    figures: Mapping[str, float] | None = absent()


@dataclass(frozen=True)
class VariantResult:
    """One form of the model in one runtime.

    Attributes:
        truth: the variant whose scores it reproduces.
        parity: how closely it does.
        bytes: of its weights on disk; None if it has no file.
        memory_mb: what it adds to a process of its own at its peak (10^6 bytes); None where that was not measured.
        batches: by batch size.
    """

    truth: str
    parity: Mapping[str, float]
    bytes: int | None
    memory_mb: float | None
    batches: Mapping[str, BatchResult]


@dataclass(frozen=True)
class CurvePoint:
    """The compiled ticket of one round: median latency in ms a call, and its speed against dense."""

    round: int
    sparsity: float
    batch: int
    p50_ms: float
    speedup: Ratio | None


@dataclass(frozen=True)
class BenchResult:
    """``bench.json``: variants of a model measured side by side.

    Attributes:
        environment: the machine and the software, see `bench.environment`.
        threads: of PyTorch and of ONNX Runtime.
        references: the variants that speeds are ratios to.
        variants: by name.
        command: that measured it.
        computed_on: where PyTorch ran: "device", "dtype", "name".
        provider: where ONNX Runtime ran.
        accuracy: by variant.
        curve: latency of every round's ticket.
    """

    environment: Json
    threads: int
    references: tuple[str, ...]
    variants: Mapping[str, VariantResult]
    command: str | None = absent()
    computed_on: Mapping[str, str] | None = absent()
    provider: str | None = absent()
    accuracy: Mapping[str, Accuracy] | None = absent()
    curve: tuple[CurvePoint, ...] | None = absent()


@dataclass(frozen=True)
class ReachedResult:
    """``reached.json``: the exported ticket of a run with a target, measured beside the exported dense model.

    Attributes:
        environment: as in `BenchResult`.
        target: that was asked for.
        batch, threads: that both ran with, in ONNX Runtime.
        dense, ticket: latencies.
        speedup: of the ticket over dense.
        bytes: of both files, by "dense" and "ticket".
        command: that measured it.
    """

    environment: Json
    target: str
    batch: int
    threads: int
    dense: Latency
    ticket: Latency
    speedup: Ratio
    bytes: Mapping[str, int]
    command: str = "vlcompress prune"


@dataclass(frozen=True)
class LayerForm:
    """One layer in one form: µs a call, times faster than dense, and how it was written where there was a choice."""

    us: float
    speedup: float
    how: str | None


@dataclass(frozen=True)
class LayerPoint:
    """One layer at one sparsity: µs of the dense layer, and its forms by name."""

    sparsity: float
    dense_us: float
    forms: Mapping[str, LayerForm]


@dataclass(frozen=True)
class LayerProfile:
    """Layers of one shape [out, in] on so many rows, in one pattern.

    Attributes:
        break_even: by form, the sparsity from which on it is faster than dense; None if none is enough.
    """

    pattern: str
    shape: tuple[int, ...]
    rows: int
    points: tuple[LayerPoint, ...]
    break_even: Mapping[str, float | None]


@dataclass(frozen=True)
class ModelBatch(Latency):
    """A whole model at one batch size, measured side by side with the dense one (its median in ms)."""

    dense_ms: float
    speedup: Ratio


@dataclass(frozen=True)
class ModelPoint:
    """A whole model at one sparsity: seconds to open it, bytes of its weights, and each batch size."""

    sparsity: float
    load_s: float
    bytes: int
    batches: Mapping[str, ModelBatch]


@dataclass(frozen=True)
class ModelProfile:
    """A whole model in one pattern and form; `break_even` as in `LayerProfile`, by batch size."""

    pattern: str
    form: str
    points: tuple[ModelPoint, ...]
    break_even: Mapping[str, float | None]


@dataclass(frozen=True)
class ProfileResult:
    """What `speed` measures: random masks in every pattern, sparsity and form, against dense.

    Attributes:
        environment: as in `BenchResult`.
        asked: the fields of `bench.profile.ProfileConfig`.
        layers: one layer at a time.
        models: whole models.
        advice: lines for people.
    """

    environment: Json
    asked: Json
    layers: tuple[LayerProfile, ...]
    models: tuple[ModelProfile, ...]
    advice: tuple[str, ...]


@dataclass(frozen=True)
class Load:
    """What one load did to a server.

    Attributes:
        offered_per_s: requests due a second.
        good_per_s: requests answered 200 a second, over the time until the last answer.
        p50_ms, p95_ms, p99_ms: latency of those answered 200, from the time they were due; None if there are none.
        refused_p99_ms: latency of those answered otherwise; None if there are none.
        late_p99_ms: how late the client itself was; more than a few ms means the client is the bottleneck.
        outcomes: requests by outcome.
        seconds: from the start to the last outcome.
    """

    offered_per_s: float
    good_per_s: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    refused_p99_ms: float | None
    late_p99_ms: float
    outcomes: Mapping[str, int]
    seconds: float


@dataclass(frozen=True)
class RateResult(Load):
    """A load at a rate that was asked for, in requests a second."""

    rate: float


@dataclass(frozen=True)
class ServedModel:
    """A model under load: answers a second in a closed loop, and what each offered rate did."""

    capacity_per_s: float
    points: tuple[RateResult, ...]


@dataclass(frozen=True)
class ServeResult:
    """``bench-serve.json``: models of a server side by side at rising rates.

    Attributes:
        environment: as in `BenchResult`; server and client share the machine.
        plan: what was offered: the fields of `bench.serve_run.LoadPlan`, and "rounds".
        models: by name.
        answers_checked: whether the answers were compared with the files' before.
        command: that measured it.
    """

    environment: Json
    plan: Json
    models: Mapping[str, ServedModel]
    answers_checked: bool
    command: str = "vlcompress bench serve"


def load(kind: type[Result], path: Path) -> Result:
    """Read a result from its file.

    Raises:
        VlcompressError: no such file, not JSON, or a field is missing or of another shape.
    """
    return parse(kind, read_json(path), path)


def parse(kind: type[Result], document: Json, path: Path) -> Result:
    """Build a result from what its file holds; see `load`."""
    try:
        found: Result = from_json(kind, document)
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        raise VlcompressError(f"'{path}' is not as this version writes it ({error}): make it anew") from error
    return found


def save(result: Any, path: Path) -> None:
    """Write a result whole or not at all; an earlier file is replaced.

    Raises:
        VlcompressError: a full disk, no permission, a read-only file system.
    """
    write_file(path, dumps(to_json(result)))


def to_json(value: Any) -> Any:
    """Turn a result, and whatever it holds, into plain JSON."""
    if is_dataclass(value):
        held = ((one, getattr(value, one.name)) for one in fields(value))
        return {one.name: to_json(of) for one, of in held if not (of is None and one.metadata.get("absent"))}
    if isinstance(value, Mapping):
        return {name: to_json(inner) for name, inner in value.items()}
    return [to_json(inner) for inner in value] if isinstance(value, list | tuple) else value


def from_json(kind: Any, value: Any) -> Any:
    """Build a value of a type from plain JSON: a dataclass, mapping, tuple or scalar, or one of these or None."""
    origin, of = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if value is None else from_json(of[0], value)
    if origin is tuple:
        return tuple(from_json(of[0], inner) for inner in value)
    if origin is Mapping:
        return {name: from_json(of[1], inner) for name, inner in value.items()}
    if isinstance(kind, type) and is_dataclass(kind):
        types = get_type_hints(kind)
        return kind(**{name: from_json(types[name], value[name]) for name in types if name in value})
    return value
