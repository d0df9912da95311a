"""From a PyTorch model to a clean ONNX graph: traced once, constants folded, nothing of this machine left in it."""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from torch import Tensor, nn

from vlcompress.errors import VerificationError, VlcompressError
from vlcompress.export.target import OPSET
from vlcompress.export.tidy import prune_unused, tidy
from vlcompress.models.base import Config, Family
from vlcompress.sparse.compile import sparse_layers


class _Scores(nn.Module):
    """A model reduced to what is exported: tensors in, scores [batch, labels] out, float32 at both ends."""

    def __init__(self, family: Family, model: nn.Module, names: tuple[str, ...], half: bool) -> None:
        super().__init__()
        self.family, self.model, self.names, self.half_inside = family, model, names, half

    def forward(self, *tensors: Tensor) -> Tensor:
        inside = (one.half() if self.half_inside and one.is_floating_point() else one for one in tensors)
        return self.family.logits(self.model, dict(zip(self.names, inside, strict=True))).float()


def trace(family: Family, model: nn.Module, config: Config, *, opset: int = OPSET, half: bool = False) -> ir.Model:
    """Export a model with every axis of `family.dynamic_axes` left open.

    Each packed layer is one node that carries its canonical weight name (see `vlcompress.export.rewrite`).

    Args:
        family: gives example inputs, the axes' names and the scores.
        model: on the CPU; put in eval mode.
        config: for the example inputs.
        opset: operator set to write.
        half: compute in float16.

    Returns:
        A graph with the inputs named as the family names them, and one output "logits" float32 [batch, labels].

    Raises:
        VlcompressError: the exporter knows no way to write what the model computes.
        VerificationError: an axis that should vary was fixed by the tracer.
    """
    # Three different sizes, none 0 or 1: the tracer fixes those, and may take equal sizes for one axis.
    example = family.example_inputs(config, batch=3, text=7, regions=5, seed=0)
    names, axes = tuple(example), family.dynamic_axes()
    for name, layer in sparse_layers(model).items():
        layer.name = name
    with quiet():
        try:
            program: Any = torch.onnx.export(
                _Scores(family, copy.deepcopy(model).half() if half else model, names, half).eval(),
                tuple(example.values()),
                dynamo=True,
                dynamic_shapes={"tensors": tuple(dict(axes[name]) for name in names)},
                input_names=list(names),
                output_names=["logits"],
                opset_version=opset,
                custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: _attention},
                verbose=False,
                optimize=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise VlcompressError(f"the ONNX exporter cannot write this model: {_first_cause(error)}") from error
        graph: ir.Model = program.model
        _check_axes(graph, axes)
        tidy(graph)
    fold_transposed_weights(graph)
    return _cleaned(graph)


def _first_cause(error: BaseException) -> str:
    """Say in a line what an error began with."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = str(error).strip() or type(error).__name__
    return said.splitlines()[0][:200]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporter's prints, warnings and logs inside the block, and nothing outside it."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def fold_transposed_weights(model: ir.Model) -> None:
    """Replace Transpose(initialiser) by a transposed initialiser.

    The exporter folds these itself unless a weight is used twice: LXMERT's shared cross-attention would transpose its
    weights anew at every call, and a search for MatMul with a constant weight would miss them.
    """
    for node in [node for node in model.graph if node.op_type == "Transpose"]:
        source, turned = node.inputs[0], node.outputs[0]
        if source is None or not source.is_initializer() or source.const_value is None:
            continue
        order = node.attributes.get_ints("perm") if "perm" in node.attributes else None
        values = np.ascontiguousarray(source.const_value.numpy().transpose(order))
        name = f"{source.name}.transposed"
        constant = ir.Value(name=name, shape=ir.Shape(values.shape), type=turned.type)
        constant.const_value = ir.tensor(values, name=name)
        model.graph.register_initializer(constant)
        turned.replace_all_uses_with(constant)
        model.graph.remove(node, safe=True)


def _attention(
    query_BNTD: Any,
    key_BNSD: Any,
    value_BNSD: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Write attention as two MatMuls around a Softmax; the parameters are those of the PyTorch operator.

    The exporter's own form scales query and key apart and turns the key through shapes computed at run time: about 40
    more nodes in a model of nine attentions, which is what a batch of one waits for.
    """
    from onnxscript import opset18 as op

    if is_causal or enable_gqa or dropout_p:
        raise NotImplementedError("only full attention without dropout is exported")
    factor = float(query_BNTD.shape[-1]) ** -0.5 if scale is None else scale
    query = op.Mul(query_BNTD, op.Constant(value=ir.tensor(np.array(factor, dtype=query_BNTD.dtype.numpy()))))
    scores_BNTS = op.MatMul(query, op.Transpose(key_BNSD, perm=[0, 1, 3, 2]))
    if attn_mask is not None and attn_mask.dtype == ir.DataType.BOOL:
        lowest = np.array(np.finfo(query_BNTD.dtype.numpy()).min, dtype=query_BNTD.dtype.numpy())
        scores_BNTS = op.Where(attn_mask, scores_BNTS, op.Constant(value=ir.tensor(lowest)))
    elif attn_mask is not None:
        scores_BNTS = op.Add(scores_BNTS, attn_mask)
    return op.MatMul(op.Softmax(scores_BNTS, axis=-1), value_BNSD)


def _check_axes(model: ir.Model, axes: Mapping[str, Mapping[int, str]]) -> None:
    for value in model.graph.inputs:
        sizes = list(value.shape or ())
        for axis, name in axes[str(value.name)].items():
            if isinstance(sizes[axis], int):
                raise VerificationError(
                    f"the exporter fixed axis {axis} ('{name}') of input '{value.name}' at {sizes[axis]}: the model's "
                    "code depends on that size; nothing was written"
                )


def _cleaned(model: ir.Model) -> ir.Model:
    """Remove stack traces, local paths and class names, which the exporter writes on every node."""
    prune_unused(model)
    passes.ClearMetadataAndDocStringPass()(model)
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.name = "vlcompress"
    model.producer_name, model.producer_version = "vlcompress", None
    return model
