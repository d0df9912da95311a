"""Labelled pictures: each published format is read to the byte, and one broken file of each kind is named."""

import gzip
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vlcompress.data.detect_layout import open_task
from vlcompress.data.labelled import fashion_mnist
from vlcompress.errors import VlcompressError

Pixels = NDArray[np.uint8]
RNG = np.random.default_rng(0)


def _images(count: int, side: int = 32) -> Pixels:
    return RNG.integers(0, 256, (count, side, side, 3), dtype=np.uint8)


IMAGES, TEST = _images(40), _images(6)
LABELS, TEST_LABELS = np.arange(40) % 10, np.arange(6) % 10


def _planes(images: Pixels) -> Pixels:
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def _names(count: int) -> str:
    return "".join(f"class {index}\n" for index in range(count))


def _cifar10(folder: Path) -> None:
    for number in range(5):
        rows = slice(8 * number, 8 * number + 8)
        records = np.concatenate([LABELS[rows, None].astype(np.uint8), _planes(IMAGES[rows])], axis=1)
        records.tofile(folder / f"data_batch_{number + 1}.bin")
    np.concatenate([TEST_LABELS[:, None].astype(np.uint8), _planes(TEST)], axis=1).tofile(folder / "test_batch.bin")
    (folder / "batches.meta.txt").write_text(_names(10) + "\n")


def _cifar100(folder: Path) -> None:
    for name, labels, images in (("train", LABELS, IMAGES), ("test", TEST_LABELS, TEST)):
        both = np.stack([labels // 5, labels], axis=1).astype(np.uint8)
        np.concatenate([both, _planes(images)], axis=1).tofile(folder / f"{name}.bin")
    (folder / "fine_label_names.txt").write_text(_names(100))


def _cifar10_python(folder: Path) -> None:
    def batch(images: Pixels, labels: Any) -> dict[bytes, Any]:
        return {b"batch_label": b"x", b"labels": labels.tolist(), b"data": _planes(images), b"filenames": [b"a.png"]}

    for number in range(5):
        rows = slice(8 * number, 8 * number + 8)
        (folder / f"data_batch_{number + 1}").write_bytes(pickle.dumps(batch(IMAGES[rows], LABELS[rows]), protocol=2))
    (folder / "test_batch").write_bytes(pickle.dumps(batch(TEST, TEST_LABELS), protocol=2))
    meta = {"label_names": _names(10).split("\n")[:10], "num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))


def _cifar100_python(folder: Path) -> None:
    for name, labels, images in (("train", LABELS, IMAGES), ("test", TEST_LABELS, TEST)):
        content = {b"fine_labels": labels.tolist(), b"coarse_labels": labels.tolist(), b"data": _planes(images)}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    meta = {"fine_label_names": _names(100).split("\n")[:100], "coarse_label_names": ["a"]}
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))


def _element(kind: int, content: bytes, small: bool = False) -> bytes:
    if small:
        return struct.pack("<HH", kind, len(content)) + content.ljust(4, b"\0")
    return struct.pack("<II", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def _mat(path: Path, arrays: dict[str, NDArray[Any]], *, packed: bool = True) -> None:
    """Write MAT 5 as MATLAB does: doubles that are small whole numbers are stored as bytes."""
    content = b"MATLAB 5.0 MAT-file, made by a test".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    for name, array in arrays.items():
        classes = {"uint8": 9, "float64": 6}
        flags = _element(6, struct.pack("<II", classes[array.dtype.name], 0))
        shape = _element(5, np.array(array.shape, "<i4").tobytes())
        values = _element(2, array.astype(np.uint8).tobytes(order="F"))
        body = flags + shape + _element(1, name.encode(), small=len(name) <= 4) + values
        element = struct.pack("<II", 14, len(body)) + body
        squeezed = zlib.compress(element)
        content += struct.pack("<II", 15, len(squeezed)) + squeezed if packed else element
    path.write_bytes(content)


def _svhn(folder: Path) -> None:
    for part, images, labels in (("train", IMAGES, LABELS), ("test", TEST, TEST_LABELS)):
        digits = np.where(labels == 0, 10, labels)[:, None].astype(np.float64)
        _mat(folder / f"{part}_32x32.mat", {"X": images.transpose(1, 2, 3, 0), "y": digits}, packed=part == "train")


def _idx(path: Path, values: Pixels) -> None:
    content = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def _fashion(folder: Path) -> None:
    for prefix, images, labels, end in (("train", IMAGES, LABELS, ".gz"), ("t10k", TEST, TEST_LABELS, "")):
        _idx(folder / f"{prefix}-images-idx3-ubyte{end}", images[..., 0])
        _idx(folder / f"{prefix}-labels-idx1-ubyte{end}", labels.astype(np.uint8))


@pytest.mark.parametrize("write", [_cifar10, _cifar100, _cifar10_python, _cifar100_python, _svhn, _fashion])
def test_each_format_gives_its_pictures_and_labels(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    splits = ("train", "val", "trainval", "test")
    train, val, both, test = (open_task(tmp_path, "classification", [split]) for split in splits)
    assert [len(data.examples) for data in (train, val, both, test)] == [36, 4, 40, 6]
    assert (*train.examples, *val.examples) == both.examples
    assert [example.label for example in both.examples] == LABELS.tolist()
    assert [example.label for example in test.examples] == TEST_LABELS.tolist()
    expected, expected_test = (
        (np.repeat(images[..., :1], 3, axis=3) if write is _fashion else images) for images in (IMAGES, TEST)
    )
    for example, image in zip(both.examples, expected, strict=True):
        assert np.array_equal(both.pictures.pixels(example.image), image)
    assert np.array_equal(test.pictures.pixels("test/5"), expected_test[5])
    assert len(train.labels) == (100 if "100" in write.__name__ else 10)
    assert train.vocabulary is None
    assert train.identity == val.identity != test.identity


def test_the_folder_of_an_unpacked_archive_is_found(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-bin").mkdir()
    _cifar10(tmp_path / "cifar-10-batches-bin")
    assert len(open_task(tmp_path, "classification", ["test"]).examples) == 6


def test_two_data_sets_in_one_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-bin").mkdir()
    _cifar10(tmp_path / "cifar-10-batches-bin")
    _svhn(tmp_path)
    with pytest.raises(VlcompressError, match=r"several data sets, svhn .* cifar10"):
        open_task(tmp_path, "classification", ["test"])


def _tree(folder: Path, *, skip: str = "") -> None:
    for split, count in (("train", 3), ("val", 1)):
        for color, name in enumerate(("cat", "dog")):
            if f"{split}/{name}" != skip:
                (folder / split / name / "more").mkdir(parents=True)
                for index in range(count):
                    place = folder / split / name / ("more" if index else ".")
                    Image.new("RGB", (8, 6), (50 * color + index, 0, 0)).save(place / f"{index}.png")


def test_class_folders(tmp_path: Path) -> None:
    _tree(tmp_path)
    data = open_task(tmp_path, "classification", ["train", "val"])
    assert data.labels == ("cat", "dog")
    assert [example.label for example in data.examples] == [0, 0, 0, 1, 1, 1, 0, 1]
    assert data.examples[3].image == "train/dog/0.png"
    assert data.pictures.pixels("train/dog/more/2.png")[0, 0].tolist() == [52, 0, 0]
    assert data.pictures.pixels("train/dog/0.png").shape == (6, 8, 3)


def test_a_split_without_a_class_is_refused(tmp_path: Path) -> None:
    _tree(tmp_path, skip="val/dog")
    (tmp_path / "val" / "fox").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "val" / "fox" / "0.png")
    with pytest.raises(VlcompressError, match=r"has no class 'dog', another split has it"):
        open_task(tmp_path, "classification", ["val"])


def _cut(name: str, by: int) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) - by])

    return cut


def _overwrite(name: str, at: int, content: bytes) -> Callable[[Path], None]:
    def overwrite(folder: Path) -> None:
        old = (folder / name).read_bytes()
        (folder / name).write_bytes(old[:at] + content + old[at + len(content) :])

    return overwrite


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


class _Evil:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.folder / "executed",)


def _evil(folder: Path) -> None:
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": _Evil(folder)}, protocol=2))


MAT = "test_32x32.mat"
IDX = "t10k-images-idx3-ubyte"


@pytest.mark.parametrize(
    ("write", "harm", "message"),
    [
        (_cifar10, _cut("test_batch.bin", 5), r"test_batch\.bin' has 18433 bytes.*cut in record 6"),
        (_cifar10, _without("test_batch.bin"), r"no file at '.*test_batch\.bin'"),
        (_cifar10, _overwrite("test_batch.bin", 3073, b"\x63"), r"test_batch\.bin', record 2: label 99 is none of 10"),
        (_cifar10, _overwrite("batches.meta.txt", 0, b"\n" * 80), r"batches\.meta\.txt' holds \d class names"),
        (_cifar100, _without("test.bin"), r"no file at '.*test\.bin'"),
        (_cifar10_python, _cut("test_batch", 50), r"test_batch' is not a whole pickle"),
        (_cifar10_python, _evil, r"test_batch' is refused"),
        (_cifar100_python, _overwrite("test", 0, b"\x80\x02}q\x00."), r"holds no 'data' of bytes"),
        (_svhn, _cut(MAT, 30), r"test_32x32\.mat' is not a whole MAT file"),
        (_svhn, _overwrite(MAT, 124, b"\x00\x02"), r"test_32x32\.mat' is not a MAT file of version 5"),
        (_fashion, _cut(IDX, 9), r"t10k-images-idx3-ubyte' holds 6135 of the 6144 values"),
        (_fashion, _overwrite(IDX, 2, b"\x0d"), r"is not an IDX file of bytes with 3 axes"),
        (_fashion, _overwrite(IDX, 4, b"\xff" * 12), r"claims \d+ bytes of values, 1073741824 are allowed"),
        (_fashion, _without("t10k-labels-idx1-ubyte"), r"has no labels beside it: put t10k-labels-idx1-ubyte"),
    ],
)
def test_a_broken_file_is_named(
    write: Callable[[Path], None], harm: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    write(tmp_path)
    harm(tmp_path)
    with pytest.raises(VlcompressError, match=message) as caught:
        open_task(tmp_path, "classification", ["test"])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_a_gzip_file_that_is_cut_is_named(tmp_path: Path) -> None:
    _fashion(tmp_path)
    _cut("train-images-idx3-ubyte.gz", 40)(tmp_path)
    with pytest.raises(VlcompressError, match=r"\.gz' is not a readable IDX file"):
        open_task(tmp_path, "classification", ["train"])


def test_idx_limit_holds_for_what_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _idx(tmp_path / "x", np.zeros((3, 3), np.uint8))
    monkeypatch.setattr(fashion_mnist, "MOST_BYTES", 8)
    with pytest.raises(VlcompressError, match="claims 9 bytes"):
        fashion_mnist.read_idx(tmp_path / "x", axes=2)
