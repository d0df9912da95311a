"""A drop-in for nn.Linear whose weight is stored sparse, for inference.

Letters: x is [..., K], y is [..., N].
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vlcompress.kernels.backends import Backend, SparseWeight, known_backend, prepared
from vlcompress.kernels.formats import BlockPattern, BlockSparseWeight
from vlcompress.kernels.semi_structured import TwoFourWeight

EMITTED = "vlcompress::BsrLinear"
"""The ONNX node that a layer becomes when a model is exported.

Inputs: X, what is stored, and the bias where there is one. Attributes: "weight", the layer's canonical weight name, and
"bias", whether the last input is one.
"""


class BlockSparseLinear(nn.Module):
    """y = act(x Wᵀ + b) with W stored as blocks (``values``, ``crow``, ``col``) or 2:4 (``values``, ``index``).

    The state dict holds what is stored and ``bias``; what the backend computes with is derived when the layer is made,
    loaded, moved or cast, and is not stored.

    Attributes:
        backend: the name of what runs it (see ``backends.BACKENDS``).
        name: canonical weight name, which the exporter sets: the emitted node carries it.
    """

    values: Tensor
    bias: Tensor | None

    def __init__(self, weight: SparseWeight, bias: Tensor | None, backend: str = "dense") -> None:
        """Make the layer.

        Args:
            weight: [N, K].
            bias: [N], or None.
            backend: how it runs.

        Raises:
            KernelInputError: an unknown backend, or one that cannot run this weight on its device and dtype.
        """
        super().__init__()
        known_backend(backend)
        self.out_features, self.in_features = weight.shape
        self.backend, self.name = backend, ""
        self.stored = tuple(_stored(weight))
        for part, tensor in _stored(weight).items():
            self.register_buffer(part, tensor)
        self.register_buffer("bias", bias)
        self._run: Backend = prepared(backend, weight, weight.values.device, weight.values.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., K] to [..., N]."""
        if torch.onnx.is_in_onnx_export():
            return self._emit(x)
        return self._run(x, self.bias, "none")

    @property
    def weight(self) -> SparseWeight:
        """The stored weight."""
        tensors: dict[str, Any] = {part: getattr(self, part) for part in self.stored}
        if "index" in tensors:
            return TwoFourWeight(**tensors)
        block = (self.values.shape[1], self.values.shape[2])
        pattern = BlockPattern((self.out_features, self.in_features), block, tensors["crow"], tensors["col"])
        return BlockSparseWeight(self.values, pattern)

    def use(self, backend: str) -> None:
        """Run with another backend from now on.

        Raises:
            KernelInputError: unknown, or it cannot run here.
        """
        self._run = prepared(backend, self.weight, self.values.device, self.values.dtype)
        self.backend = backend

    def extra_repr(self) -> str:
        """Describe the layer in print(model)."""
        weight = self.weight
        form = f"block={weight.block[0]}x{weight.block[1]}" if isinstance(weight, BlockSparseWeight) else "2:4"
        shape = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{shape}, {form}, density={weight.density:.3f}, backend={self.backend}"

    def _emit(self, x: Tensor) -> Tensor:
        inputs = [x, *(getattr(self, part) for part in self.stored), *([] if self.bias is None else [self.bias])]
        y: Tensor = torch.onnx.ops.symbolic(
            EMITTED,
            inputs,
            attrs={"weight": self.name, "bias": int(self.bias is not None)},
            dtype=x.dtype,
            shape=(*x.shape[:-1], self.out_features),
            version=1,
        )
        return y

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.use(self.backend)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "BlockSparseLinear":
        before = self.values.device, self.values.dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if before != (self.values.device, self.values.dtype):
            self.use(self.backend)
        return self


def _stored(weight: SparseWeight) -> dict[str, Tensor]:
    """Name the tensors that hold a weight, as files do."""
    if isinstance(weight, TwoFourWeight):
        return {"values": weight.values, "index": weight.index}
    return {"values": weight.values, "crow": weight.pattern.crow, "col": weight.pattern.col}
