"""ONNX Runtime: sessions on the provider that was asked for, or none."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from vlcompress.export.runtime import SKIP_LAYER_NORM, native_of, open_session
from vlcompress.serve.refusal import invalid, shown
from vlcompress.serve.settings import PROVIDERS
from vlcompress.serve.tensors import Arrays, TensorSpec, onnx_datatype


class OnnxEngine:
    """A model in ONNX Runtime (see `vlcompress.serve.engines.base.Engine`)."""

    platform = "onnx_onnxv1"
    backend = "onnxruntime"
    example_sizes: Mapping[str, int] = {}  # the manifest names them

    def __init__(
        self, model: Path, *, threads: int, sessions: int, provider: str = "cpu", disabled: Sequence[str] = ()
    ) -> None:
        """Open the model.

        Args:
            model: a .onnx file.
            threads: threads inside one execution.
            sessions: executions at the same time. With one thread each they share one session: it then runs on the
                thread that calls it, and the weights are in memory once.
            provider: spelled out, see `vlcompress.export.providers`. On the CPU the native kernel takes packed nodes
                where the export measured that it is faster.
            disabled: ONNX Runtime's optimizers to switch off, as the manifest advises.

        Raises:
            VlcompressError: no ONNX Runtime, a file that it cannot read, or a session on another provider.
        """
        count = 1 if threads == 1 else sessions
        opened = [
            open_session(
                model,
                threads=threads,
                disable_skip_layer_norm=SKIP_LAYER_NORM in disabled,
                provider=provider,
                names=PROVIDERS,
                spin=False,
            )
            for _ in range(count)
        ]
        for session in opened:
            session.disable_fallback()
        self.provider = str(opened[0].get_providers()[0])
        stored = read_model(model)
        bounds = id_bounds(stored.graph)
        # Dynamic int8 takes one scale for all rows: another client's large numbers would round this client's away. The
        # native kernel, which takes one for each, stands in for the functions.
        functions = stored.functions if provider != "cpu" or native_of(model) == "off" else ()
        nodes = [*stored.graph.node, *(node for function in functions for node in function.node)]
        self.rows_apart = not any(node.op_type == "DynamicQuantizeLinear" for node in nodes)
        self.inputs = tuple(_spec(value, bounds.get(value.name)) for value in opened[0].get_inputs())
        self.outputs = tuple(_spec(value) for value in opened[0].get_outputs())
        self._names = [value.name for value in self.outputs]
        self._texts = [spec.name for spec in self.inputs if spec.datatype == "BYTES"]
        self._decode = np.vectorize(lambda value: value.decode(), otypes=[object])
        self._sessions: SimpleQueue[Any] = SimpleQueue()
        for index in range(sessions):
            self._sessions.put(opened[index % count])

    def run(self, feeds: Arrays) -> Arrays:
        """Run the model on the next free session."""
        feeds = feeds | {name: self._decode(feeds[name]) for name in self._texts}
        session = self._sessions.get()
        try:
            return dict(zip(self._names, session.run(self._names, feeds), strict=True))
        except Exception as error:
            if _about_inputs(error):
                raise invalid(f"the model cannot run on these inputs: {shown(error, 300)}") from error
            raise
        finally:
            self._sessions.put(session)


def _about_inputs(error: Exception) -> bool:
    """Tell whether ONNX Runtime refused the inputs, or a node failed on their sizes (too long a text)."""
    name, text = type(error).__name__, str(error)
    if not type(error).__module__.startswith("onnxruntime"):
        return False
    node_failed = "Non-zero status code returned while running" in text and "alloc" not in text.lower()
    return name == "InvalidArgument" or (name in ("Fail", "RuntimeException") and node_failed)


def read_model(model: Path) -> Any:
    """Read a file without weights that lie in a file of their own."""
    import onnx

    return onnx.load(str(model), load_external_data=False)


def id_bounds(graph: Any) -> dict[str, int]:
    """Give, for each integer input that looks up rows of a table, how many rows the smallest such table has.

    An id outside the table makes ONNX Runtime fail, or read beyond it on some providers.
    """
    tables = {tensor.name: tensor.dims for tensor in graph.initializer}
    sources = {value.name: value.name for value in graph.input}
    bounds: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in ("Cast", "Identity") and node.input[0] in sources:
            sources[node.output[0]] = sources[node.input[0]]
        if node.op_type == "Gather" and node.input[0] in tables and node.input[1] in sources:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
            name, rows = sources[node.input[1]], tables[node.input[0]][axis]
            bounds[name] = min(rows, bounds.get(name, rows))
    return bounds


def _spec(value: Any, bound: int | None = None) -> TensorSpec:
    shape = tuple(
        size if isinstance(size, int) else str(size or f"{value.name}.{axis}") for axis, size in enumerate(value.shape)
    )
    limits = (None, None) if bound is None else (0, bound)
    return TensorSpec(value.name, onnx_datatype(value.type), shape, *limits)
