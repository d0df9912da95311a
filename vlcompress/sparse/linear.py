"""A drop-in for nn.Linear whose weight is stored as blocks.

Letters: x is [..., K], y is [..., N], M is the number of rows of x when flattened.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlcompress.errors import unknown
from vlcompress.sparse.formats import Bsr, RowGroup, row_groups, to_dense

Backend = Literal["dense", "grouped"]

BACKENDS: tuple[Backend, ...] = ("dense", "grouped")


class BlockSparseLinear(nn.Module):
    """y = x W^T + b with W stored as BSR, for inference.

    The state dict holds ``values``, ``crow``, ``col`` (see `Bsr`) and ``bias``; what a backend computes with is derived
    from them when the layer is made or loaded, and is not stored.

    Attributes:
        backend: "dense" multiplies the full weight (the truth, and the fallback); "grouped" gathers, for each group of
            rows, the columns it needs, and multiplies the dense sub-matrix.
    """

    values: Tensor
    crow: Tensor
    col: Tensor
    bias: Tensor | None
    _weight: Tensor

    def __init__(self, bsr: Bsr, bias: Tensor | None, backend: Backend = "dense") -> None:
        """Make the layer.

        Args:
            bsr: the weight [N, K].
            bias: [N], or None.
            backend: how it runs.

        Raises:
            VlcompressError: unknown backend.
        """
        super().__init__()
        if backend not in BACKENDS:
            raise unknown("backend", backend, BACKENDS)
        self.out_features, self.in_features = bsr.shape
        self.backend: Backend = backend
        self.register_buffer("values", bsr.values)
        self.register_buffer("crow", bsr.crow)
        self.register_buffer("col", bsr.col)
        self.register_buffer("bias", bias)
        self._starts: tuple[int, ...] = ()
        self._derive()

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._derive()

    @property
    def bsr(self) -> Bsr:
        """The stored weight."""
        return Bsr(self.values, self.crow, self.col, (self.out_features, self.in_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., K] to [..., N]."""
        if self.backend == "dense":
            return F.linear(x, self._weight, self.bias)
        groups = self._groups()
        if len(groups) == 1:
            return F.linear(x.index_select(-1, groups[0].columns), groups[0].weight, self.bias)
        return self._turned(x, groups)

    def extra_repr(self) -> str:
        """Describe the layer in print(model)."""
        rows, columns = self.bsr.block
        shape = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{shape}, block={rows}x{columns}, density={self.bsr.density:.3f}, backend={self.backend}"

    def _turned(self, x: Tensor, groups: list[RowGroup]) -> Tensor:
        # Rows of x^T are contiguous: gathering any of its columns then costs a plain copy.
        turned_KM = x.reshape(-1, self.in_features).t().contiguous()
        parts = [torch.mm(turned_KM.index_select(0, group.columns).t(), group.weight.t()) for group in groups]
        y_MN = torch.cat(parts, dim=1)
        if self.bias is not None:
            y_MN += self.bias
        return y_MN.view(*x.shape[:-1], self.out_features)

    def _derive(self) -> None:
        if self.backend == "dense":
            self._hold("_weight", to_dense(self.bsr))
            return
        groups = row_groups(self.bsr).groups
        self._starts = tuple(group.start for group in groups)
        for i, group in enumerate(groups):
            self._hold(f"_weight_{i}", group.weight)
            self._hold(f"_columns_{i}", group.columns)

    def _groups(self) -> list[RowGroup]:
        held: Any = self  # buffers: they follow the module to its device
        return [
            RowGroup(start, getattr(held, f"_columns_{i}"), getattr(held, f"_weight_{i}"))
            for i, start in enumerate(self._starts)
        ]

    def _hold(self, name: str, tensor: Tensor) -> None:
        self.register_buffer(name, tensor, persistent=False)


def densify(layer: BlockSparseLinear) -> nn.Linear:
    """Give the plain nn.Linear that computes the same."""
    linear = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    linear.weight = nn.Parameter(to_dense(layer.bsr), requires_grad=False)
    if layer.bias is not None:
        linear.bias = nn.Parameter(layer.bias, requires_grad=False)
    return linear
