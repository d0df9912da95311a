"""2:4 semi-structured weights: of every four consecutive inputs of an output at most two are kept.

The sparse tensor cores of sm_80 and later multiply them in half the time at best. What is stored is a form for any
device, half of the values and two positions of two bits each; what runs is torch's own compressed tensor
(``torch.sparse.to_sparse_semi_structured``), derived on the device.

Legend: N out features, K in features, G = K/4 groups of an output, two kept values of a group.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vlcompress.kernels.errors import KernelInputError

GROUP, KEPT = 4, 2


@dataclass(frozen=True)
class TwoFourWeight:
    """A weight [N, K] of which at most two of every four consecutive inputs are kept.

    Attributes:
        values: [N, K/2], the kept values in order of their position (zeros fill groups that keep fewer).
        index: uint8 [N, ceil(K/8)], four bits for each group, two groups a byte: the two positions, first one lowest.
    """

    values: Tensor
    index: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.values.shape[0], self.values.shape[1] * GROUP // KEPT

    @property
    def density(self) -> float:
        """Fraction of the weight's elements that is stored: always one half."""
        return KEPT / GROUP

    @property
    def nbytes(self) -> int:
        """Bytes of values and index together."""
        return self.values.numel() * self.values.element_size() + self.index.numel()


def fits_two_four(mask_NK: Tensor) -> bool:
    """Tell whether a mask keeps at most two of every four consecutive inputs, bool [N, K]."""
    if mask_NK.dim() != 2 or mask_NK.shape[1] % GROUP:
        return False
    return bool((mask_NK.reshape(-1, GROUP).sum(1) <= KEPT).all())


def compress(w_NK: Tensor) -> TwoFourWeight:
    """Store a weight; `expand` gives its bits back.

    Raises:
        KernelInputError: K is not a multiple of 4, or a group holds more than two values.
    """
    if w_NK.dim() != 2 or w_NK.shape[1] % GROUP:
        raise KernelInputError(f"2:4 needs a weight [N, K] with K a multiple of 4, not {list(w_NK.shape)}")
    w_NG4 = w_NK.detach().reshape(w_NK.shape[0], -1, GROUP)
    kept_NG4 = w_NG4 != 0
    if not fits_two_four(kept_NG4.flatten(1)):
        raise KernelInputError("a group of four inputs keeps more than two: prune by the pattern 2:4 first")
    # Kept positions first, in order; a group with fewer than two takes zeros in.
    order_NG4 = torch.argsort((~kept_NG4).to(torch.uint8), dim=2, stable=True)
    at_NG2 = order_NG4[..., :KEPT].sort(2).values
    nibbles_NG = (at_NG2[..., 0] | at_NG2[..., 1] << 2).to(torch.uint8)
    padded = torch.nn.functional.pad(nibbles_NG, (0, nibbles_NG.shape[1] % 2))
    return TwoFourWeight(w_NG4.gather(2, at_NG2).flatten(1).contiguous(), padded[:, 0::2] | padded[:, 1::2] << 4)


def expand(weight: TwoFourWeight) -> Tensor:
    """Restore the dense weight [N, K], bit-exact: kept values as they are, +0.0 elsewhere."""
    (n_out, n_in), index = weight.shape, weight.index.long()
    nibbles_NG = torch.stack([index & 15, index >> 4], 2).flatten(1)[:, : n_in // GROUP]
    at_NG2 = torch.stack([nibbles_NG & 3, nibbles_NG >> 2], 2)
    values_NG2 = weight.values.reshape(n_out, -1, KEPT)
    return values_NG2.new_zeros(n_out, n_in // GROUP, GROUP).scatter(2, at_NG2, values_NG2).flatten(1)


def no_semi_structured_because(shape: tuple[int, int], device: torch.device, dtype: torch.dtype) -> str | None:
    """Say why torch's semi-structured products cannot run a weight [N, K] on a device; None if they can."""
    from torch.sparse import SparseSemiStructuredTensorCUSPARSELT as Cusparselt

    if device.type != "cuda":
        return f"2:4 needs a GPU with sparse tensor cores, and is not faster on a {device.type}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} has no sparse tensor cores: sm_80 or later is needed"
    sides = Cusparselt._DTYPE_SHAPE_CONSTRAINTS.get(dtype)
    if sides is None:
        return f"torch has no 2:4 product for {dtype}: use bf16 or fp16"
    rows, columns = sides.sparse_min_rows, sides.sparse_min_cols
    if shape[0] % rows or shape[1] % columns:
        return f"torch's 2:4 products need sides that {rows} and {columns} divide, not {shape[0]}x{shape[1]}"
    return None
