"""A classifier of pictures made of the names of its classes: CLIP's zero-shot head (Radford et al., ICML 2021).

Shapes: L labels, D width of the space that text and pictures share.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Config, Head, Sample
from vlcompress.models.encoder.adapter import EncoderFamily
from vlcompress.models.encoder.model import TEXT
from vlcompress.models.encoder.published import read_config

PROMPT = "a photo of a {}."
NAMED = "head."
"""How the names of the tensors begin that `name_classes` fills."""


def check_nameable(config: Config, task: str, checkpoint: str | None) -> None:
    """Refuse a head of class names where there is nothing to embed them by.

    Raises:
        VlcompressError: no encoder of two towers, another task than classification, no tokenizer.
    """
    if not config.get("dual") or task != "classification" or checkpoint is None or Path(checkpoint).is_file():
        raise VlcompressError(
            "model.head 'names' is made by a checkpoint's text tower of the classes' names: it needs the Hugging Face "
            "folder or hub name of a model with two towers (CLIP, SigLIP) and task classification; use head 'fresh' "
            "otherwise"
        )
    _words(checkpoint)


def name_classes(model: nn.Module, checkpoint: str, labels: Sequence[str]) -> None:
    """Give a picture classifier, in place, the head that its checkpoint's text tower makes of the labels' names.

    Its scores are then what the official code calls logits_per_image, up to SigLIP's bias.

    Args:
        model: an `Encoder` of pictures with the head "classes" of these labels, from a checkpoint of two towers.
        checkpoint: a Hugging Face folder or hub name.
        labels: underscores are read as blanks.

    Raises:
        VlcompressError: the checkpoint brings no tokenizer.
    """
    head: Any = model.get_submodule("head")
    with torch.no_grad():
        head.weight.copy_(embedded(checkpoint, [PROMPT.format(label.replace("_", " ")) for label in labels]))
        head.bias.zero_()


@torch.inference_mode()
def embedded(checkpoint: str, texts: Sequence[str]) -> Tensor:
    """Embed texts by a checkpoint's text tower: float32 [L, D] of length 1.

    Raises:
        VlcompressError: the checkpoint brings no tokenizer.
    """
    config = read_config(checkpoint, "sentences")
    family = EncoderFamily(config)
    words = _words(checkpoint)
    tower: Any = family.build(config, Head("classes", ("any",)), seed=0).eval()
    family.load(tower, checkpoint, fresh_head=True)
    assert family.reads == "pixels"
    assert config["reads"] == [TEXT]
    rows = words.rows(texts, config["max_position_embeddings"])
    inputs = family.collate([Sample(ids, np.zeros_like(ids), ()) for ids in rows])
    return normalize(tower.pooled(inputs), dim=-1)


def _words(checkpoint: str) -> WordPiece:
    words = EncoderFamily().words_of(checkpoint)
    if words is None:
        raise VlcompressError(f"'{checkpoint}' has no tokenizer to read class names with: add its tokenizer.json")
    return words
