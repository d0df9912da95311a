"""Read pickle files without executing them: plain containers, strings and numbers, and where asked NumPy's arrays.

Published data comes in pickles (RefCOCO's ``refs(unc).p``, UNITER's ``ans2label.pkl``, CIFAR's batches). Python's own
reader runs whatever a file says; here it looks up no name but those of plain arrays, and knows no other opcode that
calls anything. Of the standard library's two readers this is the one in Python: the one in C reserves memory by an
index that the file merely claims (64 GB for nine bytes).
"""

import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vlcompress.errors import VlcompressError

MOST_BYTES = 2 << 30
"""A larger file is refused before it is read."""

_CALLS_NOTHING = (
    *("INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "NONE", "NEWTRUE"),
    *("NEWFALSE", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET"),
    *("PROTO", "FRAME", "MARK", "POP", "DUP", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE", "LIST", "DICT", "TUPLE"),
    *("TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "MEMOIZE", "STOP"),
)
_LOOKS_UP = ("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD")
"""What an array needs beside them; every name goes through `_Reader.find_class`."""


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
        return _Reader(data, arrays).whole()
    except _Refused as error:
        raise VlcompressError(f"'{path}' is refused: {error}; only plain data is read, nothing is executed") from error
    except (pickle.UnpicklingError, ArithmeticError, LookupError, MemoryError, EOFError) as error:
        raise VlcompressError(f"'{path}' is not a whole pickle ({error!r}): it is damaged or cut") from error
    except (ValueError, TypeError, AttributeError, struct.error) as error:
        raise VlcompressError(f"'{path}' is not a whole pickle ({error}): it is damaged or cut") from error


class _Reader(pickle._Unpickler):
    """The standard library's reader with fewer opcodes and names."""

    stack: list[Any]  # the types that the library's own description of it leaves out
    metastack: list[Any]

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code: pickle._Unpickler.dispatch[code]
        for code in (getattr(pickle, name)[0] for name in (*_CALLS_NOTHING, *_LOOKS_UP))
    }

    def __init__(self, data: bytes, arrays: bool) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes" if arrays else "latin-1")
        self.names = _ARRAY_NAMES if arrays else {}

    def whole(self) -> Any:
        """Read the one value that the file holds."""
        value = self.load()
        if self.stack or self.metastack:
            raise ValueError("more than one value is left at its end")
        return value

    def find_class(self, module: str, name: str) -> Any:
        """Give a stand-in of a name that plain arrays have; the named thing itself is never looked up."""
        if (module, name) not in self.names:
            raise _Refused(f"it names {module}.{name}")
        return self.names[module, name]

    def load_build(self) -> None:
        """Set the state of an array or of its type, after a look at it."""
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(state, tuple) or not isinstance(target, np.ndarray | np.dtype):
            raise _Refused("it sets the state of an object")
        _check_state(target, state)
        setter: Any = target
        setter.__setstate__(state)  # NumPy compares the bytes with the shape before it takes memory

    dispatch[pickle.BUILD[0]] = load_build


def _check_state(target: np.ndarray[Any, Any] | np.dtype[Any], state: tuple[Any, ...]) -> None:
    if isinstance(target, np.dtype):
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        if order not in ("|", "<", ">", "=") or any(part is not None for part in state[2:5]):
            raise _Refused(f"it holds an array of type '{order}{target.str[1:]}' with a state of its own")
    elif not (len(state) == 5 and isinstance(state[2], np.dtype) and isinstance(state[4], bytes)):
        raise _Refused("it holds an array that is not of plain numbers")


def _new_array(*_: Any) -> np.ndarray[Any, Any]:
    return np.empty(0, np.uint8)


def _new_dtype(code: str | bytes, *_: Any) -> np.dtype[Any]:
    code = code.decode() if isinstance(code, bytes) else code
    if code[:1] not in ("b", "i", "u", "f"):
        raise _Refused(f"it holds an array of type '|{code}'")
    return np.dtype(code, copy=True)


def _encoded(text: str, *_: Any) -> bytes:
    return text.encode("latin-1")


_ARRAY_NAMES: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy._core.multiarray", "_reconstruct"): _new_array,
    ("numpy", "ndarray"): None,  # an argument of `_reconstruct`
    ("numpy", "dtype"): _new_dtype,
    ("_codecs", "encode"): _encoded,  # how Python 3 writes bytes for Python 2
}
