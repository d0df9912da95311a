"""The compiled kernel as a Python function, for checks without a runtime.

Letters: x is [M, K], the weight [N, K], y [M, N].
"""

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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

TOLERANCE = 1e-5
"""Of the largest output: float32 sums in another order."""


@dataclass(frozen=True)
class PanelWeight:
    """A weight [N, K] by panels of `height` outputs that share their columns (see vlcompress/export/functions.py).

    Attributes:
        values: float32 [kept columns x height], a column's weights side by side.
        columns: int32 [kept columns].
        starts: int64 [panels + 1], where each panel begins in `columns`.
        shape: (N, K).
        height: a multiple of 16.
    """

    values: Floats
    columns: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    shape: tuple[int, int]
    height: int


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
        """List those that this processor has: first those for float32, the fastest one first, then for bfloat16."""
        find = self._library.vlcompress_instruction_set
        return tuple(name for name in (*INSTRUCTION_SETS, *BFLOAT16_SETS) if find(name.encode()) is not None)

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
            instruction_set: one of `INSTRUCTION_SETS` or `BFLOAT16_SETS`; the best one for float32 by default.
            threads: how many to start for this call.

        Raises:
            VlcompressError: a weight that is not sound, an unknown activation, an instruction set that is not there.
        """
        if activation not in ACTIVATIONS:
            raise unknown("activation", activation, ACTIVATIONS)
        outputs, inputs = weight.shape
        y_MN = np.empty((len(x_MK), outputs), dtype=np.float32)
        wrong = self._library.vlcompress_block_sparse_linear(
            _pointer(x_MK, (len(x_MK), inputs)), _long(len(x_MK)), _long(inputs),
            _pointer(weight.values), _long(weight.values.size),
            _pointer(weight.columns), _long(weight.columns.size),
            _pointer(weight.starts), _long(len(weight.starts) - 1), _long(outputs), _long(weight.height),
            _pointer(bias_N, (outputs,)), _pointer(residual_MN, y_MN.shape), ACTIVATIONS.index(activation),
            _pointer(y_MN), None if instruction_set is None else instruction_set.encode(), threads,
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
        seen = bfloat16 if name in BFLOAT16_SETS else np.asarray
        for x, weight, dense, bias, residual in _cases():
            expected = np.maximum(seen(x) @ seen(dense).T + bias + residual, 0.0)
            got = library.block_sparse_linear(x, weight, bias, residual, activation="relu", instruction_set=name)
            error = float(np.abs(got - expected).max(initial=0.0))
            if not error <= TOLERANCE * float(np.abs(expected).max(initial=1e-30)):
                raise VerificationError(
                    f"the native kernel is wrong on this processor with {name} (error {error:.3g} on x {x.shape}): it "
                    "is not used; build it with another compiler (--compiler)"
                )


def bfloat16(values: Floats) -> Floats:
    """Round to bfloat16 (nearest, ties to even), as float32."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return rounded.astype(np.uint32).view(np.float32)


def pack_columns(dense: Floats, keep: npt.NDArray[np.bool_], height: int) -> PanelWeight:
    """Pack a weight.

    Args:
        dense: float32 [N, K]; N a multiple of height.
        keep: bool [N / height, K]: the columns that each panel keeps.
        height: of a panel, in outputs.
    """
    tiles = dense.reshape(len(keep), height, -1).transpose(0, 2, 1)
    starts = np.concatenate([[0], np.cumsum(keep.sum(axis=1))]).astype(np.int64)
    columns = np.nonzero(keep)[1].astype(np.int32)
    return PanelWeight(
        np.ascontiguousarray(tiles[keep]).reshape(-1), columns, starts, (len(dense), dense.shape[1]), height
    )


def _cases() -> Iterator[tuple[Floats, PanelWeight, Floats, Floats, Floats]]:
    """Draw x, a weight packed and dense, bias and residual: M around every count of registers, K no multiple of 16."""
    random = np.random.default_rng(0)

    def normal(*shape: int) -> Floats:
        return random.standard_normal(shape, dtype=np.float32)

    for rows, height in ((1, 16), (15, 32), (17, 16), (33, 48), (50, 16)):
        keep = random.random((96 // height, 37)) < 0.4
        keep[0] = False
        dense = normal(96, 37) * np.repeat(keep, height, axis=0)
        yield normal(rows, 37), pack_columns(dense, keep, height), dense, normal(96), normal(rows, 96)


_long = ctypes.c_int64


def _pointer(array: npt.NDArray[np.generic] | None, shape: tuple[int, ...] | None = None) -> ctypes.c_void_p | None:
    if array is None:
        return None
    if shape is not None and (array.shape != shape or array.dtype != np.float32):
        raise VlcompressError(f"an array is {array.dtype} {array.shape}: the native kernel expects float32 {shape}")
    if not array.flags.c_contiguous:
        raise VlcompressError("an array is not contiguous: give the native kernel numpy.ascontiguousarray(...) of it")
    return array.ctypes.data_as(ctypes.c_void_p)
