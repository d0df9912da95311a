"""Attention whose query, key and value are one matrix, taken apart so that heads can be scored and removed.

The replacement is compared with the original on random inputs before it is taken: what computes anything else than
plain attention (windows, positions, channels in place of tokens) is refused.

Shapes: B batch, S tokens, H width.
"""

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vlcompress.models.attention import MultiHeadAttention
from vlcompress.models.encoder.anatomy import in_block, not_understood

_FUSED = re.compile(r"(.*)\.(?:qkv\.|in_proj_)(weight|bias)")
_PARTS = ("query", "key", "value")
_CLOSE = 1e-5


class _Unfused(MultiHeadAttention):
    """Attention with projections apart, the output projection under the name that the original gives it."""

    def __init__(self, original: Any, fused: Mapping[str, Tensor | None], output: str, heads: int, rate: float) -> None:
        rows, width = fused["weight"].shape  # type: ignore[union-attr]
        query, key, value = (nn.Linear(width, rows // 3, bias=fused["bias"] is not None) for _ in _PARTS)
        super().__init__(query, key, value, nn.Dropout(rate), heads=heads)
        self.output_name = output
        self.add_module(output, getattr(original, output))
        for name, tensor in fused.items():
            if tensor is not None:
                for part, piece in zip((query, key, value), tensor.detach().chunk(3), strict=True):
                    setattr(part, name, nn.Parameter(piece.clone()))

    def projected(self, hidden_BSH: Tensor, context_BSH: Tensor) -> Tensor:
        """Attend and project: [B, S, H]."""
        result: Tensor = self.get_submodule(self.output_name)(self.attend(hidden_BSH, context_BSH, None))
        return result


class UnfusedQkv(_Unfused):
    """In place of a module with ``qkv`` and ``projection`` (BLIP's pictures)."""

    def __init__(self, original: Any) -> None:
        fused = {"weight": original.qkv.weight, "bias": original.qkv.bias}
        super().__init__(original, fused, "projection", original.num_heads, original.dropout.p)

    def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
        """Attend, every token to every token; attention weights are not kept."""
        return self.projected(hidden_states, hidden_states), None


class UnfusedTorch(_Unfused):
    """In place of `torch.nn.MultiheadAttention` without masks (BridgeTower's pictures)."""

    def __init__(self, original: Any) -> None:
        fused = {"weight": original.in_proj_weight, "bias": original.in_proj_bias}
        super().__init__(original, fused, "out_proj", original.num_heads, original.dropout)
        plain = nn.Linear(original.out_proj.in_features, original.out_proj.out_features)
        plain.weight, plain.bias = original.out_proj.weight, original.out_proj.bias
        self.out_proj, self.batch_first = plain, original.batch_first

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **masks: Any) -> tuple[Tensor, None]:
        """Attend as `torch.nn.MultiheadAttention` does where no mask is given.

        Raises:
            NotImplementedError: a mask, or a value that is not the key.
        """
        if masks.get("attn_mask") is not None or masks.get("key_padding_mask") is not None or value is not key:
            raise NotImplementedError("masks, and values beside keys, are not taken apart")
        if self.batch_first:
            return self.projected(query, key), None
        return self.projected(query.transpose(0, 1), key.transpose(0, 1)).transpose(0, 1), None


def unfuse(model: nn.Module) -> None:
    """Replace fused attentions in the blocks of a model, in place; those of one class are compared once.

    Raises:
        VlcompressError: one that computes something else than plain attention; it is named.
    """
    compared: set[type] = set()
    for name, (module, make) in fused_in(model).items():
        if type(module) not in compared:
            _check_same(name, module, make)
            compared.add(type(module))
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, make(module))


def fused_in(model: nn.Module) -> dict[str, tuple[nn.Module, Callable[[Any], _Unfused]]]:
    """Find the fused attentions in the blocks of a model, by name, each with what makes its replacement."""
    found = ((name, module, _replacement(module)) for name, module in model.named_modules() if in_block(f"{name}."))
    return {name: (module, make) for name, module, make in found if make is not None}


def taken_apart(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split fused tensors of a checkpoint where the model `own` has query, key and value apart."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _FUSED.fullmatch(name)
        apart = [f"{match[1]}.{part}.{match[2]}" for part in _PARTS] if match else []
        if apart and apart[0] in own:
            found |= dict(zip(apart, tensor.chunk(3), strict=True))
        else:
            found[name] = tensor
    return found


def _replacement(module: nn.Module) -> Callable[[Any], _Unfused] | None:
    parts: Any = module
    if isinstance(module, nn.MultiheadAttention):
        return UnfusedTorch if module._qkv_same_embed_dim and module.bias_k is None else None
    if all(isinstance(getattr(parts, one, None), nn.Linear) for one in ("qkv", "projection")):
        return UnfusedQkv if isinstance(getattr(parts, "dropout", None), nn.Dropout) else None
    return None


def _check_same(name: str, module: nn.Module, make: Callable[[Any], _Unfused]) -> None:
    """Compare a replacement with its original on random weights and inputs, on the CPU whatever the model is on."""
    generator = torch.Generator().manual_seed(0)
    original = copy.deepcopy(module).to_empty(device="cpu").eval()
    with torch.no_grad(), torch.device("cpu"):
        for parameter in original.parameters():
            parameter.normal_(0.0, 0.1, generator=generator)
        replaced = make(copy.deepcopy(original)).eval()
        hidden = torch.randn(2, 5, replaced.query.in_features, generator=generator)
        count = 3 if isinstance(module, nn.MultiheadAttention) else 1
        try:
            got, expected = replaced(*[hidden] * count)[0], original(*[hidden] * count)[0]
        except (RuntimeError, TypeError, ValueError) as error:
            raise not_understood(name, f"{type(module).__name__} takes other inputs than tokens ({error})") from error
    if got.shape != expected.shape or not torch.allclose(got, expected, atol=_CLOSE):
        raise not_understood(name, f"{type(module).__name__} does not compute plain attention")
