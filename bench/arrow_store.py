"""Time the store's shards beside the same arrays in one Arrow file: 1,500 images of 36 regions of width 2,048.

python -m bench.arrow_store
"""

import ast
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vlcompress.data.shards import ShardReader, ShardWriter

IMAGES, ROUNDS = 1500, 7
Arrays = Mapping[str, np.ndarray[Any, Any]]


class ArrowWriter:
    """Writes a batch an image: each array's bytes, and its type and shape."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, None

    def add(self, name: str, arrays: Arrays) -> None:
        """Add an image; float32 is kept as float16 where that loses nothing."""
        row: dict[str, Any] = {"name": [name]}
        for key, array in arrays.items():
            half = array.astype(np.float16) if array.dtype == np.float32 else array
            kept = half if np.array_equal(half.astype(array.dtype), array) else array
            row |= {key: [kept.tobytes()], f"{key} is": [f"{kept.dtype.str} {list(kept.shape)}"]}
        batch = pa.RecordBatch.from_pydict(row)
        self.file = self.file or pa.ipc.new_file(str(self.path), batch.schema)
        self.file.write_batch(batch)


class ArrowReader:
    """Reads what `ArrowWriter` wrote, mapped into memory."""

    def __init__(self, path: Path) -> None:
        self.file = pa.ipc.open_file(pa.memory_map(str(path)))
        self.places = {self.file.get_batch(i)["name"][0].as_py(): i for i in range(self.file.num_record_batches)}

    def read(self, name: str) -> Arrays:
        """Read an image's arrays, floating-point ones as float32."""
        batch, found = self.file.get_batch(self.places[name]), {}
        for key in batch.schema.names[1::2]:
            kind, shape = batch[f"{key} is"][0].as_py().split(" ", 1)
            array = np.frombuffer(batch[key][0].as_buffer(), kind).reshape(ast.literal_eval(shape))
            found[key] = array.astype(np.float32) if array.dtype == np.float16 else array
        return found


def main() -> None:
    """Print bytes, and the milliseconds to open and microseconds to read an image in random order."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        arrow, shards = ArrowWriter(Path(folder) / "x.arrow"), ShardWriter(Path(folder) / "shards")
        for number in range(IMAGES):
            features = random.random((36, 2048), dtype=np.float32).astype(np.float16).astype(np.float32)
            image = {"boxes": random.random((36, 4), dtype=np.float32), "features": features, "ids": np.arange(36)}
            arrow.add(str(number), image)
            shards.add(str(number), image)
        arrow.file.close()
        shards.close()
        readers: dict[str, Callable[[], Any]] = {
            "arrow": lambda: ArrowReader(arrow.path),
            "shards": lambda: ShardReader(shards.folder),
        }
        order, opening, reading = random.permutation(IMAGES), {}, {}
        for _ in range(ROUNDS):
            for name, make in readers.items():
                started = time.perf_counter()
                reader = make()
                opened = time.perf_counter()
                for number in order:
                    reader.read(str(number))
                opening.setdefault(name, []).append(1e3 * (opened - started))
                reading.setdefault(name, []).append(1e6 * (time.perf_counter() - opened) / IMAGES)
        for name, times in reading.items():
            print(
                f"{name}: open {statistics.median(opening[name]):.0f} ms, read {statistics.median(times):.0f} us "
                f"({min(times):.0f} to {max(times):.0f})"
            )


if __name__ == "__main__":
    main()
