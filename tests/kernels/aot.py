"""Compile the kernels for a GPU that is not there, and name the compiles that the tests and the README look at.

Triton needs no driver to make machine code for a given target. What this proves: that each kernel compiles for each
chip, which instructions it uses, how many registers and how much shared memory. What it cannot prove: any time, and
that TMA transfers and barriers behave at run time.

    python -m tests.kernels.aot            the table of machine-code facts, in Markdown
    python -m tests.kernels.aot --json     the same as JSON
    python -m tests.kernels.aot --readme   writes the table into README.md, between its markers
    python -m tests.kernels.aot --all [N]  every (N-th) configuration of all tables and rules, and what is wrong
"""

import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tests.kernels.machine_code import (
    MachineCode,
    matrix_instructions,
    read_machine_code,
    registers_and_spills,
    unfenced_products,
)
from vlcompress.kernels import configs, triton_gradient, triton_pieces, triton_pointer, triton_tma
from vlcompress.kernels.configs import KernelConfig
from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.formats import TRITON_DTYPES
from vlcompress.kernels.launch import UNFENCED
from vlcompress.kernels.triton_epilogue import activation_code
from vlcompress.kernels.work_list import BLOCK_SIDES

README = Path(__file__).parents[2] / "kernels" / "README.md"
MARKERS = ("<!-- facts: begin -->", "<!-- facts: end -->")
CUTS = "cuts_ptr"


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


def product_tma(
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
    """The TMA work list kernel over (R, C) blocks."""
    (height, width), name = block, TRITON_DTYPES[dtype]
    out, red = (width, height) if transposed else (height, width)
    signature = {
        "x_desc": f"tensordesc<{name}[{block_m},{red}]>",
        "values_desc": f"tensordesc<{name}[{height},{width}]>",
        "steps_ptr": "*i64",
        "cuts_ptr": "*i32",
        "bias_ptr": f"*{name}",
        "residual_ptr": f"*{name}",
        "y_desc": f"tensordesc<{name}[{block_m},{out}]>",
        "partial_ptr": "*fp32",
    } | dict.fromkeys(("entries", "parts", "group", "M", "stride_rm"), "i32")
    constexprs = {"BLOCK_M": block_m, "OUT": out, "RED": red, "TRANSPOSED": transposed, "STAGES": stages}
    constexprs |= _epilogue(activation, dtype, residual) | {"PRECISION": "tf32", "SPLITS_OUTPUTS": splits}
    return Build(triton_tma.product_tma, signature, constexprs, warps, stages, frozenset({"stride_rm"}))


def product_pointer(
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
    """The pointer work list kernel over (R, C) blocks; swapped for few rows."""
    name = TRITON_DTYPES[dtype]
    pointers = {"x": name, "values": name, "steps": "i64", "cuts": "i32", "bias": name, "residual": name, "y": name}
    signature = {f"{what}_ptr": f"*{kind}" for what, kind in pointers.items()}
    signature |= {"partial_ptr": "*fp32"}
    signature |= dict.fromkeys(("entries", "parts", "group", "M", "N", "stride_xm", "stride_rm", "nnz"), "i32")
    constexprs = {"BLOCK_M": block_m, "EVEN_M": even_m, "PRECISION": "tf32", "STAGES": stages}
    constexprs |= _sides(block, transposed) | _epilogue(activation, dtype, residual=False)
    constexprs |= {"SWAPPED": swapped, "SPLITS_OUTPUTS": splits}
    divisible = frozenset({"N", "stride_xm", "stride_rm"})
    return Build(triton_pointer.product_pointer, signature, constexprs, warps, stages, divisible)


def add_pieces(out: int, block_m: int, activation: str = "none", dtype: torch.dtype = torch.bfloat16) -> Build:
    """The kernel that adds the pieces of split outputs, `out` wide."""
    name = TRITON_DTYPES[dtype]
    pointers = {"steps": "i64", "partial": "fp32", "bias": name, "residual": name, "y": name}
    signature = {f"{what}_ptr": f"*{kind}" for what, kind in pointers.items()}
    signature |= dict.fromkeys(("entries", "parts", "M", "N", "stride_rm"), "i32")
    constexprs = {"BLOCK_M": block_m, "OUT": out} | _epilogue(activation, dtype, residual=True)
    return Build(triton_pieces.add_pieces, signature, constexprs, 4, 1, frozenset({"N", "stride_rm"}))


def values_gradient(block: tuple[int, int], split: int = 2, dtype: torch.dtype = torch.bfloat16) -> Build:
    """The kernel of dW."""
    name = TRITON_DTYPES[dtype]
    signature: dict[str, str] = {
        "dy_ptr": f"*{name}",
        "x_ptr": f"*{name}",
        "row_ptr": "*i32",
        "col_ptr": "*i32",
        "partial_ptr": "*fp32",
    } | dict.fromkeys(("M", "nnz", "stride_dym", "stride_xm"), "i32")
    large = block[0] * block[1] > 8192
    tile = {"BLOCK_T": 32 if large else 64, "R": block[0], "C": block[1]}
    constexprs = {"SPLIT": split, "PRECISION": "tf32", "STAGES": 3} | tile
    divisible = frozenset({"stride_dym", "stride_xm"})
    return Build(triton_gradient.values_gradient, signature, constexprs, 8 if large else 4, 3, divisible)


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


def exactly(arch: int, build: Build) -> Build:
    """Return a build of fp32 as it is multiplied where torch does not allow TF32."""
    return replace(build, constexprs={**build.constexprs, "PRECISION": "ieee" if arch == 80 else "tf32x3"})


CASES: dict[str, tuple[int, Build]] = {
    "sm_90 TMA 64x64, 128 rows, GELU": (90, product_tma((64, 64), 128, 4, 4, "gelu")),
    "sm_90 TMA 64x64, 64 rows, GELU": (90, product_tma((64, 64), 64, 4, 4, "gelu")),
    "sm_90 TMA 128x64, 128 rows, GELU": (90, product_tma((128, 64), 128, 8, 4, "gelu")),
    "sm_90 TMA 64x64, 128 rows, residual": (90, product_tma((64, 64), 128, 4, 4, residual=True)),
    "sm_90 TMA 32x32, 128 rows": (90, product_tma((32, 32), 128, 4, 4)),
    "sm_90 TMA 64x64, 64 rows, fp32 in three TF32": (
        90,
        exactly(90, product_tma((64, 64), 64, 4, 3, "gelu", dtype=torch.float32)),
    ),
    "sm_90 TMA 64x64, 128 rows, fp32 with erf": (90, product_tma((64, 64), 128, 4, 3, "gelu", dtype=torch.float32)),
    "sm_90 TMA 64x64, 128 rows, dX": (90, product_tma((64, 64), 128, 4, 4, transposed=True)),
    "sm_90 pointer 64x64, 64 rows": (90, product_pointer((64, 64), 64, 4, 4, "gelu")),
    "sm_90 TMA 64x64, 64 rows, GELU, outputs split": (90, product_tma((64, 64), 64, 4, 4, "gelu", splits=True)),
    "sm_90 TMA 128x64, 64 rows, GELU, outputs split": (90, product_tma((128, 64), 64, 8, 4, "gelu", splits=True)),
    "sm_90 adding pieces, 64 rows": (90, add_pieces(64, 64, "gelu")),
    "sm_90 few rows 64x64, 32 rows": (90, product_pointer((64, 64), 32, 4, 4, even_m=False, swapped=True, splits=True)),
    "sm_90 dW 64x64": (90, values_gradient((64, 64))),
    "sm_80 pointer 64x64, 128 rows, GELU": (80, product_pointer((64, 64), 128, 4, 4, "gelu")),
    "sm_80 pointer 32x32, 64 rows, ragged": (80, product_pointer((32, 32), 64, 4, 4, even_m=False)),
    "sm_80 pointer 64x64, 64 rows, outputs split": (80, product_pointer((64, 64), 64, 4, 4, splits=True)),
    "sm_80 few rows 64x64, 32 rows": (80, product_pointer((64, 64), 32, 4, 4, even_m=False, swapped=True, splits=True)),
    "sm_80 dW 64x64": (80, values_gradient((64, 64))),
    "sm_100 TMA 64x64, 128 rows, GELU": (100, product_tma((64, 64), 128, 4, 4, "gelu")),
    "sm_100 TMA 64x64, 64 rows, GELU, outputs split": (100, product_tma((64, 64), 64, 4, 4, "gelu", splits=True)),
    "sm_100 TMA 128x64, 128 rows, GELU": (100, product_tma((128, 64), 128, 8, 4, "gelu")),
}


def as_launched(arch: int, build: Build) -> Build:
    """Return a build as this Triton's launcher would start it: with one stage where copies would not be fenced."""
    by_pointers = build.kernel in (triton_pointer.product_pointer, triton_gradient.values_gradient)
    if not (UNFENCED and by_pointers and arch >= 90):
        return build
    return replace(build, stages=1, constexprs={**build.constexprs, "STAGES": 1})


KINDS = ((torch.bfloat16, False), (torch.float16, False), (torch.float32, False), (torch.float32, True))
"""Every dtype, and whether float32 is multiplied exactly (no TF32)."""


def configurations(arch: str) -> dict[str, Build]:
    """Return every build that the rules of an arch can lead to, by what it is.

    That is: each block, dtype and precision; forward with bias and GELU, the heaviest epilogue that layers use, and dX;
    outputs whole and split; by TMA, and by pointers where X is not aligned for it; and dW.
    """
    found, number = {}, int(arch.removeprefix("sm_"))
    for block, kind in itertools.product(itertools.product(BLOCK_SIDES, BLOCK_SIDES), KINDS):
        dtype, exact = kind
        if exact and configs.no_exact_because(arch, block) is not None:
            continue
        builds = dict(_products(arch, block, dtype, exact)) | {"dW": values_gradient(block, dtype=dtype)}
        for what, build in builds.items():
            name = f"{arch} {block[0]}x{block[1]}, {'exact' if exact else TRITON_DTYPES[dtype]}, {what}"
            found[name] = as_launched(number, exactly(number, build) if exact else build)
    return found


def _products(arch: str, block: tuple[int, int], dtype: torch.dtype, exact: bool) -> Iterator[tuple[str, Build]]:
    """Yield the products whose step multiplies by a tile [RED, OUT] with these (OUT, RED) sides."""
    for config, splits, transposed in itertools.product(_choices(arch, block), (False, True), (False, True)):
        config = configs.exact(config, block) if exact else config
        config = configs.fit(config, block, dtype.itemsize, configs.SHARED_BYTES[arch])
        config = configs.for_pieces(config, block) if splits else config
        tile = (block[::-1] if transposed else block, config.block_m, config.warps, config.stages)
        activation = "none" if transposed else "gelu"
        if config.kernel == "tma":
            build = product_tma(*tile, activation, transposed, dtype, splits=splits)
        else:
            swapped = config.kernel == "small"
            build = product_pointer(*tile, activation, transposed, dtype, False, swapped, splits)
        shape = f"{config.kernel} {config.block_m} rows, {config.warps} warps, {config.stages} stages"
        yield shape + transposed * ", dX" + splits * ", split", build


def _choices(arch: str, block: tuple[int, int]) -> list[KernelConfig]:
    """What the rule of thumb says for a block on an arch, and the stand-ins where TMA cannot read X."""
    chosen = {
        configs.rule_of_thumb(arch, block, m) for m in (16, configs.SMALL_M, configs.MEDIUM_M - 1, configs.MEDIUM_M)
    }
    return sorted(chosen | {replace(each, kernel="pointer") for each in chosen if each.kernel == "tma"}, key=str)


def what_is_wrong(arch: str, build: Build) -> str | None:
    """Compile a build; return what its machine code does that it must not do, None where all is well."""
    compiled = compile_for(build, int(arch.removeprefix("sm_")))
    spilled, shared = registers_and_spills(compiled)[1], int(compiled.metadata.shared)
    unit, matrix = _matrix_unit(arch, build), matrix_instructions(compiled.asm["ptx"])
    checks = {
        f"{spilled} bytes spilled": spilled > 0,
        f"{shared} bytes of shared memory": shared > configs.SHARED_BYTES[arch],
        "products not fenced": unfenced_products(compiled.asm["ptx"]) > 0,
        f"{matrix} for {unit}": unit is not None and not all(name.startswith(unit) for name in matrix or ("none",)),
    }
    return "; ".join(what for what, wrong in checks.items() if wrong) or None


def _matrix_unit(arch: str, build: Build) -> str | None:
    """The matrix instruction that a build should use; None where it has no choice but to do without the newest."""
    known = build.constexprs
    rows = known["OUT" if known.get("SWAPPED") else "BLOCK_M"] if "BLOCK_M" in known else known["R"]
    if known["PRECISION"] == "ieee" or (arch != "sm_80" and rows < 64):
        return None
    return {"sm_80": "mma.sync", "sm_90": "wgmma", "sm_100": "tcgen05"}[arch]


def check_all(every: int = 1) -> dict[str, str]:
    """Compile every n-th configuration of every arch; return what is wrong, by configuration."""
    wrong = {}
    for arch in configs.ARCHS:
        for name, build in itertools.islice(configurations(arch).items(), 0, None, every):
            what = what_is_wrong(arch, build)
            if what is not None:
                print(f"{name}: {what}", file=sys.stderr, flush=True)
                wrong[name] = what
    return wrong


def facts() -> dict[str, MachineCode]:
    """The machine-code facts of every case."""
    return {
        name: read_machine_code(compile_for(as_launched(arch, build), arch)) for name, (arch, build) in CASES.items()
    }


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
    if "--all" in arguments:
        every = int(arguments[-1]) if arguments[-1].isdigit() else 1
        print(json.dumps(check_all(every), indent=1))
        return
    found = facts()
    if "--json" in arguments:
        print(json.dumps({"triton": triton.__version__, "facts": {k: asdict(v) for k, v in found.items()}}))
    elif "--readme" in arguments:
        write_readme(table(found))
    else:
        print(table(found))


if __name__ == "__main__":
    main(sys.argv[1:])
