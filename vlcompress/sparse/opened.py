"""A compiled model in transformers' own classes: what its configuration says, and how sizes are given back."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlcompress.artefacts import load_tensors
from vlcompress.errors import VlcompressError
from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.formats import from_bsr
from vlcompress.kernels.linear import BlockSparseLinear
from vlcompress.kernels.semi_structured import TwoFourWeight
from vlcompress.models.base import Coupling
from vlcompress.models.hub import HubForm
from vlcompress.sparse.plan import CompilePlan
from vlcompress.sparse.quantizer import METHOD
from vlcompress.sparse.removed import take_out
from vlcompress.sparse.shrink import set_count

Json = dict[str, Any]


def opens_as(
    form: HubForm, plan: CompilePlan, couplings: Sequence[Coupling], tensors: Mapping[str, Tensor], weights_file: str
) -> Json:
    """Say in config.json how transformers opens a compiled model.

    Args:
        form: of the ticket.
        plan: of the compiled model.
        couplings: of the model before anything was removed.
        tensors: what is stored.
        weights_file: the name of the file that they are in.
    """
    modules = form.modules
    left = {units.consumer: len(units.kept) for units in plan.kept if len(units.kept) < units.units}
    cut = [one for one in couplings if left.get(one.consumer)]
    gone = [one for one in couplings if left.get(one.consumer) == 0]
    names = [name for one in cut for name in (*one.producers, one.consumer)]
    said = {
        "quant_method": METHOD,
        "apart": form.apart,
        "beside": [name for name in tensors if name.rpartition(".")[0] not in modules],
        "heads": {_inside(one.owner, modules): [one.units, left[one.consumer]] for one in cut if one.owner},
        "linears": {modules[_module(name)]: list(tensors[name].shape) for name in names if name in tensors},
        "packed": {
            modules[_module(layer.name)]: {"shape": list(layer.shape), "backend": layer.choice.picked}
            for layer in plan.layers
            if layer.format != "dense"
        },
        "gone": [
            {
                "producers": [modules[_module(name)] for name in one.producers],
                "consumer": modules[_module(one.consumer)],
                "owner": one.owner and _inside(one.owner, modules),
            }
            for one in gone
        ],
    }
    return {**form.config, "transformers_weights": weights_file, "quantization_config": said}


def give_sizes(model: nn.Module, heads: Mapping[str, Sequence[int]], linears: Mapping[str, Sequence[int]]) -> None:
    """Give a model of transformers the numbers of heads and the linear layers of a compiled one, without weights."""
    for name, (before, left) in heads.items():
        owner: Any = model.get_submodule(name)
        set_count(owner, before, left, int(getattr(owner, "attention_head_size", 0) or getattr(owner, "head_dim", 0)))
    for name, (rows, columns) in linears.items():
        old: Any = model.get_submodule(name)
        new = nn.Linear(columns, rows, bias=old.bias is not None, device="meta", dtype=old.weight.dtype)
        _put(model, name, new.requires_grad_(False))


def take_layers_out(model: nn.Module, gone: Sequence[Mapping[str, Any]]) -> None:
    """Take whole layers out of a model of transformers, and keep it from giving fresh weights to what stands there."""
    for layer in gone:
        take_out(model, layer["producers"], layer["consumer"], layer["owner"])
        _put(model, layer["consumer"], model.get_submodule(layer["consumer"]))


def put_packed(model: nn.Module, packed: Mapping[str, Mapping[str, Any]], file: str) -> None:
    """Put packed layers in place, with what a file holds of them.

    Raises:
        VlcompressError: the file lacks a part of one.
    """
    if not packed:
        return
    tensors = load_tensors(Path(file))
    with torch.device("cpu"):
        for name, said in packed.items():
            parts = {part: tensors.get(f"{name}.{part}") for part in ("values", "crow", "col", "index")}
            values, crow, col, index = parts.values()
            bias = tensors.get(f"{name}.bias")
            if values is not None and index is not None:
                _put(model, name, BlockSparseLinear(TwoFourWeight(values, index), bias))
            elif values is not None and crow is not None and col is not None:
                shape = (int(said["shape"][0]), int(said["shape"][1]))
                _put(model, name, BlockSparseLinear(from_bsr(values, crow, col, shape), bias))
            else:
                raise VlcompressError(f"layer '{name}' lacks parts in '{file}': compile the ticket again")


def use_backends(model: nn.Module, packed: Mapping[str, Mapping[str, Any]]) -> None:
    """Run packed layers as was planned; densely where that cannot be done in this dtype or on this device."""
    for name, said in packed.items():
        layer: Any = model.get_submodule(name)
        try:
            layer.use(said["backend"])
        except KernelInputError:
            layer.use("dense")


def renamed_by(modules: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name tensors by other names of their modules, those of modules that have one."""
    return {_inside(name, modules): tensor for name, tensor in tensors.items()}


def _inside(name: str, modules: Mapping[str, str]) -> str:
    """Name a tensor by another name of its module; a module that holds no tensor by that of what is in it."""
    module, _, leaf = name.rpartition(".")
    if module in modules:
        return f"{modules[module]}.{leaf}".removeprefix(".")
    inner = next((one for one in modules if one.startswith(f"{name}.")), None)
    return name if inner is None else modules[inner].removesuffix(inner.removeprefix(name))


def _module(weight: str) -> str:
    return weight.removesuffix(".weight")


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in place, and keep transformers from giving fresh weights to those around it, which have none."""
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, module)
    holders: list[Any] = [module]
    while path:
        holders.append(model.get_submodule(path))
        path = path.rpartition(".")[0]
    for holder in holders:
        holder._is_hf_initialized = True
