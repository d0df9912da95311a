"""Datatypes of the protocol, and what a model's inputs and outputs are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from vlcompress.errors import VlcompressError

Array = npt.NDArray[np.generic]
Arrays = dict[str, Array]

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]  # fmt: skip
DATATYPES: Mapping[Datatype, np.dtype[np.generic]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
"""The protocol's datatypes as numpy's; BYTES is an array of Python bytes."""

_ONNX: Mapping[str, Datatype] = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
}


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: as clients call it.
        datatype: a key of `DATATYPES`.
        shape: sizes, the batch first; a string names an axis that may vary ("batch", "text").
        low, high: allowed values [low, high) of an input; None: any finite number.
    """

    name: str
    datatype: Datatype
    shape: tuple[int | str, ...]
    low: int | None = None
    high: int | None = None

    @property
    def public_shape(self) -> list[int]:
        """Sizes with -1 for those that may vary."""
        return [size if isinstance(size, int) else -1 for size in self.shape]

    @property
    def batched(self) -> bool:
        """Whether the first axis is free, so that several requests can share an execution."""
        return bool(self.shape) and isinstance(self.shape[0], str)


def onnx_datatype(kind: str) -> Datatype:
    """Translate an ONNX Runtime type ("tensor(float)") into the protocol's name.

    Raises:
        VlcompressError: a type that the protocol cannot carry.
    """
    name = kind.removeprefix("tensor(").removesuffix(")")
    if name not in _ONNX:
        raise VlcompressError(f"the model has a tensor of type '{kind}', which the protocol has no name for")
    return _ONNX[name]


def numpy_datatype(dtype: np.dtype[np.generic]) -> Datatype:
    """Name a numpy type as the protocol does."""
    return next(name for name, known in DATATYPES.items() if known == dtype)
