"""The one error type that users are meant to see."""

from collections.abc import Iterable
from difflib import get_close_matches

EXTRAS = {
    "'vlcompress[cpu]' (or [gpu])": (
        "torch", "transformers", "safetensors", "tomli_w", "matplotlib", "jinja2", "onnxscript", "onnxruntime", "onnx",
    ),
    "'vlcompress[serve]'": ("starlette", "uvicorn", "prometheus_client", "orjson", "pydantic", "hpack", "httptools"),
}  # fmt: skip
"""What to install for the modules that only some commands import: a server needs no torch, and the rest no server."""


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


def missing(error: ModuleNotFoundError) -> VlcompressError | None:
    """Build the error for a package of an extra that is not installed; None where it is a package of no extra."""
    package = str(error.name).partition(".")[0]
    found = next((extra for extra, packages in EXTRAS.items() if package in packages), None)
    if found is None:
        return None
    return VlcompressError(f"this needs the package '{package}', which is not installed: pip install {found}")
