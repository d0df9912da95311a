"""Weights of a published encoder: through transformers, which knows the names of older files, and then strictly."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vlcompress.errors import VlcompressError
from vlcompress.models.base import LoadReport
from vlcompress.models.checkpoints import (
    listing,
    load_strictly,
    local_folder,
    new_head,
    read_checkpoint,
    without_heads,
)
from vlcompress.models.encoder.model import quiet
from vlcompress.models.encoder.unfused import taken_apart

_HEADS = ("head.",)
_MATCHING = "itm_head"


def load_published(model: nn.Module, checkpoint: str, *, fresh_head: bool) -> LoadReport:
    """Load an `Encoder`: a Hugging Face folder or hub name by its class, any other file by this project's names.

    Raises:
        VlcompressError: unreadable; missing, unexpected or misshapen tensors, by name.
    """
    if Path(checkpoint).is_file():
        tensors = read_checkpoint(checkpoint)
        tensors = without_heads(tensors, _HEADS) if fresh_head else tensors
        report = load_strictly(model, tensors, source=checkpoint, heads=_HEADS)
        return new_head(report) if fresh_head else report
    published, notes = _from_pretrained(model, local_folder(checkpoint), checkpoint)
    head = _matching_head(published, model)
    own = model.state_dict()
    part = f"encoder.{next(iter(model.get_submodule('encoder').keys()))}."  # type: ignore[operator]
    named = {f"{part}{name}": tensor for name, tensor in published.items()}
    tensors = {name: tensor for name, tensor in taken_apart(named, own).items() if name in own} | head
    report = load_strictly(model, tensors, source=checkpoint, heads=() if head else _HEADS)
    if head:
        notes.append("the head starts from the difference of the two rows of the checkpoint's matching head")
        return LoadReport(checkpoint, report.loaded, "loaded", tuple(notes))
    return new_head(report, *notes)


def _from_pretrained(model: Any, folder: Path, checkpoint: str) -> tuple[dict[str, Tensor], list[str]]:
    """Read a folder with the class of the model's backbone; give the tensors, and what was left out.

    Raises:
        VlcompressError: the model's own tensors are not all there, or of other shapes.
    """
    backbone = model.backbone
    try:
        with quiet():
            loaded, info = type(backbone).from_pretrained(
                folder, output_loading_info=True, local_files_only=True, ignore_mismatched_sizes=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise VlcompressError(f"'{checkpoint}' is not readable: {str(error).splitlines()[0]}") from error
    kept = {name.partition(".")[0] for name, _ in backbone.named_children()}
    missing = [name for name in info["missing_keys"] if name.partition(".")[0] in kept]
    lacking = [name for name in missing if name in backbone.state_dict() or "pooler." not in name]
    other = [str(one[0]) for one in info["mismatched_keys"]]
    if lacking or other:
        found = {"missing": lacking, "other shapes": other}
        problems = "; ".join(f"{kind}: {listing(names)}" for kind, names in found.items() if names)
        raise VlcompressError(
            f"'{checkpoint}' does not fit its own config.json and nothing was loaded. {problems}. Give the folder that "
            "save_pretrained wrote"
        )
    left = sorted(info["unexpected_keys"])
    notes = [f"left out {len(left)} tensors that the encoder does not have: {listing(left)}"] if left else []
    return dict(loaded.state_dict()), notes


def _matching_head(published: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Make a head that scores one number of a matching head's two rows (no match, match)."""
    weight, bias = published.get(f"{_MATCHING}.weight"), published.get(f"{_MATCHING}.bias")
    mine = model.state_dict().get("head.weight")
    if weight is None or bias is None or mine is None or mine.shape != weight[:1].shape:
        return {}
    return {"head.weight": (weight[1:] - weight[:1]), "head.bias": (bias[1:] - bias[:1])}
