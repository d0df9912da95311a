"""What stands in a model where a whole attention or feed-forward layer was: the bias of its output, and no product.

The layer's output then is the same for every input, so nothing before it in the layer is computed; the residual path
around it stays. A LayerNorm that the layer alone has read (before it, as in CLIP, ViT and ViLT) is left out of the
exported graph too, since nothing reads it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vlcompress.models.attention import MultiHeadAttention


class Constant(nn.Module):
    """In place of a layer's last linear: its bias [N] whatever is read, or zeros where it has none."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.width, self.bias = linear.out_features, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Give [1, ..., 1, N], of as many axes as x [..., K]: what it is added to has the others."""
        value = x.new_zeros(self.width) if self.bias is None else self.bias
        return value.view(*[1] * (x.dim() - 1), self.width)


class Nothing(nn.Module):
    """In place of a linear whose output nobody reads: [..., 0]."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., :0]


class NoAttention(nn.Module):
    """In place of an attention module of transformers: what it is called with, or its output projection's bias.

    Args:
        inside: name of the output projection where the attention holds it, "" where it follows.
        projection: what stands in its place.
    """

    def __init__(self, inside: str, projection: nn.Module) -> None:
        super().__init__()
        self._inside = inside
        if inside:
            self.add_module(inside, projection)

    def forward(self, *args: Any, **named: Any) -> tuple[Tensor, None]:
        """Answer as attentions of transformers do: the output, and no weights."""
        x: Tensor = next(one for one in (*args, *named.values()) if isinstance(one, torch.Tensor))
        return self.get_submodule(self._inside)(x) if self._inside else x, None


def take_out(model: nn.Module, producers: Sequence[str], consumer: str, owner: str) -> None:
    """Take a layer out of a model, in place.

    Args:
        model: whose output projection has the layer's constant in its bias.
        producers, consumer: names of the layer's linears.
        owner: name of the attention module; "" in a feed-forward layer.
    """
    linear: Any = model.get_submodule(consumer)
    _put(model, consumer, Constant(linear))
    attention = model.get_submodule(owner) if owner else None
    if attention is not None and not isinstance(attention, MultiHeadAttention):
        inside = consumer.removeprefix(f"{owner}.") if consumer.startswith(f"{owner}.") else ""
        _put(model, owner, NoAttention(inside, model.get_submodule(consumer)))
        return
    for name in producers:
        _put(model, name, Nothing())
    if attention is not None:
        attention.num_attention_heads = 0


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, module.train(model.training))
