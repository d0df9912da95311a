"""Turning any published layout into the internal store: `vlcompress data import`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlcompress.artefacts import Json, seal, writing
from vlcompress.data import store
from vlcompress.data.detect_layout import choose_layout, open_task, splits_of
from vlcompress.data.examples import Example, TaskData, TokenIds, images_of, text_of, token_ids
from vlcompress.data.found import OpenedPictures
from vlcompress.data.shards import ShardWriter
from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError


@dataclass(frozen=True)
class Imported:
    """What an import wrote.

    Attributes:
        folder: the store.
        task, layout: whose data it is, and what it was read from.
        examples: number of examples of each split.
        left_out: examples that were left out, and why.
        images: images with regions of the detector, of annotated boxes, with pictures.
        bytes: size of the store.
        seconds: how long it took.
    """

    folder: Path
    task: str
    layout: str
    examples: dict[str, int]
    left_out: dict[str, int]
    images: dict[str, int]
    bytes: int
    seconds: float

    def document(self) -> Json:
        """Lay the report out as JSON."""
        return {**asdict(self), "folder": str(self.folder)}


def import_task(
    source: Path | str,
    out: Path | str,
    task: str,
    splits: Sequence[str] = (),
    *,
    vocabulary: Path | str | None = None,
    allow_missing: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Imported:
    """Import a task's data into a store; on any error nothing is written.

    Args:
        source: a folder in any layout that `open_task` reads.
        out: the store's folder; an older store there is replaced, anything else is left alone.
        task: one of `vlcompress.data.store.EXAMPLES`.
        splits: what to import; all that the first layout of the folder has where none is named.
        vocabulary: a vocab.txt to tokenise with; without it the source's own ids or vocabulary are taken, if any.
        allow_missing: leave out examples whose image is missing, counted in the store.
        say: told a line for each split.

    Raises:
        VlcompressError: as of `open_task`; a damaged image; `out` is a folder of something else.
    """
    started = time.monotonic()
    source, out = Path(source), Path(out)
    _check_target(out)
    if not source.is_dir():
        raise VlcompressError(f"no data folder at '{source}': give a folder that exists")
    names = tuple(splits) or splits_of(source, task)
    layout = choose_layout(source, task, names).layout.NAME
    opened = {name: open_task(source, task, [name], allow_missing=allow_missing) for name in names}
    words = _words(source, vocabulary, list(opened.values()))
    with writing(out) as root:
        images = _write(root, task, layout, opened, words, say)
        size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    counts = {name: len(data.examples) for name, data in opened.items()}
    left_out = {f"{name}: {why}": count for name, data in opened.items() for why, count in data.left_out.items()}
    return Imported(out, task, layout, counts, left_out, images, size, time.monotonic() - started)


def _write(
    root: Path,
    task: str,
    layout: str,
    opened: dict[str, TaskData[Any]],
    words: WordPiece | None,
    say: Callable[[str], None],
) -> dict[str, int]:
    """Write the whole store; give the numbers of images."""
    images = _write_images(root, list(opened.values()), say)
    for name, data in opened.items():
        say(f"{name}: {len(data.examples)} examples")
        _write_split(root, name, data, words)
    if words:
        (root / "vocab.txt").write_text(words.text, encoding="utf-8")
    seal(root, store.DOCUMENT, _document(task, layout, opened, words))
    return images


def _check_target(out: Path) -> None:
    if out.exists() and not (out / store.DOCUMENT).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise VlcompressError(f"'{out}' exists and is no imported data: name a new folder, so that nothing is lost")


def _words(source: Path, vocabulary: Path | str | None, opened: Sequence[TaskData[Any]]) -> WordPiece | None:
    """Choose the vocabulary to tokenise with, and refuse one that belongs to other data."""
    words = WordPiece.load(vocabulary) if vocabulary is not None else opened[0].vocabulary
    sentences = [text for data in opened for text in map(text_of, data.examples) if text is not None]
    if words and sentences:
        words.check_covers(sentences)
    return words


def _write_images(root: Path, opened: Sequence[TaskData[Any]], say: Callable[[str], None]) -> dict[str, int]:
    """Write regions and pictures of every image that an example names, once."""
    writers = {name: ShardWriter(root / name) for name in ("regions", "regions_gt", "pictures")}
    done: set[str] = set()
    for data in opened:
        for example in data.examples:
            for image in images_of(example):
                if image not in done:
                    done.add(image)
                    _write_image(writers, data.pictures, image)
    for writer in writers.values():
        writer.close()
    counts = {name: len(writer) for name, writer in writers.items()}
    say(", ".join(f"{count} images in {name}" for name, count in counts.items() if count))
    return counts


def _write_image(writers: dict[str, ShardWriter], pictures: Any, image: str) -> None:
    opened: OpenedPictures = pictures
    for name, truth in (("regions", False), ("regions_gt", True)):
        if opened.has_regions(image, ground_truth=truth):
            regions = opened.regions(image, ground_truth=truth)
            writers[name].add(image, store.region_arrays(regions), (regions.height, regions.width))
    if opened.has_pixels(image):
        opened.pixels(image)  # a damaged picture is refused now, not in training
        writers["pictures"].add(image, {"bytes": np.frombuffer(opened.picture_bytes(image), np.uint8)})


def _write_split(root: Path, name: str, data: TaskData[Any], words: WordPiece | None) -> None:
    from safetensors.numpy import save_file

    path = root / "examples" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(store.example_line(example) for example in data.examples)
    tokens = _tokens(data.examples, words) if words else data.encoded
    if tokens is not None:
        place = root / "tokens" / f"{name}.safetensors"
        place.parent.mkdir(parents=True, exist_ok=True)
        save_file({"ids": tokens.ids, "starts": tokens.starts}, place)


def _tokens(examples: Sequence[Example], words: WordPiece) -> TokenIds | None:
    texts = [text_of(example) for example in examples]
    return token_ids([words.pieces(text) for text in texts if text is not None], words.sha256) if all(texts) else None


def _document(task: str, layout: str, opened: dict[str, TaskData[Any]], words: WordPiece | None) -> Json:
    first = next(iter(opened.values()))
    return {
        "kind": store.KIND,
        "version": store.VERSION,
        "task": task,
        "layout": layout,
        "labels": list(first.labels),
        "vocabulary": words.sha256 if words else "",
        "splits": {
            name: {"examples": len(data.examples), "left_out": dict(data.left_out), "identity": data.identity}
            for name, data in opened.items()
        },
    }
