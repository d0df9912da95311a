"""MATLAB's MAT files of version 5, as far as plain numeric arrays go (SVHN's files).

The layout is MathWorks' "MAT-File Format": 128 bytes of header, then elements of (type, size, content), most of them
compressed with zlib. Everything else than full arrays of numbers is passed over.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlcompress.errors import VlcompressError

MOST_BYTES = 2 << 30
"""A variable that claims to be larger is refused before it is unpacked."""

Array = NDArray[np.generic]

_HEADER = 128
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX, _COMPRESSED = 14, 15
_NUMERIC = range(6, 16)  # array classes: double 6, single 7, int8 8 ... uint64 15
_COMPLEX = 0x0800


@dataclass(frozen=True)
class _Element:
    kind: int
    content: memoryview


def read_mat(path: Path) -> dict[str, Array]:
    """Read every real numeric array of a file, by its name.

    Raises:
        VlcompressError: no such file, another version, a file that is damaged or cut, a variable above `MOST_BYTES`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise VlcompressError(f"no file at '{path}': the data set is incomplete, download it again") from error
    if len(content) < _HEADER or content[:10] != b"MATLAB 5.0":
        raise VlcompressError(f"'{path}' is not a MAT file of version 5: save it with -v7 or older")
    order = "<" if content[126:128] == b"IM" else ">"
    try:
        return dict(_arrays(memoryview(content)[_HEADER:], order))
    except _TooLargeError as error:
        raise VlcompressError(f"'{path}': {error}") from error
    except (ValueError, struct.error, zlib.error, UnicodeDecodeError) as error:
        raise VlcompressError(f"'{path}' is not a whole MAT file ({error}): it is damaged or cut") from error


class _TooLargeError(Exception):
    """A variable claims more bytes than are allowed."""


def _arrays(content: memoryview, order: str) -> Iterator[tuple[str, Array]]:
    for element in _elements(content, order):
        matrix = next(_elements(_unpacked(element, order), order)) if element.kind == _COMPRESSED else element
        if matrix.kind == _MATRIX:
            yield from _matrix(matrix.content, order)


def _elements(content: memoryview, order: str) -> Iterator[_Element]:
    at = 0
    while at + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, at)
        if kind >> 16:  # a small element: size and kind share four bytes, the content is in the other four
            kind, size, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        else:
            start = at + 8
            end = start + size if kind == _COMPRESSED else start + (size + 7) // 8 * 8
        if start + size > len(content):
            raise ValueError(f"an element of {size} bytes where {len(content) - start} are left")
        yield _Element(kind, content[start : start + size])
        at = end


def _unpacked(element: _Element, order: str) -> memoryview:
    """Unpack a compressed element after a look at the size that it claims."""
    unpacker = zlib.decompressobj()
    tag = unpacker.decompress(element.content, 8)
    _, size = struct.unpack(f"{order}II", tag)
    if size > MOST_BYTES:
        raise _TooLargeError(f"a variable claims {size} bytes, {MOST_BYTES} are allowed")
    rest = unpacker.decompress(unpacker.unconsumed_tail, size) if size else b""
    if len(rest) < size:
        raise ValueError(f"a variable has {len(rest)} of its {size} bytes")
    return memoryview(tag + rest)


def _matrix(content: memoryview, order: str) -> Iterator[tuple[str, Array]]:
    flags, shape, name, values, *_ = (*_elements(content, order), *[_Element(0, memoryview(b""))] * 4)
    flag = int(_numbers(flags, order)[0]) if flags.kind in _TYPES else 0
    if flag & 0xFF not in _NUMERIC or flag & _COMPLEX or values.kind not in _TYPES:
        return
    dims = tuple(int(length) for length in _numbers(shape, order))
    array = _numbers(values, order)
    if min(dims) < 0 or math.prod(dims) != len(array):
        raise ValueError(f"a variable of shape {dims} with {len(array)} values")
    yield bytes(name.content).decode("ascii"), array.reshape(dims, order="F")


def _numbers(element: _Element, order: str) -> Array:
    return np.frombuffer(element.content, dtype=order + _TYPES[element.kind])
