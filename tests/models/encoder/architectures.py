"""Tiny random encoders of transformers, one of each architecture that the family is shown to work for."""

from collections.abc import Callable
from typing import Any

import transformers

from vlcompress.models.base import Config, Head
from vlcompress.models.encoder.published import describe

WORDS = 60
_BLOCKS = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 1}
_TEXT = {**_BLOCKS, "vocab_size": WORDS, "max_position_embeddings": 24, "pad_token_id": 0}
_ENDED = {"bos_token_id": 2, "eos_token_id": 3}
_VISION = {**_BLOCKS, "image_size": 32, "patch_size": 8}
_TOWERS = {"text_config": _TEXT | _ENDED, "vision_config": _VISION, "projection_dim": 24}
_BLIP = {"text_config": {**_TEXT, **_ENDED, "encoder_hidden_size": 32, "sep_token_id": 3}, "vision_config": _VISION}
_BRIDGE = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 64}
_ROBERTA = {**_TEXT, "pad_token_id": 1, "max_position_embeddings": 26}

Made = tuple[type, Any]
ENCODERS: dict[str, tuple[str, Callable[[], Made]]] = {
    "clip": ("retrieval", lambda: (transformers.CLIPModel, transformers.CLIPConfig(**_TOWERS))),
    "clip-vision": ("classification", lambda: (transformers.CLIPModel, transformers.CLIPConfig(**_TOWERS))),
    "siglip": ("retrieval", lambda: (transformers.SiglipModel, transformers.SiglipConfig(**_TOWERS))),
    "blip-itm": (
        "retrieval",
        lambda: (transformers.BlipForImageTextRetrieval, transformers.BlipConfig(**_BLIP, projection_dim=24)),
    ),
    "blip-vqa": (
        "vqa",
        lambda: (transformers.BlipForQuestionAnswering, transformers.BlipConfig(**_BLIP, projection_dim=24)),
    ),
    "bridgetower": (
        "vqa",
        lambda: (
            transformers.BridgeTowerModel,
            transformers.BridgeTowerConfig(
                **_BRIDGE,
                num_hidden_layers=1,
                text_config={**_ROBERTA, **_BRIDGE, "num_hidden_layers": 2},
                vision_config={"hidden_size": 64, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8},
            ),
        ),
    ),
    "dinov2": (
        "classification",
        lambda: (
            transformers.Dinov2Model,
            transformers.Dinov2Config(**_BLOCKS | {"mlp_ratio": 2, "image_size": 32, "patch_size": 8}),
        ),
    ),
    "dinov3": ("classification", lambda: (transformers.DINOv3ViTModel, transformers.DINOv3ViTConfig(**_VISION))),
    "vit": ("classification", lambda: (transformers.ViTModel, transformers.ViTConfig(**_VISION))),
    "visual_bert": (
        "vqa",
        lambda: (transformers.VisualBertModel, transformers.VisualBertConfig(**_TEXT, visual_embedding_dim=16)),
    ),
    "bert": ("sentences", lambda: (transformers.BertModel, transformers.BertConfig(**_TEXT))),
    "sentence-bert": ("sentences", lambda: (transformers.BertModel, transformers.BertConfig(**_TEXT))),
    "distilbert": (
        "sentences",
        lambda: (
            transformers.DistilBertModel,
            transformers.DistilBertConfig(
                dim=32, n_heads=4, hidden_dim=64, n_layers=1, vocab_size=WORDS, max_position_embeddings=24
            ),
        ),
    ),
    "roberta": ("sentences", lambda: (transformers.RobertaModel, transformers.RobertaConfig(**_ROBERTA))),
}
"""The task that each is shown on, and its class and configuration."""

HEADS = {
    "sentences": Head("classes", ("red", "blue", "green")),
    "classification": Head("classes", ("red", "blue", "green")),
    "vqa": Head("answers", ("red", "blue", "green")),
}


def config_of(name: str) -> Config:
    """Make the family's configuration of an architecture; sentence embeddings are means over BERT's words."""
    task, make = ENCODERS[name]
    kind, own = make()
    config = describe(kind.__name__, kind(own), task)
    return config | ({"pooling": "mean"} if name == "sentence-bert" else {})


def head_of(name: str, config: Config) -> Head:
    """Name the head that an architecture's task puts on it."""
    task = ENCODERS[name][0]
    return HEADS.get(task, Head("embeddings" if config["dual"] else "match"))
