"""Multi-head attention through `scaled_dot_product_attention`, under the parameter names that BERT-like models share.

Shapes: B batch, Q queries, S keys, H hidden width, N attention heads, D width of one head.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class MultiHeadAttention(nn.Module):
    """Attention with query, key and value projections, for self and cross attention.

    The head count and width are read at every call, so removing heads is: drop rows of query, key and value, lower
    `num_attention_heads`. With no head left the result has width 0, and the output projection adds its bias alone.
    """

    def __init__(self, query: nn.Linear, key: nn.Linear, value: nn.Linear, dropout: nn.Dropout, *, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.dropout = query, key, value, dropout
        self.num_attention_heads = heads
        self.attention_head_size = query.out_features // heads

    def attend(self, hidden_BQH: Tensor, context_BSH: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from `hidden` to `context`: [B, Q, N*D].

        Args:
            hidden_BQH: what asks.
            context_BSH: what is looked at.
            mask: float, broadcastable to [B, N, Q, S], added to the scores; None masks nothing.
        """
        if self.num_attention_heads == 0:
            return hidden_BQH.new_zeros(*hidden_BQH.shape[:-1], 0)
        context_BNQD = scaled_dot_product_attention(
            self._heads(self.query(hidden_BQH)),
            self._heads(self.key(context_BSH)),
            self._heads(self.value(context_BSH)),
            mask,
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        return context_BNQD.transpose(1, 2).flatten(2)

    def _heads(self, x_BSH: Tensor) -> Tensor:
        return x_BSH.view(*x_BSH.shape[:-1], self.num_attention_heads, self.attention_head_size).transpose(1, 2)


class Attention(MultiHeadAttention):
    """The attention of a transformers model (LXMERT, ViLT), called as transformers calls it."""

    def __init__(self, source: nn.Module) -> None:
        """Take over the projections of a transformers attention."""
        parts: Any = source
        super().__init__(parts.query, parts.key, parts.value, parts.dropout, heads=parts.num_attention_heads)

    def forward(
        self,
        hidden_states: Tensor,
        context: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor]:
        """Wrap `attend` in a tuple of one; attention weights are never kept, so `output_attentions` must be False."""
        if output_attentions:
            raise NotImplementedError("attention weights are not kept by scaled_dot_product_attention")
        return (self.attend(hidden_states, context, attention_mask),)


def additive(visible_BS: Tensor | None, like: Tensor) -> Tensor | None:
    """Turn a visibility mask (1 = visible) into what is added to the scores [B, 1, 1, S]: 0, or the lowest float."""
    if visible_BS is None:
        return None
    return (1.0 - visible_BS[:, None, None, :].to(like.dtype)) * torch.finfo(like.dtype).min
