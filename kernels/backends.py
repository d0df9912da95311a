"""The backends of a sparse linear: what each derives from the stored weight, and on what it can run.

``dense`` is the truth and the fallback; ``grouped`` runs anywhere; ``triton`` and ``semi-structured`` run on CUDA
(``triton`` in its interpreter too, for tests). Each is prepared once for a weight that stays, and is then a function of
x, bias and activation. Whether it is worth it is measured, not known here.

Legend: x [..., K], weight [N, K], y [..., N].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from vlcompress.kernels import grouped, naive
from vlcompress.kernels.block_sparse_linear import block_sparse_linear, no_triton_because
from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.formats import BlockSparseWeight, unpack
from vlcompress.kernels.semi_structured import TwoFourWeight, expand, no_semi_structured_because

SparseWeight = BlockSparseWeight | TwoFourWeight
"""What a layer can store."""

MOST_MULTIPLIED = 0.95
"""A grouped form that still multiplies more than this share of the weights cannot be 5 % faster than dense."""


class Backend(Protocol):
    """One way to run a weight.

    `refusal` says why a weight, device and dtype cannot run so, or why it is not worth a try; None if it can.
    """

    def __call__(self, x: Tensor, bias_N: Tensor | None, activation: str) -> Tensor:
        """Compute act(x Wᵀ + bias)."""

    @classmethod
    def prepare(cls, weight: SparseWeight) -> "Backend":
        """Derive what it computes with from a weight that `refusal` lets pass."""

    @classmethod
    def refusal(cls, weight: SparseWeight, device: torch.device, dtype: torch.dtype) -> str | None:
        """Say why it cannot run this weight here; None if it can."""


@dataclass(frozen=True)
class Dense:
    """The full weight, multiplied as it is."""

    w_NK: Tensor

    def __call__(self, x: Tensor, bias_N: Tensor | None, activation: str) -> Tensor:
        """Compute act(x Wᵀ + bias)."""
        return naive.activate(functional.linear(x, self.w_NK, bias_N), activation)

    @classmethod
    def prepare(cls, weight: SparseWeight) -> "Dense":
        """Unpack the weight."""
        return cls(dense(weight))

    @classmethod
    def refusal(cls, weight: SparseWeight, device: torch.device, dtype: torch.dtype) -> str | None:
        """Take everything."""
        return None


@dataclass(frozen=True)
class Grouped:
    """For each group of rows, a gather of the columns that it needs, and the dense sub-matrix."""

    groups: grouped.RowGroups

    def __call__(self, x: Tensor, bias_N: Tensor | None, activation: str) -> Tensor:
        """Compute act(x Wᵀ + bias)."""
        return naive.activate(grouped.multiply(x, self.groups, bias_N), activation)

    @classmethod
    def prepare(cls, weight: SparseWeight) -> "Grouped":
        """Merge block rows that read much the same columns."""
        return cls(_row_groups(weight))

    @classmethod
    def refusal(cls, weight: SparseWeight, device: torch.device, dtype: torch.dtype) -> str | None:
        """Refuse a weight of which no group of rows leaves out enough columns."""
        if isinstance(weight, TwoFourWeight):
            return "a 2:4 weight leaves no columns out for whole groups of rows"
        share = _row_groups(weight).density
        if share > MOST_MULTIPLIED:
            height, width = weight.block
            return (
                f"blocks of {height}x{width} leave no columns out for whole groups of rows: {share:.0%} of the weights "
                "would still be multiplied"
            )
        return None


@dataclass(frozen=True)
class Triton:
    """The block-sparse kernels of this package."""

    weight: BlockSparseWeight

    def __call__(self, x: Tensor, bias_N: Tensor | None, activation: str) -> Tensor:
        """Compute act(x Wᵀ + bias)."""
        return block_sparse_linear(x, self.weight, bias_N, activation, backend="triton")

    @classmethod
    def prepare(cls, weight: SparseWeight) -> "Triton":
        """Derive the work lists now, since torch.compile cannot trace how they are made."""
        assert isinstance(weight, BlockSparseWeight), "refusal lets nothing else pass"
        _ = weight.pattern.forward, weight.pattern.transposed
        return cls(weight)

    @classmethod
    def refusal(cls, weight: SparseWeight, device: torch.device, dtype: torch.dtype) -> str | None:
        """Refuse blocks, dtypes and devices that have no kernel."""
        if isinstance(weight, TwoFourWeight):
            return "a 2:4 weight has no blocks"
        return no_triton_because(device, dtype, weight)


@dataclass(frozen=True)
class SemiStructured:
    """2:4 products on sparse tensor cores, by torch."""

    compressed: Tensor

    def __call__(self, x: Tensor, bias_N: Tensor | None, activation: str) -> Tensor:
        """Compute act(x Wᵀ + bias)."""
        return naive.activate(functional.linear(x, self.compressed, bias_N), activation)

    @classmethod
    def prepare(cls, weight: SparseWeight) -> "SemiStructured":
        """Compress the weight into the layout of this device."""
        return cls(torch.sparse.to_sparse_semi_structured(dense(weight)))

    @classmethod
    def refusal(cls, weight: SparseWeight, device: torch.device, dtype: torch.dtype) -> str | None:
        """Refuse anything but a 2:4 weight on a GPU that has the instructions."""
        if isinstance(weight, BlockSparseWeight):
            return "the weight is not 2:4 sparse"
        return no_semi_structured_because(weight.shape, device, dtype)


BACKENDS: Mapping[str, type[Backend]] = {
    "dense": Dense,
    "grouped": Grouped,
    "triton": Triton,
    "semi-structured": SemiStructured,
}
"""Every backend by the name that a plan gives it."""


def known_backend(name: str) -> type[Backend]:
    """Look a backend up by its name.

    Raises:
        KernelInputError: there is none of that name.
    """
    if name not in BACKENDS:
        raise KernelInputError(f"unknown backend '{name}': allowed are {', '.join(BACKENDS)}; compile the ticket again")
    return BACKENDS[name]


def prepared(name: str, weight: SparseWeight, device: torch.device, dtype: torch.dtype) -> Backend:
    """Prepare a backend for a weight.

    Raises:
        KernelInputError: unknown, or it cannot run this weight here; the text says which one takes it.
    """
    backend = known_backend(name)
    why = backend.refusal(weight, device, dtype) if name in ("triton", "semi-structured") else None
    if why is not None:
        raise KernelInputError(f"backend '{name}' cannot run here: {why}; backends 'dense' and 'grouped' take it")
    return backend.prepare(weight)


def dense(weight: SparseWeight) -> Tensor:
    """Restore the dense weight [N, K], bit-exact."""
    return unpack(weight) if isinstance(weight, BlockSparseWeight) else expand(weight)


def _row_groups(weight: SparseWeight) -> grouped.RowGroups:
    assert isinstance(weight, BlockSparseWeight), "2:4 weights are refused before"
    return grouped.row_groups(weight)
