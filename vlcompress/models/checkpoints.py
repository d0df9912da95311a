"""Other people's checkpoints: finding the file, reading it safely, and matching it to a model without exception.

A name that is missing, unknown or of another shape is an error that lists it. Loading part of a checkpoint in silence
is what makes a "pre-trained" model train from noise (airsplay/lxmert issue 84), so only task heads may differ, and
each difference is reported.
"""

import contextlib
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlcompress.artefacts import load_tensors, read_json
from vlcompress.errors import VlcompressError
from vlcompress.models.base import LoadReport

Tensors = dict[str, Tensor]

_LISTED = 10  # names spelled out in an error; the rest are counted
_FOLDER_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
_KEYS = ("state_dict", "model_state_dict", "model", "module")
"""Where training scripts keep the state dict among what else they save: Lightning and MoCo, PyTorch's tutorials, DeiT
and MAE, DeepSpeed."""
_WRAPPERS = re.compile(r"^module\.|(?<![^.])_orig_mod\.")
"""What DataParallel and torch.compile put into names, in any order."""
_PRUNED, _MASK = "_orig", "_mask"
"""Suffixes under which torch.nn.utils.prune keeps a weight and its mask."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WANTED = ["*.json", "*/config.json", "vocab.txt", "*.safetensors", "pytorch_model.bin"]
"""Files of a hub's repository that are fetched: configurations, tokenizer, weights."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def read_checkpoint(checkpoint: str) -> Tensors:
    """Read every tensor of a checkpoint onto the CPU under the names that its file has, freed of wrappers.

    Weights that ``torch.nn.utils.prune`` masks are multiplied by their masks.

    Args:
        checkpoint: a Hugging Face folder, a .safetensors file, a PyTorch state dict, alone or in a training checkpoint
            (.pth, .pt, .bin, .ckpt, .pth.tar; read with ``weights_only``, so no code in it runs), or a hub name
            ("owner/model").

    Raises:
        VlcompressError: nothing there, a damaged file, a file of another kind, an unreachable hub; sparse or quantised
            tensors.
    """
    return _masked(renamed(_read(checkpoint), ()))


def _read(checkpoint: str) -> Tensors:
    path = Path(checkpoint)
    if path.is_dir():
        return _read_folder(path)
    if path.is_file():
        return read_tensors(path)
    return _read_folder(local_folder(checkpoint))


def local_folder(checkpoint: str) -> Path:
    """Find the Hugging Face folder of a checkpoint; a hub name is fetched, once.

    Raises:
        VlcompressError: nothing there, or an unreachable hub.
    """
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    if on_hub(checkpoint):
        return _download(checkpoint)
    raise VlcompressError(f"no checkpoint at '{checkpoint}': give a folder, a file or a hub name (owner/model)")


def on_hub(checkpoint: str) -> bool:
    """Tell whether a checkpoint is nothing on this machine and has a name that the hub might know ("owner/model")."""
    path = Path(checkpoint)
    named = _HUB_NAME.fullmatch(checkpoint) and path.suffix not in (*_PICKLES, ".safetensors")
    return bool(named) and not path.exists()


def renamed(tensors: Mapping[str, Tensor], rules: Sequence[tuple[str, str]]) -> Tensors:
    """Name tensors canonically: what wraps a name goes (DataParallel, torch.compile), then the rules apply.

    Args:
        tensors: tensors by their names in the file.
        rules: (regular expression, replacement), each applied in turn to every name.

    Raises:
        VlcompressError: two names become one, of tensors that differ (a tied weight may be there twice).
    """
    result: Tensors = {}
    for name, tensor in tensors.items():
        canonical = _unwrapped(name)
        for pattern, replacement in rules:
            canonical = re.sub(pattern, replacement, canonical)
        if canonical in result and not torch.equal(result[canonical], tensor):
            raise VlcompressError(f"the checkpoint holds '{canonical}' twice, once as '{name}': remove one of them")
        result[canonical] = tensor
    return result


def without_heads(tensors: Mapping[str, Tensor], heads: tuple[str, ...], kept: tuple[str, ...] = ()) -> Tensors:
    """Leave out tensors whose names start as `heads`, but for those that start as `kept`."""
    return {name: one for name, one in tensors.items() if not name.startswith(heads) or name.startswith(kept)}


def rank_from_matching(tensors: Tensors, model: nn.Module, matching: str) -> tuple[Tensors, tuple[str, ...]]:
    """Start a ranking head that the checkpoint lacks from the "matched" row, row 1, of its matching head.

    Args:
        tensors: of the checkpoint.
        model: nothing is done where it has no ranking head.
        matching: start of the names of the matching head's tensors.
    """
    lacking = "rank_output.weight" in model.state_dict() and "rank_output.weight" not in tensors
    if not lacking or f"{matching}weight" not in tensors:
        return tensors, ()
    rank = {f"rank_output.{part}": tensors[f"{matching}{part}"][1:] for part in ("weight", "bias")}
    return tensors | rank, (f"rank_output.* starts from row 1 of {matching.removesuffix('.')}, as officially",)


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], *, source: str, heads: Sequence[str]) -> LoadReport:
    """Copy tensors into a model: all of them, or none and an error.

    Args:
        model: keeps its own dtype and device; a weight that it ties to another may be absent from the checkpoint.
        tensors: by canonical name.
        source: what to call the checkpoint in errors and in the report.
        heads: prefixes of task heads ("answer_head."). A head may be absent, superfluous or of other shapes: it is
            then left as it was, or left out, and a note says so. A head of which only a part is there is an error.

    Raises:
        VlcompressError: missing, unexpected or misshapen tensors, two different ones of a weight that is tied, integers
            for weights (a quantised model), NaN.
    """
    own = dict(model.state_dict())
    tensors = _under_base(tensors, own, str(getattr(model, "base_model_prefix", "")))
    fresh, notes = _differing_heads(own, tensors, heads)
    wanted = {name: tensor for name, tensor in own.items() if not name.startswith(fresh)}
    given = {name: tensor for name, tensor in tensors.items() if not name.startswith(fresh)}
    tied = _tied(model)
    _check(wanted, given, optional=tied.keys(), source=source)
    _check_numbers(wanted, given, source)
    _check_ties(tied, given, source)
    with torch.no_grad():
        for name, tensor in given.items():
            own[name].copy_(tensor)
    all_heads = own.keys() == wanted.keys()
    return LoadReport(source, len(given), "loaded" if all_heads else "fresh", tuple(notes))


def new_head(report: LoadReport, *notes: str) -> LoadReport:
    """Report a load whose head was left as it is made anew, because that was asked for."""
    return replace(report, head="fresh", notes=("the task head stays fresh, as asked", *notes))


def knows_images(checkpoint: str) -> VlcompressError:
    """Make the error for weights that are no language model's."""
    return VlcompressError(
        f"'{checkpoint}' has weights for images, so it is no language model: give a BERT (model.language)"
    )


def listing(names: Iterable[str]) -> str:
    """Join names in one line, the first ten spelled out and the rest counted."""
    every = sorted(names)
    more = f" … and {len(every) - _LISTED} more" if len(every) > _LISTED else ""
    return ", ".join(every[:_LISTED]) + more


def _read_folder(folder: Path) -> Tensors:
    for name in _FOLDER_FILES:
        path = folder / name
        if path.is_file():
            return _read_shards(path) if path.suffix == ".json" else read_tensors(path)
    raise VlcompressError(f"'{folder}' holds no weights: it needs one of {', '.join(_FOLDER_FILES)}")


def _read_shards(index: Path) -> Tensors:
    tensors: Tensors = {}
    for shard in sorted(set(read_json(index).get("weight_map", {}).values())):
        tensors |= load_tensors(index.parent / shard)
    return tensors


def read_tensors(path: Path) -> Tensors:
    """Read the tensors of one file under the names that it has, wrappers and masks included.

    Raises:
        VlcompressError: as `read_checkpoint`.
    """
    if path.suffix == ".safetensors":
        return load_tensors(path)
    if not path.name.endswith(_PICKLES):
        allowed = ", ".join((".safetensors", *_PICKLES))
        raise VlcompressError(f"'{path}' is no kind of checkpoint that can be read: its name must end in {allowed}")
    try:
        with _inert_classes(path), warnings.catch_warnings(action="ignore"):  # of a pickle protocol
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of any kind: what is no pickle is read as one until it makes no sense
        raise VlcompressError(
            f"'{path}' is not a readable PyTorch state dict ({_reason(error)}): it is damaged, cut, or holds more than "
            "tensors"
        ) from error
    return _state_dict(content, path)


def _reason(error: Exception) -> str:
    """Say why PyTorch reads no more, without its advice to read what may be executed."""
    advice = ("weights_only", "file an issue", "still be loaded")
    lines = [line.strip() for line in str(error).splitlines() if not any(words in line for words in advice)]
    return next((line.partition(". Please ")[0] for line in lines if line), type(error).__name__)


class _Inert:
    """Takes the place of a class that a checkpoint names beside its tensors, and does nothing."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _inert_classes(path: Path) -> contextlib.AbstractContextManager[Any]:
    """Let a file name classes (Lightning's callbacks are stored with its checkpoints) without importing any of them."""
    if not zipfile.is_zipfile(path):  # PyTorch's format before 1.6: state dicts alone
        return contextlib.nullcontext()
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    return torch.serialization.safe_globals([(_Inert, name) for name in names])


def _state_dict(content: object, path: Path) -> Tensors:
    inner = (content.get(key) for key in _KEYS) if isinstance(content, dict) else ()
    content = next((one for one in inner if isinstance(one, dict)), content)
    if not isinstance(content, dict) or not content or not all(isinstance(item, Tensor) for item in content.values()):
        raise VlcompressError(f"'{path}' holds no state dict: save one with torch.save(model.state_dict(), path)")
    other = [name for name, one in content.items() if one.layout is not torch.strided or one.is_quantized]
    if other:
        raise VlcompressError(
            f"'{path}' holds sparse or quantised tensors, which are not read: {listing(other)}; save them dense "
            "(tensor.to_dense() or tensor.dequantize())"
        )
    return dict(content)


def _unwrapped(name: str) -> str:
    """Take off what wraps a name, however often."""
    while (inner := _WRAPPERS.sub("", name)) != name:
        name = inner
    return name


def _masked(tensors: Tensors) -> Tensors:
    """Apply the masks that ``torch.nn.utils.prune`` keeps beside its weights."""
    pruned = [name.removesuffix(_PRUNED) for name in tensors if name.endswith(_PRUNED)]
    pruned = [name for name in pruned if f"{name}{_MASK}" in tensors]
    parts = {f"{name}{suffix}" for name in pruned for suffix in (_PRUNED, _MASK)}
    plain = {name: one for name, one in tensors.items() if name not in parts}
    return plain | {name: tensors[f"{name}{_PRUNED}"] * tensors[f"{name}{_MASK}"] for name in pruned}


def _under_base(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], base: str) -> Tensors:
    """Name the tensors of a base model that was saved alone as the model with a head does."""
    within = {name: f"{base}.{name}" for name in tensors if name not in own}
    moved = {name: inner for name, inner in within.items() if inner in own and inner not in tensors}
    return {moved.get(name, name): tensor for name, tensor in tensors.items()}


def _check_numbers(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str) -> None:
    """Refuse tensors that have the right shapes and are no weights."""
    floating = {name: tensor for name, tensor in given.items() if wanted[name].is_floating_point()}
    other = {name: tensor for name, tensor in floating.items() if tensor.dtype not in _FLOATS}
    if other:
        kinds = ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in other.values()}))
        raise VlcompressError(
            f"'{source}' holds {kinds} where weights are floating-point: {listing(other)}. It is quantised; give the "
            "checkpoint that it was made from"
        )
    if broken := [name for name, tensor in floating.items() if not torch.isfinite(tensor).all()]:
        raise VlcompressError(f"'{source}' holds NaN or infinity in {listing(broken)}: give another checkpoint")


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED))
    except (OSError, ValueError) as error:  # the hub's own errors are both; no network and no such model included
        reason = str(error).splitlines()[0]
        raise VlcompressError(
            f"'{name}' is no local path and the hub did not give it ({reason}): check the name and the network, "
            "or download it elsewhere and give its folder"
        ) from error


def _differing_heads(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], heads: Sequence[str]
) -> tuple[tuple[str, ...], list[str]]:
    """Find the heads that are not to be loaded, with a note for each."""
    notes = {head: _difference(head, own, given) for head in heads}
    return tuple(head for head in heads if notes[head]), [note for note in notes.values() if note]


def _difference(head: str, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    mine = {name for name in own if name.startswith(head)}
    theirs = {name for name in given if name.startswith(head)}
    if theirs and not mine:
        return f"left out {len(theirs)} tensors of {head}*: this model has no such head"
    if mine and not theirs:
        return f"{head}* stays fresh: the checkpoint has no such head"
    for name in sorted(mine & theirs):
        if own[name].shape != given[name].shape:
            return f"{head}* stays fresh: its {name} is {_shape(given[name])} there, {_shape(own[name])} here"
    return ""


def _check(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], *, optional: Set[str], source: str) -> None:
    shapes = (
        f"{name} is {_shape(given[name])} there, {_shape(wanted[name])} here"
        for name in wanted.keys() & given.keys()
        if wanted[name].shape != given[name].shape
    )
    found = {
        "other shapes": listing(shapes),
        "missing": listing(wanted.keys() - given.keys() - optional),
        "unexpected": listing(given.keys() - wanted.keys()),
    }
    problems = "; ".join(f"{kind}: {names}" for kind, names in found.items() if names)
    if problems:
        raise VlcompressError(
            f"'{source}' does not fit this model and nothing was loaded. {problems}. Choose the model, size, "
            "vocabulary and feature width that the checkpoint was made with, or another checkpoint"
        )


def _tied(model: nn.Module) -> dict[str, str]:
    """Map the names under which a parameter appears a second time to its first."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return {name: first[id(parameter)] for name, parameter in every if first[id(parameter)] != name}


def _check_ties(tied: Mapping[str, str], given: Mapping[str, Tensor], source: str) -> None:
    for name, other in tied.items():
        if name in given and other in given and not torch.equal(given[name], given[other]):
            raise VlcompressError(
                f"'{source}' holds two different tensors '{other}' and '{name}' where the model has one: "
                "give a checkpoint of a model that ties them"
            )


def _shape(tensor: Tensor) -> str:
    return f"[{', '.join(str(size) for size in tensor.shape)}]"
