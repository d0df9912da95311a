"""Read pickle files without executing them: plain containers, strings and numbers.

Published data comes in pickles (RefCOCO's ``refs(unc).p``, UNITER's ``ans2label.pkl``). Python's own reader runs
whatever a file says; here it looks up no name, and knows no opcode that calls anything (in `read_arrays` three names of
NumPy's and two opcodes are taken down, and nothing is called either). Of the standard library's two
readers this is the one in Python: the one in C reserves memory by an index that the file merely claims (64 GB for nine
bytes).
"""

import io
import pickle
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

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
_LOOKS_UP = ("GLOBAL", "STACK_GLOBAL")
"""Names go through `_Reader.find_class`, so that the error has them."""


class _Refused(Exception):
    """What the file holds that is not allowed."""


def read_pickle(path: Path) -> Any:
    """Read a pickle of dicts, lists, tuples, strings, bytes, numbers, booleans and None.

    Python 2's byte strings become text by Latin-1.

    Args:
        path: the file, of any pickle protocol.

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
    with _refusing(path, "only plain data is read"):
        return _Reader(data).whole()


@contextmanager
def _refusing(path: Path, read: str) -> Iterator[None]:
    """Tell what a reader of `path` stumbles over, and what is read at all."""
    try:
        yield
    except _Refused as error:
        raise VlcompressError(f"'{path}' is refused: {error}; {read}, nothing is executed") from error
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

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin-1")

    def whole(self) -> Any:
        """Read the one value that the file holds."""
        value = self.load()
        if self.stack or self.metastack:
            raise ValueError("more than one value is left at its end")
        return value

    def find_class(self, module: str, name: str) -> Any:
        """Refuse: plain data names nothing."""
        raise _Refused(f"it names {module}.{name}")


def read_arrays(data: bytes, path: Path) -> dict[str | int, NDArray[Any]]:
    """Read the dictionary of arrays that NumPy pickles where an array holds Python objects.

    Args:
        data: the pickle: a dictionary from names or positions to arrays of numbers, alone or in lists and arrays of one
            object.
        path: names the file in errors.

    Raises:
        VlcompressError: anything else; it is not executed.
    """
    with _refusing(path, "only arrays are read"):
        found = _ArrayReader(data).whole()
        while isinstance(found, _Array | list):
            (found,) = found if isinstance(found, list) else found.objects()
        if not isinstance(found, dict):
            raise _Refused(f"it holds a {type(found).__name__}, not a dictionary of arrays")
        return {_key(name): _numbers(str(name), value) for name, value in found.items()}


class _Named:
    """Stands for a function or class of NumPy that a pickle names; nothing of NumPy is called."""

    def __init__(self, role: str) -> None:
        self.role = role


class _Array:
    """What a pickle says of an array or a dtype: arguments, then a state."""

    def __init__(self, role: str, arguments: tuple[Any, ...]) -> None:
        self.role, self.arguments = role, arguments
        self.state: tuple[Any, ...] = ()

    def objects(self) -> list[Any]:
        """Give the objects of an array of objects."""
        content = self.state[4] if len(self.state) == 5 else None
        if not isinstance(content, list):
            raise _Refused("it holds an array where a dictionary of arrays was expected")
        return content

    def numbers(self) -> NDArray[Any]:
        """Make the array, of booleans or numbers."""
        _, shape, dtype, by_columns, content = self.state
        content = content.encode("latin-1") if isinstance(content, str) else content
        if not isinstance(dtype, _Array) or dtype.role != "dtype" or not isinstance(content, bytes):
            raise _Refused("it holds an array of objects in another")
        order = str(dtype.state[1]).replace("|", "") if dtype.state else ""
        kind = np.dtype(f"{order}{dtype.arguments[0]}")
        if kind.kind not in "biuf":
            raise _Refused(f"it holds an array of '{kind}', no numbers")
        return np.frombuffer(content, kind).reshape(shape, order="F" if by_columns else "C")


_NUMPY = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): "array" for core in ("core", "_core")},
    ("numpy", "ndarray"): "class",
    ("numpy", "dtype"): "dtype",
}


class _ArrayReader(_Reader):
    """The reader of plain data, which also takes down what NumPy says of its arrays."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_Reader.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """Take a name of NumPy's arrays as a mark; refuse every other."""
        role = _NUMPY.get((module, name))
        return super().find_class(module, name) if role is None else _Named(role)

    def reduce(self) -> None:
        """Note what a call would be of; it is not made."""
        arguments, called = self.stack.pop(), self.stack[-1]
        if not isinstance(called, _Named) or called.role == "class":
            raise _Refused("it calls something")
        self.stack[-1] = _Array(called.role, arguments)

    def build(self) -> None:
        """Note the state of an array or dtype."""
        state, inner = self.stack.pop(), self.stack[-1]
        if not isinstance(inner, _Array) or not isinstance(state, tuple):
            raise _Refused("it sets the state of something else than an array")
        inner.state = state

    dispatch[pickle.REDUCE[0]] = reduce
    dispatch[pickle.BUILD[0]] = build


def _key(name: Any) -> str | int:
    if type(name) not in (str, int):
        raise _Refused(f"it names an array by a {type(name).__name__}")
    key: str | int = name
    return key


def _numbers(name: str, value: Any) -> NDArray[Any]:
    if not isinstance(value, _Array) or value.role != "array":
        raise _Refused(f"'{name}' is a {type(value).__name__}, not an array")
    return value.numbers()
