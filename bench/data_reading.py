"""How fast region features are read, as images a second and as a share of a training step; what an import costs.

    python -m bench.data_reading [--images 2000] [--rounds 9] [--threads 2] [--out bench/results/data/reading.json]

Made features of real size (36 boxes, 2048 wide; UNITER's also 1601 soft labels) are written as LXMERT's TSV (float32),
as UNITER's LMDB (float16, plain and compressed) and imported from the TSV into the store. Each round reads the same
images in a random order from every format, formats in turn, in one process. The rounds are done with the files in the
page cache; one more is done after the kernel was asked to drop them. The step is one of LXMERT-base on VQA: forward,
backward and optimizer, on a batch from the TSV. Opening, and importing by the command that users have, run in processes
of their own, whose peak memory is recorded.
"""

import argparse
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lmdb
import lz4.frame
import msgpack
import numpy as np
import torch

from vlcompress.bench.environment import environment
from vlcompress.data.examples import Pictures
from vlcompress.data.opening import open_task
from vlcompress.data.regions import Regions, write_regions
from vlcompress.models.base import Head
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.training.optimizers import BertAdam

BOXES, WIDTH, CLASSES, BATCH, TEXT, LABELS = 36, 2048, 1601, 32, 20, 3129


def made(number: int) -> Regions:
    """Make the regions of an image; features are sparse and positive, as a detector's are."""
    rng = np.random.default_rng(number)
    corner = rng.uniform(0, 0.5, (BOXES, 2))
    boxes = np.hstack([corner, corner + rng.uniform(0.1, 0.5, (BOXES, 2))]).astype(np.float32)
    features = np.maximum(rng.standard_normal((BOXES, WIDTH), np.float32) - np.float32(0.5), 0)
    ids, ones = np.zeros(BOXES, np.int64), np.ones(BOXES, np.float32)
    return Regions(f"COCO_train2014_{number:012d}", 1, 1, boxes, features, ids, ones, ids, ones)


def write_lxmert(folder: Path, images: int) -> None:
    """Write a VQA folder in LXMERT's layout, a question an image."""
    write_regions(folder / "mscoco_imgfeat/train2014_obj36.tsv", (made(number) for number in range(images)))
    (folder / "vqa").mkdir()
    names = [f"COCO_train2014_{number:012d}" for number in range(images)]
    rows = [{"question_id": i, "img_id": name, "sent": "is it?", "label": {"yes": 1}} for i, name in enumerate(names)]
    documents = {"train": rows, "trainval_label2ans": ["yes"], "trainval_ans2label": {"yes": 0}}
    for name, document in documents.items():
        (folder / f"vqa/{name}.json").write_text(json.dumps(document))


def packed(array: np.ndarray[Any, Any]) -> dict[bytes, Any]:
    """Return an array as msgpack_numpy writes it."""
    fields = {b"nd": True, b"type": array.dtype.str, b"kind": b"", b"shape": list(array.shape)}
    return {**fields, b"data": array.tobytes()}


def uniter_value(number: int, compressed: bool) -> bytes:
    """Return an image's value in UNITER's databases."""
    one = made(number)
    soft = np.random.default_rng(number).random((BOXES, CLASSES)) / CLASSES
    norm = np.hstack([one.boxes, one.boxes[:, 2:] - one.boxes[:, :2]])
    arrays = {"norm_bb": norm, "features": one.features, "conf": np.ones((BOXES, 1)), "soft_labels": soft}
    halves = {name: array.astype(np.float16) for name, array in arrays.items()}
    if not compressed:
        return bytes(msgpack.packb({name: packed(array) for name, array in halves.items()}))
    file = io.BytesIO()
    np.savez_compressed(file, **halves)
    return file.getvalue()


def fill(place: Path, values: Iterable[tuple[str, bytes]], listed: bool) -> None:
    """Write an LMDB folder, with the list of its keys as image databases have it."""
    place.mkdir(parents=True)
    with lmdb.open(str(place), map_size=1 << 40) as database, database.begin(write=True) as writer:
        keys = []
        for key, data in values:
            writer.put(key.encode(), data)
            keys.append(key)
        if listed:
            writer.put(b"__keys__", json.dumps(keys).encode())


def write_uniter(folder: Path, images: int, compressed: bool) -> None:
    """Write an image database in UNITER's layout, and the questions' database."""
    names = [f"COCO_train2014_{number:012d}.npz" for number in range(images)]
    variant = f"feat_numbb{BOXES}{'_compressed' if compressed else ''}"
    values = ((name, uniter_value(number, compressed)) for number, name in enumerate(names))
    fill(folder / "img_db/coco_train2014" / variant, values, listed=True)
    texts = folder / "txt_db/vqa_train.db"
    target = {"labels": [0], "scores": [1.0]}
    rows = ({"question": "?", "question_id": i, "img_fname": name, "target": target} for i, name in enumerate(names))
    fill(texts, ((str(row["question_id"]), lz4.frame.compress(msgpack.packb(row))) for row in rows), listed=False)
    sides = {"id2len": {str(number): 2 for number in range(images)}, "meta": {}, "ans2label": {"yes": 0}}
    for side, document in sides.items():
        (texts / f"{side}.json").write_text(json.dumps(document))


def child(code: str, *arguments: str) -> dict[str, float]:
    """Run code in a process of its own: seconds, imports included, and the most memory that it held, in MB."""
    told = "import sys; {}; print(open('/proc/self/status').read(), file=sys.stderr)"
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", told.format(code), *arguments], check=True, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    peak = next(line for line in done.stderr.splitlines() if line.startswith("VmHWM:"))
    return {"seconds": seconds, "peak_mb": int(peak.split()[1]) / 1e3}


def used(folder: Path) -> int:
    """Return the bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def forget(folder: Path) -> None:
    """Ask the kernel to drop the files' pages."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_all(pictures: Pictures, names: Sequence[str]) -> float:
    """Read the images; give milliseconds an image."""
    start = time.perf_counter()
    total = sum(float(pictures.regions(name).features[0, 0]) for name in names)
    assert total >= 0
    return 1e3 * (time.perf_counter() - start) / len(names)


def step_ms(pictures: Pictures, names: Sequence[str], steps: int) -> list[float]:
    """Time training steps of LXMERT-base on one batch, in ms, after one to warm up."""
    family = LxmertFamily()
    config = family.config("base", vocab_size=30522, feature_dim=WIDTH)
    model = family.build(config, Head("answers", tuple(map(str, range(LABELS)))), seed=0).train()
    regions = [pictures.regions(name) for name in names]
    inputs = family.example_inputs(config, batch=BATCH, text=TEXT, regions=BOXES, seed=0)
    inputs["visual_feats"] = torch.from_numpy(np.stack([one.features for one in regions]))
    targets = torch.rand(BATCH, LABELS)
    optimizer = BertAdam(model.parameters(), lr=1e-5)
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(family.logits(model, inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(1e3 * (time.perf_counter() - start))
    return times[1:]


def read_times(
    opened: dict[str, Pictures], folders: dict[str, Path], names: list[str], rounds: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return ms an image of each format: of every round in the page cache, and of one after it was dropped."""
    warm: dict[str, list[float]] = {name: [] for name in opened}
    rng = random.Random(0)
    count = min(len(names), 500)
    for turn in range(rounds + 1):
        order = rng.sample(names, count)
        for name in sorted(opened, key=lambda _: rng.random()):
            value = read_all(opened[name], order)
            if turn:  # the first round fills the page cache
                warm[name].append(value)
    dropped = {}
    for name, pictures in opened.items():
        forget(folders[name])
        dropped[name] = read_all(pictures, rng.sample(names, count))
    return warm, dropped


def measure(root: Path, images: int, rounds: int, steps: int) -> dict[str, Any]:
    """Make the data, then measure; see the module's text."""
    folders = {name: root / name for name in ("tsv", "lmdb", "lmdb_compressed", "store")}
    write_lxmert(folders["tsv"], images)
    write_uniter(folders["lmdb"], images, compressed=False)
    write_uniter(folders["lmdb_compressed"], images, compressed=True)
    command = "from vlcompress.cli.main import main; main(standalone_mode=False)"
    imports = {
        name: child(command, "data", "import", str(folders[name]), str(target), "--task", "vqa")
        for name, target in (("lmdb", root / "other"), ("tsv", folders["store"]))
    }
    opening = "from vlcompress.data.opening import open_task; open_task(sys.argv[1], 'vqa', ['train'])"
    opens = {name: child(opening, str(folder)) for name, folder in folders.items()}
    opened = {name: open_task(folder, "vqa", ["train"]).pictures for name, folder in folders.items()}
    names = [f"COCO_train2014_{number:012d}" for number in range(images)]
    first = {name: pictures.regions(names[0]).features for name, pictures in opened.items()}
    assert np.array_equal(first["store"], first["tsv"])
    assert all(np.allclose(first[name], first["tsv"], atol=1e-2) for name in ("lmdb", "lmdb_compressed"))
    warm, dropped = read_times(opened, folders, names, rounds)
    sizes = {name: used(folder) for name, folder in folders.items()}
    steps_ms = step_ms(opened["tsv"], names[:BATCH], steps)
    return {
        "images": images,
        "bytes_an_image": {name: size / images for name, size in sizes.items()},
        "ms_an_image": warm,
        "dropped_ms_an_image": dropped,
        "step_ms": steps_ms,
        "imports": imports,
        "opens": opens,
        **summary(warm, steps_ms, imports, images),
    }


def summary(
    warm: dict[str, list[float]], steps: list[float], imports: dict[str, dict[str, float]], images: int
) -> dict[str, Any]:
    """Return medians, spreads, and what a batch's reading is of a step."""
    step = statistics.median(steps)
    median = {name: statistics.median(values) for name, values in warm.items()}
    cuts = {name: statistics.quantiles(values, n=4) for name, values in warm.items()}
    return {
        "median_step_ms": step,
        "images_per_s": {name: 1e3 / value for name, value in median.items()},
        "iqr_ms_an_image": {name: cut[2] - cut[0] for name, cut in cuts.items()},
        "share_of_step": {name: BATCH * value / step for name, value in median.items()},
        "import_images_per_s": {name: images / facts["seconds"] for name, facts in imports.items()},
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    command = f"python -m bench.data_reading --images {arguments.images} --rounds {arguments.rounds}"
    record: dict[str, Any] = {"command": command, "environment": environment()}
    with tempfile.TemporaryDirectory() as folder:
        record |= measure(Path(folder), arguments.images, arguments.rounds, arguments.steps)
    print(json.dumps({name: value for name, value in record.items() if name != "ms_an_image"}, indent=2))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
