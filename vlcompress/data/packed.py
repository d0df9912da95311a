"""The values of UNITER's databases: msgpack with NumPy arrays, plain or in an LZ4 frame, and npz archives.

Arrays are built here from their bytes: msgpack_numpy and ``numpy.load`` would unpickle arrays of objects, which are
refused. A length is compared with the bytes that are there before anything is allocated.
"""

import io
import math
from collections.abc import Iterable
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from vlcompress.data.extras import extra
from vlcompress.errors import VlcompressError

MOST_BYTES = 64 << 20
"""A value that unpacks to more is refused; the largest real one has 100 boxes and less than a megabyte."""

Arrays = dict[str, NDArray[Any]]


def unpack(data: bytes, where: str) -> Any:
    """Unpack a msgpack value; maps that stand for arrays become arrays of booleans, integers or floats.

    Args:
        data: the value's bytes.
        where: file and record, for errors.

    Raises:
        VlcompressError: cut or damaged, an array of objects, an extension type.
    """
    msgpack = extra("msgpack")

    try:
        return msgpack.unpackb(data, object_hook=_array_or_map, ext_hook=_no_extension, strict_map_key=False)
    except _Refused as error:
        raise VlcompressError(f"{where} is refused: {error}; only plain data is read, nothing is executed") from error
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise VlcompressError(f"{where} is not a whole msgpack value ({error}): it is damaged or cut") from error


def decompress(data: bytes, where: str) -> bytes:
    """Decompress an LZ4 frame to at most `MOST_BYTES` bytes.

    Raises:
        VlcompressError: cut, damaged or too long.
    """
    frame = extra("lz4.frame")

    decompressor = frame.LZ4FrameDecompressor()
    try:
        plain: bytes = decompressor.decompress(data, max_length=MOST_BYTES)
    except (RuntimeError, EOFError) as error:
        raise VlcompressError(f"{where} is not an LZ4 frame ({error}): it is damaged") from error
    if len(plain) >= MOST_BYTES:
        raise VlcompressError(f"{where} decompresses to more than {MOST_BYTES} bytes: that is no example")
    if not decompressor.eof:
        raise VlcompressError(f"{where}: its LZ4 frame has no end: it is cut")
    return plain


def read_npz(data: bytes, names: Iterable[str], where: str) -> Arrays:
    """Read the named arrays of an npz archive that has them; others are passed over.

    Raises:
        VlcompressError: not a zip archive, damaged, an array of objects, or a shape that does not fit its bytes.
    """
    try:
        with ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename: info for info in archive.infolist()}
            arrays: Arrays = {}
            for name in names:
                info = members.get(f"{name}.npy")
                if info is None:
                    continue
                if info.file_size > MOST_BYTES:
                    raise _Refused(f"array '{name}' has {info.file_size} bytes, {MOST_BYTES} are allowed")
                arrays[name] = _read_npy(archive.read(info))
            return arrays
    except _Refused as error:
        raise VlcompressError(f"{where} is refused: {error}") from error
    except (BadZipFile, ValueError, EOFError, OSError, NotImplementedError) as error:
        raise VlcompressError(f"{where} is not a whole npz archive ({error}): it is damaged or cut") from error


class _Refused(Exception):
    """What a value holds that is not allowed."""


def _read_npy(data: bytes) -> NDArray[Any]:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    return _array(dtype, shape, data[file.tell() :], fortran)


def _array_or_map(fields: dict[Any, Any]) -> Any:
    """Build the array that msgpack_numpy wrote as a map; its keys are bytes, or text in old files."""
    is_array = fields.get(b"nd", fields.get("nd"))
    if is_array is None:
        return fields
    kind, dtype, shape, data = (fields.get(key.encode(), fields.get(key)) for key in ("kind", "type", "shape", "data"))
    if kind not in (None, b"", "") or not isinstance(dtype, str | bytes) or not isinstance(data, bytes):
        raise _Refused("it holds an array that is not of plain numbers")
    name = dtype.decode("ascii") if isinstance(dtype, bytes) else dtype
    try:
        plain = np.dtype(name)
    except TypeError as error:
        raise _Refused(f"it holds an array of type '{name[:40]}'") from error
    return _array(plain, tuple(shape or ()), data, False) if is_array else _array(plain, (1,), data, False)[0]


def _array(dtype: np.dtype[Any], shape: tuple[int, ...], data: bytes, fortran: bool) -> NDArray[Any]:
    if dtype.kind not in "biuf":
        raise _Refused(f"it holds an array of type '{dtype}'")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array {list(shape)} of {dtype} where {len(data)} bytes are left")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _no_extension(code: int, data: bytes) -> Any:
    raise _Refused(f"it uses msgpack's extension {code}")
