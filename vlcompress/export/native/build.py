"""Compiling the native kernel with the system's compiler, into a folder of this user's cache.

Every instruction set is in the library, and the processor decides at run time. A library is checked against NumPy
before it may be used: a wrong compiler flag or a processor that lies must not become wrong answers.
"""

import hashlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from vlcompress.artefacts import Json, seal, unseal, writing
from vlcompress.devices import cpu_facts
from vlcompress.errors import VlcompressError
from vlcompress.export.native.library import NativeLibrary, verify

SOURCES = Path(__file__).parent
HEADER = "onnxruntime_c_api.h"
LIBRARY = "libvlcompress.so"
RECORD = "build.json"

FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-Wall", "-Wextra", "-Wno-psabi")
"""-Wno-psabi: GCC remarks that vectors are passed differently without AVX; ours never leave a file."""

_COMMON_PLACES = ("/usr/include", "/usr/local/include", "/opt/homebrew/include")
_FOLDERS = ("", "onnxruntime", "onnxruntime/core/session", "include", "include/onnxruntime")


_AVX512 = ("-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma", "-mprefer-vector-width=512")
_VNNI = (*_AVX512, "-mavx512vnni", "-Wno-maybe-uninitialized")
"""GCC 12 takes its own _mm512_undefined_epi32 for a mistake."""

Unit = tuple[str, tuple[str, ...]]
"""One compilation: a source and its own flags. For inner loops: the name of the instruction set, float32 in a register
(LANES), and outputs that are summed side by side (AT_ONCE: with 3 registers of rows each, they fill the registers)."""

ANYWHERE: tuple[Unit, ...] = (
    ("block_sparse_linear.cpp", ()),
    ("pack.cpp", ()),
    ("plain.cpp", ()),
    ("processor.cpp", ()),
    ("step.cpp", ("-DSET=base", "-DLANES=4", "-DAT_ONCE=4")),
    ("step_int8.cpp", ("-DSET=base_int8", "-DLANES=4")),
)
X86: tuple[Unit, ...] = (
    ("step.cpp", ("-DSET=avx2", "-DLANES=8", "-DAT_ONCE=4", "-mavx2", "-mfma")),
    ("step.cpp", ("-DSET=avx512", "-DLANES=16", "-DAT_ONCE=8", *_AVX512)),
    ("step_bfloat16.cpp", ("-DSET=avx512_bf16", "-DLANES=16", *_AVX512, "-mavx512bf16")),
    ("step_bfloat16.cpp", ("-DSET=amx_bf16", "-DLANES=16", *_AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16")),
    ("step_int8.cpp", ("-DSET=avx2_int8", "-DLANES=8", "-mavx2", "-mfma")),
    ("step_int8.cpp", ("-DSET=avx512_int8", "-DLANES=16", *_VNNI)),
    ("step_int8.cpp", ("-DSET=amx_int8", "-DLANES=16", *_VNNI, "-mamx-tile", "-mamx-int8")),
)


@dataclass(frozen=True)
class Built:
    """A compiled library.

    Attributes:
        library: the shared object.
        compiler: first line of its --version.
        onnxruntime: whether it holds the operator for ONNX Runtime.
    """

    library: Path
    compiler: str
    onnxruntime: bool


def build(
    folder: Path | None = None, *, ort_include: Path | None = None, compiler: str = "c++", with_runtime: bool = True
) -> Built:
    """Compile the kernel, or give the library that the same compiler made of the same sources before.

    Args:
        folder: where to; `library_folder()` by default, where `open_session` finds it.
        ort_include: folder of ONNX Runtime's C header; looked for in the usual places by default.
        compiler: name or path of a C++17 compiler that takes GCC's options.
        with_runtime: make the operator for ONNX Runtime, which needs that header.

    Raises:
        VlcompressError: no compiler, no header, or sources that the compiler refuses (its first error is told).
        VerificationError: the library does not compute what NumPy does; it is not kept.
    """
    folder = folder or library_folder()
    found = _run([compiler, "--version"]).partition("\n")[0]
    before = built(folder)
    if before and before.compiler == found and before.onnxruntime >= with_runtime:
        return before
    headers = find_headers(ort_include) if with_runtime else None
    with writing(folder) as temporary:
        _compile(temporary / LIBRARY, compiler, headers)
        verify(NativeLibrary(temporary / LIBRARY))
        seal(temporary, RECORD, {"compiler": found, "onnxruntime": headers is not None})
    return Built(folder / LIBRARY, found, headers is not None)


def built(folder: Path | None = None) -> Built | None:
    """Find the library that was built from these sources for this processor; None if there is none or it is damaged."""
    folder = folder or library_folder()
    try:
        record = unseal(folder, RECORD)
    except VlcompressError:
        return None
    return Built(folder / LIBRARY, record["compiler"], record["onnxruntime"])


def describe(found: Built | None) -> Json:
    """Say what a library is, as JSON: "built", and if so "library", "compiler", "onnxruntime", "instruction_sets"."""
    if found is None:
        return {"built": False}
    sets = NativeLibrary(found.library).instruction_sets()
    return {"built": True, **asdict(found), "library": str(found.library), "instruction_sets": list(sets)}


def library_folder() -> Path:
    """Name the folder of this user's cache for these sources and this processor."""
    digest = hashlib.sha256(_processor().encode())
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in (".cpp", ".h") or path.name == "build.py":
            digest.update(path.name.encode() + path.read_bytes())
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "vlcompress" / f"native-{digest.hexdigest()[:16]}"


def find_headers(given: Path | None = None) -> Path:
    """Find the folder that holds ONNX Runtime's C header.

    Args:
        given: a folder to look in, and in the subfolders where packages put it; the usual places by default.

    Raises:
        VlcompressError: it is not there; how to get it is told.
    """
    places = [given] if given else [Path(place) for place in _places()]
    for place in places:
        for folder in _FOLDERS:
            if (place / folder / HEADER).is_file():
                return place / folder
    where = f"in '{given}'" if given else "in the usual places"
    raise VlcompressError(
        f"ONNX Runtime's C header '{HEADER}' is not {where}: install libonnxruntime-dev (Debian 13) or "
        "onnxruntime-cpp (conda), or unpack a release of ONNX Runtime and give its folder with --ort-include; without "
        "the library, exported files run with standard operators"
    )


def _places() -> list[str]:
    prefix = os.environ.get("CONDA_PREFIX")
    listed = os.environ.get("CPLUS_INCLUDE_PATH", "").split(os.pathsep)
    return [*filter(None, listed), *([f"{prefix}/include"] if prefix else []), *_COMMON_PLACES]


def _compile(library: Path, compiler: str, headers: Path | None) -> None:
    """Compile all sources, two at a time, and link them."""
    units = [*ANYWHERE, *(X86 if platform.machine() in ("x86_64", "AMD64") else ())]
    if headers is not None:
        units.append(("ort.cpp", ("-isystem", str(headers))))
    with tempfile.TemporaryDirectory() as objects, ThreadPoolExecutor(2) as pool:
        files = [f"{objects}/{number}.o" for number in range(len(units))]
        commands = [
            [compiler, *FLAGS, *flags, "-c", str(SOURCES / source), "-o", file]
            for (source, flags), file in zip(units, files, strict=True)
        ]
        list(pool.map(_run, commands))
        _run([compiler, "-shared", "-o", str(library), *files, "-pthread"])


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    except FileNotFoundError:
        raise VlcompressError(
            f"no compiler '{command[0]}': install one (for example the package g++) or name one with --compiler"
        ) from None
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "error" in line] or error.stderr.splitlines() or ["?"]
        raise VlcompressError(
            f"'{command[0]}' cannot compile the native kernel ({lines[0]}): use C++17, as of GCC 11 or Clang 12"
        ) from None
    return done.stdout


def _processor() -> str:
    """Describe the processor: what the library may use depends on it."""
    facts = cpu_facts()
    return " ".join([platform.machine(), *(facts[key] for key in ("Features", "flags", "model name") if key in facts)])
