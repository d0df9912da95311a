"""A randomly pruned model in the forms that it can be exported in, each checked before anything is measured."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from torch import Tensor, nn

from vlcompress.bench.random_masks import UNITS, masked, random_masks, side
from vlcompress.export.choose import Chooser
from vlcompress.export.functions import packable
from vlcompress.export.lowering import WORTH_A_TRY
from vlcompress.export.native.build import built
from vlcompress.export.rewrite import Layer, Rewriter
from vlcompress.export.runtime import OPSET, open_session
from vlcompress.export.storage import save_apart, size
from vlcompress.export.tidy import prune_unused
from vlcompress.export.trace import trace
from vlcompress.export.verify import feed, parity, require
from vlcompress.models.base import Config, Family
from vlcompress.sparse.formats import Bsr, pack, row_panels
from vlcompress.sparse.shrink import shrink
from vlcompress.sparse.timing import Call

Inputs = Mapping[str, Tensor]

OLD_OPSET, OLD_IR_VERSION = 17, 8
STANDARD, NATIVE, SHRUNK = "standard operators", "native kernel", "smaller layers"
"""The forms: row groups as standard operators; packed nodes for the native kernel; layers without the removed units."""


@dataclass(frozen=True)
class Opened:
    """A session, seconds that it took to open, and bytes of its file."""

    session: Any
    load_s: float
    nbytes: int

    def bind(self, inputs: Inputs) -> Call:
        """Give the call that runs it on fixed inputs."""
        arrays = feed(self.session, inputs)
        return lambda: self.session.run(None, arrays)


@dataclass
class Subject:
    """A model with random weights, its dense graph, and where its forms are written.

    Attributes:
        family: of the model.
        config: its configuration.
        model: in eval mode, on the CPU.
        folder: for graphs.
        chooser: measures how each block-pruned layer is best written; sessions take its threads and provider.
        rows: rows of activations that each weight sees at the batch size to be fast at.
        graph: the dense graph; made once.
    """

    family: Family
    config: Config
    model: nn.Module
    folder: Path
    chooser: Chooser
    rows: Mapping[str, int]
    graph: ir.Model = field(init=False)
    _weights: dict[str, tuple[str, bool]] = field(init=False)

    def __post_init__(self) -> None:
        self.graph = trace(self.family, self.model, self.config)
        self._weights = self._named_initialisers()

    def dense(self) -> Opened:
        """Open the dense graph, from which the others differ in the pruned layers alone."""
        return self._open(self._write(self.graph, "dense"))

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
                require(parity(self.family, self.model, found.session, [inputs]), failure)
        return opened

    def zeros(self, pattern: str, sparsity: float) -> Path:
        """Prune at random, and write the dense graph with those zeros, for runtimes that read only older ONNX."""
        masks = random_masks(self.family, self.model, pattern, sparsity)
        with masked(self.model, masks):
            graph = trace(self.family, self.model, self.config, opset=OLD_OPSET)
            graph.ir_version = OLD_IR_VERSION
            return self._write(graph, "masked")

    def _shrunk(self, masks: Mapping[str, Tensor]) -> Path:
        smaller, _, _ = shrink(self.family, self.model, masks)
        return self._write(trace(self.family, smaller, self.config), "shrunk")

    def _blocks(self, masks: Mapping[str, Tensor], block: tuple[int, int]) -> dict[str, Path]:
        packed = {name: pack(self.model.get_parameter(name).data, mask, block) for name, mask in masks.items()}
        standard = {
            name: Layer(bsr, self.chooser.choose(name, bsr, self.rows[name])[1]) for name, bsr in packed.items()
        }
        found = {}
        if any(layer.form is not None for layer in standard.values()):
            found[STANDARD] = self._rewritten(standard, "standard")
        layers = native_layers(packed) if self.chooser.provider == "cpu" else {}
        if layers:
            found[NATIVE] = self._rewritten(layers, "native")
        return found

    def _rewritten(self, layers: Mapping[str, Layer], name: str) -> Path:
        graph = self.graph.clone()
        for value, (weight, turned) in self._weights.items():
            values = self.model.get_parameter(weight).data.numpy()
            values = np.ascontiguousarray(values.T if turned else values)
            graph.graph.initializers[value].const_value = ir.tensor(values, name=value)
        Rewriter(graph, OPSET).apply(layers)
        prune_unused(graph)
        return self._write(graph, name)

    def _write(self, graph: ir.Model, name: str) -> Path:
        path = self.folder / f"{name}.onnx"
        save_apart(graph, path)
        return path

    def _open(self, path: Path) -> Opened:
        start = time.perf_counter()
        session = open_session(path, threads=self.chooser.threads, provider=self.chooser.provider, native="float32")
        return Opened(session, time.perf_counter() - start, size(path))

    def _named_initialisers(self) -> dict[str, tuple[str, bool]]:
        """Find the initialisers that hold prunable weights by content (exporters rename them), and which are turned."""
        wanted = {_digest(self.model.get_parameter(name).detach().numpy()): name for name in self.rows}
        found = {}
        for name, value in self.graph.graph.initializers.items():
            if value.const_value is not None and len(value.const_value.shape) == 2:
                values = value.const_value.numpy()
                for turned in (False, True):
                    weight = wanted.get(_digest(values.T if turned else values))
                    if weight is not None:
                        found[name] = weight, turned
        return found


def native_layers(packed: Mapping[str, Bsr]) -> dict[str, Layer]:
    """Give the packed nodes of layers that the native kernel can run; none if it was not built."""
    library = built()
    if library is None or not library.onnxruntime:
        return {}
    panels = {name: row_panels(bsr) for name, bsr in packed.items()}
    return {
        name: Layer(packed[name], None, groups)
        for name, groups in panels.items()
        if groups is not None and packable(groups) and groups.density <= WORTH_A_TRY
    }


def _digest(weight: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(weight).tobytes()).hexdigest()
