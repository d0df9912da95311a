"""Run any form of a model fast on its device: CUDA graphs of padded shapes, so that launches cost no host time.

LXMERT-base makes 179 calls of linear layers in a forward pass; launched one by one they cost more than the GPU takes.
A CUDA graph launches them at once, for one set of input shapes at fixed addresses. So inputs are padded to few shapes
(`vlcompress.models.padding`) and copied into static buffers, a graph is captured for each set of shapes, and answers
are copied out and cut back. On the CPU a model runs as it is, on inputs as they are.
"""

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from vlcompress.devices import CPU, Compute, cast_inputs, placed, precision
from vlcompress.errors import VlcompressError, unknown
from vlcompress.models.base import Family, Head
from vlcompress.models.padding import bucket, masked_axes
from vlcompress.tasks.base import Answer, torch_predictor

Mode = Literal["eager", "graphs", "compiled"]
MODES: tuple[Mode, ...] = get_args(Mode)

Inputs = Mapping[str, Tensor]
Call = Callable[[], Tensor]
Capture = Callable[[Call], Call]
"""Takes what computes from static buffers into one static tensor; the result does that again without the host."""

KEPT = 32
"""Graphs that are kept, the least recently used one going first."""

_WARM_UP = 3  # runs before a capture: libraries allocate their workspaces and kernels are compiled in the first ones
_RECOMPILES = 256  # torch.compile gives up after 8 sets of shapes unless it is told otherwise


class CudaGraphs:
    """Capture calls as CUDA graphs whose memory comes from one private pool.

    They may share it because no two of them run at once, and no output is read after the next one has started.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        with torch.cuda.device(device):
            self._pool = torch.cuda.graph_pool_handle()
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, call: Call) -> Call:
        """Warm the call up aside, capture it, and return its replay."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UP):
                call()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on using CUDA meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            output = call()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay


class Runner:
    """A model that answers with its head's logits, as fast as its device can; safe to call from several threads.

    Args:
        family: of the model.
        model: dense, masked, or compiled with packed layers. It is moved to the device, cast to the dtype and put in
            eval mode, in place.
        head: of the model.
        compute: device and dtype.
        mode: "eager" runs it as it is; "graphs" captures CUDA graphs of it; "compiled" lets torch.compile fuse it first
            (whole, for static shapes; on a GPU captured too). Which is the fastest is for the caller to measure; None
            is "graphs" on a GPU and "eager" on the CPU.
        buckets: by axis name ("batch", "text", "regions", "height", "width") the sizes to pad to, rising; a size above
            the last one stays as it is. Axes that are not named: the batch goes up to the next power of two, others to
            the next multiple of an eighth of it. The batch is always padded, other axes only where a mask covers them.
        kept: graphs that are kept, see `KEPT`.
        capture: in place of `CudaGraphs`.

    Raises:
        VlcompressError: unknown mode, or graphs on the CPU.
    """

    def __init__(
        self,
        family: Family,
        model: nn.Module,
        head: Head,
        compute: Compute = CPU,
        *,
        mode: Mode | None = None,
        buckets: Mapping[str, Sequence[int]] | None = None,
        kept: int = KEPT,
        capture: Capture | None = None,
    ) -> None:
        self.mode: Mode = mode or ("graphs" if compute.on_gpu or capture else "eager")
        if self.mode not in MODES:
            raise unknown("mode of a runner", self.mode, MODES)
        if self.mode == "graphs" and not (compute.on_gpu or capture):
            raise VlcompressError(f"mode graphs on {compute.device}: CUDA graphs take a GPU; use eager or compiled")
        self._family, self._head, self._compute = family, head, compute
        self._model = placed(model, compute)
        self._capture = capture or (CudaGraphs(compute.torch_device) if compute.on_gpu else _as_it_is)
        self._shapes = _Shapes(family.dynamic_axes(), buckets or {}, _longest(model))
        self._graphs: OrderedDict[object, _Graph] = OrderedDict()
        self._kept, self._lock, self._warned = kept, threading.Lock(), False

    def __call__(self, inputs: Inputs) -> Tensor:
        """Answer inputs: logits float32, on the device, in the shape that `Family.logits` gives for them.

        Args:
            inputs: the family's, on any device, floats in any dtype; the first axis of each is the batch.
        """
        with self._lock, precision(self._compute), torch.inference_mode():
            if self.mode == "eager":
                return self._logits(cast_inputs(inputs, self._compute))
            shapes = self._shapes.padded(inputs)
            graph = self._graph(inputs, shapes)
            graph.fill(inputs)
            return self._cut(graph.run(), inputs, shapes).clone()

    def _logits(self, inputs: Inputs) -> Tensor:
        return self._family.logits(self._model, inputs).float()

    def _graph(self, inputs: Inputs, shapes: Mapping[str, tuple[int, ...]]) -> "_Graph":
        """Look up the graph of these shapes, captured if need be, and make it the newest."""
        key = tuple((name, shape, inputs[name].dtype) for name, shape in shapes.items())
        if key not in self._graphs:
            while len(self._graphs) >= self._kept:
                self._graphs.popitem(last=False)
            self._graphs[key] = self._captured(inputs, shapes)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _captured(self, inputs: Inputs, shapes: Mapping[str, tuple[int, ...]]) -> "_Graph":
        buffers = {name: self._buffer(inputs[name], shape) for name, shape in shapes.items()}
        graph = _Graph(buffers, lambda: self._logits(buffers))
        graph.fill(inputs)
        graph.run()  # an error in the inputs shows here, outside any capture
        try:
            graph.run = self._capture(self._compiled(buffers))
        except Exception as error:
            self._warn(error)
        return graph

    def _compiled(self, buffers: Inputs) -> Call:
        if self.mode != "compiled":
            return lambda: self._logits(buffers)
        compiled = torch.compile(self._logits, fullgraph=True, dynamic=False)
        with torch._dynamo.config.patch(recompile_limit=_RECOMPILES):
            compiled(buffers)
        return lambda: compiled(buffers)

    def _buffer(self, value: Tensor, shape: tuple[int, ...]) -> Tensor:
        dtype = self._compute.torch_dtype if value.is_floating_point() else value.dtype
        return torch.zeros(shape, dtype=dtype, device=self._compute.torch_device)

    def _cut(self, logits: Tensor, inputs: Inputs, shapes: Mapping[str, tuple[int, ...]]) -> Tensor:
        """Cut the answers of padding off; two rows of the inputs may be one of the logits."""
        name = next(iter(shapes))
        logits = logits[: len(logits) * len(inputs[name]) // shapes[name][0]]
        return logits[:, : self._shapes.size(inputs, "regions")] if self._head.kind == "region" else logits

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(
                f"mode {self.mode} failed on {self._compute.device}, so the model runs eager: {reason}", stacklevel=4
            )


def fast_answer(family: Family, model: nn.Module, head: Head, compute: Compute) -> Answer:
    """Turn a model into an `Answer` where it is asked to run: through a runner on a GPU, as it is on the CPU.

    Args:
        family: of the model.
        model: moved and cast in place.
        head: of the model.
        compute: device and dtype.
    """
    if not compute.on_gpu:
        return torch_predictor(family, placed(model, compute))
    runner = Runner(family, model, head, compute)
    return lambda inputs: runner(inputs).cpu()


@dataclass
class _Graph:
    """Static buffers, and what computes from them."""

    buffers: Mapping[str, Tensor]
    run: Call

    def fill(self, inputs: Inputs) -> None:
        """Copy inputs in, with 0 around those that are smaller."""
        for name, buffer in self.buffers.items():
            value = _near(inputs[name], buffer.device)
            if value.shape != buffer.shape:
                buffer.zero_()
            buffer[tuple(slice(size) for size in value.shape)].copy_(value)


class _Shapes:
    """The shapes that inputs are padded to."""

    def __init__(
        self, axes: Mapping[str, Mapping[int, str]], buckets: Mapping[str, Sequence[int]], longest: int | None
    ) -> None:
        self._axes, self._buckets, self._longest = axes, buckets, longest

    def padded(self, inputs: Inputs) -> dict[str, tuple[int, ...]]:
        """Pad the shape of each input."""
        named = {name: self._named(name, value.dim()) for name, value in inputs.items()}
        padded = masked_axes(named) | {"batch"}
        return {
            name: tuple(
                self._size(str(axis), size) if axis in padded else size
                for axis, size in zip(named[name], value.shape, strict=True)
            )
            for name, value in inputs.items()
        }

    def size(self, inputs: Inputs, axis: str) -> int:
        """Look up the size of a named axis of the inputs, before padding."""
        found = ((name, at) for name in inputs for at, named in self._axes.get(name, {}).items() if named == axis)
        name, at = next(found)
        return inputs[name].shape[at]

    def _named(self, name: str, count: int) -> tuple[int | str, ...]:
        names = self._axes.get(name, {0: "batch"})  # an input that only some batches have: its own axes stay
        return tuple(names.get(axis, axis) for axis in range(count))

    def _size(self, axis: str, size: int) -> int:
        if axis in self._buckets:
            return bucket(size, self._buckets[axis])
        if axis == "batch":
            return _power(size)
        # Whole patches of a picture stay whole, where their side is a power of two.
        unit = max(1, _power(size) // 8)
        grown = -(-size // unit) * unit
        return max(size, min(grown, self._longest)) if axis == "text" and self._longest else grown


def _power(size: int) -> int:
    """Round up to a power of two."""
    return 1 << max(0, size - 1).bit_length()


def _longest(model: nn.Module) -> int | None:
    """Look up how many words a model has places for; None where it reads none."""
    return getattr(getattr(model, "config", None), "max_position_embeddings", None)


def _near(value: Tensor, device: torch.device) -> Tensor:
    """Start the copy to the device; from pinned memory the host does not wait for it."""
    if device.type == "cuda" and value.device.type == "cpu":
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)


def _as_it_is(call: Call) -> Call:
    """Capture nothing: what torch.compile makes for the CPU needs no graph."""
    return call
