"""What a model's heads and neurons cost: on this machine in ONNX Runtime, in bytes, or in operations.

Times are measured by block: one attention and one feed-forward layer of each shape that the model has, with some of
their units, as graphs of a few nodes. What they leave unexplained of the whole model's time is its fixed part. A choice
made by these prices is then checked on the whole model, exported with so many units and measured beside dense: whose
weights they are decides no time, so that can be done before anything is trained.
"""

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vlcompress.artefacts import identity
from vlcompress.bench.block_graphs import Block, block_graph
from vlcompress.bench.environment import environment
from vlcompress.bench.harness import OPENINGS, measure_openings, within
from vlcompress.bench.statistics import latency, paired_ratio
from vlcompress.errors import VlcompressError
from vlcompress.export.onnx import SMALL
from vlcompress.export.runtime import open_session, session_from_bytes
from vlcompress.export.storage import save_apart
from vlcompress.export.trace import trace
from vlcompress.export.verify import feed
from vlcompress.models.base import Config, Coupling, Family
from vlcompress.pruning.budget import Kept, PriceList, Prices, Pricing
from vlcompress.pruning.target import MEASURED
from vlcompress.results import load, save, to_json
from vlcompress.sparse.compile import scores
from vlcompress.sparse.shrink import Kept as Stay
from vlcompress.sparse.shrink import reshape
from vlcompress.sparse.timing import Call, Effort, interleave
from vlcompress.tasks.base import Task
from vlcompress.tickets.experiment import Experiment, Say
from vlcompress.tickets.models import samples

GRID = 32
"""Steps in which neurons may go; heads go one by one."""

SHARES = (0.25, 0.5, 0.75)
"""Shares of a block's units that are measured, besides one unit and all: between them times lie on straight lines."""

BLOCK_EFFORT = Effort(rounds=7, burst_s=0.005, warmup=1)
BLOCK_SECONDS = 1.0
MODEL_SECONDS = 12.0
"""About how long a whole model is measured: a published size takes seconds a call."""

MODEL_EFFORT = Effort(rounds=9, burst_s=0.05, warmup=1)


def fastest_ms(calls: Mapping[str, Call]) -> dict[str, float]:
    """Measure calls in alternation; the fastest counts, since a price must not depend on what else the machine does."""
    _, effort = within(BLOCK_SECONDS, {name: [call] for name, call in calls.items()}, BLOCK_EFFORT)
    return {name: 1e3 * min(map(min, rounds)) for name, rounds in interleave(calls, effort).items()}


@dataclass(frozen=True)
class Subject:
    """A model, whose weights do not matter, and inputs of the size to be fast at."""

    family: Family
    config: Config
    model: nn.Module
    inputs: Mapping[str, Tensor]

    @cached_property
    def couplings(self) -> dict[str, Coupling]:
        """The couplings, by consumer."""
        return {one.consumer: one for one in self.family.couplings(self.model)}

    @cached_property
    def blocks(self) -> dict[str, list[Block]]:
        """Each call of every coupling's layer, by consumer: a layer that is shared is called several times."""
        rows: dict[str, list[int]] = {}

        def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            return lambda _, args: rows.setdefault(name, []).append(args[0].numel() // args[0].shape[-1])

        names = {name for one in self.couplings.values() for name in (one.consumer, one.producers[-1])}
        modules = {name: self.model.get_submodule(name.rpartition(".")[0]) for name in names}
        hooks = [module.register_forward_pre_hook(hook(name)) for name, module in modules.items()]
        try:
            scores(self.family, self.model, self.inputs)
        finally:
            for one in hooks:
                one.remove()
        return {name: list(self._blocks(one, rows)) for name, one in self.couplings.items()}

    def _blocks(self, one: Coupling, rows: Mapping[str, list[int]]) -> list[Block]:
        batch = len(next(iter(self.inputs.values())))
        width, attended = (self.model.get_parameter(name).shape[1] for name in (one.producers[0], one.producers[-1]))
        out = len(self.model.get_parameter(one.consumer))
        calls = zip(rows.get(one.consumer, []), rows.get(one.producers[-1], []), strict=True)
        return [Block(one.kind, one.unit_size, width, attended, out, batch, t // batch, s // batch) for t, s in calls]

    def counts(self, name: str) -> tuple[int, ...]:
        """List how many units a coupling may keep, rising."""
        units = self.couplings[name].units
        step = max(1, units // GRID) if self.couplings[name].kind == "neuron" else 1
        return tuple(sorted({1, *range(step, units + 1, step), units}))

    def smaller(self, kept: Kept) -> nn.Module:
        """Copy the model with so many units of each coupling, the first ones."""
        model = copy.deepcopy(self.model)
        stay = (
            Stay(name, self.couplings[name].kind, self.couplings[name].units, tuple(range(count)))
            for name, count in kept.items()
        )
        reshape(self.family, model, list(stay))
        return model


def pricing_of(experiment: Experiment) -> Pricing:
    """Price the model of an experiment in what its recipe's target is given in.

    Raises:
        VlcompressError: a task that is not exported, or ONNX Runtime is not installed.
    """
    target, task = experiment.recipe.pruning.target, experiment.score_task
    if experiment.train_task.head.kind == "pretraining":
        raise VlcompressError(
            f"target '{target}' on {experiment.recipe.data.task}: that has no exported model to reach it; give a "
            "sparsity instead"
        )
    model = experiment.family.build(experiment.config, experiment.train_task.head, seed=0).eval()
    subject = Subject(experiment.family, experiment.config, model, samples(cast(Task, task), target.batch)[0])
    if target.kind in MEASURED:
        return Measured(subject, target.threads, experiment.home / "latency", experiment.say)
    return Counted(count_bytes(subject) if target.kind == "size-mb" else count_operations(subject))


@dataclass(frozen=True)
class Counted:
    """Prices that are exact, since they can be counted."""

    prices: Prices

    def measured(self, kept: Kept) -> float:
        """Count what the whole costs."""
        return self.prices.total(kept)


def count_bytes(subject: Subject) -> Prices:
    """Count 10^6 bytes of float32 weights."""
    total = sum(parameter.numel() for parameter in subject.model.parameters()) * 4 / 1e6
    return _counted(subject, total, lambda one: _weights(subject.model, one) * 4 / 1e6)


def count_operations(subject: Subject) -> Prices:
    """Count multiplications and additions of one batch."""
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:  # the counter does not know the CPU's fused attention
        scores(subject.family, subject.model, subject.inputs)

    def unit(one: Coupling) -> float:
        return sum(_operations(one, block) for block in subject.blocks[one.consumer])

    return _counted(subject, float(counter.get_total_flops()), unit)


def _counted(subject: Subject, total: float, unit: Callable[[Coupling], float]) -> Prices:
    lists = {}
    for name, one in subject.couplings.items():
        counts = subject.counts(name)
        lists[name] = PriceList(counts, tuple(count * unit(one) for count in counts))
    return Prices(total - sum(one.costs[-1] for one in lists.values()), lists)


def _weights(model: nn.Module, one: Coupling) -> int:
    """Count the weights and biases of one unit."""
    parts = [model.get_submodule(name.rpartition(".")[0]) for name in one.producers]
    rows = sum(part.weight.shape[1] + (part.bias is not None) for part in cast(list[Any], parts))
    return int(rows + len(model.get_parameter(one.consumer))) * one.unit_size


def _operations(one: Coupling, block: Block) -> float:
    """Count the operations that one unit takes part in, in one call."""
    asking, attended = block.batch * block.asking, block.batch * block.attended
    products = 2 * block.unit_size * asking * (block.width + block.out)
    if one.kind == "neuron":
        return products + 2 * block.unit_size * asking * block.width * (len(one.producers) - 1)
    inside = 4 * block.unit_size * asking * block.attended
    return products + inside + 4 * block.unit_size * attended * block.attended_width


@dataclass(frozen=True)
class PriceRecord:
    """What was measured, on disk: a run that is continued must find the same prices, or its masks would differ.

    Attributes:
        environment: the machine and the software.
        dense: ms of the whole model with all its units.
        fixed: ms.
        lists: ms, by the coupling's consumer.
        measured: ms of whole models, by a hash of what they keep.
    """

    environment: Mapping[str, Any]
    dense: float
    fixed: float
    lists: Mapping[str, PriceList]
    measured: Mapping[str, float] = field(default_factory=dict)


def _hash(kept: Kept) -> str:
    return identity(dict(sorted(kept.items())))[:16]


class Measured:
    """Prices in milliseconds of ONNX Runtime on this machine's CPU.

    Args:
        subject: what is measured.
        threads: of ONNX Runtime.
        folder: where measurements are kept, for each machine, model, input size and number of threads.
        say: told what takes a while.
    """

    def __init__(self, subject: Subject, threads: int, folder: Path, say: Say) -> None:
        self._subject, self._threads, self._say = subject, threads, say
        here = environment()
        shapes = {name: list(value.shape) for name, value in subject.inputs.items()}
        key = {name: here[name] for name in ("cpu", "cores", "packages")} | {
            "family": subject.family.name, "config": subject.config, "inputs": shapes, "threads": threads,
            "openings": 2 * OPENINGS,
        }  # fmt: skip
        self._path = folder / f"{identity(to_json(key))[:16]}.json"
        self._here = here

    @cached_property
    def _record(self) -> PriceRecord:
        if self._path.is_file():
            return load(PriceRecord, self._path)
        self._say("measuring what heads and neurons cost on this machine")
        lists = self._measure_lists()
        fewest = {name: one.counts[0] for name, one in lists.items()}
        timings = dict(zip(("dense", "kept"), self._beside_dense(fewest), strict=True))
        alone = {end: sum(one.costs[at] for one in lists.values()) for end, at in (("dense", -1), ("kept", 0))}
        # Within a model a layer finds nothing of its own in the caches, so all of them take longer than alone.
        scale = (timings["dense"] - timings["kept"]) / (alone["dense"] - alone["kept"])
        lists = {name: replace(one, costs=tuple(scale * cost for cost in one.costs)) for name, one in lists.items()}
        fixed = timings["dense"] - scale * alone["dense"]
        return self._kept(PriceRecord(self._here, timings["dense"], fixed, lists, {_hash(fewest): timings["kept"]}))

    @property
    def prices(self) -> Prices:
        """The measured prices."""
        return Prices(self._record.fixed, self._record.lists)

    def measured(self, kept: Kept) -> float:
        """Export the whole model with so many units, and measure it beside dense: ms, as if dense took as before."""
        record = self._record
        if _hash(kept) not in record.measured:
            dense, smaller = self._beside_dense(kept)
            found = {**record.measured, _hash(kept): record.dense * smaller / dense}
            record = self.__dict__["_record"] = self._kept(replace(record, measured=found))
        return record.measured[_hash(kept)]

    def _kept(self, record: PriceRecord) -> PriceRecord:
        save(record, self._path)
        return record

    def _beside_dense(self, kept: Kept) -> tuple[float, float]:
        """Measure dense and the whole model with so many units, in ms, as a ticket is measured at the end.

        Each is opened several times, and their ratio is that of the rounds: see `vlcompress.bench.reached`.
        """
        with tempfile.TemporaryDirectory() as folder:
            calls = {"dense": self._dense, "kept": self._opened(self._subject.smaller(kept), Path(folder))}
            rounds = measure_openings(calls, MODEL_EFFORT, MODEL_SECONDS)
        dense = latency(rounds["dense"], 1).p50_ms
        return dense, dense / paired_ratio(rounds["dense"], rounds["kept"]).value

    @cached_property
    def _dense(self) -> list[Call]:
        with tempfile.TemporaryDirectory() as folder:
            return self._opened(self._subject.model, Path(folder))

    def _opened(self, model: nn.Module, folder: Path) -> list[Call]:
        """Export a model and open it `OPENINGS` times each way that an export chooses from; a large one once."""
        size = save_apart(trace(self._subject.family, model, self._subject.config), folder / "model.onnx")
        ways = (True, False) * OPENINGS if size < SMALL else (True,)
        sessions = [
            open_session(folder / "model.onnx", threads=self._threads, native="off", disable_skip_layer_norm=unfused)
            for unfused in ways
        ]
        arrays = feed(sessions[0], self._subject.inputs)
        return [partial(session.run, None, arrays) for session in sessions]

    def _measure_lists(self) -> dict[str, PriceList]:
        """Time every shape once, and add up the calls of each coupling."""
        timed: dict[tuple[Block, int], PriceList] = {}
        lists = {}
        for name, blocks in self._subject.blocks.items():
            units, counts = self._subject.couplings[name].units, self._subject.counts(name)
            for block in blocks:
                if (block, units) not in timed:
                    timed[block, units] = self._timed(block, units)
            costs = (sum(timed[block, units].cost(count) for block in blocks) for count in counts)
            lists[name] = PriceList(counts, tuple(costs))
        return lists

    def _timed(self, block: Block, units: int) -> PriceList:
        counts = tuple(sorted({1, *(max(1, round(share * units)) for share in SHARES), units}))
        arrays = block.inputs()

        def call(count: int) -> Call:
            session = session_from_bytes(block_graph(block, count), threads=self._threads, native="off")
            return lambda: session.run(None, arrays)

        timings = fastest_ms({str(count): call(count) for count in counts})
        return PriceList(counts, tuple(timings.values()))
