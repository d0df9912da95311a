"""Time the readers of a pickle as large as RefCOCO's refs file.

python -m bench.pickles
"""

import io
import pickle
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlcompress.data.pickles import read_pickle


def references(count: int) -> list[dict[str, Any]]:
    """Make references as RefCOCO has them, three sentences each."""
    return [
        {
            "ref_id": row,
            "ann_id": row,
            "image_id": row // 2,
            "category_id": row % 80,
            "split": "train",
            "file_name": f"COCO_train2014_{row:012d}_{row}.jpg",
            "sent_ids": [3 * row, 3 * row + 1, 3 * row + 2],
            "sentences": [
                {"sent_id": 3 * row + at, "tokens": words, "raw": " ".join(words), "sent": " ".join(words)}
                for at in range(3)
                for words in [["the", "red", "ball", f"w{at}"]]
            ],
        }
        for row in range(count)
    ]


def main() -> None:
    """Print the seconds of CPU of each, three times in turn."""
    made = references(45_000)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "refs.p"
        path.write_bytes(pickle.dumps(made, 0))
        print(f"{path.stat().st_size / 1e6:.1f} MB")
        readers: dict[str, Callable[[], Any]] = {
            "ours": lambda: read_pickle(path),
            "in C": lambda: pickle.Unpickler(io.BytesIO(path.read_bytes()), encoding="latin-1").load(),
        }
        for _ in range(3):
            for name, read in readers.items():
                started = time.process_time()
                assert read() == made
                print(f"{name}: {time.process_time() - started:.1f} s")


if __name__ == "__main__":
    main()
