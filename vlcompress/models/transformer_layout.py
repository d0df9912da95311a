"""What families of BERT-like blocks have in common: prunable weights by name, coupled heads and neurons."""

import re
from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from vlcompress.errors import unknown
from vlcompress.models.attention import MultiHeadAttention
from vlcompress.models.base import Config, Coupling, Family, Prunable

REASONS = (
    # The first pattern that is found in a name gives the reason why a policy leaves that parameter alone.
    (re.compile(r"(LayerNorm|layer_norm|layernorm\w*)\."), "LayerNorm: few weights, each scales a whole channel"),
    (re.compile(r"bias$"), "bias: few weights, no matrix to make sparse"),
    (
        re.compile(r"(visn_fc|img_linear|pos_linear|patch_embeddings)\."),
        "input projection of images: not in the encoder",
    ),
    (re.compile(r"embeddings?\.|cls_token"), "embedding: looked up, not multiplied"),
    (re.compile(r"pooler\."), "pooler: not part of the blocks, which are all that this policy prunes"),
)
_OUTPUT_OF = {"intermediate": "output", "lang_inter": "lang_output", "visn_inter": "visn_output"}


def bert_size(width: int, heads: int, inner: int, *, dropout: float = 0.1, **more: Any) -> Config:
    """Size BERT's blocks: hidden width, attention heads, feed-forward neurons and dropout; `more` goes beside them."""
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return {**rates, "hidden_size": width, "num_attention_heads": heads, "intermediate_size": inner, **more}


class TransformerFamily(Family, ABC):
    """A family whose blocks have attention with query, key and value, and feed-forward layers of two linears."""

    pruned: ClassVar[re.Pattern[str]]
    """Names of the weights that the policy "bert-tickets" prunes: linears of the encoder (BERT-Tickets, ``LT_glue.py``,
    which Gan et al., AAAI 2022, build on)."""
    policies: ClassVar[tuple[str, ...]] = ("bert-tickets",)

    def prunable(self, model: nn.Module, policy: str) -> Prunable:
        """Name what a policy prunes; weights that modules share count once.

        Raises:
            VlcompressError: unknown policy.
        """
        if policy not in self.policies:
            raise unknown("pruning policy", policy, self.policies)
        return Prunable.of(model, lambda name: self.kept_because(name, policy), self.backbone_prefix)

    def kept_because(self, name: str, policy: str) -> str:
        """Say why a policy leaves a parameter alone; "" where it prunes it."""
        if self.pruned.fullmatch(name):
            return ""
        if not name.startswith(self.backbone_prefix):
            return "task head: made anew for every task, never masked"
        return next((reason for pattern, reason in REASONS if pattern.search(name)), "not among what the policy names")

    def couplings(self, model: nn.Module) -> Sequence[Coupling]:
        """List every attention head and feed-forward neuron, by the sizes that the modules have now."""
        modules = dict(model.named_modules())
        attentions = {name: one for name, one in modules.items() if isinstance(one, MultiHeadAttention)}
        heads = (head_coupling(name, one) for name, one in attentions.items() if name.startswith(self.backbone_prefix))
        return [*heads, *neuron_couplings(modules)]


def head_coupling(name: str, attention: MultiHeadAttention) -> Coupling:
    """Couple the heads of the attention module `name`, whose layer has its output projection at ``output.dense``."""
    layer = name.rpartition(".")[0]
    return Coupling(
        kind="head",
        producers=tuple(f"{name}.{part}.weight" for part in ("query", "key", "value")),
        consumer=f"{layer}.output.dense.weight",
        units=attention.num_attention_heads,
        unit_size=attention.attention_head_size,
        constant_from=f"{name}.value.weight",
        owner=name,
    )


def neuron_couplings(modules: Mapping[str, nn.Module]) -> Iterator[Coupling]:
    """Couple the neurons of every feed-forward layer: rows of its first linear with columns of its second."""
    for name, module in modules.items():
        layer, _, part = name.rpartition(".")
        if part in _OUTPUT_OF:
            up: Any = module
            producer = f"{name}.dense.weight"
            yield Coupling(
                kind="neuron",
                producers=(producer,),
                consumer=f"{layer}.{_OUTPUT_OF[part]}.dense.weight",
                units=up.dense.out_features,
                unit_size=1,
                constant_from=producer,
            )
