"""An `Encoder` as transformers opens it: under its architecture's own class and names, fused matrices fused again.

The head is part of the class where transformers computes the same with one (`_HEADED`); elsewhere it lies beside.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from vlcompress.models.base import Config, Head
from vlcompress.models.encoder.model import PIXELS, TEXT, hf_config
from vlcompress.models.encoder.unfused import unfuse
from vlcompress.models.hub import HubForm, hub_form, labelled, square_picture

_OURS = re.compile(r"encoder\.\w+\.(.*)")
_APART = re.compile(r"(.*)\.(query|key|value)\.(weight|bias)")

_HEADED = {("BertModel", "pooler"): "BertForSequenceClassification", ("ViTModel", "first"): "ViTForImageClassification"}
"""By class and what is pooled: the class that puts one linear layer on just that."""
_TOWERS = {
    ("CLIPModel", TEXT): ("CLIPTextModelWithProjection", "text_config", ""),
    ("CLIPModel", PIXELS): ("CLIPVisionModelWithProjection", "vision_config", "CLIPImageProcessor"),
    ("SiglipModel", TEXT): ("SiglipTextModel", "text_config", ""),
    ("SiglipModel", PIXELS): ("SiglipVisionModel", "vision_config", "SiglipImageProcessor"),
}
"""By class and what is read of it: the class of that tower alone, its configuration, and its image processor, which
transformers does not tell by a tower's type."""
_ALONE = ("text_model.", "vision_model.")
"""What the names of a tower may lose where it has a class of its own."""


def as_published(config: Config, head: Head, weights: Mapping[str, Tensor]) -> HubForm | None:
    """Describe an encoder; None for one tower of two that transformers has no class for.

    Args:
        config: as `vlcompress.models.encoder.published.read_config` gives it.
        head: on the encoder.
        weights: by this project's names.
    """
    import transformers

    own, kind, picture = hf_config(config), config["architecture"], square_picture(config["picture"])
    if config["dual"] and len(config["reads"]) == 1:
        tower = _TOWERS.get((kind, config["reads"][0]))
        if tower is None:
            return None
        kind, own = tower[0], _tower_config(own, tower[1])
        picture |= {"image_processor_type": tower[2]} if picture else {}
    headed = _HEADED.get((kind, config["pooling"])) if head.kind == "classes" else None
    prefix = ""
    if headed is not None:
        prefix = f"{getattr(transformers, kind).base_model_prefix}."
        kind, labels = headed, labelled(head.labels)
        own = type(own).from_dict(own.to_dict() | labels)
    made: Any = getattr(transformers, kind)
    return hub_form(made, own, weights, partial(_names, prefix), picture=picture, unfuse=unfuse)


def _tower_config(own: Any, part: str) -> Any:
    """Take the configuration of one tower, with the width of the common space where that is said above it."""
    width = {"projection_dim": own.projection_dim} if hasattr(own, "projection_dim") else {}
    tower = getattr(own, part)
    return type(tower).from_dict(tower.to_dict() | width)


def _names(prefix: str, name: str) -> tuple[str, ...]:
    """List what a class may call a tensor of an `Encoder`, behind the prefix of its backbone."""
    match = _OURS.fullmatch(name)
    if match is None:
        return (name.replace("head.", "classifier."),) if prefix else ()
    inner = match[1]
    apart = _APART.fullmatch(inner)
    fused = (f"{apart[1]}.qkv.{apart[3]}", f"{apart[1]}.in_proj_{apart[3]}") if apart else ()
    alone = tuple(inner.removeprefix(tower) for tower in _ALONE)
    return tuple(f"{prefix}{one}" for one in (inner, *fused, *alone))
