"""A compiled model through ``from_pretrained``: registered with transformers as a method of quantisation.

``quantization_config`` says what a configuration of transformers cannot: how many heads each attention has left, the
sizes of linear layers that were shrunk, and how packed layers run. The model is transformers' own, with those sizes.
Nothing heavy is imported before a model is opened: transformers loads this module with its registry.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

METHOD = "vlcompress"


@register_quantization_config(METHOD)
class CompiledConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """What ``quantization_config`` holds.

    Attributes:
        apart: whether fused queries, keys and values are taken apart (`vlcompress.unfuse`).
        beside: names of the tensors that the class has no place for, a head of this project's.
        heads: for each attention module that lost some [heads before, heads left].
        linears: for each shrunk layer that is not packed [out, in].
        packed: for each packed layer its "shape" [out, in] and "backend".
        gone: for each attention and feed-forward layer that was taken out its "producers", "consumer" and "owner".
    """

    def __init__(
        self,
        heads: Mapping[str, list[int]],
        linears: Mapping[str, list[int]],
        packed: Mapping[str, Mapping[str, Any]],
        apart: bool = False,
        beside: Sequence[str] = (),
        gone: Sequence[Mapping[str, Any]] = (),
        **_: Any,
    ) -> None:
        self.quant_method, self.apart, self.beside = METHOD, apart, list(beside)
        self.heads, self.linears, self.packed, self.gone = dict(heads), dict(linears), dict(packed), list(gone)


@register_quantizer(METHOD)
class CompiledQuantizer(HfQuantizer):  # type: ignore[misc]
    """Gives a model of transformers the sizes and packed layers of a compiled one, before its weights are loaded."""

    requires_calibration = True

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: list[str] | None = None, **_: Any
    ) -> None:
        from vlcompress.models.encoder.unfused import unfuse
        from vlcompress.sparse.opened import give_sizes, put_packed, take_layers_out

        said = self.quantization_config
        if said.apart:
            unfuse(model)
        ignored = {f"^{re.escape(name)}$" for name in said.beside}
        model._keys_to_ignore_on_load_unexpected = {*(model._keys_to_ignore_on_load_unexpected or ()), *ignored}
        give_sizes(model, said.heads, said.linears)
        take_layers_out(model, said.gone)
        put_packed(model, said.packed, (checkpoint_files or [""])[0])

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        from vlcompress.sparse.opened import use_backends

        use_backends(model, self.quantization_config.packed)
        return model

    def is_serializable(self) -> bool:
        """A compiled model is written by `vlcompress compile` alone."""
        return False

    @property
    def is_trainable(self) -> bool:
        """A compiled model is for inference."""
        return False
