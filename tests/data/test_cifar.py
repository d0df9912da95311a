"""CIFAR's binary files are read to the byte, and a broken one of each kind is named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vlcompress.data.detect_layout import open_task
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


@pytest.mark.parametrize("write", [_cifar10, _cifar100])
def test_each_format_gives_its_pictures_and_labels(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    splits = ("train", "val", "trainval", "test")
    train, val, both, test = (open_task(tmp_path, "classification", [split]) for split in splits)
    assert [len(data.examples) for data in (train, val, both, test)] == [36, 4, 40, 6]
    assert (*train.examples, *val.examples) == both.examples
    assert [example.label for example in both.examples] == LABELS.tolist()
    assert [example.label for example in test.examples] == TEST_LABELS.tolist()
    for example, image in zip(both.examples, IMAGES, strict=True):
        assert np.array_equal(both.pictures.pixels(example.image), image)
    assert np.array_equal(test.pictures.pixels("test/5"), TEST[5])
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
    (tmp_path / "cifar-100-binary").mkdir()
    _cifar100(tmp_path / "cifar-100-binary")
    with pytest.raises(VlcompressError, match=r"several data sets, .*batches\.meta\.txt.* .*fine_label_names\.txt"):
        open_task(tmp_path, "classification", ["test"])


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


@pytest.mark.parametrize(
    ("write", "harm", "message"),
    [
        (_cifar10, _cut("test_batch.bin", 5), r"test_batch\.bin' has 18433 bytes.*cut in record 6"),
        (_cifar10, _without("test_batch.bin"), r"no file at '.*test_batch\.bin'"),
        (_cifar10, _overwrite("test_batch.bin", 3073, b"\x63"), r"test_batch\.bin', record 2: label 99 is none of 10"),
        (_cifar10, _overwrite("batches.meta.txt", 0, b"\n" * 80), r"batches\.meta\.txt' holds \d class names"),
        (_cifar100, _without("test.bin"), r"no file at '.*test\.bin'"),
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
