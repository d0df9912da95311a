"""A transformers encoder with a task head: one vector for what is read, or one each for text and picture.

Shapes: B batch, T words, H hidden width, D width of the space that text and pictures share.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from vlcompress.errors import VlcompressError
from vlcompress.models.base import Config, Head
from vlcompress.models.encoder.unfused import unfuse

TEXT, PIXELS, REGIONS = "input_ids", "pixel_values", "visual_embeds"
"""What encoders read, by transformers' names of the inputs."""
_TEXT_PARTS = ("text_model", "text_projection")
_PIXEL_PARTS = ("vision_model", "visual_projection")
_MODALITIES = {(TEXT,): "language", (PIXELS,): "vision"}


class Encoder(nn.Module):
    """A backbone of transformers and the head of a task.

    Args:
        config: as `vlcompress.models.encoder.published.read_config` gives it.
        head: "embeddings" takes text and picture apart, every other one what is pooled of all that is read.
    """

    def __init__(self, config: Config, head: Head) -> None:
        super().__init__()
        backbone = make_backbone(config)
        keep_read_parts(backbone, config["reads"])
        unfuse(backbone)
        self.encoder = nn.ModuleDict({_MODALITIES.get(tuple(config["reads"]), "joint"): backbone})
        self.reads, self.pooling, self.kind = tuple(config["reads"]), config["pooling"], head.kind
        if head.kind != "embeddings":
            self.head = nn.Linear(pooled_width(backbone, config), max(1, len(head.labels)))

    @property
    def backbone(self) -> Any:
        """The model of transformers."""
        (backbone,) = self.encoder.values()
        return backbone

    def pooled(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Make one vector of a row [B, H]; of a dual encoder those of picture and text, one after the other."""
        if is_dual(self.backbone):
            parts = [self._picture(inputs)] if PIXELS in self.reads else []
            parts += [self._text(inputs)] if TEXT in self.reads else []
            scaled: Tensor = torch.cat(parts, dim=1) * self._scale()
            return scaled
        given = _forward_inputs(self.backbone, inputs)
        if is_crossed(self.backbone):
            return self._crossed(inputs)
        output = self.backbone(**given)
        if self.pooling == "mean":
            return _mean(output.last_hidden_state, inputs["attention_mask"])
        pooled = getattr(output, "pooler_output", None)
        result: Tensor = output.last_hidden_state[:, 0] if pooled is None or self.pooling == "first" else pooled
        return result

    def embeddings(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Embed text and picture of each row: [B, 2, D], the text's times the temperature that the model learned.

        The product of a text's and a picture's is what the official code calls their logit, up to SigLIP's bias.
        """
        return torch.stack([self._text(inputs) * self._scale(), self._picture(inputs)], dim=1)

    def _text(self, inputs: Mapping[str, Tensor]) -> Tensor:
        given = {name: inputs[name] for name in (TEXT, "attention_mask") if name in inputs}
        return normalize(_vector(self.backbone.get_text_features(**given)), dim=-1)

    def _picture(self, inputs: Mapping[str, Tensor]) -> Tensor:
        pixels, row_of = _once(inputs[PIXELS])
        vectors = normalize(_vector(self.backbone.get_image_features(pixel_values=pixels)), dim=-1)
        return vectors if row_of is None else vectors[row_of]

    def _scale(self) -> Any:
        scale = getattr(self.backbone, "logit_scale", None)
        return 1.0 if scale is None else scale.exp()

    def _crossed(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Let the text look at the picture (BLIP): [B, H] at its first word."""
        seen = self.backbone.vision_model(pixel_values=inputs[PIXELS]).last_hidden_state
        visible = torch.ones(seen.shape[:-1], dtype=torch.long, device=seen.device)
        states = self.backbone.text_encoder(
            input_ids=inputs[TEXT],
            attention_mask=inputs["attention_mask"],
            encoder_hidden_states=seen,
            encoder_attention_mask=visible,
        ).last_hidden_state
        result: Tensor = states[:, 0]
        return result


def _once(pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    """Take a picture that several rows in a row have once, and say which each row has; None where each has its own.

    It saves four fifths of the picture's tower where retrieval is scored by five captions a picture. On the CPU and in
    inference alone: what is done depends on the pictures, so not in compiled or exported graphs.
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or pixels.device.type != "cpu" or len(pixels) < 2:
        return pixels, None
    other = torch.cat([torch.ones(1, dtype=torch.bool), (pixels[1:] != pixels[:-1]).flatten(1).any(dim=1)])
    return (pixels, None) if bool(other.all()) else (pixels[other], other.cumsum(0) - 1)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' warnings and progress bars inside the block."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def hf_config(config: Config) -> Any:
    """Make the configuration object of transformers."""
    from transformers import AutoConfig

    plain = dict(config["transformers"])
    with quiet():
        return AutoConfig.for_model(plain.pop("model_type"), **plain)


def make_backbone(config: Config) -> Any:
    """Run transformers' constructor of an encoder, without the pooler where nothing of it is read."""
    import transformers

    kind: Any = getattr(transformers, config["architecture"])
    pooler = {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind.__init__).parameters else {}
    with quiet():
        return kind(hf_config(config), **(pooler if config["pooling"] != "pooler" else {}))


def is_dual(backbone: Any) -> bool:
    """Say whether text and pictures have an encoder each and meet in one space (CLIP, SigLIP)."""
    return hasattr(backbone, "get_text_features") and hasattr(backbone, "get_image_features")


def is_crossed(backbone: Any) -> bool:
    """Say whether the text encoder looks at the picture by cross-attention (BLIP)."""
    return hasattr(backbone, "text_encoder") and hasattr(backbone, "vision_model")


def readable(backbone: Any) -> tuple[str, ...]:
    """List what a backbone can read, of `TEXT`, `PIXELS` and `REGIONS`."""
    known = inspect.signature(backbone.forward).parameters
    return tuple(one for one in (TEXT, PIXELS, REGIONS) if one in known)


def keep_read_parts(backbone: Any, reads: list[str]) -> None:
    """Take away what nothing that is read goes through: a tower, a decoder, the heads of pre-training."""
    if is_crossed(backbone):
        gone = [name for name, _ in backbone.named_children() if name not in ("vision_model", "text_encoder")]
    elif is_dual(backbone):
        gone = [*(() if TEXT in reads else _TEXT_PARTS), *(() if PIXELS in reads else _PIXEL_PARTS)]
    else:
        gone = []
    for name in gone:
        if hasattr(backbone, name):
            delattr(backbone, name)


def pooled_width(backbone: Any, config: Config) -> int:
    """Compute the width of `Encoder.pooled`.

    Raises:
        VlcompressError: a backbone that says no width.
    """
    own = backbone.config
    if is_dual(backbone):
        width = getattr(own, "projection_dim", None) or own.text_config.hidden_size
        return int(width) * len(config["reads"])
    if is_crossed(backbone):
        return int(own.text_config.hidden_size)
    width = getattr(own, "hidden_size", None) or getattr(own, "dim", None)
    if width is None:
        raise VlcompressError(f"{config['architecture']} says no hidden_size: give a model of one width")
    return int(width) * (2 if len(config["reads"]) > 1 and PIXELS in config["reads"] else 1)


def _forward_inputs(backbone: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    known = inspect.signature(backbone.forward).parameters
    return {name: value for name, value in inputs.items() if name in known}


def _vector(found: Any) -> Tensor:
    vector: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return vector


def _mean(states_BTH: Tensor, visible_BT: Tensor) -> Tensor:
    """Average the visible words (sentence-embedding models)."""
    weights = visible_BT.to(states_BTH.dtype)[:, :, None]
    return (states_BTH * weights).sum(1) / weights.sum(1).clamp(min=1.0)
