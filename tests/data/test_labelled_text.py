"""Labelled sentences from CSV, TSV and JSONL, and what is wrong with a row."""

import re
from pathlib import Path

import pytest

from vlcompress.data.detect_layout import open_task, splits_of
from vlcompress.data.examples import SentenceExample
from vlcompress.errors import VlcompressError

FILES = {
    "train.csv": 'text,label\n"good, really",pos\nbad,neg\n',
    "dev.tsv": "sentence\tlabel\nfine\tpos\n",
    "test.jsonl": '{"text": "dull", "label": "neg"}\n',
}


def test_every_format_is_read_and_labels_are_those_of_all_splits(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    assert splits_of(tmp_path, "sentences") == ("train", "dev", "test")
    data = open_task(tmp_path, "sentences", ["train", "dev", "test"])
    assert data.labels == ("neg", "pos")
    assert data.examples == (
        SentenceExample("train/0", "good, really", 1),
        SentenceExample("train/1", "bad", 0),
        SentenceExample("dev/0", "fine", 1),
        SentenceExample("test/0", "dull", 0),
    )


def test_numbers_are_labels_too(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"sentence": "a", "label": 1}\n{"sentence": "b", "label": 0}\n')
    data = open_task(tmp_path, "sentences", ["train"])
    assert (data.labels, [one.label for one in data.examples]) == (("0", "1"), [1, 0])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train.csv", "text,label\na,x\nb\n"),
        ("train.csv", "words,label\na,x\n"),
        ("train.jsonl", '{"text": "a", "label": "x"}\n{"text": 5, "label": "x"}\n'),
    ],
)
def test_a_row_without_text_or_label_is_named(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(VlcompressError, match=re.escape(name) + r"', row \d: it needs 'label' and a text"):
        open_task(tmp_path, "sentences", ["train"])
