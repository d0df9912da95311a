"""The encoder of LXMERT-base without its embeddings: 9 language, 5 vision and 5 cross-modality layers, hidden 768.

Every linear goes through one function, so that the same encoder runs dense and block-sparse. Weights are random: times
do not depend on them.

Legend: B batch, T tokens of one modality, D hidden, H heads.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

LANGUAGE_LAYERS, VISION_LAYERS, CROSS_LAYERS = 9, 5, 5
LANGUAGE_TOKENS, VISION_TOKENS = 20, 36

Apply = Callable[[Tensor, str, Tensor | None], Tensor]
"""(x, activation, residual) -> act(x Wᵀ + bias) + residual."""


@dataclass(frozen=True)
class Sizes:
    """Widths of the encoder; LXMERT-base by default."""

    hidden: int = 768
    inner: int = 3072
    heads: int = 12
    layers: tuple[int, int, int] = (LANGUAGE_LAYERS, VISION_LAYERS, CROSS_LAYERS)


class Encoder:
    """LXMERT's encoder over linears made by `make`: (N, K) -> Apply."""

    def __init__(self, make: Callable[[int, int], Apply], sizes: Sizes) -> None:
        self.sizes = sizes
        language, vision, cross = sizes.layers
        self.language = [self._layer(make) for _ in range(language)]
        self.vision = [self._layer(make) for _ in range(vision)]
        # One cross-attention serves both directions, as in LXMERT; each modality has its own layer after it.
        self.cross = [(self._attention(make), self._layer(make), self._layer(make)) for _ in range(cross)]

    def __call__(self, language_BTD: Tensor, vision_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """The encoded modalities."""
        for layer in self.language:
            language_BTD = self._run(layer, language_BTD)
        for layer in self.vision:
            vision_BTD = self._run(layer, vision_BTD)
        for attention, after_language, after_vision in self.cross:
            crossed_language = self._attend(attention, language_BTD, vision_BTD)
            crossed_vision = self._attend(attention, vision_BTD, language_BTD)
            language_BTD, vision_BTD = (
                self._run(after_language, crossed_language),
                self._run(after_vision, crossed_vision),
            )
        return language_BTD, vision_BTD

    def _attention(self, make: Callable[[int, int], Apply]) -> dict[str, Apply]:
        hidden = self.sizes.hidden
        return {"q": make(hidden, hidden), "kv": make(2 * hidden, hidden), "out": make(hidden, hidden)}

    def _layer(self, make: Callable[[int, int], Apply]) -> dict[str, Apply]:
        hidden, inner = self.sizes.hidden, self.sizes.inner
        return {**self._attention(make), "up": make(inner, hidden), "down": make(hidden, inner)}

    def _run(self, layer: dict[str, Apply], x_BTD: Tensor) -> Tensor:
        x_BTD = self._attend(layer, x_BTD, x_BTD)
        return self._norm(layer["down"](layer["up"](x_BTD, "gelu", None), "none", x_BTD))

    def _attend(self, layer: dict[str, Apply], x_BTD: Tensor, context_BTD: Tensor) -> Tensor:
        q = self._heads(layer["q"](x_BTD, "none", None))
        k, v = (self._heads(part) for part in layer["kv"](context_BTD, "none", None).chunk(2, dim=-1))
        mixed_BTD = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self._norm(layer["out"](mixed_BTD, "none", x_BTD))

    def _heads(self, x_BTD: Tensor) -> Tensor:
        batch, tokens, hidden = x_BTD.shape
        return x_BTD.reshape(batch, tokens, self.sizes.heads, hidden // self.sizes.heads).transpose(1, 2)

    def _norm(self, x_BTD: Tensor) -> Tensor:
        return functional.layer_norm(x_BTD, (self.sizes.hidden,))


def inputs(batch: int, sizes: Sizes, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Random embeddings of both modalities."""
    shapes = ((batch, tokens, sizes.hidden) for tokens in (LANGUAGE_TOKENS, VISION_TOKENS))
    language, vision = (torch.randn(shape, device=device, dtype=dtype) for shape in shapes)
    return language, vision
