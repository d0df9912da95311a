"""VCR's JSONL files (``{train,val,test}.jsonl``); boxes are in ``vcr1images/**/*.json`` beside the pictures.

An image's name is ``img_fn`` without folder and suffix. In sentences a list of numbers names objects of the image.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlcompress.data.documents import Row, bad_row, check_unique, parsed, read_document, read_lines, take
from vlcompress.data.examples import HIDDEN, ChoiceExample, Words
from vlcompress.data.pictures import image_name

SPLITS = ("train", "val", "test")
CHOICES = 4


def question_file(folder: Path, split: str) -> Path:
    """Name the file of a split."""
    return folder / f"{split}.jsonl"


def splits(folder: Path) -> tuple[str, ...]:
    """List the splits that the folder has."""
    return tuple(split for split in SPLITS if question_file(folder, split).is_file())


def read_split(folder: Path, split: str) -> list[ChoiceExample]:
    """Read a split, in the order of the file; the test split hides its labels.

    Raises:
        VlcompressError: a line that is not in the format, a sentence that names an object which is not there.
    """
    path = question_file(folder, split)
    checked: set[str] = set()

    def make(path: Path, number: int, row: Row) -> ChoiceExample:
        example, metadata = choice(path, number, row), row.get("metadata_fn", "")
        if metadata and metadata not in checked:
            _check_boxes(path, number, folder / "vcr1images" / metadata, len(example.objects))
            checked.add(metadata)
        return example

    examples = parsed(path, read_lines(path), make)
    check_unique(path, (example.id for example in examples), "annot_id")
    return examples


def choice(path: Path, number: int, row: Row) -> ChoiceExample:
    """Turn a row of the published file into an example."""
    names = ("annot_id", "img_fn", "objects", "question", "answer_choices", "rationale_choices")
    annot, image, objects, question, answers, rationales = take(path, number, row, *names)

    def words(sentence: Any) -> Words:
        return _words(path, number, sentence, len(objects))

    if len(answers) != CHOICES or len(rationales) not in (CHOICES, CHOICES**2):
        raise bad_row(
            path, number, f"{len(answers)} answers and {len(rationales)} rationales where 4 each are expected"
        )
    return ChoiceExample(
        annot,
        image_name(image),
        tuple(objects),
        words(question),
        tuple(words(sentence) for sentence in answers),
        tuple(words(sentence) for sentence in rationales),
        _label(path, number, row, "answer_label"),
        _label(path, number, row, "rationale_label"),
    )


def _label(path: Path, number: int, row: Row, name: str) -> int:
    label = row.get(name, HIDDEN)
    if not isinstance(label, int) or not HIDDEN <= label < CHOICES:
        raise bad_row(path, number, f"{name} {label!r} is not 0 to {CHOICES - 1}")
    return label


def _words(path: Path, number: int, sentence: Any, objects: int) -> Words:
    if not isinstance(sentence, Sequence) or isinstance(sentence, str):
        raise bad_row(path, number, f"sentence {sentence!r} is not a list of words")
    return tuple(_word(path, number, word, objects) for word in sentence)


def _word(path: Path, number: int, word: Any, objects: int) -> str | tuple[int, ...]:
    if isinstance(word, str):
        return word
    if not isinstance(word, list) or not word or not all(isinstance(i, int) and 0 <= i < objects for i in word):
        raise bad_row(path, number, f"{word!r} is neither a word nor a list of the image's {objects} objects")
    return tuple(word)


def _check_boxes(path: Path, number: int, metadata: Path, objects: int) -> None:
    """Compare an image's boxes with its size, where the folder has them.

    The published boxes reach past the border by rounding; a box that starts outside the image is another image's.
    """
    if not metadata.is_file():
        return
    document = read_document(metadata)
    boxes, width, height = take(metadata, 1, document, "boxes", "width", "height")
    if len(boxes) != objects:
        raise bad_row(path, number, f"{objects} objects where '{metadata}' has {len(boxes)} boxes")
    for i, (x1, y1, x2, y2, *_) in enumerate(boxes, start=1):
        if not (0 <= x1 < width and 0 <= y1 < height and x1 <= x2 and y1 <= y2):
            raise bad_row(metadata, i, f"box ({x1}, {y1}, {x2}, {y2}) is outside the image of {width}x{height} pixels")
