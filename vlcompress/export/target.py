"""Which operator set and file format a file is written in, so that the runtime that it is for can read it."""

from dataclasses import dataclass

from vlcompress.errors import VlcompressError, unknown

OPSET = 20
"""Operator set of a file unless told otherwise: the first with Gelu, so one node stands for it."""

IR_VERSION = 10
"""File format of a file unless told otherwise."""

OPSETS = (18, 19, 20, 21, 22)
"""Operator sets that can be written; below 18 the tracer has no translations, above 22 nothing here has been run."""

_RUNTIMES = {
    # onnxruntime release: newest operator set and file format that it reads (its "Versioning" page)
    "1.14": (18, 8),
    "1.15": (18, 9),  # it lists 19, and lacks its Shape
    "1.16": (19, 9),
    "1.17": (20, 9),
    "1.18": (21, 10),
    "1.19": (21, 10),
    "1.20": (21, 10),
    "1.21": (22, 10),
    "1.22": (22, 10),
}


@dataclass(frozen=True)
class Target:
    """What a file is written for.

    Attributes:
        opset: version of the standard operators.
        ir_version: version of the file format.
    """

    opset: int = OPSET
    ir_version: int = IR_VERSION


def target(opset: int | None = None, runtime: str | None = None) -> Target:
    """Pick operator set and file format.

    Args:
        opset: the one to use; by default 20, or the newest that `runtime` reads if that is older.
        runtime: release of onnxruntime that must read the file ("1.20", "1.20.1"); newer ones than the table knows
            read whatever it lists.

    Raises:
        VlcompressError: an operator set that cannot be written or that the runtime does not read; an unknown runtime.
    """
    if opset is not None and opset not in OPSETS:
        raise unknown("opset", opset, OPSETS)
    newest, file_format = newest_read(runtime) if runtime is not None else (max(OPSETS), IR_VERSION)
    if opset is not None and opset > newest:
        raise VlcompressError(f"opset {opset} is too new for onnxruntime {runtime}: it reads up to {newest}")
    return Target(opset or min(OPSET, newest), min(IR_VERSION, file_format))


def newest_read(runtime: str) -> tuple[int, int]:
    release = ".".join(runtime.split(".")[:2])
    if release in _RUNTIMES:
        return _RUNTIMES[release]
    parts = release.split(".")
    if all(part.isdigit() for part in parts) and tuple(map(int, parts)) > (1, 22):
        return max(OPSETS), IR_VERSION
    raise unknown("onnxruntime release", runtime, (*_RUNTIMES, "newer"))
