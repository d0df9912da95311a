"""Peak memory of scoring retrieval: it must not grow with the number of pairs of text and image.

    python -m bench.retrieval_memory [--out bench/results/tasks/retrieval_memory.json]

Scores are drawn at random in place of a model's, so that only what scoring itself keeps is seen. Each size runs in a
process of its own; "kept_mb" is the peak above what the process held before, "matrix_mb" what the score matrix would
take in float32.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from vlcompress.artefacts import dumps, write_file
from vlcompress.bench.environment import environment
from vlcompress.tasks.metrics.retrieval import Ranks

SIZES = ((500, 100), (5000, 1000), (25000, 5000))
"""Texts and images; the last two are Flickr30k's and COCO's test splits."""

BLOCK = 256


def peak_mb() -> float:
    """Return the process's peak memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(texts: int, images: int) -> dict[str, Any]:
    """Score every pair once in blocks of `BLOCK` texts and 16 images."""
    torch.manual_seed(0)
    before, started = peak_mb(), time.monotonic()
    ranks = Ranks([text * images // texts for text in range(texts)], images)
    for start in range(0, texts, BLOCK):
        rows = slice(start, min(start + BLOCK, texts))
        ranks.right(rows, torch.rand(rows.stop - rows.start))
    for first in range(0, images, 16):
        columns = slice(first, min(first + 16, images))
        for start in range(0, texts, BLOCK):
            rows = slice(start, min(start + BLOCK, texts))
            ranks.block(rows, columns, torch.rand(rows.stop - rows.start, columns.stop - columns.start))
    kept = peak_mb() - before
    recalls = ranks.recalls()
    pairs = texts * images
    return {
        "texts": texts,
        "images": images,
        "pairs": pairs,
        "kept_mb": round(kept, 1),
        "matrix_mb": round(4 * pairs / 2**20, 1),
        "seconds": round(time.monotonic() - started, 1),
        "image R@1": recalls["image R@1"],
    }


def main() -> None:
    """Measure every size in a process of its own and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench/results/tasks/retrieval_memory.json"))
    parser.add_argument("--size", type=int, nargs=2, help="measure this size alone and print it")
    chosen = parser.parse_args()
    if chosen.size:
        print(json.dumps(measure(*chosen.size)))
        return
    command = [sys.executable, "-m", "bench.retrieval_memory", "--size"]
    runs = [subprocess.run([*command, *map(str, size)], capture_output=True, text=True, check=True) for size in SIZES]
    record = {"command": "python -m bench.retrieval_memory", "environment": environment()}
    write_file(chosen.out, dumps(record | {"sizes": [json.loads(run.stdout) for run in runs]}))


if __name__ == "__main__":
    main()
