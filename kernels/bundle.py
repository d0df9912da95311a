"""Compiled kernels as files that a server can launch through the CUDA driver, without Triton and without Python.

A bundle is ``<name>.cubin`` and ``<name>.json``. The JSON says how to launch it: the entry point, threads, dynamic
shared memory, and every parameter with its offset and size; a tensor descriptor parameter comes with the recipe for
``cuTensorMapEncodeTiled``. The list is derived from the kernel's signature and then compared with what the cubin itself
records (EIATTR_KPARAM_INFO): a bundle whose description is wrong is never written.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton

from vlcompress.kernels.aot import Build, compile_for
from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.machine_code import disassemble, read_machine_code

SIZES = {"i32": 4, "i64": 8, "fp32": 4}
# ptxas aligns a parameter by its absolute address in the constant bank, where parameters start at these offsets.
_BANK_OFFSET = {80: 0x160, 90: 0x210, 100: 0x380}
# The metadata holds the device's code of an element type; the driver's encoder wants the host's enumeration.
_HOST_ELEMENT_TYPE = {8: 10, 9: 8, 10: 9}
_KERNEL_PARAMETER = (
    r"EIATTR_KPARAM_INFO.*?Ordinal\s*:\s*0x([0-9a-f]+)\s+Offset\s*:\s*0x([0-9a-f]+)\s+Size\s*:\s*0x([0-9a-f]+)"
)


@dataclass(frozen=True)
class Parameter:
    """One kernel parameter: bytes `offset` .. `offset + size` of the parameter block.

    Attributes:
        kind: "pointer", "tensor_map", "null" (a pointer that may be null), or a scalar type of ``SIZES``.
        tensor_map: for a tensor map, what ``cuTensorMapEncodeTiled`` is called with.
    """

    name: str
    kind: str
    offset: int
    size: int
    tensor_map: dict[str, Any] | None = None


def write_bundle(build: Build, arch: int, folder: Path, name: str) -> Path:
    """Compile one kernel for compute capability arch / 10 and write its bundle; returns the JSON's path.

    Raises:
        RuntimeError: the derived parameter list is not the cubin's own.
    """
    compiled = compile_for(build, arch)
    cubin, parameters = compiled.asm["cubin"], parameters_of(build, compiled, arch)
    derived, recorded = [(p.offset, p.size) for p in parameters], recorded_parameters(cubin)
    if derived != recorded:
        raise RuntimeError(f"{name}: the signature gives parameters {derived}, the cubin records {recorded}")
    metadata = compiled.metadata
    description = {
        "entry": metadata.name,
        "arch": f"sm_{arch}",
        "triton": triton.__version__,
        "sha256": hashlib.sha256(cubin).hexdigest(),
        "threads": metadata.num_warps * 32,
        "shared_bytes": metadata.shared,
        "registers": read_machine_code(compiled).registers,
        "constants": dict(build.constexprs),
        "parameters": [asdict(parameter) for parameter in parameters],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.cubin").write_bytes(cubin)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(description, indent=1) + "\n")
    return path


def read_bundle(path: Path) -> tuple[dict[str, Any], bytes]:
    """The description and the cubin of a bundle.

    Raises:
        KernelInputError: the cubin is not the one that the JSON describes.
    """
    description = json.loads(path.read_text())
    cubin = path.with_suffix(".cubin").read_bytes()
    if hashlib.sha256(cubin).hexdigest() != description["sha256"]:
        raise KernelInputError(f"{path.stem}.cubin is not the file that {path.name} describes: export it again")
    return description, cubin


def parameters_of(build: Build, compiled: Any, arch: int) -> list[Parameter]:
    """Every parameter in order, at the offset that its alignment gives it."""
    end, parameters = 0, []
    for name, kind, size, alignment, recipe in _flat(build, compiled.metadata.tensordesc_meta or []):
        bank = _BANK_OFFSET[arch]
        offset = -(-(end + bank) // alignment) * alignment - bank
        parameters.append(Parameter(name, kind, offset, size, recipe))
        end = offset + size
    return parameters


def recorded_parameters(cubin: bytes) -> list[tuple[int, int]]:
    """(offset, size) of each parameter, as the cubin records them."""
    found = re.findall(_KERNEL_PARAMETER, disassemble(cubin, "-elf"), re.S)
    return [(int(offset, 16), int(size, 16)) for _, offset, size in sorted(found, key=lambda row: int(row[0], 16))]


_Row = tuple[str, str, int, int, dict[str, Any] | None]


def _flat(build: Build, descriptors: list[dict[str, Any]]) -> list[_Row]:
    """(name, kind, size, alignment, recipe) of each parameter; Triton adds two scratch pointers, null here."""
    rows: list[_Row] = []
    remaining = iter(descriptors)
    for name, kinds in build.signature.items():
        if isinstance(kinds, tuple):
            rows += [_scalar(f"{name}[{i}]", kind) for i, kind in enumerate(kinds)]
        elif kinds.startswith("tensordesc"):
            rows += _descriptor(name, kinds, next(remaining))
        else:
            rows.append(_scalar(name, kinds))
    return [*rows, ("global_scratch", "null", 8, 8, None), ("profile_scratch", "null", 8, 8, None)]


def _scalar(name: str, kind: str) -> _Row:
    if kind.startswith("*"):
        return name, "pointer", 8, 8, None
    return name, kind, SIZES[kind], SIZES[kind], None


def _descriptor(name: str, kind: str, metadata: dict[str, Any]) -> list[_Row]:
    """A host descriptor arrives as the 128-byte tensor map, then its shape (i32) and its strides (i64)."""
    box = re.search(r"\[(.*?)\]", kind)
    rank = len(box.group(1).split(",")) if box else 0
    recipe = dict(metadata)
    recipe["elem_type"] = _HOST_ELEMENT_TYPE.get(metadata["elem_type"], metadata["elem_type"])
    rows: list[_Row] = [(name, "tensor_map", 128, 64, recipe)]
    rows += [(f"{name}.shape[{d}]", "i32", 4, 4, None) for d in range(rank)]
    return rows + [(f"{name}.stride[{d}]", "i64", 8, 8, None) for d in range(rank)]
