"""A model as transformers has it: its class, its config.json, and its tensors under the names of published files.

A folder in this form opens by ``from_pretrained`` without this project. What the class has no place for (a head of this
project) lies beside, in ``head.safetensors``, under the names here.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlcompress.artefacts import dumps, load_tensors, save_tensors, write_file
from vlcompress.data.published_tokenizer import read_words, words_file
from vlcompress.models.building import skeleton

WEIGHTS = "model.safetensors"
BESIDE = "head.safetensors"
_SPECIAL = {role: f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
"""BERT's special tokens, by what tokenizer_config.json calls them."""


@dataclass(frozen=True)
class HubForm:
    """How transformers opens a model.

    Attributes:
        kind: the class, which config.json names under "architectures".
        config: what config.json holds.
        tensors: for each name in the file the names here; several are stacked along the first axis, in this order.
        beside: names here of what the class has no place for.
        missing: names that the class has and the file has not; transformers makes them anew, and nothing here reads
            them.
        picture: what preprocessor_config.json holds; {} where no pixels are read.
        inside: the class's own name of every tensor here that it has a place for, where published files have older ones
            (ViT's) too; fused matrices are taken apart.
        apart: whether the class has fused matrices, which `vlcompress.models.encoder.unfused` takes apart.
    """

    kind: str
    config: Mapping[str, Any]
    tensors: Mapping[str, tuple[str, ...]]
    beside: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    picture: Mapping[str, Any] = field(default_factory=dict)
    inside: Mapping[str, str] = field(default_factory=dict)
    apart: bool = False

    @property
    def modules(self) -> dict[str, str]:
        """The class's name of every module here that holds a tensor which the class has a place for."""
        return {ours.rpartition(".")[0]: theirs.rpartition(".")[0] for ours, theirs in self.inside.items()}

    def to_json(self) -> dict[str, Any]:
        """Say what reading the tensors back takes; names that are the same in the file are left out."""
        other = {theirs: list(ours) for theirs, ours in self.tensors.items() if ours != (theirs,)}
        return {"class": self.kind, "tensors": other, "missing": list(self.missing)}


def hub_form(
    kind: type,
    own: Any,
    names: Iterable[str],
    rename: Callable[[str], Sequence[str]] = lambda name: (name,),
    *,
    picture: Mapping[str, Any] | None = None,
    unfuse: Callable[[nn.Module], None] | None = None,
) -> HubForm:
    """Describe a model that a class of transformers builds.

    Args:
        kind: the class.
        own: its configuration, an object of transformers.
        names: of the tensors here, tied ones once.
        rename: lists what the class may call a tensor; the first that it has is taken. Several tensors of one name are
            stacked.
        picture: see `HubForm`.
        unfuse: takes the class's fused matrices apart, where several tensors may be of one name.
    """
    model = skeleton(lambda: kind(own))
    theirs, ties = set(model.state_dict()), dict(getattr(model, "all_tied_weights_keys", {}))
    stacked: dict[str, tuple[str, ...]] = {}
    every = list(names)
    inside = _places(every, rename, theirs)
    for name, there in inside.items():
        stacked[there] = (*stacked.get(there, ()), name)
    official, tied = _official(model, stacked), {name for name, source in ties.items() if source in stacked}
    apart = unfuse is not None and len(stacked) < len(inside)
    if unfuse is not None and apart:
        unfuse(model)
        inside = _places(every, rename, set(model.state_dict()))
    return HubForm(
        kind=kind.__name__,
        config=_document(kind, own),
        tensors={official[there]: ours for there, ours in stacked.items()},
        beside=tuple(name for name in every if name not in inside),
        missing=tuple(sorted(theirs - stacked.keys() - tied)),
        picture=dict(picture or {}),
        inside=inside,
        apart=apart,
    )


def _places(names: Iterable[str], rename: Callable[[str], Sequence[str]], theirs: Set[str]) -> dict[str, str]:
    """Find what the class calls each tensor; one that it has no place for is left out."""
    found = {name: next((one for one in rename(name) if one in theirs), None) for name in names}
    return {name: there for name, there in found.items() if there is not None}


def labelled(labels: Sequence[str]) -> dict[str, Any]:
    """Name the classes of a head as config.json does; nothing where it has none."""
    if not labels:
        return {}
    return {"id2label": dict(enumerate(labels)), "label2id": {label: row for row, label in enumerate(labels)}}


def square_picture(said: Mapping[str, Any]) -> dict[str, Any]:
    """Say for an image processor of transformers what `vlcompress.data.pixels.framed` does, scaling included.

    Args:
        said: "height", "width", "crop", "resample", "mean", "std".
    """
    if not said:
        return {}
    size = {"height": said["height"], "width": said["width"]}
    cut = {"size": {"shortest_edge": min(size.values())}, "do_center_crop": True, "crop_size": size}
    whole = {"size": size, "do_center_crop": False}
    return {**scaling(said["mean"], said["std"]), "resample": said["resample"], **(cut if said["crop"] else whole)}


def scaling(mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """Say for an image processor of transformers that bytes become fractions, less the mean, over the deviation."""
    steps = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_convert_rgb": True}
    return {**steps, "rescale_factor": 1 / 255, "image_mean": list(mean), "image_std": list(std)}


def write_words(folder: Path, text: str, longest: int) -> None:
    """Write a vocabulary, and the tokenizer that transformers reads.

    Args:
        folder: where.
        text: as `WordPiece.text` spells it.
        longest: most tokens of a text, those before and after it included; 0 where no text is read.
    """
    write_file(folder / words_file(text), text)
    if not longest or not text:
        return
    words = read_words(text)
    known = {f"{role}_token": token for role, token in _SPECIAL.items() if token in words.tokens}
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": longest, **known}
    if words_file(text) != "tokenizer.json":
        write_file(folder / "tokenizer.json", words.to_json(longest))
    write_file(folder / "tokenizer_config.json", dumps(told))


def write_form(folder: Path, form: HubForm, weights: Mapping[str, Tensor]) -> None:
    """Write config.json, preprocessor_config.json and the tensors of a model in its form."""
    write_file(folder / "config.json", dumps(form.config))
    if form.picture:
        write_file(folder / "preprocessor_config.json", dumps(form.picture))
    stacked = {
        theirs: weights[ours[0]] if len(ours) == 1 else torch.cat([weights[name] for name in ours])
        for theirs, ours in form.tensors.items()
    }
    save_tensors(folder / WEIGHTS, stacked)
    if form.beside:
        save_tensors(folder / BESIDE, {name: weights[name] for name in form.beside})


def read_form(folder: Path, form: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read the tensors of a folder under the names here.

    Args:
        folder: that `write_form` wrote into.
        form: what `HubForm.to_json` gave.

    Raises:
        VlcompressError: a file that is missing or damaged.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in load_tensors(folder / WEIGHTS).items():
        ours = form["tensors"].get(name, (name,))
        parts = [tensor] if len(ours) == 1 else [one.clone() for one in tensor.chunk(len(ours))]
        tensors |= dict(zip(ours, parts, strict=True))
    return tensors | (load_tensors(folder / BESIDE) if (folder / BESIDE).is_file() else {})


def _document(kind: type, own: Any) -> dict[str, Any]:
    """Spell out config.json, without what names a place or a version."""
    said = json.loads(own.to_json_string(use_diff=False)) | {"architectures": [kind.__name__], "dtype": "float32"}
    return {name: value for name, value in said.items() if name not in ("_name_or_path", "transformers_version")}


def _official(model: Any, names: Iterable[str]) -> dict[str, str]:
    """Look up what published files call the tensors of a model (ViT's are older than transformers' own names).

    Numbers stand in for the tensors, so that each can be told by what it holds.
    """
    from transformers.core_model_loading import revert_weight_conversion

    every = list(names)
    marked = {name: torch.tensor([float(number)]) for number, name in enumerate(every)}
    found = {int(tensor.item()): name for name, tensor in revert_weight_conversion(model, marked).items()}
    return {name: found[number] for number, name in enumerate(every)}
