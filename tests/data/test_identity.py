"""Other bytes, other identity; and bytes that have been read are not read again to know it."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from vlcompress.data import identity
from vlcompress.data.detect_layout import open_task
from vlcompress.data.identity import files_identity

RAW = Path(__file__).parents[1] / "fixtures" / "data" / "raw"


def old(path: Path, seconds: float) -> None:
    """Let a file have been written so long ago."""
    time = path.stat().st_mtime - seconds
    os.utime(path, (time, time))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The files that are read for their hash, from an empty cache on."""
    read: list[Path] = []
    hashed = identity.file_sha256
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(identity, "file_sha256", lambda path: read.append(path) or hashed(path))
    return read


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "features.tsv"
    path.write_bytes(b"a" * 100)
    old(path, 60)
    return path


def test_a_file_is_read_once(file: Path, reads: list[Path]) -> None:
    first = files_identity(file.parent, [file, file])
    assert files_identity(file.parent, [file]) == first
    assert reads == [file]


def test_any_byte_counts_and_a_replaced_file_of_the_same_size_and_time_too(file: Path, reads: list[Path]) -> None:
    first, time = files_identity(file.parent, [file]), file.stat().st_mtime
    file.write_bytes(b"a" * 99 + b"b")
    assert files_identity(file.parent, [file]) != first
    other = file.with_name("other")
    other.write_bytes(b"c" * 100)
    other.replace(file)
    os.utime(file, (time, time))
    assert files_identity(file.parent, [file]) != first
    assert len(reads) == 3


def test_a_file_that_was_just_written_is_not_kept(file: Path, reads: list[Path]) -> None:
    os.utime(file)
    assert files_identity(file.parent, [file]) == files_identity(file.parent, [file])
    assert len(reads) == 2


def test_without_a_place_to_keep_hashes_files_are_read(
    file: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = files_identity(file.parent, [file])
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))  # no folder
    assert files_identity(file.parent, [file]) == kept
    monkeypatch.setenv("XDG_CACHE_HOME", str(file.parent / "damaged"))
    (file.parent / "damaged" / "vlcompress").mkdir(parents=True)
    (file.parent / "damaged" / "vlcompress" / "hashes.sqlite").write_text("no database" * 1000)
    assert files_identity(file.parent, [file]) == kept
    assert len(reads) == 3


def test_pictures_that_are_read_count(tmp_path: Path, reads: list[Path]) -> None:
    raw = shutil.copytree(RAW, tmp_path / "raw")
    before = open_task(raw, "snli_ve", ["dev"]).identity
    assert open_task(raw, "snli_ve", ["dev"]).identity == before
    for path in raw.glob("flickr30k/flickr30k-images/*.jpg"):
        with Image.open(path) as picture:
            size = picture.size
        Image.new("RGB", size).save(path)
    assert open_task(raw, "snli_ve", ["dev"]).identity != before
