"""Compile a ticket: remove what contributes nothing, pack the rest, and run each layer in the form measured faster.

In two steps. Packing decides what the file holds and does not depend on any machine: the weights stay float32. Placing
moves the model to a device and a dtype and measures there how each packed layer runs; it is done again wherever a
compiled model is opened on another device or in another dtype.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlcompress.artefacts import dumps, load_tensors, read_json, save_tensors, seal, unseal, write_file, writing
from vlcompress.devices import CPU, Compute, cast_inputs, placed, precision
from vlcompress.errors import VerificationError, VlcompressError, unknown
from vlcompress.kernels.backends import SparseWeight, known_backend
from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.formats import Block, from_bsr, pack_masked, tightest_block
from vlcompress.kernels.linear import BlockSparseLinear
from vlcompress.kernels.semi_structured import TwoFourWeight, compress, fits_two_four
from vlcompress.models.base import Config, Family, Head
from vlcompress.models.hub import HubForm
from vlcompress.results import to_json
from vlcompress.sparse.choice import LayerChoice, choose_backend
from vlcompress.sparse.opened import opens_as, renamed_by
from vlcompress.sparse.plan import CompilePlan, LayerPlan, read_plan
from vlcompress.sparse.shrink import Kept, linear, reshape, shrink
from vlcompress.sparse.timing import EFFORT, Effort

_WEIGHTS = "weights.safetensors"
AUTO = "auto"
"""Choose each layer's backend by measurement."""

Masks = Mapping[str, Tensor]
Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Packed:
    """A ticket with its layers stored packed, on the CPU in float32, before anybody chose how they run.

    Attributes:
        model: shrunk, in eval mode; packed layers run dense.
        layers: every pruned layer; the choices say why some were not packed.
        kept: what stayed of every coupling.
        inputs: what the layers' rows were counted with.
    """

    model: nn.Module
    layers: tuple[LayerPlan, ...]
    kept: tuple[Kept, ...]
    inputs: Inputs


@dataclass(frozen=True)
class Compiled:
    """A compiled model read from disk, with all that is needed to run and name its answers.

    Attributes:
        notice: what a user should know about how it was opened; None if it runs as it was planned.
    """

    family: Family
    model: nn.Module
    config: Config
    head: Head
    plan: CompilePlan
    notice: str | None = None


def compile_model(
    family: Family,
    model: nn.Module,
    masks: Masks,
    block: Block,
    *,
    inputs: Inputs,
    threads: int = 1,
    compute: Compute = CPU,
    backend: str = AUTO,
    effort: Effort = EFFORT,
) -> tuple[nn.Module, CompilePlan]:
    """Compile a masked model, and check that it still computes the same.

    Args:
        family: the model's family.
        model: weights with exact zeros where pruned, on the CPU; put in eval mode, not changed.
        masks: bool [N, K] by weight name, True for what is kept.
        block: the pattern that the ticket was pruned by, (1, 1) for an unstructured one.
        inputs: real samples at the batch size and lengths to be fast at.
        threads: threads while measuring.
        compute: where to measure, and where the result is.
        backend: "auto" measures; a name takes that backend for every packed layer.
        effort: how long to measure each layer.

    Returns:
        The compiled model, in eval mode, and its plan.

    Raises:
        VerificationError: the compiled model's scores differ from the masked model's.
        VlcompressError: the block does not divide a weight, or the backend cannot run one.
    """
    return place(pack_model(family, model, masks, block, inputs), family, model, threads, compute, backend, effort)


def pack_model(family: Family, model: nn.Module, masks: Masks, block: Block, inputs: Inputs) -> Packed:
    """Shrink a masked model and store its layers in the smallest form (arguments as for `compile_model`).

    Masks of biases, LayerNorms and embeddings have no layer to pack: their zeros are in the weights.
    """
    masks = {name: mask for name, mask in masks.items() if isinstance(linear(model, name), (nn.Linear, nn.Conv2d))}
    smaller, masks_left, kept = shrink(family, model.eval(), masks)
    rows = layer_rows(family, smaller, masks_left, inputs)
    layers = tuple(_pack_layer(smaller, name, mask, block, rows[name]) for name, mask in masks_left.items())
    return Packed(smaller, layers, kept, inputs)


def place(
    packed: Packed, family: Family, masked: nn.Module, threads: int, compute: Compute, backend: str, effort: Effort
) -> tuple[nn.Module, CompilePlan]:
    """Move a packed model to where it will run, choose each layer's backend there, and check it against `masked`."""
    expected = scores(family, masked, packed.inputs)
    with precision(compute), thread_count(threads):
        layers = choose_backends(packed.model, packed.layers, compute, backend, effort)
        got = scores(family, packed.model, cast_inputs(packed.inputs, compute))
    error = _verified(expected, got.cpu(), compute)
    shapes = {name: tuple(tensor.shape) for name, tensor in packed.inputs.items()}
    return packed.model, CompilePlan(layers, packed.kept, shapes, threads, compute.describe(), error)


def choose_backends(
    model: nn.Module, layers: Sequence[LayerPlan], compute: Compute, backend: str = AUTO, effort: Effort = EFFORT
) -> tuple[LayerPlan, ...]:
    """Move a model with packed layers to a device and dtype, in place, and choose how each of those runs there.

    Raises:
        VlcompressError: a backend was asked for that is unknown, or runs no layer; the text says which backend can.
    """
    packed = sparse_layers(model)
    for layer in packed.values():
        layer.use("dense")  # which runs wherever the model comes to be
    placed(model, compute)
    chosen = {
        layer.name: _choice(packed[layer.name], layer, compute, backend, effort)
        for layer in layers
        if layer.name in packed
    }
    if backend not in (AUTO, "dense"):
        _refuse_idle(backend, chosen)
    for name, choice in chosen.items():
        _use(packed[name], choice.picked, name)
    return tuple(replace(layer, choice=chosen.get(layer.name, layer.choice)) for layer in layers)


def layer_rows(family: Family, model: nn.Module, names: Iterable[str], inputs: Inputs) -> dict[str, int]:
    """Count the rows of activations [M, K] that each named weight sees; the most where it is used several times."""
    rows = dict.fromkeys(names, 0)

    def count(name: str, x: Tensor) -> None:
        width = x.shape[1] if x.dim() == 4 else x.shape[-1]  # a picture's channels come second
        rows[name] = max(rows[name], x.numel() // width)

    modules: dict[str, nn.Module] = {name: model.get_submodule(name.rpartition(".")[0]) for name in rows}
    hooks = [
        module.register_forward_pre_hook(lambda _, args, name=name: count(name, args[0]))
        for name, module in modules.items()
    ]
    try:
        scores(family, model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return rows


def scores(family: Family, model: nn.Module, inputs: Inputs) -> Tensor:
    """Run the model for inference: float32 [batch, labels]."""
    with torch.inference_mode():
        return family.logits(model, inputs).float()


@contextmanager
def thread_count(threads: int) -> Iterator[None]:
    """Use so many threads inside the block, and as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def sparse_layers(model: nn.Module) -> dict[str, BlockSparseLinear]:
    """Find the packed layers of a compiled model, by canonical weight name."""
    found = ((name, module) for name, module in model.named_modules() if isinstance(module, BlockSparseLinear))
    return {f"{name}.weight": module for name, module in found}


def save_compiled(
    folder: Path,
    tensors: Mapping[str, Tensor],
    plan: CompilePlan,
    *,
    family: Family,
    config: Config,
    head: Head,
    extra: Mapping[str, Any],
    form: HubForm | None = None,
) -> None:
    """Write the artefact ``compiled/``: plan.json, config.json, weights.safetensors.

    Args:
        folder: where; replaced if it exists.
        tensors: the state of the packed model, float32 whatever it will run in.
        plan: what `compile_model` gave.
        family: the model's family.
        config: the full-size model's configuration.
        head: its head.
        extra: JSON to keep in the plan (the ticket's identity, versions).
        form: as what transformers opens the ticket, and so the compiled model too.

    Raises:
        VlcompressError: the folder cannot be written.
    """
    description = {"family": family.name, "config": config, "head": {"kind": head.kind, "labels": list(head.labels)}}
    opened, modules = {}, form.modules if form is not None else {}
    if form is not None:
        opened = opens_as(form, plan, family.couplings(family.skeleton(config, head)), tensors, _WEIGHTS)
        tensors = renamed_by(modules, tensors)
    here = {theirs: ours for ours, theirs in modules.items()}
    with writing(folder) as temporary:
        save_tensors(temporary / _WEIGHTS, dict(tensors))
        write_file(temporary / "config.json", dumps({**opened, **description}))
        seal(temporary, "plan.json", {**extra, "plan": to_json(plan), "modules": here})


def load_compiled(
    folder: Path, families: Mapping[str, Family], compute: Compute = CPU, effort: Effort = EFFORT
) -> Compiled:
    """Read a compiled model; its ticket is not needed.

    Args:
        folder: the artefact.
        families: the families that may occur, by name.
        compute: where it will run. Where that is not what the plan was made for, backends are chosen again, by
            measurement, and the result's notice says so.
        effort: how long to measure a layer then.

    Raises:
        VlcompressError: not such an artefact, a damaged file, an unknown family or backend.
    """
    document = unseal(folder, "plan.json")
    plan, modules = read_plan(document["plan"]), document.get("modules", {})
    try:
        for layer in plan.layers:
            known_backend(layer.choice.picked)
    except KernelInputError as error:
        raise VlcompressError(f"'{folder / 'plan.json'}': {error}") from error
    description = read_json(folder / "config.json")
    if description["family"] not in families:
        raise unknown("model family", description["family"], families)
    family = families[description["family"]].of(description["config"])
    head = Head(description["head"]["kind"], tuple(description["head"]["labels"]))
    model = family.build(description["config"], head, seed=0)
    reshape(family, model, plan.kept)
    tensors = load_tensors(folder / _WEIGHTS)
    _fill(model, plan, renamed_by(modules, tensors) if modules else tensors)
    elsewhere = plan.other_than(compute)
    plan = _opened(model.eval(), plan, compute, elsewhere is not None, effort)
    notice = elsewhere and f"{elsewhere}: how each layer runs was measured again"
    return Compiled(family, model, description["config"], head, plan, notice)


def _opened(model: nn.Module, plan: CompilePlan, compute: Compute, elsewhere: bool, effort: Effort) -> CompilePlan:
    """Put a model where it will run, with the backends of the plan or with others that are measured now."""
    with precision(compute), thread_count(plan.threads):
        if elsewhere:
            layers = choose_backends(model, plan.layers, compute, AUTO, effort)
            return replace(plan, layers=layers, computed_on=compute.describe())
        placed(model, compute)
        packed = sparse_layers(model)
        for layer in plan.layers:
            if layer.name in packed:
                _use(packed[layer.name], layer.choice.picked, layer.name)
    return plan


def _pack_layer(model: nn.Module, name: str, mask: Tensor, block: Block, rows: int) -> LayerPlan:
    """Pack one layer of the model in place, if that makes it smaller."""
    module = linear(model, name)
    shape = (mask.shape[0], mask[0].numel())
    sparsity = 1.0 - int(mask.sum()) / mask.numel()
    nbytes = module.weight.numel() * module.weight.element_size()
    if mask.dim() > 2:
        why = "it is a convolution, and only matrices are packed"
        return LayerPlan(name, shape, "dense", None, sparsity, rows, nbytes, LayerChoice.untested(why))
    bsr_block = tightest_block(mask, block)
    stored = _stored(module.weight, mask, bsr_block)
    if stored is None or stored.nbytes >= nbytes:
        why = f"packed, its blocks of {bsr_block[0]}x{bsr_block[1]} would take more bytes than dense"
        return LayerPlan(name, shape, "dense", None, sparsity, rows, nbytes, LayerChoice.untested(why))
    _replace(model, name, BlockSparseLinear(stored, None if module.bias is None else module.bias.detach().clone()))
    untested = LayerChoice.untested("not chosen yet")
    if isinstance(stored, TwoFourWeight):
        return LayerPlan(name, shape, "2:4", None, sparsity, rows, stored.nbytes, untested)
    return LayerPlan(name, shape, "bsr", stored.block, sparsity, rows, stored.nbytes, untested)


def _stored(weight: Tensor, mask: Tensor, block: Block) -> SparseWeight | None:
    """Store a masked weight [N, K] in its blocks, or 2:4 where those are single weights.

    What the mask prunes is dropped, whatever the weight holds there: the check of the whole model would notice.
    """
    if block == (1, 1):
        return compress(weight.detach() * mask) if fits_two_four(mask) else None
    return pack_masked(weight, mask, block)


def _choice(layer: BlockSparseLinear, plan: LayerPlan, compute: Compute, backend: str, effort: Effort) -> LayerChoice:
    """Choose how a packed layer runs: by measurement, or as it was asked for where that backend can."""
    if backend == AUTO or plan.rows == 0:
        return choose_backend(layer.weight, layer.bias, plan.rows, compute, effort)
    why = known_backend(backend).refusal(layer.weight, compute.torch_device, compute.torch_dtype)
    if why is not None:
        return LayerChoice.untested(f"{backend} was asked for, but {why}")
    return LayerChoice(backend, f"{backend} was asked for; nothing was measured")


def _refuse_idle(backend: str, chosen: Mapping[str, LayerChoice]) -> None:
    """Refuse a backend that was asked for and runs none of the layers."""
    if not any(choice.picked == backend for choice in chosen.values()):
        name, choice = next(((name, c) for name, c in chosen.items() if "asked for" in c.why), (None, None))
        why = f"for '{name}', {choice.why}" if choice else "no layer of this ticket is stored packed"
        raise VlcompressError(f"backend '{backend}' runs nothing here: {why}; 'dense' and 'grouped' take any block")


def _use(layer: BlockSparseLinear, backend: str, name: str) -> None:
    try:
        layer.use(backend)
    except KernelInputError as error:
        raise VlcompressError(f"layer '{name}': {error}") from error


def _verified(expected: Tensor, got: Tensor, compute: Compute) -> float:
    error, bound = float((got - expected).abs().max()), compute.facts.compiled * max(1.0, float(expected.abs().max()))
    if not error <= bound:  # also catches NaN
        raise VerificationError(
            f"the compiled model's scores differ from the masked model's by {error:.3g}, allowed is {bound:.3g}: "
            "nothing was written; this is a defect of the compiler, or the weights hold NaN"
        )
    return error


def _fill(model: nn.Module, plan: CompilePlan, tensors: Mapping[str, Tensor]) -> None:
    """Put packed layers in place and load every tensor."""
    for layer in plan.layers:
        if layer.format != "dense":
            bias = tensors.get(f"{layer.name.removesuffix('weight')}bias")
            _replace(model, layer.name, BlockSparseLinear(_read(layer, tensors), bias))
    model.load_state_dict(tensors)


def _read(layer: LayerPlan, tensors: Mapping[str, Tensor]) -> SparseWeight:
    names = ("values", "index") if layer.format == "2:4" else ("values", "crow", "col")
    try:
        parts = [tensors[layer.name.removesuffix("weight") + name] for name in names]
    except KeyError as error:
        raise VlcompressError(
            f"layer '{layer.name}' lacks {', '.join(names)} in the file: compile the ticket again"
        ) from error
    return TwoFourWeight(*parts) if layer.format == "2:4" else from_bsr(parts[0], parts[1], parts[2], layer.shape)


def _replace(model: nn.Module, weight: str, module: nn.Module) -> None:
    path, _, leaf = weight.rpartition(".")[0].rpartition(".")
    setattr(model.get_submodule(path), leaf, module)
