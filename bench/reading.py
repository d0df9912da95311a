"""How fast a training's batches are read and made, without the training: what a GPU would have to wait for.

    python -m bench.reading [--images 1024] [--rounds 5] [--out bench/results/data/reading.json]

The files of the official codes at their real size (`bench.published_data`), and the store that `vlcompress data import`
makes of them. Each is opened as `prune --size base` opens it, and its batches of 32 are drawn by the training's own
sampler and made by its own task: the example's words, its boxes and features or its decoded picture, padded. The
sources take turns, `rounds` times; the files are in the page cache, and once more after the kernel was asked to drop
them; each is opened anew, so that no image is in the training's own memory. `--readers` of a training are the threads.
A step of 30 ms needs 1,067 examples a second.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from bench.published_data import lxmert_data, uniter_data, vilt_data, vocabulary
from bench.records import write_record
from vlcompress.data.importing import import_task
from vlcompress.recipe import default_recipe
from vlcompress.tickets.experiment import Experiment
from vlcompress.tickets.open_experiment import open_experiment
from vlcompress.training.sampling import ahead, sampler_of
from vlcompress.training.step import drawn

BATCH, NEEDED = 32, 32 / 0.030
"""Examples of a step, and a second where a step takes 30 ms."""
READERS = (1, 2)
SOURCES: dict[str, tuple[str, Callable[[Path, dict[str, int]], None]]] = {
    "LXMERT's TSV": ("lxmert", lxmert_data),
    "UNITER's LMDB": ("uniter", uniter_data),
    "UNITER's LMDB, compressed": ("uniter", lambda folder, splits: uniter_data(folder, splits, compressed=True)),
    "ViLT's Arrow, JPEG": ("vilt", vilt_data),
}
STORES = {"LXMERT's TSV": "store of LXMERT's", "ViLT's Arrow, JPEG": "store of ViLT's"}


def opened(family: str, folder: Path, home: Path) -> Experiment:
    """Open a folder as a training of the base size opens it."""
    recipe = default_recipe(family, "vqa", "base").override(
        model={"checkpoint": "none"}, data={"source": str(folder)}, training={"batch": BATCH, "tokens": 0}
    )
    return open_experiment(recipe, home, say=lambda line: None)


def made(images: int, scratch: Path) -> dict[str, tuple[str, Path]]:
    """Write and import everything; each source's family and folder."""
    found = {}
    for number, (name, (family, write)) in enumerate(SOURCES.items()):
        folder = scratch / str(number)
        write(folder, {"train": images, "nominival": 16, "minival": 16})
        (folder / "vocab.txt").write_text("\n".join(vocabulary(family).tokens) + "\n")
        found[name] = family, folder
        if name in STORES:
            store = scratch / f"store-{number}"
            import_task(folder, store, "vqa")
            found[STORES[name]] = family, store
    return found


def a_second(experiment: Experiment, images: int, seed: int, readers: int) -> float:
    """Make an epoch's batches as a training has them made; give examples a second."""
    sampler = sampler_of(len(experiment.train_task), experiment.hyper, seed)
    make = partial(drawn, experiment.train_task, sampler, seed)
    started, count = time.perf_counter(), 0
    for _, groups in ahead(make, 0, images // BATCH, readers):
        count += sum(length for _, length in groups)
    return round(count / (time.perf_counter() - started), 1)


def forget(folder: Path) -> None:
    """Ask the kernel to drop the files' pages."""
    for path in (one for one in folder.rglob("*") if one.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(images: int, rounds: int, scratch: Path) -> dict[str, Any]:
    """Measure every source."""
    sources = made(images, scratch)
    seconds: dict[str, dict[str, list[float]]] = {name: {str(readers): [] for readers in READERS} for name in sources}
    for seed, readers in product(range(rounds), READERS):
        for name, (family, folder) in sources.items():
            seconds[name][str(readers)].append(a_second(opened(family, folder, scratch), images, seed, readers))
    cold = {}
    for name, (family, folder) in sources.items():
        experiment = opened(family, folder, scratch)
        forget(folder)
        cold[name] = a_second(experiment, images, rounds, 1)
    medians = {name: {n: statistics.median(values) for n, values in one.items()} for name, one in seconds.items()}
    return {
        "images": images,
        "batch": BATCH,
        "examples_a_second_by_readers": seconds,
        "median": medians,
        "dropped_from_the_page_cache": cold,
        "needed_for_steps_of_30_ms": round(NEEDED),
        "share_of_need": {name: {n: round(v / NEEDED, 2) for n, v in one.items()} for name, one in medians.items()},
    }


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(chosen.images, chosen.rounds, Path(scratch))
    write_record(f"python -m bench.reading --images {chosen.images} --rounds {chosen.rounds}", found, chosen.out)


if __name__ == "__main__":
    main()
