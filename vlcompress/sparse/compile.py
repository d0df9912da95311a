"""Compile a ticket: remove what contributes nothing, pack the rest, and run each layer in the form measured faster."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlcompress.artefacts import dumps, load_tensors, read_json, save_tensors, seal, unseal, write_file, writing
from vlcompress.errors import VerificationError, unknown
from vlcompress.models.base import Config, Family, Head
from vlcompress.sparse.choice import Choice, measure_and_choose
from vlcompress.sparse.formats import Block, Bsr, pack, row_groups, tightest_block, to_dense
from vlcompress.sparse.linear import Backend, BlockSparseLinear, densify
from vlcompress.sparse.plan import LayerPlan, Plan
from vlcompress.sparse.shrink import linear, reshape, shrink
from vlcompress.sparse.timing import EFFORT, Call, Effort

TOLERANCE = 1e-4
"""Largest difference of scores, relative to the largest score (float32 sums taken in another order)."""

Masks = Mapping[str, Tensor]
Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Compiled:
    """A compiled model read from disk, with all that is needed to run and name its answers."""

    family: Family
    model: nn.Module
    config: Config
    head: Head
    plan: Plan


def compile_model(
    family: Family,
    model: nn.Module,
    masks: Masks,
    block: Block,
    *,
    inputs: Inputs,
    threads: int = 1,
    device: str = "cpu",
    effort: Effort = EFFORT,
) -> tuple[nn.Module, Plan]:
    """Compile a masked model, and check that it still computes the same.

    Args:
        family: the model's family.
        model: weights with exact zeros where pruned; it is moved to `device` and put in eval mode, not changed.
        masks: bool [N, K] by weight name, True for what is kept.
        block: the pattern that the ticket was pruned by, (1, 1) for an unstructured one.
        inputs: real samples at the batch size and lengths to be fast at.
        threads: threads while measuring.
        device: where to measure and where the result is.
        effort: how long to measure each layer.

    Returns:
        The compiled model, in eval mode, and its plan.

    Raises:
        VerificationError: the compiled model's scores differ from the masked model's.
        VlcompressError: the block does not divide a weight.
    """
    model = model.eval().to(device)
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    smaller, masks_left, kept = shrink(family, model, {name: mask.to(device) for name, mask in masks.items()})
    rows = layer_rows(family, smaller, masks_left, inputs)
    with thread_count(threads):
        layers = tuple(_compile_layer(smaller, name, masks_left[name], block, rows[name], effort) for name in masks)
    error = _verified(family, model, smaller, inputs)
    shapes = {name: tuple(tensor.shape) for name, tensor in inputs.items()}
    return smaller, Plan(layers, kept, shapes, threads, device, error)


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


def densified(model: nn.Module) -> nn.Module:
    """Give a copy of a compiled model in which every layer is a plain nn.Linear."""
    # What stands in the memo is taken for the copy: packed layers are not copied only to be thrown away.
    plain: nn.Module = copy.deepcopy(model, {id(layer): densify(layer) for layer in sparse_layers(model).values()})
    return plain


def save_compiled(
    folder: Path, model: nn.Module, plan: Plan, *, family: Family, config: Config, head: Head, extra: Mapping[str, Any]
) -> None:
    """Write the artefact ``compiled/``: plan.json, config.json, weights.safetensors.

    Args:
        folder: where; replaced if it exists.
        model: what `compile_model` gave.
        plan: likewise.
        family: the model's family.
        config: the full-size model's configuration.
        head: its head.
        extra: JSON to keep in the plan (the ticket's identity, versions).

    Raises:
        VlcompressError: the folder cannot be written.
    """
    description = {"family": family.name, "config": config, "head": {"kind": head.kind, "labels": list(head.labels)}}
    with writing(folder) as temporary:
        save_tensors(temporary / "weights.safetensors", model.state_dict())
        write_file(temporary / "config.json", dumps(description))
        seal(temporary, "plan.json", {**extra, "plan": plan.to_json()})


def load_compiled(folder: Path, families: Mapping[str, Family]) -> Compiled:
    """Read a compiled model; its ticket is not needed.

    Args:
        folder: the artefact.
        families: the families that may occur, by name.

    Raises:
        VlcompressError: not such an artefact, a damaged file, an unknown family.
    """
    plan = Plan.from_json(unseal(folder, "plan.json")["plan"])
    description = read_json(folder / "config.json")
    if description["family"] not in families:
        raise unknown("model family", description["family"], families)
    family = families[description["family"]]
    head = Head(description["head"]["kind"], tuple(description["head"]["labels"]))
    model = family.build(description["config"], head, seed=0)
    reshape(family, model, plan.kept)
    _fill(model, plan, load_tensors(folder / "weights.safetensors"))
    return Compiled(family, model.eval(), description["config"], head, plan)


def _compile_layer(model: nn.Module, name: str, mask: Tensor, block: Block, rows: int, effort: Effort) -> LayerPlan:
    """Pack one layer of the model in place, if that makes it smaller, and choose how it runs."""
    module = linear(model, name)
    shape = (mask.shape[0], mask[0].numel())
    sparsity = 1.0 - int(mask.sum()) / mask.numel()
    if mask.dim() > 2:
        choice = Choice.untested("it is a convolution, and only matrices are packed")
        weight_bytes = module.weight.numel() * module.weight.element_size()
        return LayerPlan(name, shape, "dense", None, sparsity, rows, weight_bytes, choice)
    bsr = pack(module.weight, mask, tightest_block(mask, block))
    dense_bytes = module.weight.numel() * module.weight.element_size()
    if bsr.nbytes >= dense_bytes:
        choice = Choice.untested(f"packed, its blocks of {_times(bsr.block)} would take more bytes than dense")
        return LayerPlan(name, shape, "dense", None, sparsity, rows, dense_bytes, choice)
    choice = _choose_backend(bsr, module.bias, rows, effort)
    backend: Backend = "dense" if choice.picked == "dense" else "grouped"
    _replace(model, name, BlockSparseLinear(bsr, _buffer(module.bias), backend))
    return LayerPlan(name, shape, "bsr", bsr.block, sparsity, rows, bsr.nbytes, choice)


def _choose_backend(bsr: Bsr, bias: Tensor | None, rows: int, effort: Effort) -> Choice:
    groups = row_groups(bsr)
    if rows == 0:
        return Choice.untested("this model's answers do not depend on the layer: it never runs")
    if groups.density > 0.95:
        share = f"{groups.density:.0%} of the weights would still be multiplied"
        return Choice.untested(f"blocks of {_times(bsr.block)} leave no columns out for whole groups of rows: {share}")
    x = torch.randn(1, rows, bsr.shape[1], generator=torch.Generator().manual_seed(0)).to(bsr.values)
    dense = nn.functional.linear
    weight, grouped = to_dense(bsr), BlockSparseLinear(bsr, _buffer(bias), "grouped")
    calls = {"dense": lambda: dense(x, weight, bias), "grouped": lambda: grouped(x)}
    with torch.inference_mode():
        return measure_and_choose({name: _finished(call, x.is_cuda) for name, call in calls.items()}, effort)


def _finished(call: Call, cuda: bool) -> Call:
    """Make a call that ends when its work has ended: CUDA only queues it."""

    def finished() -> None:
        call()
        torch.cuda.synchronize()

    return finished if cuda else call


def _verified(family: Family, masked: nn.Module, compiled: nn.Module, inputs: Inputs) -> float:
    expected, got = scores(family, masked, inputs), scores(family, compiled, inputs)
    error, bound = float((got - expected).abs().max()), TOLERANCE * max(1.0, float(expected.abs().max()))
    if not error <= bound:  # also catches NaN
        raise VerificationError(
            f"the compiled model's scores differ from the masked model's by {error:.3g}, allowed is {bound:.3g}: "
            "nothing was written; this is a defect of the compiler, or the weights hold NaN"
        )
    return error


def _fill(model: nn.Module, plan: Plan, tensors: Mapping[str, Tensor]) -> None:
    """Put packed layers in place and load every tensor."""
    for layer in plan.layers:
        if layer.format == "bsr":
            prefix = layer.name.removesuffix("weight")
            values, crow, col = (tensors[prefix + part] for part in ("values", "crow", "col"))
            packed = Bsr(values, crow, col, layer.shape)
            backend: Backend = "dense" if layer.choice.picked == "dense" else "grouped"
            _replace(model, layer.name, BlockSparseLinear(packed, tensors.get(f"{prefix}bias"), backend))
    model.load_state_dict(tensors)


def _replace(model: nn.Module, weight: str, module: nn.Module) -> None:
    path, _, leaf = weight.rpartition(".")[0].rpartition(".")
    setattr(model.get_submodule(path), leaf, module)


def _buffer(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach().clone()


def _times(block: Block) -> str:
    return f"{block[0]}x{block[1]}"
