"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) in both published versions; the Python one is read without unpickling.

Binary version: data_batch_{1..5}.bin, test_batch.bin, batches.meta.txt (10); train.bin, test.bin,
fine_label_names.txt (100). A record is one label byte (two for CIFAR-100: coarse, fine) and 3072 bytes of pixels, a
channel after the other. Python version: the same names without suffix, and batches.meta or meta.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlcompress.data.labelled.parts import Part, Published, checked, names_in
from vlcompress.data.pickles import read_pickle
from vlcompress.errors import VlcompressError

FOLDERS = ("cifar-10-batches-bin", "cifar-100-binary", "cifar-10-batches-py", "cifar-100-python")
"""What the archives unpack to."""

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


def find(folder: Path) -> Published | None:
    """Find CIFAR-10 or CIFAR-100 if the folder holds one of them in either version."""
    ten = [f"data_batch_{number}" for number in range(1, 6)]
    versions: tuple[tuple[str, str, dict[str, Sequence[str]], Callable[..., Part]], ...] = (
        ("cifar10", "batches.meta.txt", {"train": _bin(ten), "test": _bin(["test_batch"])}, partial(_binary, 10)),
        ("cifar100", "fine_label_names.txt", {"train": _bin(["train"]), "test": _bin(["test"])}, partial(_binary, 100)),
        ("cifar10", "batches.meta", {"train": ten, "test": ["test_batch"]}, partial(_pickled, 10)),
        ("cifar100", "meta", {"train": ["train"], "test": ["test"]}, partial(_pickled, 100)),
    )
    for name, meta, parts, read in versions:
        if (folder / meta).is_file():
            return Published(name, {part: partial(read, folder / meta, names) for part, names in parts.items()})
    return None


def _bin(names: Sequence[str]) -> list[str]:
    return [f"{name}.bin" for name in names]


def _binary(classes: int, meta: Path, names: Sequence[str]) -> Part:
    files = [meta.parent / name for name in names]
    labels = 1 if classes == 10 else 2
    records = np.concatenate([_records(file, labels + _PIXELS) for file in files])
    images = _planes(records[:, labels:])
    return checked(files, images, records[:, labels - 1].astype(np.int64), names_in(meta))


def _records(file: Path, width: int) -> NDArray[np.uint8]:
    try:
        content = np.fromfile(file, dtype=np.uint8)
    except OSError as error:
        raise VlcompressError(f"no file at '{file}': the data set is incomplete, download it again") from error
    if not len(content) or len(content) % width:
        raise VlcompressError(
            f"'{file}' has {len(content)} bytes, a multiple of {width} is expected: it is cut in record "
            f"{len(content) // width + 1}, or of another data set"
        )
    return content.reshape(-1, width)


def _pickled(classes: int, meta: Path, names: Sequence[str]) -> Part:
    files = [meta.parent / name for name in names]
    key = "labels" if classes == 10 else "fine_labels"
    batches = [_batch(file, key) for file in files]
    images = _planes(np.concatenate([data for data, _ in batches]))
    labels = np.concatenate([labels for _, labels in batches])
    return checked(files, images, labels, _class_names(meta, "label_names" if classes == 10 else "fine_label_names"))


def _batch(file: Path, key: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    content = read_pickle(file, arrays=True)
    fields = {_text(name): value for name, value in content.items()} if isinstance(content, dict) else {}
    data, labels = fields.get("data"), fields.get(key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (_PIXELS,):
        raise VlcompressError(f"'{file}' holds no 'data' of bytes [N, {_PIXELS}]: it is damaged or of another data set")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise VlcompressError(f"'{file}' holds no list '{key}': it is damaged or of another data set")
    if len(labels) != len(data):
        raise VlcompressError(f"'{file}': {len(labels)} labels for {len(data)} pictures: every picture needs one")
    return data, np.array(labels, dtype=np.int64)


def _class_names(meta: Path, key: str) -> tuple[str, ...]:
    content = read_pickle(meta)
    names = content.get(key) if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise VlcompressError(f"'{meta}' holds no list of '{key}': it is damaged or of another data set")
    return tuple(names)


def _text(name: object) -> str:
    return name.decode("latin-1") if isinstance(name, bytes) else str(name)


def _planes(flat: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return flat.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
