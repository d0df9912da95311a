"""Verification samples: a few real inputs beside an exported file, with the scores that it gave where it was checked.

With them a copied folder is checked without its run and without torch, by `vlcompress verify FOLDER` and by a server
when it starts: another processor, runtime or provider may round otherwise, or be at fault.
"""

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlcompress.artefacts import disk_errors
from vlcompress.errors import VlcompressError
from vlcompress.export.parity import Floats, Parity, Precision, compare_scores, repeated, require

FILE = "verification.npz"
ROWS = 4
"""Rows of the samples: enough to tell a fault, and no burden beside the weights."""

_INPUT, _EXPECTED = "inputs/", "expected"

Arrays = Mapping[str, NDArray[Any]]
Answer = Callable[[Arrays], NDArray[Any]]
"""Runs a file: from its inputs to its scores."""


@dataclass(frozen=True)
class Samples:
    """Inputs of a file by name, `ROWS` rows or fewer, and the scores that it gave for them, float32."""

    inputs: Arrays
    expected: Floats


def write_samples(folder: Path, inputs: Arrays, answer: Answer) -> None:
    """Keep the first rows of real inputs, and what the file answers to them, in `FILE`.

    Args:
        folder: of the exported file.
        inputs: of one batch; the two rows of a statement about two images lie side by side.
        answer: runs the file.
    """
    few = {name: array[:ROWS] for name, array in inputs.items()}
    arrays: dict[str, Any] = {f"{_INPUT}{name}": array for name, array in few.items()}
    with disk_errors(folder):
        np.savez_compressed(folder / FILE, **{_EXPECTED: answer(few), **arrays})


def read_samples(folder: Path) -> Samples | None:
    """Read a folder's samples; None where it has none (it was exported before they were kept).

    Raises:
        VlcompressError: a file that is no such archive of arrays.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        inputs = {name.removeprefix(_INPUT): array for name, array in arrays.items() if name.startswith(_INPUT)}
        return Samples(inputs, arrays[_EXPECTED])
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise VlcompressError(f"'{path}' holds no verification samples ({error}): export the model again") from error


def check_samples(samples: Samples, answer: Answer, precision: Precision, provider: str) -> Parity:
    """Compare what a file answers here with what it answered where it was exported.

    Args:
        samples: of the file.
        answer: runs it.
        precision: of the file.
        provider: it runs on, as `vlcompress.export.providers` spells it.

    Raises:
        VerificationError: the scores differ by more than rounding.
    """
    found = compare_scores([samples.expected], [answer(samples.inputs)])
    failure = "the file answers otherwise here than where it was exported: export it on this machine, or in fp32"
    require(found, failure, repeated(precision, provider))
    return found
