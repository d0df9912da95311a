"""Read what a compiled kernel is made of: its registers, its memory and the instructions that decide its speed.

The numbers come from Triton's intermediate code, from the PTX, and from the disassembler that Triton ships.
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

_MATRIX = r"wgmma\.mma_async\.sync\.aligned\.(m\d+n\d+k\d+)|mma\.sync\.aligned\.(m\d+n\d+k\d+)|(tcgen05\.mma)"


@dataclass(frozen=True)
class MachineCode:
    """Facts of one compiled kernel.

    Attributes:
        matrix: the matrix instructions, such as "wgmma m64n64k16", "mma.sync m16n8k16" or "tcgen05.mma".
        ring: tiles of X in flight: the depth of the software pipeline that shared memory was reserved for.
        tma_loads: tile loads by the copy engine (UTMALDG) in the code.
        async_copies: asynchronous 16-byte copies (LDGSTS) in the code.
        unfenced: products that may read a tile in shared memory before it has arrived (see `unfenced_products`).
        waits: outstanding wgmma groups that the code waits for; 1 means that a product overlaps the next loads.
        registers: registers a thread.
        spilled_bytes: stack and local memory a thread.
        shared_bytes: shared memory a program.
    """

    matrix: tuple[str, ...]
    ring: int
    tma_loads: int
    async_copies: int
    unfenced: int
    waits: tuple[int, ...]
    registers: int
    spilled_bytes: int
    shared_bytes: int


def read_machine_code(compiled: Any) -> MachineCode:
    """The facts of a kernel that ``triton.compile`` made."""
    ptx = compiled.asm["ptx"]
    machine = disassemble(compiled.asm["cubin"], "-sass")
    registers, spilled_bytes = registers_and_spills(compiled)
    return MachineCode(
        matrix=matrix_instructions(ptx),
        ring=ring_depth(compiled.asm["ttgir"]),
        tma_loads=len(re.findall(r"\bUTMALDG\b", machine)),
        async_copies=len(re.findall(r"\bLDGSTS\b", machine)),
        unfenced=unfenced_products(ptx),
        waits=tuple(sorted({int(n) for n in re.findall(r"wgmma\.wait_group\.sync\.aligned (\d+)", ptx)})),
        registers=registers,
        spilled_bytes=spilled_bytes,
        shared_bytes=int(compiled.metadata.shared),
    )


def registers_and_spills(compiled: Any) -> tuple[int, int]:
    """Return registers a thread, and bytes a thread of stack and local memory."""
    usage = disassemble(compiled.asm["cubin"], "-res-usage")
    registers, stack, local = (int(_find(rf"{what}:(\d+)", usage)) for what in ("REG", "STACK", "LOCAL"))
    return registers, stack + local


def unfenced_products(ptx: str) -> int:
    """Count the wgmma and tcgen05 products that follow a store or cp.async to shared memory with no fence in between.

    These units read shared memory through the asynchronous proxy: what other instructions wrote there is theirs to see
    only after ``fence.proxy.async``. What TMA wrote needs none, nor does mma.sync. The text is read from top to bottom:
    Triton lays a loop's body out in the order in which it runs.
    """
    unfenced, written = 0, False
    for line in ptx.splitlines():
        if "cp.async.wait_group" in line or "st.shared" in line:
            written = True
        elif "fence.proxy.async" in line:
            written = False
        elif "wgmma.mma_async" in line or "tcgen05.mma" in line:
            unfenced += written
    return unfenced


def matrix_instructions(ptx: str) -> tuple[str, ...]:
    """The distinct matrix instructions of a PTX text."""
    names = set()
    for wgmma, mma, tensor_core in re.findall(_MATRIX, ptx):
        names.add(f"wgmma {wgmma}" if wgmma else f"mma.sync {mma}" if mma else tensor_core)
    return tuple(sorted(names))


def ring_depth(ttgir: str) -> int:
    """The depth of the deepest ring of two-dimensional tiles in shared memory; 1 where nothing is pipelined."""
    rings = re.findall(r"ttg\.local_alloc\s*(?:\{[^}]*\}\s*)?: \(\) -> !ttg\.memdesc<(\d+)x\d+x\d+x", ttgir)
    return max((int(depth) for depth in rings), default=1)


def disassemble(cubin: bytes, option: str) -> str:
    """The output of cuobjdump for one cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        result = subprocess.run([TOOLS / "cuobjdump", option, file.name], capture_output=True, text=True, check=True)
    return result.stdout + result.stderr


def _find(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"the disassembler's output has no {pattern}")
    return match.group(1)
