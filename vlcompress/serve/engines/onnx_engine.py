"""ONNX Runtime: sessions on the provider that was asked for, or none."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from vlcompress.errors import VlcompressError
from vlcompress.export.binding import BoundSession
from vlcompress.export.providers import Provider, parse_provider
from vlcompress.serve.refusal import invalid, shown
from vlcompress.serve.settings import PROVIDERS
from vlcompress.serve.tensors import Arrays, TensorSpec, onnx_datatype


class OnnxEngine:
    """A model in ONNX Runtime (see `vlcompress.serve.engines.base.Engine`)."""

    platform = "onnx_onnxv1"
    backend = "onnxruntime"
    axis_limits: Mapping[str, int] = {}  # a length that the graph cannot take is refused by the runtime
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
            provider: spelled out, see `vlcompress.export.providers`.
            disabled: ONNX Runtime's optimizers to switch off, as the manifest advises.

        Raises:
            VlcompressError: no ONNX Runtime, a file that it cannot read, or a session on another provider.
        """
        import numpy as np

        count = 1 if threads == 1 else sessions
        opened = [_open(model, threads, parse_provider(provider, PROVIDERS), disabled) for _ in range(count)]
        self.provider = str(opened[0].get_providers()[0])
        bounds = id_bounds(model)
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
            if type(error).__name__ == "InvalidArgument" and type(error).__module__.startswith("onnxruntime"):
                raise invalid(f"the model cannot run on these inputs: {shown(error, 300)}") from error
            raise
        finally:
            self._sessions.put(session)


def id_bounds(model: Path) -> dict[str, int]:
    """Give, for each integer input that looks up rows of a table, how many rows the smallest such table has.

    An id outside the table makes ONNX Runtime fail, or read beyond it on some providers.
    """
    import onnx

    graph = onnx.load(str(model), load_external_data=False).graph
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


def _open(model: Path, threads: int, provider: Provider, disabled: Sequence[str]) -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise VlcompressError(
            "serving ONNX needs ONNX Runtime: pip install 'vlcompress[cpu]' (or [gpu]), or use --backend torch"
        ) from error
    available, chain = onnxruntime.get_available_providers(), provider.chain(PROVIDERS)
    wanted = chain[0][0]
    if wanted not in available:
        raise _wrong_provider(wanted, ", ".join(available))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    # A pool that spins between requests takes the core that the next request is read on.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=chain, disabled_optimizers=list(disabled))
    except Exception as error:
        if type(error).__module__.startswith("onnxruntime"):
            raise VlcompressError(
                f"ONNX Runtime cannot read '{model}' ({shown(error, 300)}): export it again"
            ) from error
        raise
    session.disable_fallback()
    if session.get_providers()[0] != wanted:
        raise _wrong_provider(wanted, ", ".join(session.get_providers()))
    return BoundSession(session, *provider.device) if provider.device[0] == "cuda" else session


def _wrong_provider(wanted: str, found: str) -> VlcompressError:
    return VlcompressError(
        f"provider '{wanted}' was asked for, but ONNX Runtime offers {found} only: install the matching distribution "
        "(`vlcompress doctor` says which is there), or ask for another --provider"
    )


def _spec(value: Any, bound: int | None = None) -> TensorSpec:
    shape = tuple(
        size if isinstance(size, int) else str(size or f"{value.name}.{axis}") for axis, size in enumerate(value.shape)
    )
    limits = (None, None) if bound is None else (0, bound)
    return TensorSpec(value.name, onnx_datatype(value.type), shape, *limits)
