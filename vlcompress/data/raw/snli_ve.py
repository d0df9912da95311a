"""SNLI-VE's JSONL files (github necla-ml/SNLI-VE, ``snli_ve_{train,dev,test}.jsonl``).

The premise is the Flickr30k picture ``Flikr30kID`` (spelt so; newer files say ``Flickr30K_ID``), the hypothesis
``sentence2``.
"""

from pathlib import Path

from vlcompress.data.documents import Row, bad_row, check_unique, parsed, read_lines, take
from vlcompress.data.examples import ENTAILMENT_LABELS, EntailmentExample
from vlcompress.data.pictures import image_name

SPLITS = ("train", "dev", "test")
_PICTURE = ("Flikr30kID", "Flickr30K_ID")
UNDECIDED = "-"
"""SNLI's mark of a pair that its annotators did not agree on."""


def question_file(folder: Path, split: str) -> Path:
    """Name the file of a split."""
    return folder / f"snli_ve_{split}.jsonl"


def splits(folder: Path) -> tuple[str, ...]:
    """List the splits that the folder has."""
    return tuple(split for split in SPLITS if question_file(folder, split).is_file())


def read_split(folder: Path, split: str) -> tuple[list[EntailmentExample], int]:
    """Read a split, in the order of the file.

    Returns:
        The examples, and how many pairs without a gold label were passed over.

    Raises:
        VlcompressError: a line that is not in the format, a pair used twice.
    """
    path = question_file(folder, split)
    rows = read_lines(path)
    examples = [example for example in parsed(path, rows, _example) if example is not None]
    check_unique(path, (example.id for example in examples), "pair")
    return examples, len(rows) - len(examples)


def _example(path: Path, number: int, row: Row) -> EntailmentExample | None:
    picture = next((key for key in _PICTURE if key in row), _PICTURE[0])
    pair, image, text, gold = take(path, number, row, "pairID", picture, "sentence2", "gold_label")
    if gold == UNDECIDED:
        return None
    if gold not in ENTAILMENT_LABELS:
        raise bad_row(path, number, f"gold_label {gold!r} is none of {', '.join(ENTAILMENT_LABELS)}")
    return EntailmentExample(pair, image_name(image), text, ENTAILMENT_LABELS.index(gold))
