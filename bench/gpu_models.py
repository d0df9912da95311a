"""The GPU script's models: whole ones in every form, a masked training step, and a small task end to end.

Weights and masks are random except in the task: times do not depend on them.
"""

import copy
import gc
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from bench.gpu_linears import Case, check
from vlcompress.bench.random_masks import UNITS, masked, random_masks, side
from vlcompress.devices import Compute, autocast, cast_inputs, placed
from vlcompress.kernels.block_sparse_linear import block_sparse_linear
from vlcompress.kernels.formats import BlockPattern, BlockSparseWeight, pack_masked
from vlcompress.models.base import Config, Family, Head
from vlcompress.models.registry import family_named
from vlcompress.pruning.mask import Masks
from vlcompress.sparse.compile import compile_model, layer_rows, sparse_layers
from vlcompress.sparse.runner import Mode, Runner
from vlcompress.training.loop import MaskKeeper
from vlcompress.training.optimizers import BertAdam

if TYPE_CHECKING:
    from bench.gpu import Json, Run

WORDS, FEATURES, ANSWERS = 30522, 2048, 3129
TEXT, REGIONS, PATCHES = 20, 36, 20
"""Words, regions of a picture, and patches that a picture is wide."""

BUCKETS = {"text": (TEXT,), "regions": (REGIONS,)}
"""Nothing is padded, so that all modes compute the same."""

SHRUNK, TWO_FOUR = "neuron+head", "2:4"
CHECKED_BATCH = 2
"""Examples that a form is compared with the masked float32 model on, on the CPU."""


@dataclass(frozen=True)
class Subject:
    """A model of random weights in float32 on the CPU."""

    family: Family
    config: Config
    head: Head
    model: nn.Module

    @classmethod
    def make(cls, run: "Run", name: str) -> "Subject":
        """Build a family's model of the scale's size."""
        family = family_named(name)
        words, answers = (100, 8) if run.dry else (WORDS, ANSWERS)
        config = family.config(run.scale.size, vocab_size=words, feature_dim=16 if run.dry else FEATURES)
        head = Head("answers", tuple(f"answer {number}" for number in range(answers)))
        return cls(family, config, head, family.build(config, head, seed=0).eval())

    def inputs(self, batch: int) -> dict[str, Tensor]:
        """Make inputs on the CPU."""
        regions = PATCHES if self.family.name == "vilt" else REGIONS
        return self.family.example_inputs(self.config, batch=batch, text=TEXT, regions=regions, seed=batch)


@dataclass(frozen=True)
class Form:
    """One way to run a model.

    Attributes:
        pattern: of the pruning, None for the dense model.
        backend: of its packed layers.
        mode: of its runner.
    """

    pattern: str | None
    sparsity: float
    backend: str
    mode: str

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.pattern or 'dense'} {100 * self.sparsity:g} % {self.mode}"


def forms(run: "Run") -> Iterator[Form]:
    """Yield the forms of a model, what the goals speak of first."""
    graphs, compiled = ("eager", "eager") if run.dry else ("graphs", "compiled")
    yield Form(None, 0.0, "dense", compiled)
    for height, width in run.scale.model_blocks:
        for sparsity in run.scale.model_sparsities:
            yield Form(f"block:{height}x{width}", sparsity, "triton", graphs)
    yield Form(SHRUNK, 0.7, "dense", graphs)
    yield Form(TWO_FOUR, 0.5, "semi-structured", graphs)
    yield Form(None, 0.0, "dense", graphs)
    yield Form(None, 0.0, "dense", "eager")


def compute_of(run: "Run") -> Compute:
    """Name the scale's device and dtype."""
    return Compute(run.scale.device, "bf16" if run.scale.dtype == "bfloat16" else "fp32")


def models(run: "Run") -> None:
    """Time whole models of every family and batch size, each form beside the compiled dense one."""
    for family in run.scale.families:
        whole: dict[str, Any] = {}  # made at the first unit that there is time for, and freed before the next family
        for batch in run.scale.batches:
            run.unit(f"{family} {run.scale.size} batch {batch}", partial(race, run, family, batch, whole), 40.0)


def race(run: "Run", family: str, batch: int, made: dict[str, Any]) -> list["Json"]:
    """Time each form that runs and whose configurations are right: a row each."""
    if "subject" not in made:
        made["subject"] = Subject.make(run, family)
    subject: Subject = made["subject"]
    inputs = cast_inputs(subject.inputs(batch), compute_of(run))
    calls: dict[str, Callable[[], object]] = {}
    peaks, opened = {}, {}
    for form in forms(run):
        what = f"{family} batch {batch} {form.name}"
        found = run.attempt(what, partial(_open, run, subject, form, batch, inputs, made))
        if found is not None:
            calls[form.name], peaks[form.name] = found
            opened[form.name] = form
    times = run.clocked(calls)
    dense = times.get(next(forms(run)).name)
    return [_row(run, family, batch, form, times[name], dense, peaks[name]) for name, form in opened.items()]


def _row(run: "Run", family: str, batch: int, form: Form, time: Any, dense: Any, peak_mb: float | None) -> "Json":
    ratio = None if time is None or dense is None else dense["us"] / time["us"]
    return {
        "family": family, "size": run.scale.size, "batch": batch, "form": form.name, "pattern": form.pattern or "dense",
        "sparsity": form.sparsity, "time": time, "over_compiled_dense": ratio, "peak_mb": peak_mb,
    }  # fmt: skip


def _open(
    run: "Run", subject: Subject, form: Form, batch: int, inputs: dict[str, Tensor], made: dict[str, Any]
) -> tuple[Callable[[], object], float | None]:
    """Make what runs a form on the inputs, and measure the peak of its memory in MB, weights and one run."""
    key = f"{form.pattern} {form.sparsity}"
    if key not in made:
        before = _allocated(run)
        model = _pruned(run, subject, form)
        made[key] = model, _allocated(run) - before
    model, weights = made[key]
    if form.backend == "triton":
        _require_checked(run, subject, model, batch)
    before = _allocated(run)
    # Models are shared among runners, since a 2:4 weight cannot be copied.
    mode = cast("Mode", form.mode)
    runner = Runner(subject.family, model, subject.head, compute_of(run), mode=mode, buckets=BUCKETS)
    call = partial(runner, inputs)
    _refuse_fallback(call)
    return call, None if run.dry else (weights + torch.cuda.max_memory_allocated() - before) / 1e6


def _refuse_fallback(call: Callable[[], object]) -> None:
    """Run once; a runner that falls back to eager is an error here, not a figure."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="mode .* failed")
        call()


def _allocated(run: "Run") -> int:
    """Read the bytes in use on the device, and count the peak from here on."""
    if run.dry:
        return 0
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _pruned(run: "Run", subject: Subject, form: Form) -> nn.Module:
    """Prune at random and compile, which compares the result with the masked float32 model."""
    if form.pattern is None:
        return placed(copy.deepcopy(subject.model), compute_of(run))
    masks = random_masks(subject.family, subject.model, form.pattern, form.sparsity)
    block = (1, 1) if form.pattern in UNITS else side(form.pattern)
    with masked(subject.model, masks):
        model, _ = compile_model(
            subject.family, subject.model, masks, block,
            inputs=subject.inputs(CHECKED_BATCH), compute=compute_of(run), backend=form.backend,
        )  # fmt: skip
    return model


def _require_checked(run: "Run", subject: Subject, model: nn.Module, batch: int) -> None:
    """Check every configuration that the packed layers will run in at this batch size.

    Raises:
        RuntimeError: one is wrong, or there was no time to check it.
    """
    layers = sparse_layers(model)
    rows = layer_rows(subject.family, model, layers, cast_inputs(subject.inputs(CHECKED_BATCH), compute_of(run)))
    for name, layer in layers.items():
        if layer.backend != "triton" or not rows[name]:
            continue
        weight: Any = layer._run.weight  # type: ignore[attr-defined]  # the one whose work lists are there
        n, k = weight.shape
        case = Case(rows[name] * batch // CHECKED_BATCH, n, k, weight.block, round(1 - weight.density, 2))
        if not check(run, case, weight):
            raise RuntimeError(f"{name}: its configuration is not known to be right, so the form is not timed")


# ---- A training step ----


class TrainedBlocks(nn.Module):
    """A linear layer whose stored blocks are trained: y = x Wᵀ + b, x [..., K], y [..., N]."""

    def __init__(self, weight: BlockSparseWeight, bias: Tensor | None, backend: str) -> None:
        super().__init__()
        self.values, self.bias = nn.Parameter(weight.values.detach()), bias
        self.pattern: BlockPattern = weight.pattern
        self.backend = backend

    def forward(self, x: Tensor) -> Tensor:
        """Multiply in autocast's dtype, as F.linear would."""
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        weight = BlockSparseWeight(self.values.to(dtype), self.pattern)
        return block_sparse_linear(x.to(dtype), weight, bias, backend=self.backend)


def training(run: "Run") -> None:
    """Time training steps of LXMERT: dense, masked and block-sparse, and what holding the mask takes."""
    for batch in run.scale.training_batches:
        run.unit(f"lxmert {run.scale.size} batch {batch}", partial(train, run, batch), 25.0)


def train(run: "Run", batch: int) -> list["Json"]:
    """Time each kind of step: a row each."""
    subject = Subject.make(run, "lxmert")
    block = run.scale.model_blocks[0]
    masks = Masks(random_masks(subject.family, subject.model, f"block:{block[0]}x{block[1]}", 0.7))
    inputs = cast_inputs(subject.inputs(batch), Compute(run.scale.device))
    calls: dict[str, Callable[[], object]] = {}
    for kind in ("dense", "masked", "sparse"):
        made = run.attempt(f"training {kind} batch {batch}", partial(_steps, run, subject, masks, kind, inputs, batch))
        calls |= made or {}
    times = run.clocked(calls)
    dense = times.get("dense")
    return [
        {"batch": batch, "sparsity": 0.7, "block": list(block), "step": name, "time": time,
         "dense_over_this": None if time is None or dense is None else dense["us"] / time["us"]}
        for name, time in times.items()
    ]  # fmt: skip


def _steps(
    run: "Run", subject: Subject, masks: Masks, kind: str, inputs: dict[str, Tensor], batch: int
) -> dict[str, Callable[[], object]]:
    """Make the step of a kind, tried once, and for masks what holding them takes by itself."""
    model = copy.deepcopy(subject.model)
    if kind == "sparse":
        rows = layer_rows(subject.family, model, masks, subject.inputs(CHECKED_BATCH))
        masks.apply(model)
        for name, layer in _replace(model, masks, run.scale.model_blocks[0]).items():
            _check_gradients(run, name, layer, rows[name] * batch // CHECKED_BATCH)
    model = model.to(run.scale.device).train()
    for layer in (module for module in model.modules() if isinstance(module, TrainedBlocks)):
        layer.pattern = layer.pattern.to(torch.device(run.scale.device))
    optimizer = BertAdam(model.parameters(), lr=1e-5)
    keeper = MaskKeeper(model, masks) if kind == "masked" else None
    step = partial(_step, run, subject.family, model, optimizer, keeper, inputs)
    step()
    return {kind: step, **({"holding the mask": partial(keeper.enforce, optimizer)} if keeper else {})}


def _step(
    run: "Run", family: Family, model: nn.Module, optimizer: torch.optim.Optimizer, keeper: MaskKeeper | None,
    inputs: dict[str, Tensor],
) -> None:  # fmt: skip
    with autocast(compute_of(run)):
        logits = family.logits(model, inputs).float()
    loss = nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, 0.1))
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    if keeper is not None:
        keeper.enforce(optimizer)


def _replace(model: nn.Module, masks: Masks, block: tuple[int, int]) -> dict[str, TrainedBlocks]:
    """Put trained blocks in place of the masked linears, and return them; layers used twice stay one layer."""
    made: dict[nn.Module, TrainedBlocks] = {}
    for name in masks:
        plain: Any = model.get_submodule(name.rpartition(".")[0])
        made[plain] = TrainedBlocks(pack_masked(plain.weight.data, masks[name], block), plain.bias, "triton")
    named = {name: made[model.get_submodule(name.rpartition(".")[0])] for name in masks}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child in made:
                setattr(parent, name, made[child])
    return named


def _check_gradients(run: "Run", name: str, layer: TrainedBlocks, m: int) -> None:
    """Check forward and both gradients of a layer that sees `m` rows.

    Raises:
        RuntimeError: one is wrong, or there was no time to check it.
    """
    weight = BlockSparseWeight(layer.values.detach(), layer.pattern).to(
        run.scale.device, getattr(torch, run.scale.dtype)
    )
    for direction in ("forward", "dX", "dW") if m else ():
        case = Case(m, *weight.shape, weight.block, 0.7, direction=direction)
        if not check(run, case, weight):
            raise RuntimeError(f"{direction} of {name} is not known to be right, so no sparse step is timed")


# ---- A task ----


def task(run: "Run") -> None:
    """Prune, compile and benchmark the built-in small task, so that latency and accuracy stand in one table."""
    for pattern in ("neuron+head", f"block:{run.scale.model_blocks[-1][0]}x{run.scale.model_blocks[-1][1]}"):
        run.unit(f"lxmert vqa {pattern}", partial(prune, run, pattern), 60.0)


def prune(run: "Run", pattern: str) -> list["Json"]:
    """Find a shortened ticket and return a row for each form: dense, masked, compiled."""
    from vlcompress.recipe import default_recipe
    from vlcompress.sparse.compile_run import compile_run
    from vlcompress.tickets.run import find_ticket

    compute = compute_of(run)
    size = run.scale.size if run.dry else "small"
    recipe = default_recipe("lxmert", "vqa", size).override(
        pruning={
            "pattern": pattern,
            "sparsity": 0.7,
            "schedule": "linear:35",
            "controls": [],
            "seeds": [0],
            "target": "",
        },
        training={"steps": run.scale.steps},
    )
    with tempfile.TemporaryDirectory() as home:
        found = find_ticket(recipe, Path(home), compute=compute, say=_quiet)
        plan = compile_run(found, compute=compute)
        picked = sorted({layer.choice.picked for layer in plan.layers})
        return [{**row, "backends": picked} for row in _measured(run, found, compute)]


def _measured(run: "Run", found: Any, compute: Compute) -> list["Json"]:
    """Time and score the dense model, the masked one and the compiled one."""
    from vlcompress.export.export_run import compiled_of
    from vlcompress.sparse.runner import fast_answer
    from vlcompress.tickets.models import dense_model, samples, score_task, ticket_model
    from vlcompress.tickets.ticket import load_ticket

    ticket = load_ticket(found.ticket)
    scored = score_task(found, ticket)
    compiled = compiled_of(found, compute, _quiet)
    opened = {
        "dense": dense_model(found, ticket),
        "masked": ticket_model(ticket),
        "compiled": (compiled.family, compiled.model),
    }
    answers = {name: fast_answer(family, model, ticket.head, compute) for name, (family, model) in opened.items()}
    rows: list[Json] = []
    for batch in (1, 32):
        (inputs,) = samples(scored, batch)
        times = run.clocked({name: partial(answer, inputs) for name, answer in answers.items()})
        rows += [{"batch": batch, "form": name, "time": time} for name, time in times.items()]
    accuracy = {name: scored.measure(answer, batch=256).mean for name, answer in answers.items()}
    return [{**row, "score": None if run.dry else accuracy[row["form"]]} for row in rows]


def _quiet(line: str) -> None:
    """Say nothing: the record says it."""
