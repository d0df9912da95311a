"""The one error type that users are meant to see."""

from collections.abc import Iterable
from difflib import get_close_matches


class VlcompressError(Exception):
    """A mistake in what the user gave: the text names the value, what was allowed, and the fix.

    The command line prints it in one line and exits with code 2. Any other exception is a bug and keeps its traceback.
    """


class VerificationError(VlcompressError):
    """A result failed its own check (for example parity after export); the command line exits with code 3."""


def unknown(kind: str, value: object, allowed: Iterable[object]) -> VlcompressError:
    """Build the error for a name that is not in a fixed set, with the nearest allowed name as the fix.

    Args:
        kind: what was named, in the singular ("model", "task").
        value: what the user gave.
        allowed: every accepted value.
    """
    names = sorted(str(name) for name in allowed)
    close = get_close_matches(str(value), names, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return VlcompressError(f"unknown {kind} '{value}': allowed are {', '.join(names)}{hint}")
