"""A session whose tensors stay on the device: inputs are bound once for each set of shapes, and copied into place."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]

SHAPES = 32
"""Sets of shapes that are kept bound; the one that was not used for longest goes."""


class BoundSession:
    """An ONNX Runtime session with the surface that this project uses, run through its IO binding.

    Without a binding ONNX Runtime takes new memory on the GPU for every input of every call.
    """

    def __init__(self, session: Any, device: str, device_id: int = 0) -> None:
        """Wrap a session.

        Args:
            session: an ``onnxruntime.InferenceSession``.
            device: where its inputs and outputs are to be: "cuda" or "cpu".
            device_id: number of the GPU.
        """
        self._session, self._device = session, (device, device_id)
        self._bound: OrderedDict[tuple[Any, ...], tuple[Any, dict[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()  # the bound memory is shared by whoever calls

    def __getattr__(self, name: str) -> Any:
        """Pass on what has nothing to do with running: inputs, outputs, providers."""
        return getattr(self._session, name)

    def run(self, names: Sequence[str] | None, feed: Arrays) -> list[npt.NDArray[Any]]:
        """Run the model; outputs come back to the CPU, in the order of `names` (None: all of them)."""
        if any(array.dtype.kind in "OSU" for array in feed.values()):  # words cannot be bound
            found: list[npt.NDArray[Any]] = self._session.run(names, dict(feed))
            return found
        wanted = list(names or (value.name for value in self._session.get_outputs()))
        with self._lock:
            binding, inputs = self._binding(wanted, feed)
            for name, array in feed.items():
                inputs[name].update_inplace(np.ascontiguousarray(array))
            self._session.run_with_iobinding(binding)
            # On the CPU nothing is copied, and the next call writes into the same memory.
            return [np.array(array) for array in binding.copy_outputs_to_cpu()]

    def _binding(self, names: Sequence[str], feed: Arrays) -> tuple[Any, dict[str, Any]]:
        key = (*names, *((name, array.shape, array.dtype.str) for name, array in sorted(feed.items())))
        if key not in self._bound:
            self._bound[key] = self._bind(names, feed)
            if len(self._bound) > SHAPES:
                self._bound.popitem(last=False)
        self._bound.move_to_end(key)
        return self._bound[key]

    def _bind(self, names: Sequence[str], feed: Arrays) -> tuple[Any, dict[str, Any]]:
        import onnxruntime

        binding = self._session.io_binding()
        inputs = {  # of copies: on the CPU it is the array itself that the next call would write into
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.array(array, order="C"), *self._device)
            for name, array in feed.items()
        }
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name in names:
            binding.bind_output(name, *self._device)
        return binding, inputs
