"""Arrays of many images in safetensors shards, mapped into memory: the store's regions and pictures.

A folder holds ``index.json`` (the images' names and where they are), ``00000.safetensors``, ``00001.safetensors``, ...
Each shard joins the rows of its images; a tensor is kept as float16 where that loses nothing (UNITER's features).

Shape legend: R rows of a shard, N rows of an image.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlcompress.data.documents import read_document
from vlcompress.errors import VlcompressError

SHARD_BYTES = 64 << 20
"""A shard is written when its arrays reach this size; an import keeps a few times as much in memory."""

Arrays = Mapping[str, NDArray[Any]]


class ShardWriter:
    """Collects the arrays of images and writes a shard whenever there is enough of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index: dict[str, list[Any]] = {}
        self._waiting: list[Arrays] = []
        self._bytes = self._rows = self._shards = 0

    def add(self, name: str, arrays: Arrays, facts: Sequence[int] = ()) -> None:
        """Add an image: arrays with one first axis N, and some numbers beside them."""
        if self._waiting and self._waiting[0].keys() != arrays.keys():
            self._write()
        rows = len(next(iter(arrays.values())))
        self._index[name] = [self._shards, self._rows, rows, *facts]
        self._waiting.append(arrays)
        self._rows += rows
        self._bytes += sum(array.nbytes for array in arrays.values())
        if self._bytes >= SHARD_BYTES:
            self._write()

    def __len__(self) -> int:
        """Count the images."""
        return len(self._index)

    def close(self) -> None:
        """Write what waits, and the index; no folder appears where there was no image."""
        if self._waiting:
            self._write()
        if self._index:
            (self.folder / "index.json").write_text(json.dumps(self._index, ensure_ascii=False), encoding="utf-8")

    def _write(self) -> None:
        from safetensors.numpy import save_file

        names = list(self._waiting[0])
        joined = {name: _compact(np.concatenate([arrays[name] for arrays in self._waiting])) for name in names}
        self.folder.mkdir(parents=True, exist_ok=True)
        save_file(joined, self.folder / f"{self._shards:05d}.safetensors")
        self._waiting.clear()
        self._bytes = self._rows = 0
        self._shards += 1


class ShardReader:
    """The arrays of images that `ShardWriter` wrote; shards are mapped when they are first needed."""

    def __init__(self, folder: Path) -> None:
        """Read the index.

        Raises:
            VlcompressError: the index is missing or damaged.
        """
        self.folder = folder
        self._shards: dict[int, Any] = {}
        self._index: dict[str, list[int]] = read_document(folder / "index.json")
        if not isinstance(self._index, dict) or not all(map(_is_place, self._index.values())):
            raise VlcompressError(f"'{folder / 'index.json'}' is not an index of shards: import the data again")

    def __contains__(self, name: object) -> bool:
        """Say whether there is this image."""
        return name in self._index

    def __len__(self) -> int:
        """Count the images."""
        return len(self._index)

    @property
    def names(self) -> tuple[str, ...]:
        """The images' names, in the order in which they were written."""
        return tuple(self._index)

    def facts(self, name: str) -> list[int]:
        """Read the numbers that were written beside an image."""
        return self._index[name][3:]

    def read(self, name: str) -> dict[str, NDArray[Any]]:
        """Read an image's arrays, floating-point ones as float32.

        Raises:
            VlcompressError: a shard is missing or damaged.
        """
        from safetensors import SafetensorError

        shard, first, rows = self._index[name][:3]
        file = self._shard(shard)
        keys: list[str] = file.keys()
        try:
            arrays = {key: file.get_slice(key)[first : first + rows] for key in keys}
        except SafetensorError as error:
            raise VlcompressError(f"'{self.folder}', record '{name}' is not in its shard ({error})") from error
        if any(len(array) != rows for array in arrays.values()):
            raise VlcompressError(f"'{self.folder}', record '{name}': not all its rows are in its shard")
        return {key: _wide(array) for key, array in arrays.items()}

    def width(self, key: str) -> int:
        """Measure the second axis of a tensor without reading it."""
        return int(self._shard(0).get_slice(key).get_shape()[1])

    def _shard(self, number: int) -> Any:
        if number not in self._shards:
            from safetensors import SafetensorError, safe_open

            path = self.folder / f"{number:05d}.safetensors"
            try:
                self._shards[number] = safe_open(str(path), framework="numpy")
            except (SafetensorError, OSError) as error:
                raise VlcompressError(f"'{path}' is not a readable shard ({error}): import the data again") from error
        return self._shards[number]


def _is_place(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= 3 and all(isinstance(number, int) for number in value)


def _compact(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype != np.float32:
        return array
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), array) else array


def _wide(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float32) if array.dtype == np.float16 else array
