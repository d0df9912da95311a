"""A randomly pruned model in the forms that it can be exported in, each checked before anything is measured."""

import copy
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from vlcompress.bench.random_masks import UNITS, masked, random_masks, side
from vlcompress.export.choose import Chooser
from vlcompress.export.functions import packable
from vlcompress.export.lowering import WORTH_A_TRY
from vlcompress.export.native.build import built
from vlcompress.export.parity import require
from vlcompress.export.rewrite import Rewriter, WrittenLayer
from vlcompress.export.runtime import OPSET, open_session
from vlcompress.export.storage import save_apart, size
from vlcompress.export.tidy import prune_unused
from vlcompress.export.trace import trace
from vlcompress.export.verify import feed, parity
from vlcompress.kernels.formats import BlockSparseWeight, pack, pack_masked
from vlcompress.kernels.grouped import row_panels
from vlcompress.kernels.linear import BlockSparseLinear
from vlcompress.models.base import Config, Family
from vlcompress.sparse.shrink import linear, shrink
from vlcompress.sparse.timing import Call

Inputs = Mapping[str, Tensor]

STANDARD, NATIVE, SHRUNK = "standard operators", "native kernel", "smaller layers"
"""The forms: row groups as standard operators; packed nodes for the native kernel; layers without the removed units."""


@dataclass(frozen=True)
class Opened:
    """A model in one form and runtime.

    Attributes:
        bind: makes the call that runs it on fixed inputs.
        load_s: seconds that it took to open.
        nbytes: of its weights.
        model: what runs: ONNX Runtime's session, or a PyTorch module.
    """

    bind: Callable[[Inputs], Call]
    load_s: float
    nbytes: int
    model: Any


@dataclass
class OnnxSubject:
    """A model with random weights, its dense graph, and where its forms are written.

    Attributes:
        family: of the model.
        config: its configuration.
        model: in eval mode, on the CPU.
        folder: for graphs.
        chooser: measures how each block-pruned layer is best written; sessions take its threads and provider.
        rows: rows of activations that each weight sees at the batch size to be fast at.
        graph: traced once, with a node for each prunable layer.
    """

    family: Family
    config: Config
    model: nn.Module
    folder: Path
    chooser: Chooser
    rows: Mapping[str, int]
    graph: ir.Model = field(init=False)

    def __post_init__(self) -> None:
        self.graph = trace(self.family, emitting(self.model, self.rows), self.config)

    def dense(self) -> Opened:
        """Open the dense graph, from which the others differ in the pruned layers alone."""
        weights = {name: whole(self.model.get_parameter(name).data) for name in self.rows}
        return self._open(self._replaced({name: WrittenLayer(weight) for name, weight in weights.items()}, "dense"))

    def forms(self, pattern: str, sparsity: float, inputs: Inputs) -> dict[str, Opened]:
        """Prune at random, and open the model in every form that can be faster.

        Args:
            pattern: as `read_pattern` gives it.
            sparsity: share of blocks, or of units, that goes.
            inputs: on which each form must compute what the masked PyTorch model does.

        Raises:
            VlcompressError: a block that does not divide a weight.
            VerificationError: a form computes something else.
        """
        masks = random_masks(self.family, self.model, pattern, sparsity)
        with masked(self.model, masks):
            paths = {SHRUNK: self._shrunk(masks)} if pattern in UNITS else self._blocks(masks, side(pattern))
            opened = {form: self._open(path) for form, path in paths.items()}
            for form, found in opened.items():
                failure = f"'{form}' of {pattern} at {sparsity:g} does not compute what the masked model does"
                require(parity(self.family, self.model, found.model, [inputs]), failure)
        return opened

    def _shrunk(self, masks: Mapping[str, Tensor]) -> Path:
        smaller, _, _ = shrink(self.family, self.model, masks)
        return self._write(trace(self.family, smaller, self.config), "shrunk")

    def _blocks(self, masks: Mapping[str, Tensor], block: tuple[int, int]) -> dict[str, Path]:
        packed = {name: pack_masked(self.model.get_parameter(name), mask, block) for name, mask in masks.items()}
        standard = {
            name: WrittenLayer(weight, self.chooser.choose(name, weight, self.rows[name])[1])
            for name, weight in packed.items()
        }
        found = {}
        if any(layer.form is not None for layer in standard.values()):
            found[STANDARD] = self._replaced(standard, "standard")
        layers = native_layers(packed) if self.chooser.provider == "cpu" else {}
        if layers:
            found[NATIVE] = self._replaced(layers, "native")
        return found

    def _replaced(self, layers: Mapping[str, WrittenLayer], name: str) -> Path:
        """Write the graph with these layers; those that are not named are whole."""
        names = [other for other in self.rows if other not in layers]
        others = {other: WrittenLayer(whole(self.model.get_parameter(other).data)) for other in names}
        graph = self.graph.clone()
        Rewriter(graph, OPSET).apply({**others, **layers})
        prune_unused(graph)
        return self._write(graph, name)

    def _write(self, graph: ir.Model, name: str) -> Path:
        path = self.folder / f"{name}.onnx"
        save_apart(graph, path)
        return path

    def _open(self, path: Path) -> Opened:
        start = time.perf_counter()
        session = open_session(path, threads=self.chooser.threads, provider=self.chooser.provider, native="float32")
        load_s = time.perf_counter() - start

        def bind(inputs: Inputs) -> Call:
            arrays = feed(session, inputs)
            return lambda: session.run(None, arrays)

        return Opened(bind, load_s, size(path), session)


def emitting(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """Copy a model with packed layers in place of the named linears, so that tracing it names them."""
    layers = {}
    for name in names:
        plain = linear(model, name)
        layers[id(plain)] = BlockSparseLinear(whole(plain.weight.data), plain.bias)
    # What stands in the memo is taken for the copy.
    copied: nn.Module = copy.deepcopy(model, layers)
    return copied


def whole(w_NK: Tensor) -> BlockSparseWeight:
    """Store a weight [N, K] as one block that is all there."""
    return pack(w_NK, (w_NK.shape[0], w_NK.shape[1]), torch.ones(1, 1, dtype=torch.bool))


def native_layers(packed: Mapping[str, BlockSparseWeight]) -> dict[str, WrittenLayer]:
    """Pack the layers that the native kernel can run; none if it was not built."""
    library = built()
    if library is None or not library.onnxruntime:
        return {}
    panels = {name: row_panels(weight) for name, weight in packed.items()}
    return {
        name: WrittenLayer(packed[name], None, groups)
        for name, groups in panels.items()
        if groups is not None and packable(groups) and groups.density <= WORTH_A_TRY
    }
