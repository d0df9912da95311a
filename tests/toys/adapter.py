"""A family as one would add it: a transformer over words and regions, as small as it can be.

Shapes: B batch, T words, R regions, S = T + R, H hidden width.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from vlcompress.models.attention import MultiHeadAttention, additive
from vlcompress.models.base import Config, Head, HeadKind, LoadReport, Sample
from vlcompress.models.batches import padded, padding_mask, random_mask, random_regions, random_text, regions_of
from vlcompress.models.checkpoints import load_strictly, read_checkpoint, without_heads
from vlcompress.models.transformer_layout import TransformerFamily

_HEADS = ("classifier.",)


class SelfAttention(MultiHeadAttention):
    """Attention over words and regions together."""

    def __init__(self, width: int, heads: int) -> None:
        query, key, value = (nn.Linear(width, width) for _ in range(3))
        super().__init__(query, key, value, nn.Dropout(0.0), heads=heads)

    def forward(self, hidden_BSH: Tensor, mask: Tensor | None) -> Tensor:
        """Attend: [B, S, H]."""
        return self.attend(hidden_BSH, hidden_BSH, mask)


class Linear(nn.Module):
    """A linear layer under BERT's name."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)

    def forward(self, hidden: Tensor) -> Tensor:
        """Multiply."""
        result: Tensor = self.dense(hidden)
        return result


class AttentionBlock(nn.Module):
    """Attention and its output projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self = SelfAttention(width, heads)
        self.output = Linear(width, width)

    def forward(self, hidden_BSH: Tensor, mask: Tensor | None) -> Tensor:
        """Attend and project: [B, S, H]."""
        result: Tensor = self.output(self.self(hidden_BSH, mask))
        return result


class Layer(nn.Module):
    """A block without normalisation."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, inner = config["hidden_size"], config["intermediate_size"]
        self.attention = AttentionBlock(width, config["num_attention_heads"])
        self.intermediate, self.output = Linear(width, inner), Linear(inner, width)

    def forward(self, hidden_BSH: Tensor, mask: Tensor | None) -> Tensor:
        """Add what attention and the neurons say: [B, S, H]."""
        hidden_BSH = hidden_BSH + self.attention(hidden_BSH, mask)
        result: Tensor = hidden_BSH + self.output(gelu(self.intermediate(hidden_BSH)))
        return result


class Backbone(nn.Module):
    """Embeddings and layers."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.img_linear = nn.Linear(config["visual_feat_dim"], config["hidden_size"])
        self.layer = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Read words and regions: [B, H] at the first word."""
        words, regions = self.word_embeddings(inputs["input_ids"]), self.img_linear(inputs["visual_feats"])
        hidden_BSH = torch.cat([words, regions], dim=1)
        visible = torch.cat([inputs["attention_mask"], inputs["visual_attention_mask"]], dim=1)
        mask = additive(visible, hidden_BSH)
        for layer in self.layer:
            hidden_BSH = layer(hidden_BSH, mask)
        return hidden_BSH[:, 0]


class ToyModel(nn.Module):
    """The backbone and a classifier of answers."""

    def __init__(self, config: Config, labels: int) -> None:
        super().__init__()
        self.toy = Backbone(config)
        self.classifier = nn.Linear(config["hidden_size"], labels)


class ToyFamily(TransformerFamily):
    """The toy as the toolchain sees it."""

    name = "toy"
    title = "Toy"
    sizes: ClassVar[Mapping[str, Config]] = {
        "tiny": {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 2}
    }
    heads: ClassVar[tuple[HeadKind, ...]] = ("answers",)
    tasks = ("vqa",)
    reads = "regions"
    backbone_prefix = "toy."
    hub_name = "toy.safetensors"
    longest_text = 20
    recipes = Path(__file__).parent / "recipes"
    pruned = re.compile(r"toy\.layer\.\d+\..*(query|key|value|dense)\.weight")

    def config(self, size: str, *, vocab_size: int, feature_dim: int) -> Config:
        """See `Family.config`."""
        return self.sized(size) | {"vocab_size": vocab_size, "visual_feat_dim": feature_dim}

    def construct(self, config: Config, head: Head) -> nn.Module:
        """Make the model."""
        return ToyModel(config, len(head.labels))

    def load(self, model: nn.Module, checkpoint: str, *, fresh_head: bool = False) -> LoadReport:
        """Load the names that the model has."""
        tensors = read_checkpoint(checkpoint)
        return load_strictly(
            model, without_heads(tensors, _HEADS) if fresh_head else tensors, source=checkpoint, heads=_HEADS
        )

    def collate(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Pad texts and regions."""
        ids, images = [sample.ids for sample in samples], [regions_of(sample.images[0]) for sample in samples]
        return {
            "input_ids": padded(ids),
            "attention_mask": padding_mask(ids),
            "visual_feats": padded([one.features for one in images]),
            "visual_attention_mask": padding_mask([one.boxes for one in images]),
        }

    def example_inputs(self, config: Config, *, batch: int, text: int, regions: int, seed: int) -> dict[str, Tensor]:
        """Make random inputs."""
        generator = torch.Generator().manual_seed(seed)
        words, visible = (
            random_text(config["vocab_size"], batch, text, generator),
            random_mask(batch, regions, generator),
        )
        features, _ = random_regions(batch, regions, config["visual_feat_dim"], generator)
        return {
            **words,
            "visual_feats": features * visible[:, :, None],
            "visual_attention_mask": visible,
        }

    def dynamic_axes(self) -> Mapping[str, Mapping[int, str]]:
        """Name the axes that may vary."""
        words, regions = {0: "batch", 1: "text"}, {0: "batch", 1: "regions"}
        return {
            "input_ids": words,
            "attention_mask": words,
            "visual_feats": regions,
            "visual_attention_mask": regions,
        }

    def logits(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Score answers [B, labels]."""
        parts: Any = model
        result: Tensor = parts.classifier(parts.toy(inputs))
        return result
