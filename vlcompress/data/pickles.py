"""Read pickle files without executing them: plain containers, strings and numbers.

Published data comes in pickles (RefCOCO's ``refs(unc).p``, UNITER's ``ans2label.pkl``). Python's own reader runs
whatever a file says; here it looks up no name, and knows no opcode that calls anything. Of the standard library's two
readers this is the one in Python: the one in C reserves memory by an index that the file merely claims (64 GB for nine
bytes).
"""

import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

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
    try:
        return _Reader(data).whole()
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
