"""Reading pickle files without executing them: a parser that knows plain containers, strings and numbers, nothing else.

Published data comes in pickles (RefCOCO's ``refs(unc).p``, UNITER's ``ans2label.pkl``, CIFAR's batches). Python's own
reader would run whatever a file says, so these files are parsed here by a small stack machine over the opcodes; the
only names that it knows are those of NumPy's plain arrays, which this module builds itself. Everything else is refused.
Nothing is allocated by a length that the file merely claims.
"""

import codecs
import math
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlcompress.errors import VlcompressError

MOST_BYTES = 2 << 30
"""A larger file is refused before it is read."""

_ARRAY, _DTYPE, _ENCODE, _NDARRAY = "array", "dtype", "encode", "ndarray"
_NAMES = {
    "numpy.core.multiarray _reconstruct": _ARRAY,
    "numpy._core.multiarray _reconstruct": _ARRAY,
    "numpy ndarray": _NDARRAY,
    "numpy dtype": _DTYPE,
    "_codecs encode": _ENCODE,
}
"""The names of a plain array's pickle; `_codecs.encode` is how Python 3 writes bytes for Python 2."""


class _Name:
    """A name of `_NAMES` on the stack."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


class _Built:
    """An array or a dtype whose state is still to come."""

    def __init__(self, kind: str, code: str = "") -> None:
        self.kind, self.code = kind, code
        self.value: Any = None


class _Refused(Exception):
    """What the file holds that is not allowed."""


def read_pickle(path: Path, *, arrays: bool = False) -> Any:
    """Read a pickle of dicts, lists, tuples, strings, bytes, numbers, booleans and None.

    Python 2's byte strings become text by Latin-1, or stay bytes where `arrays` is on (they are then an array's data).

    Args:
        path: the file, of any pickle protocol.
        arrays: allow NumPy arrays of numbers as well (CIFAR's batches).

    Raises:
        VlcompressError: no such file, not a pickle, cut, or anything beyond those types.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise VlcompressError(f"'{path}' has {size} bytes, {MOST_BYTES} are allowed for a pickle")
        data = path.read_bytes()
    except OSError as error:
        raise VlcompressError(f"no pickle at '{path}' ({error.strerror}): give a file that exists") from error
    try:
        return parse_pickle(data, arrays=arrays)
    except _Refused as error:
        raise VlcompressError(f"'{path}' is refused: {error}; only plain data is read, nothing is executed") from error
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, UnicodeError) as error:
        raise VlcompressError(f"'{path}' is not a whole pickle ({error}): it is damaged or cut") from error


def parse_pickle(data: bytes, *, arrays: bool = False) -> Any:
    """Parse a pickle's bytes; see `read_pickle`, which says errors in words for users."""
    machine = _Machine(arrays)
    position = 0
    while position < len(data):
        opcode = _OPCODES.get(data[position])
        step = machine.steps.get(opcode.name) if opcode else None
        if opcode is None or step is None:
            if opcode and opcode.name == "STOP":
                return machine.result()
            raise _Refused(f"it uses {opcode.name if opcode else data[position]} at byte {position}")
        raw, position = _argument(data, position + 1, opcode)
        step(opcode.decode(raw) if opcode.decode else raw)
    raise ValueError("it has no end")


def _argument(data: bytes, start: int, opcode: "_Opcode") -> tuple[bytes, int]:
    """Cut an opcode's argument out of the file, without its length; give it and where the next opcode begins."""
    size = opcode.size
    if size == 0:
        return b"", start
    if size == pickletools.UP_TO_NEWLINE:
        end = data.index(b"\n", start)
        if opcode.name == "GLOBAL":  # module and name, a line each
            end = data.index(b"\n", end + 1)
        return data[start:end], end + 1
    if size < 0:
        width = _LENGTH_BYTES[size]
        size, start = int.from_bytes(data[start : start + width], "little"), start + width
    if start + size > len(data):
        raise ValueError(f"{opcode.name} wants {size} bytes where {len(data) - start} are left")
    return data[start : start + size], start + size


_LENGTH_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}


def _int(raw: bytes) -> int:
    return {b"00": False, b"01": True}.get(raw, int(raw.rstrip(b"L")))  # 00 and 01 are protocol 0's booleans


def _signed(raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


def _unsigned(raw: bytes) -> int:
    return int.from_bytes(raw, "little")


def _quoted(raw: bytes) -> str:
    if len(raw) < 2 or raw[:1] != raw[-1:] or raw[:1] not in (b"'", b'"'):
        raise ValueError("a string without quotes")
    return codecs.escape_decode(raw[1:-1])[0].decode("latin-1")


def _utf8(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def _latin(raw: bytes) -> str:
    return raw.decode("latin-1")


_DECODE: dict[str, Callable[[bytes], Any]] = {
    **dict.fromkeys(("INT", "LONG", "PUT", "GET"), _int),
    **dict.fromkeys(("BININT", "LONG1", "LONG4"), _signed),
    **dict.fromkeys(("BININT1", "BININT2", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"), _unsigned),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _utf8),
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), _latin),
    "STRING": _quoted,
    "UNICODE": lambda raw: raw.decode("raw-unicode-escape"),
    "FLOAT": float,
    "BINFLOAT": lambda raw: struct.unpack(">d", raw)[0],
    "GLOBAL": lambda raw: raw.decode("ascii").replace("\n", " "),
}
"""How each opcode's argument is read; the others' stay bytes."""


@dataclass(frozen=True, slots=True)
class _Opcode:
    """An opcode: its name, the bytes of its argument (or one of pickletools' marks), how the argument is read."""

    name: str
    size: int
    decode: Callable[[bytes], Any] | None


_OPCODES = {
    ord(opcode.code): _Opcode(opcode.name, opcode.arg.n if opcode.arg else 0, _DECODE.get(opcode.name))
    for opcode in pickletools.opcodes
}


class _Machine:
    """The stack machine: one method or function an opcode (Python's pickletools documents each)."""

    def __init__(self, arrays: bool) -> None:
        self.arrays = arrays
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        push = self.stack.append
        values = ("INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
        texts = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8")
        self.steps: dict[str, Callable[[Any], None]] = {
            **dict.fromkeys((*values, *texts), push),
            **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), self.string),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self.put),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda key: push(self.memo[key])),
            **dict.fromkeys(("PROTO", "FRAME"), lambda _: None),
            "NONE": lambda _: push(None),
            "NEWTRUE": lambda _: push(True),
            "NEWFALSE": lambda _: push(False),
            "MARK": lambda _: self.marks.append(len(self.stack)),
            "POP": lambda _: self.drop(),
            "DUP": lambda _: push(self.stack[-1]),
            "EMPTY_LIST": lambda _: push([]),
            "EMPTY_DICT": lambda _: push({}),
            "EMPTY_TUPLE": lambda _: push(()),
            "LIST": lambda _: push(self.items()),
            "DICT": lambda _: push(_pairs(self.items())),
            "TUPLE": lambda _: push(tuple(self.items())),
            "TUPLE1": lambda _: self.tuple_of(1),
            "TUPLE2": lambda _: self.tuple_of(2),
            "TUPLE3": lambda _: self.tuple_of(3),
            "APPEND": lambda _: self.extend([self.pop()]),
            "APPENDS": lambda _: self.extend(self.items()),
            "SETITEM": lambda _: self.update([self.pop(), self.pop()][::-1]),
            "SETITEMS": lambda _: self.update(self.items()),
            "MEMOIZE": lambda _: self.put(len(self.memo)),
            "GLOBAL": self.name,
            "STACK_GLOBAL": lambda _: self.name(" ".join([self.pop(), self.pop()][::-1])),
            "REDUCE": lambda _: self.build_new(),
            "BUILD": lambda _: self.build_state(),
        }

    def result(self) -> Any:
        """Return the one value that is left."""
        if len(self.stack) != 1 or self.marks:
            raise ValueError(f"{len(self.stack)} values are left where one is expected")
        return self.pop()

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise ValueError("a mark where a value is expected")
        return _finished(self.stack.pop())

    def drop(self) -> None:
        """Take the topmost value or mark away."""
        if self.marks and len(self.stack) == self.marks[-1]:
            self.marks.pop()
        else:
            self.pop()

    def items(self) -> list[Any]:
        """Take everything down to the last mark."""
        start = self.marks.pop()
        values = [_finished(value) for value in self.stack[start:]]
        del self.stack[start:]
        return values

    def put(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def string(self, text: str) -> None:
        """Push a Python 2 string."""
        self.stack.append(text.encode("latin-1") if self.arrays else text)

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.stack.append(tuple(values[::-1]))

    def extend(self, values: list[Any]) -> None:
        self.top(list).extend(values)

    def update(self, items: list[Any]) -> None:
        self.top(dict).update(_pairs(items))

    def top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise ValueError(f"a {type(self.stack[-1]).__name__} where a {kind.__name__} is expected")
        return self.stack[-1]

    def name(self, name: str) -> None:
        if not self.arrays or name not in _NAMES:
            raise _Refused(f"it names {name.replace(' ', '.')}")
        self.stack.append(_Name(_NAMES[name]))

    def build_new(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise _Refused("it calls something")
        if name.kind == _ENCODE:
            self.stack.append(str(arguments[0]).encode("latin-1"))
        elif name.kind in (_ARRAY, _DTYPE):
            code = _text(arguments[0]) if name.kind == _DTYPE else ""
            self.stack.append(_Built(name.kind, code))
        else:
            raise _Refused("it calls numpy.ndarray")

    def build_state(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, _Built) or not isinstance(state, tuple):
            raise _Refused("it sets the state of an object")
        target.value = _dtype(target.code, state) if target.kind == _DTYPE else _array(state)


def _finished(value: Any) -> Any:
    if isinstance(value, _Built):
        if value.value is None:
            raise ValueError("an array without its state")
        return value.value
    return value


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _dtype(code: str, state: tuple[Any, ...]) -> np.dtype[Any]:
    order = _text(state[1])
    if code[:1] not in ("b", "i", "u", "f") or order not in ("|", "<", ">", "="):
        raise _Refused(f"it holds an array of type '{order}{code}'")
    return np.dtype(order + code)


def _array(state: tuple[Any, ...]) -> np.ndarray[Any, Any]:
    """Make an array of (version, shape, dtype, Fortran order, bytes)."""
    _, shape, dtype, fortran, data = state
    dtype = _finished(dtype)
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes) or not isinstance(shape, tuple):
        raise _Refused("it holds an array that is not of plain numbers")
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array of shape {shape} with {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C").copy()
