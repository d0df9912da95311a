"""The compiled kernel as a Python function, for checks without a runtime.

Letters: x is [M, K], the weight [N, K], y [M, N].
"""

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlcompress.errors import VerificationError, VlcompressError, unknown

Floats = npt.NDArray[np.float32]

ACTIVATIONS = ("none", "gelu", "gelu_tanh", "relu")
"""In the order of kernel.h."""

INSTRUCTION_SETS = ("avx512", "avx2", "base")
"""For float32, from the fastest on."""

BFLOAT16_SETS = ("amx_bf16", "avx512_bf16")
"""For weights and activations in bfloat16 with float32 sums, from the fastest on."""

INT8_SETS = ("amx_int8", "avx512_int8", "avx2_int8", "base_int8")
"""For int8 weights, with activations rounded row by row, from the fastest on. All compute the same int32 sums."""

STEPS = 254
"""Steps that a row of activations is rounded to: of the 255 that bytes have, one stays free for both ends' rounding."""

TOLERANCE = 1e-5
"""Of the largest output: float32 sums in another order."""


@dataclass(frozen=True)
class PanelWeight:
    """A weight [N, K] by panels of `height` outputs that share their columns (see vlcompress/export/functions.py).

    Attributes:
        values: float32, or int8 with scales [kept columns x height], a column's weights side by side.
        columns: int32 [kept columns].
        starts: int64 [panels + 1], where each panel begins in `columns`.
        shape: (N, K).
        height: a multiple of 16.
        scales: float32 [N], what a unit of each output's int8 weights is worth; None for float32.
    """

    values: Floats | npt.NDArray[np.int8]
    columns: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    shape: tuple[int, int]
    height: int
    scales: Floats | None = None


class NativeLibrary:
    """A compiled library, loaded."""

    def __init__(self, path: Path) -> None:
        """Load a shared object that `build` made.

        Raises:
            VlcompressError: it cannot be loaded.
        """
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise VlcompressError(
                f"cannot load '{path}' ({error}): build it again with `vlcompress native build`"
            ) from error
        self._library.vlcompress_instruction_set.restype = ctypes.c_char_p
        self._library.vlcompress_block_sparse_linear.restype = ctypes.c_char_p

    def instruction_sets(self) -> tuple[str, ...]:
        """List those that this processor has: for float32, for bfloat16, for int8, of each the fastest one first."""
        find, names = self._library.vlcompress_instruction_set, (*INSTRUCTION_SETS, *BFLOAT16_SETS, *INT8_SETS)
        return tuple(name for name in names if find(name.encode()) is not None)

    def block_sparse_linear(
        self,
        x_MK: Floats,
        weight: PanelWeight,
        bias_N: Floats | None = None,
        residual_MN: Floats | None = None,
        *,
        activation: str = "none",
        instruction_set: str | None = None,
        threads: int = 1,
    ) -> Floats:
        """Compute y = activation(x W^T + bias + residual), float32 [M, N].

        Args:
            x_MK: float32.
            weight: see `PanelWeight`.
            bias_N: float32, or None for zeros.
            residual_MN: float32, or None for zeros.
            activation: one of `ACTIVATIONS`; "gelu" is exact, with erf.
            instruction_set: one of `INSTRUCTION_SETS` or `BFLOAT16_SETS`, of `INT8_SETS` for an int8 weight; by default
                the best one for float32 or int8.
            threads: how many to start for this call.

        Raises:
            VlcompressError: a weight that is not sound, an unknown activation, an instruction set that is not there.
        """
        if activation not in ACTIVATIONS:
            raise unknown("activation", activation, ACTIVATIONS)
        expected = np.float32 if weight.scales is None else np.int8
        if weight.values.dtype != expected:
            raise VlcompressError(f"weights of {weight.values.dtype}: give float32, or int8 with scales")
        outputs, inputs = weight.shape
        y_MN = np.empty((len(x_MK), outputs), dtype=np.float32)
        wrong = self._library.vlcompress_block_sparse_linear(
            _pointer(x_MK, (len(x_MK), inputs)), _long(len(x_MK)), _long(inputs),
            _pointer(weight.values), _long(weight.values.size),
            _pointer(weight.columns), _long(weight.columns.size),
            _pointer(weight.starts), _long(len(weight.starts) - 1), _long(outputs), _long(weight.height),
            _pointer(weight.scales, (outputs,)), _pointer(bias_N, (outputs,)), _pointer(residual_MN, y_MN.shape),
            ACTIVATIONS.index(activation), _pointer(y_MN),
            None if instruction_set is None else instruction_set.encode(), threads,
        )  # fmt: skip
        if wrong is not None:
            raise VlcompressError(f"the native kernel refuses this layer: {wrong.decode()}")
        return y_MN


def verify(library: NativeLibrary) -> None:
    """Compare every instruction set of this processor with NumPy, on shapes with every kind of remainder.

    Raises:
        VerificationError: one of them computes something else.
    """
    for name in library.instruction_sets():
        for x, dense, keep, height, bias, residual in _cases():
            weight, product = _weight(name, dense, keep, height), _product(name, x, dense)
            expected = np.maximum(product + bias + residual, 0.0)
            got = library.block_sparse_linear(x, weight, bias, residual, activation="relu", instruction_set=name)
            error = float(np.abs(got - expected).max(initial=0.0))
            if not error <= TOLERANCE * float(np.abs(expected).max(initial=1e-30)):
                raise VerificationError(
                    f"the native kernel is wrong on this processor with {name} (error {error:.3g} on x {x.shape}): it "
                    "is not used; build it with another compiler (--compiler)"
                )


def _weight(name: str, dense: Floats, keep: npt.NDArray[np.bool_], height: int) -> PanelWeight:
    """Pack a weight as an instruction set takes it."""
    if name not in INT8_SETS:
        return pack_columns(dense, keep, height)
    values, scales = round_weight(dense)
    return replace(pack_columns(values, keep, height), scales=scales)


def _product(name: str, x: Floats, dense: Floats) -> npt.NDArray[np.floating[Any]]:
    """Compute x W^T [M, N] in the numbers that an instruction set sees."""
    if name in BFLOAT16_SETS:
        return bfloat16(x) @ bfloat16(dense).T
    return int8_product(x, *round_weight(dense)) if name in INT8_SETS else x @ dense.T


def round_weight(dense: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Round [N, K] to int8 in -127..127, with the scale of each output, float32 [N]."""
    scales = np.maximum(np.abs(dense).max(axis=1), np.float32(1e-12)) / np.float32(127)
    return np.rint(dense / scales[:, None]).astype(np.int8), scales


def int8_product(x: Floats, weight: npt.NDArray[np.int8], scales: Floats) -> npt.NDArray[np.float64]:
    """Compute x W^T [M, N] as the kernel does: x rounded row by row, exact sums of integers.

    Args:
        x: float32 [M, K].
        weight: int8 [N, K].
        scales: float32 [N].
    """
    low, high = x.min(axis=1, initial=0.0, keepdims=True), x.max(axis=1, initial=0.0, keepdims=True)
    span = (high - low).astype(np.float32)
    factor = np.where(span > 1e-30, np.float32(STEPS) / np.maximum(span, np.float32(1e-30)), np.float32(0))
    steps = np.rint(x * factor).astype(np.int64)  # from the zero point: its own rounding cancels out
    sums = (steps @ weight.T.astype(np.int64)).astype(np.float64)
    product: npt.NDArray[np.float64] = sums * (span / np.float32(STEPS)) * scales
    return product


def bfloat16(values: Floats) -> Floats:
    """Round to bfloat16 (nearest, ties to even), as float32."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return rounded.astype(np.uint32).view(np.float32)


def pack_columns(dense: Floats | npt.NDArray[np.int8], keep: npt.NDArray[np.bool_], height: int) -> PanelWeight:
    """Pack a weight.

    Args:
        dense: float32 or int8 [N, K]; N a multiple of height.
        keep: bool [N / height, K]: the columns that each panel keeps.
        height: of a panel, in outputs.
    """
    tiles: Any = dense.reshape(len(keep), height, -1).transpose(0, 2, 1)
    starts = np.concatenate([[0], np.cumsum(keep.sum(axis=1))]).astype(np.int64)
    columns = np.nonzero(keep)[1].astype(np.int32)
    return PanelWeight(
        np.ascontiguousarray(tiles[keep]).reshape(-1), columns, starts, (len(dense), dense.shape[1]), height
    )


def _cases() -> Iterator[tuple[Floats, Floats, npt.NDArray[np.bool_], int, Floats, Floats]]:
    """Draw x, a dense weight, the columns that its panels keep, their height, bias and residual.

    M lies around every count of registers, K is no multiple of 16.
    """
    random = np.random.default_rng(0)

    def normal(*shape: int) -> Floats:
        return random.standard_normal(shape, dtype=np.float32)

    for rows, height in ((1, 16), (15, 32), (17, 16), (33, 48), (50, 16), (65, 16)):
        keep = random.random((96 // height, 37)) < 0.4
        keep[0] = False
        dense = normal(96, 37) * np.repeat(keep, height, axis=0)
        yield normal(rows, 37), dense, keep, height, normal(96), normal(rows, 96)


_long = ctypes.c_int64


def _pointer(array: npt.NDArray[np.generic] | None, shape: tuple[int, ...] | None = None) -> ctypes.c_void_p | None:
    if array is None:
        return None
    if shape is not None and (array.shape != shape or array.dtype != np.float32):
        raise VlcompressError(f"an array is {array.dtype} {array.shape}: the native kernel expects float32 {shape}")
    if not array.flags.c_contiguous:
        raise VlcompressError("an array is not contiguous: give the native kernel numpy.ascontiguousarray(...) of it")
    return array.ctypes.data_as(ctypes.c_void_p)
