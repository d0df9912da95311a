"""Attention and feed-forward layers of any transformer, found by what modules hold and not by what models are called.

Four structures cover what transformers has: query, key and value with an output projection inside (CLIP, ViT, DINO) or
beside them (BERT); the three fused in one matrix, which `vlcompress.models.encoder.unfused` takes apart beforehand; two
linears around an activation; and two of them gated by a third. Only what lies in numbered blocks counts.
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from torch import nn

from vlcompress.errors import VlcompressError
from vlcompress.models.base import Coupling

_QUERY_KEY_VALUE = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("q_lin", "k_lin", "v_lin"))
_OUTPUT = ("out_proj", "o_proj", "out_lin", "projection")
_BESIDE = "output.dense"
"""BERT's: the projections are in ``attention.self``, what follows them in ``attention.output``."""
_UP_AND_DOWN = (("fc1", "fc2"), ("lin1", "lin2"), ("c_fc", "c_proj"), ("up_proj", "down_proj"))
_GATE = "gate_proj"
_BERT_UP = "intermediate.dense"
_HEAD_WIDTH = ("head_dim", "attention_head_size")
_BLOCK = re.compile(r"(^|\.)\d+\.")
_NO_ACTIVATION = (nn.Linear, nn.Dropout, nn.Identity, nn.LayerNorm)

Modules = Mapping[str, nn.Module]


@dataclass(frozen=True)
class Attention:
    """An attention module by the names of its projections, as `find_attentions` gives it."""

    name: str
    query: str
    key: str
    value: str
    output: str
    width: int
    """Rows of one head."""


def couplings_of(model: nn.Module) -> list[Coupling]:
    """List the heads and neurons of every block, by the sizes that the modules have now.

    Raises:
        VlcompressError: an attention that is not understood; it is named.
    """
    modules = dict(model.named_modules())
    attentions = list(find_attentions(modules))
    _check_all_understood(modules, attentions)
    for one in attentions:
        _check_nothing_by_head(modules[one.name], one, _out(modules[one.query]) // one.width)
    return [*(_heads(one, modules) for one in attentions), *_neurons(modules)]


def find_attentions(modules: Modules) -> Iterator[Attention]:
    """Find the attention modules of the blocks.

    Raises:
        VlcompressError: grouped key and value heads, or no output projection of the value's width; names the module.
    """
    for name, module in modules.items():
        names = next((one for one in _QUERY_KEY_VALUE if all(_is_linear(module, part) for part in one)), None)
        if names is not None and in_block(f"{name}."):
            query, key, value = (f"{name}.{part}" for part in names)
            _check_widths(modules, name, query, key, value)
            yield Attention(
                name, query, key, value, _output_of(modules, name, _out(modules[value])), _head_width(module, name)
            )


def in_block(name: str) -> bool:
    """Say whether a module or parameter lies in one of the numbered blocks of a stack."""
    return _BLOCK.search(name) is not None


def _is_linear(module: nn.Module, path: str) -> bool:
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    return isinstance(found, nn.Linear)


def _out(module: nn.Module) -> int:
    assert isinstance(module, nn.Linear)
    return module.out_features


def _check_widths(modules: Modules, name: str, query: str, key: str, value: str) -> None:
    widths = {part: _out(modules[part]) for part in (query, key, value)}
    if widths[key] == widths[value] < widths[query]:
        raise VlcompressError(
            f"attention '{name}' has grouped key and value heads ({widths[query]} rows of queries share {widths[key]} "
            "of keys): no head can go by itself there; give a model in which every query head has its own"
        )
    if len(set(widths.values())) > 1:
        raise not_understood(name, f"its query, key and value have {', '.join(map(str, widths.values()))} rows")


def _output_of(modules: Modules, name: str, width: int) -> str:
    beside = f"{name.rpartition('.')[0]}.{_BESIDE}"
    for path in (*(f"{name}.{part}" for part in _OUTPUT), beside):
        module = modules.get(path)
        if isinstance(module, nn.Linear) and module.in_features == width:
            return path
    raise not_understood(name, f"no output projection of {width} inputs is in it or beside it")


def _head_width(module: Any, name: str) -> int:
    found = next((width for width in (getattr(module, one, None) for one in _HEAD_WIDTH) if width), None)
    if not isinstance(found, int):
        raise not_understood(name, f"it says no width of a head ({' or '.join(_HEAD_WIDTH)})")
    return found


def _check_all_understood(modules: Modules, attentions: list[Attention]) -> None:
    """Refuse a module of a block that is called an attention, has weights, and is no part of what was found."""
    known = [path for one in attentions for path in (one.name, one.output)]
    for name, module in modules.items():
        if "attention" not in type(module).__name__.lower() or not in_block(f"{name}."):
            continue
        related = any(f"{one}.".startswith(f"{name}.") or f"{name}.".startswith(f"{one}.") for one in known)
        if not related and next(module.parameters(), None) is not None:
            raise not_understood(name, f"{type(module).__name__} has none of the structures that are known")


def _check_nothing_by_head(module: nn.Module, one: Attention, heads: int) -> None:
    """Refuse an attention that keeps a value for each head beside its projections, as relative positions do."""
    projections = {path.removeprefix(f"{one.name}.") for path in (one.query, one.key, one.value, one.output)}
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1 and heads in parameter.shape and name.rpartition(".")[0] not in projections:
            raise not_understood(one.name, f"its '{name}' {tuple(parameter.shape)} has a value for each head")


def prunable_names(model: nn.Module, couplings: Iterable[Coupling]) -> set[str]:
    """Name the weights that the units of a model live in.

    Raises:
        VlcompressError: one of them is tied to another parameter; both are named.
    """
    names = {name for one in couplings for name in (*one.producers, one.consumer)}
    check_untied(model, names)
    return names


def check_untied(model: nn.Module, names: Set[str]) -> None:
    """Refuse prunable weights that a second module shares: a mask on one would prune the other too.

    Raises:
        VlcompressError: names both.
    """
    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        other = first.setdefault(id(parameter), name)
        if other != name and names & {name, other}:
            raise VlcompressError(
                f"weight '{name}' is tied to '{other}': a mask on one would prune the other; give a model that does "
                "not tie the layers of its blocks"
            )


def not_understood(name: str, why: str) -> VlcompressError:
    """Make the error for an attention that no structure fits."""
    return VlcompressError(
        f"attention '{name}' is not understood: {why}; its heads could not be pruned rightly, so this model is "
        "refused: give another, or write a family for it (CONTRIBUTING.md)"
    )


def _heads(one: Attention, modules: Modules) -> Coupling:
    return Coupling(
        kind="head",
        producers=tuple(f"{part}.weight" for part in (one.query, one.key, one.value)),
        consumer=f"{one.output}.weight",
        units=_out(modules[one.query]) // one.width,
        unit_size=one.width,
        constant_from=f"{one.value}.weight",
        owner=one.name,
        turned="position_embeddings" in inspect.signature(modules[one.name].forward).parameters,
    )


def _neurons(modules: Modules) -> Iterator[Coupling]:
    for name, module in modules.items():
        if not in_block(f"{name}."):
            continue
        for up, down in _UP_AND_DOWN:
            if _is_linear(module, up) and _is_linear(module, down):
                yield _feed_forward(name, module, up, down)
        if _is_linear(module, _BERT_UP) and _is_linear(module, _BESIDE):
            yield _bert_feed_forward(name, module)


def _feed_forward(name: str, module: Any, up: str, down: str) -> Coupling:
    """Couple the neurons of linears below one module; with a gate no single linear makes a neuron constant."""
    gated, activation = _is_linear(module, _GATE), _activation(name, module)
    producer = f"{name}.{up}.weight"
    return Coupling(
        kind="neuron",
        producers=(producer, f"{name}.{_GATE}.weight") if gated else (producer,),
        consumer=f"{name}.{down}.weight",
        units=getattr(module, up).out_features,
        unit_size=1,
        constant_from="" if gated or not activation else producer,
        activation=activation,
    )


def _activation(name: str, module: nn.Module) -> str:
    """Name the one child that computes without weights; "" where there is none, or more than one."""
    children = (child for child, one in module.named_children() if not isinstance(one, _NO_ACTIVATION))
    bare = [child for child in children if next(module.get_submodule(child).parameters(), None) is None]
    return f"{name}.{bare[0]}" if len(bare) == 1 else ""


def _bert_feed_forward(name: str, module: nn.Module) -> Coupling:
    producer = f"{name}.{_BERT_UP}.weight"
    up = module.get_submodule(_BERT_UP)
    return Coupling("neuron", (producer,), f"{name}.{_BESIDE}.weight", _out(up), 1, constant_from=producer)
