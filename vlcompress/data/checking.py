"""Looking through a data folder: what was found, what is missing, and a few samples of it."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vlcompress.artefacts import Json
from vlcompress.data import class_folders, store
from vlcompress.data.detect_layout import LAYOUTS, check_examples, distinct
from vlcompress.data.examples import AnswerExample, ChoiceExample, Example, images_of, text_of
from vlcompress.data.found import Found, Layout, OpenedPictures
from vlcompress.data.questions import unlisted
from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError

SAMPLES = 3

_SHOWN = ("label", "answer", "rationale", "target")
"""What a sample's line shows besides its text; the JSON has everything."""
_ANSWERS = 10
"""So many of a sample's answers are shown: as many as people answered in VQA."""


@dataclass(frozen=True)
class SplitReport:
    """What was found of a split.

    Attributes:
        task, layout, split: which.
        examples: number of examples.
        labels: length of the answer list; 0 where the task has none.
        unlabelled: examples without a published label.
        unlisted: examples with published answers, none of which the list knows.
        images: number of images that the examples name.
        with_regions, with_ground_truth, with_pictures: how many of them have region features of the detector, of the
            annotated boxes, a picture.
        feature_dim: width of the region features; 0 without any.
        left_out: rows that the reader passed over, and why.
        samples: a few examples, as they are understood.
        error: why the split cannot be read; "" where it can.
    """

    task: str
    layout: str
    split: str
    examples: int = 0
    labels: int = 0
    unlabelled: int = 0
    unlisted: int = 0
    images: int = 0
    with_regions: int = 0
    with_ground_truth: int = 0
    with_pictures: int = 0
    feature_dim: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    samples: tuple[Json, ...] = ()
    error: str = ""

    @property
    def missing(self) -> tuple[str, ...]:
        """What a user will miss, in words; data with features alone, or pictures alone, is whole for some families."""
        if self.error:
            return (self.error,)
        counts = {"region features": self.with_regions, "picture": self.with_pictures}
        if self.task in ("vcr", "refcoco") and self.feature_dim:
            counts["features of its annotated boxes"] = self.with_ground_truth
        whole = max(self.with_regions, self.with_ground_truth, self.with_pictures) == self.images
        return tuple(
            f"{self.images - count} of {self.images} images have no {what}"
            for what, count in counts.items()
            if count < self.images and (count or not whole or what.startswith("features of"))
        )


@dataclass(frozen=True)
class FolderReport:
    """What was found in a folder.

    Attributes:
        folder: which.
        vocabulary: "28996 tokens, cased", or "" without a vocab.txt.
        splits: of every task and layout.
    """

    folder: str
    vocabulary: str
    splits: tuple[SplitReport, ...]

    @property
    def errors(self) -> tuple[str, ...]:
        """Why splits cannot be read."""
        return tuple(one.error for one in self.splits if one.error)

    def document(self) -> Json:
        """Lay the report out as JSON."""
        splits = [{**asdict(one), "missing": list(one.missing)} for one in self.splits]
        return {"folder": self.folder, "vocabulary": self.vocabulary, "splits": splits, "errors": list(self.errors)}

    def lines(self) -> Iterator[str]:
        """Write the report as lines of text."""
        yield f"{self.folder}: vocabulary {self.vocabulary or 'none (vocab.txt)'}"
        for one in self.splits:
            yield from _split_lines(one)


def check_folder(folder: Path | str) -> FolderReport:
    """Open every split of every task that a folder has, in every layout, and look at some of it.

    A split that cannot be read is reported with its error; the others are still looked at.

    Raises:
        VlcompressError: no such folder, or nothing in it that is known.
    """
    root = Path(folder)
    if not root.is_dir():
        raise VlcompressError(f"no data folder at '{root}': give a folder that exists")
    splits = [one for task in store.EXAMPLES for layout in LAYOUTS for one in _reports(root, task, layout)]
    # Pictures of any data set lie in folders: they are taken for classes only where there is nothing else.
    splits = [one for one in splits if one.layout != class_folders.NAME] or splits
    if not splits:
        raise VlcompressError(
            f"'{root}' holds no data in a known layout: vqa/train.json (LXMERT), vqav2/, gqa/, nlvr2/, snli_ve/, "
            "vcr/, refcoco+/, flickr30k/ (raw), txt_db/ (UNITER), *.arrow (ViLT), data.json (imported), "
            "batches.meta.txt, fine_label_names.txt (CIFAR, binary version), train/CLASS/picture.jpg, "
            "train.csv, .jsonl or .parquet are looked for"
        )
    return FolderReport(str(root), _vocabulary(root), tuple(splits))


def _vocabulary(root: Path) -> str:
    if not (root / "vocab.txt").is_file():
        return ""
    words = WordPiece.load(root)
    return f"{words.vocab_size} tokens, {'uncased' if words.lowercase else 'cased'}"


def _reports(root: Path, task: str, layout: Layout) -> Iterator[SplitReport]:
    try:
        names = distinct(layout.splits(root, task))
    except VlcompressError as error:
        yield SplitReport(task, layout.NAME, "", error=str(error))
        return
    for name in names:
        try:
            if layout.NAME == store.NAME:
                store.check_content(root)
            found = layout.open_splits(root, task, [name], None)
            check_examples(root, task, [name], found)
            yield _report(task, layout.NAME, name, found)
        except VlcompressError as error:
            yield SplitReport(task, layout.NAME, name, error=str(error))


def _report(task: str, layout: str, split: str, found: Found) -> SplitReport:
    images = tuple(dict.fromkeys(image for example in found.examples for image in images_of(example)))
    pictures = found.pictures
    return SplitReport(
        task,
        layout,
        split,
        examples=len(found.examples),
        labels=len(found.labels),
        unlabelled=sum(not _has_label(example) for example in found.examples),
        unlisted=unlisted(found.examples, found.labels),
        images=len(images),
        with_regions=sum(pictures.has_regions(image, ground_truth=False) for image in images),
        with_ground_truth=sum(pictures.has_regions(image, ground_truth=True) for image in images),
        with_pictures=sum(pictures.has_pixels(image) for image in images),
        feature_dim=pictures.feature_dim,
        left_out=dict(found.left_out),
        samples=tuple(_sample(example, pictures) for example in found.examples[:SAMPLES]),
    )


def _has_label(example: Example) -> bool:
    if isinstance(example, AnswerExample):
        return bool(example.answers or example.votes)
    if isinstance(example, ChoiceExample):
        return example.answer >= 0
    return getattr(example, "label", 0) >= 0


def _sample(example: Example, pictures: OpenedPictures) -> Json:
    """Show an example, and read its images."""
    shown: Json = {name: value for name, value in asdict(example).items() if name not in ("votes", "group", "text")}
    shown["text"] = text_of(example) or (_words(example) if isinstance(example, ChoiceExample) else "")
    shown["read"] = [_read(image, pictures) for image in images_of(example)]
    return shown


def _words(example: ChoiceExample) -> str:
    """Write a VCR question out, objects with their class and number."""
    return " ".join(
        word if isinstance(word, str) else "+".join(f"[{example.objects[i]} {i}]" for i in word)
        for word in example.question
    )


def _read(image: str, pictures: OpenedPictures) -> str:
    parts: list[Any] = []
    for truth, kind in ((False, "regions"), (True, "annotated boxes")):
        if pictures.has_regions(image, ground_truth=truth):
            parts.append(f"{len(pictures.regions(image, ground_truth=truth).boxes)} {kind}")
    if pictures.has_pixels(image):
        height, width, _ = pictures.pixels(image).shape
        parts.append(f"picture of {width}x{height} pixels")
    return f"{image}: {', '.join(parts) or 'nothing'}"


def _split_lines(one: SplitReport) -> Iterator[str]:
    yield f"{one.task} {one.split} ({one.layout})"
    if one.error:
        yield f"  cannot be read: {one.error}"
        return
    labels = f", {one.labels} labels" if one.labels else ""
    hidden = f", {one.unlabelled} without a label" if one.unlabelled else ""
    unknown = f", {one.unlisted} of whose answers the list knows none" if one.unlisted else ""
    yield f"  {one.examples} examples of {one.images} images{labels}{hidden}{unknown}"
    yield (
        f"  images with regions {one.with_regions}, with annotated boxes {one.with_ground_truth}, with pictures "
        f"{one.with_pictures}; feature size {one.feature_dim or 'none'}"
    )
    yield from (f"  missing: {what}" for what in one.missing)
    yield from (f"  left out: {count} ({why})" for why, count in one.left_out.items())
    for sample in one.samples:
        answer = ", ".join(f"{name} {value}" for name, value in sample.items() if name in _SHOWN)
        if isinstance(sample.get("answers"), dict):
            answer = _best(sample["answers"])
        shown = f" [{answer}]" if answer else ""
        yield f"  {sample['id']}: {sample['text']}{shown} {'; '.join(sample['read'])}"


def _best(answers: Mapping[str, float]) -> str:
    """Write a sample's best answers with their scores, and how many there are besides."""
    best = sorted(answers.items(), key=lambda one: -one[1])[:_ANSWERS]
    more = len(answers) - len(best)
    return ", ".join([*(f"'{text}' {score:g}" for text, score in best), *([f"{more} more"] if more else [])])
