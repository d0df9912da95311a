"""Compile the kernels for a GPU that is not there, and name the compiles that the tests and the README look at.

Triton needs no driver to make machine code for a given target. What this proves: that each kernel compiles for each
chip, which instructions it uses, how many registers and how much shared memory. What it cannot prove: any time, and
that TMA transfers and barriers behave at run time.

    python -m vlcompress.kernels.aot            the table of machine-code facts, in Markdown
    python -m vlcompress.kernels.aot --json     the same as JSON
    python -m vlcompress.kernels.aot --readme   writes the table into README.md, between its markers
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vlcompress.kernels import triton_gradient, triton_pieces, triton_pointer, triton_tma
from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.machine_code import MachineCode, read_machine_code
from vlcompress.kernels.triton_epilogue import activation_code

README = Path(__file__).parent / "README.md"
MARKERS = ("<!-- facts: begin -->", "<!-- facts: end -->")
CUTS = "cuts_ptr"
TRITON_TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Build:
    """One kernel with everything that its machine code depends on, save the chip.

    Attributes:
        kernel: the @triton.jit function.
        signature: run-time parameters in order, each with its Triton type.
        constexprs: the compile-time parameters.
        divisible: scalar parameters that are multiples of 16, as the launcher would find.
    """

    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    warps: int
    stages: int
    divisible: frozenset[str] = field(default_factory=frozenset)


def stream_tma(
    block: tuple[int, int],
    block_m: int,
    warps: int,
    stages: int,
    activation: str = "none",
    transposed: bool = False,
    dtype: torch.dtype = torch.bfloat16,
    residual: bool = False,
    splits: bool = False,
) -> Build:
    """The TMA stream kernel over (R, C) blocks."""
    (height, width), name = block, TRITON_TYPES[dtype]
    out, red = (width, height) if transposed else (height, width)
    signature = {
        "x_desc": f"tensordesc<{name}[{block_m},{red}]>",
        "values_desc": f"tensordesc<{name}[{height},{width}]>",
        "walk_ptr": "*i64",
        "cuts_ptr": "*i32",
        "bias_ptr": f"*{name}",
        "residual_ptr": f"*{name}",
        "y_desc": f"tensordesc<{name}[{block_m},{out}]>",
        "partial_ptr": "*fp32",
    } | dict.fromkeys(("entries", "parts", "group", "M", "stride_rm"), "i32")
    constexprs = {"BLOCK_M": block_m, "OUT": out, "RED": red, "TRANSPOSED": transposed, "STAGES": stages}
    constexprs |= _epilogue(activation, dtype, residual) | {"PRECISION": "tf32", "SPLITS_OUTPUTS": splits}
    return Build(triton_tma.stream_tma, signature, constexprs, warps, stages, frozenset({"stride_rm"}))


def stream_pointer(
    block: tuple[int, int],
    block_m: int,
    warps: int,
    stages: int,
    activation: str = "none",
    transposed: bool = False,
    dtype: torch.dtype = torch.bfloat16,
    even_m: bool = True,
    swapped: bool = False,
    splits: bool = False,
) -> Build:
    """The pointer stream kernel over (R, C) blocks; swapped for few rows."""
    name = TRITON_TYPES[dtype]
    pointers = {"x": name, "values": name, "walk": "i64", "cuts": "i32", "bias": name, "residual": name, "y": name}
    signature = {f"{what}_ptr": f"*{kind}" for what, kind in pointers.items()}
    signature |= {"partial_ptr": "*fp32"}
    signature |= dict.fromkeys(("entries", "parts", "group", "M", "N", "stride_xm", "stride_rm", "nnz"), "i32")
    constexprs = {"BLOCK_M": block_m, "EVEN_M": even_m, "PRECISION": "tf32", "STAGES": stages}
    constexprs |= _sides(block, transposed) | _epilogue(activation, dtype, residual=False)
    constexprs |= {"SWAPPED": swapped, "SPLITS_OUTPUTS": splits}
    divisible = frozenset({"N", "stride_xm", "stride_rm"})
    return Build(triton_pointer.stream_pointer, signature, constexprs, warps, stages, divisible)


def add_pieces(out: int, block_m: int, activation: str = "none", dtype: torch.dtype = torch.bfloat16) -> Build:
    """The kernel that adds the pieces of split outputs, `out` wide."""
    name = TRITON_TYPES[dtype]
    pointers = {"walk": "i64", "partial": "fp32", "bias": name, "residual": name, "y": name}
    signature = {f"{what}_ptr": f"*{kind}" for what, kind in pointers.items()}
    signature |= dict.fromkeys(("entries", "parts", "M", "N", "stride_rm"), "i32")
    constexprs = {"BLOCK_M": block_m, "OUT": out} | _epilogue(activation, dtype, residual=True)
    return Build(triton_pieces.add_pieces, signature, constexprs, 4, 1, frozenset({"N", "stride_rm"}))


def values_gradient(block: tuple[int, int], split: int = 2, dtype: torch.dtype = torch.bfloat16) -> Build:
    """The kernel of dW."""
    name = TRITON_TYPES[dtype]
    signature: dict[str, str] = {
        "dy_ptr": f"*{name}",
        "x_ptr": f"*{name}",
        "row_ptr": "*i32",
        "col_ptr": "*i32",
        "partial_ptr": "*fp32",
    } | dict.fromkeys(("M", "nnz", "stride_dym", "stride_xm"), "i32")
    constexprs = {"SPLIT": split, "BLOCK_T": 64, "R": block[0], "C": block[1], "PRECISION": "tf32", "STAGES": 3}
    divisible = frozenset({"stride_dym", "stride_xm"})
    return Build(triton_gradient.values_gradient, signature, constexprs, 4, 3, divisible)


def compile_for(build: Build, arch: int) -> Any:
    """Triton's compiled kernel for compute capability ``arch`` / 10, with its cubin, PTX and metadata.

    Raises:
        KernelInputError: the kernels were imported for the interpreter, which cannot compile.
    """
    if not isinstance(build.kernel, triton.runtime.jit.JITFunction):
        raise KernelInputError("cannot compile while TRITON_INTERPRET is set: unset it in this process")
    names = build.kernel.arg_names
    signature = {name: build.signature.get(name, "constexpr") for name in names}
    source = ASTSource(build.kernel, signature, dict(build.constexprs), _alignment(build, names))
    options = {"num_warps": build.warps, "num_stages": build.stages}
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def _alignment(build: Build, names: list[str]) -> dict[tuple[int, ...], list[list[Any]]]:
    """Which parameters are multiples of 16. Without these marks no 16-byte load is generated."""
    marks: dict[tuple[int, ...], list[list[Any]]] = {}
    for position, name in enumerate(names):
        # Cuts are read from the middle of a tensor, so they are aligned to nothing.
        pointer = build.signature.get(name, "").startswith("*")
        if (pointer and name != CUTS) or name in build.divisible:
            marks[(position,)] = [["tt.divisibility", 16]]
    return marks


def _epilogue(activation: str, dtype: torch.dtype, residual: bool) -> dict[str, Any]:
    code = activation_code(activation, dtype)
    hardware = dtype != torch.float32
    return {"HAS_BIAS": True, "HAS_RESIDUAL": residual, "ACTIVATION": code, "HARDWARE_TANH": hardware}


def _sides(block: tuple[int, int], transposed: bool) -> dict[str, int]:
    height, width = block
    if transposed:
        return {"OUT": width, "RED": height, "STRIDE_OUT": 1, "STRIDE_RED": width}
    return {"OUT": height, "RED": width, "STRIDE_OUT": width, "STRIDE_RED": 1}


CASES: dict[str, tuple[int, Build]] = {
    "sm_90 TMA 64x64, 128 rows, GELU": (90, stream_tma((64, 64), 128, 4, 4, "gelu")),
    "sm_90 TMA 64x64, 64 rows, GELU": (90, stream_tma((64, 64), 64, 4, 4, "gelu")),
    "sm_90 TMA 128x64, 128 rows, GELU": (90, stream_tma((128, 64), 128, 8, 4, "gelu")),
    "sm_90 TMA 64x64, 128 rows, residual": (90, stream_tma((64, 64), 128, 4, 4, residual=True)),
    "sm_90 TMA 32x32, 128 rows": (90, stream_tma((32, 32), 128, 4, 4)),
    "sm_90 TMA 64x64, 128 rows, fp32 with erf": (90, stream_tma((64, 64), 128, 4, 3, "gelu", dtype=torch.float32)),
    "sm_90 TMA 64x64, 128 rows, dX": (90, stream_tma((64, 64), 128, 4, 4, transposed=True)),
    "sm_90 pointer 64x64, 64 rows": (90, stream_pointer((64, 64), 64, 4, 4, "gelu")),
    "sm_90 TMA 64x64, 64 rows, GELU, outputs split": (90, stream_tma((64, 64), 64, 4, 4, "gelu", splits=True)),
    "sm_90 TMA 128x64, 64 rows, GELU, outputs split": (90, stream_tma((128, 64), 64, 8, 4, "gelu", splits=True)),
    "sm_90 adding pieces, 64 rows": (90, add_pieces(64, 64, "gelu")),
    "sm_90 few rows 64x64, 32 rows": (90, stream_pointer((64, 64), 32, 4, 4, even_m=False, swapped=True, splits=True)),
    "sm_90 dW 64x64": (90, values_gradient((64, 64))),
    "sm_80 pointer 64x64, 128 rows, GELU": (80, stream_pointer((64, 64), 128, 4, 4, "gelu")),
    "sm_80 pointer 32x32, 64 rows, ragged": (80, stream_pointer((32, 32), 64, 4, 4, even_m=False)),
    "sm_80 pointer 64x64, 64 rows, outputs split": (80, stream_pointer((64, 64), 64, 4, 4, splits=True)),
    "sm_80 few rows 64x64, 32 rows": (80, stream_pointer((64, 64), 32, 4, 4, even_m=False, swapped=True, splits=True)),
    "sm_80 dW 64x64": (80, values_gradient((64, 64))),
    "sm_100 TMA 64x64, 128 rows, GELU": (100, stream_tma((64, 64), 128, 4, 4, "gelu")),
    "sm_100 TMA 64x64, 64 rows, GELU, outputs split": (100, stream_tma((64, 64), 64, 4, 4, "gelu", splits=True)),
    "sm_100 TMA 128x64, 128 rows, GELU": (100, stream_tma((128, 64), 128, 8, 4, "gelu")),
}


def facts() -> dict[str, MachineCode]:
    """The machine-code facts of every case."""
    return {name: read_machine_code(compile_for(build, arch)) for name, (arch, build) in CASES.items()}


def table(found: Mapping[str, MachineCode]) -> str:
    """The facts in Markdown."""
    heads = (
        "kernel",
        "matrix instruction",
        "ring",
        "TMA loads",
        "cp.async",
        "registers",
        "spilled bytes",
        "shared bytes",
    )
    lines = [f"Triton {triton.__version__}.", "", "| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for name, code in found.items():
        cells = [name, ", ".join(code.matrix), code.ring, code.tma_loads, code.async_copies]
        cells += [code.registers, code.spilled_bytes, code.shared_bytes]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def write_readme(text: str) -> None:
    """Put the table between the README's markers."""
    before, rest = README.read_text().split(MARKERS[0])
    _, after = rest.split(MARKERS[1])
    README.write_text(f"{before}{MARKERS[0]}\n{text}\n{MARKERS[1]}{after}")


def main(arguments: list[str]) -> None:
    """The command line of this module."""
    found = facts()
    if "--json" in arguments:
        print(json.dumps({"triton": triton.__version__, "facts": {k: asdict(v) for k, v in found.items()}}))
    elif "--readme" in arguments:
        write_readme(table(found))
    else:
        print(table(found))


if __name__ == "__main__":
    main(sys.argv[1:])
