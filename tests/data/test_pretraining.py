"""The pre-training files of LXMERT."""

import json
from pathlib import Path

import pytest

from vlcompress.data.pretraining import (
    ImageSentences,
    PretrainingExample,
    pretraining_document,
    read_all_answers,
    read_pretraining,
)
from vlcompress.errors import VlcompressError

IMAGE = ImageSentences("a", {"mscoco": ["A dog.", "A cat."], "vqa": ["Is it?"]}, {"vqa": [{"yes": 1.0, "no": 0.3}]})


def test_every_sentence_becomes_an_example_in_order(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps(pretraining_document([IMAGE])))
    assert read_pretraining(path) == [
        PretrainingExample("a", "A dog.", "mscoco", None),
        PretrainingExample("a", "A cat.", "mscoco", None),
        PretrainingExample("a", "Is it?", "vqa", {"yes": 1.0, "no": 0.3}),
    ]


def test_a_label_may_be_a_list_of_answers(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    row = {"img_id": "a", "sentf": {"gqa": ["Is it?"]}, "labelf": {"gqa": [[{"yes": 1}, {"no": 0.3}]]}}
    path.write_text(json.dumps([row]))
    assert read_pretraining(path)[0].label == {"yes": 1.0, "no": 0.3}


def test_labels_without_their_sentence_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps([{"img_id": "a", "sentf": {"vqa": []}, "labelf": {"vqa": [{"yes": 1}]}}]))
    with pytest.raises(VlcompressError, match="row 1: 1 labels for the 0 sentences of 'vqa'"):
        read_pretraining(path)


def test_the_answer_list_keeps_its_order(tmp_path: Path) -> None:
    path = tmp_path / "all_ans.json"
    path.write_text(json.dumps([{"ans": "yes", "dsets": ["vqa"]}, {"ans": "net", "dsets": ["gqa"]}]))
    assert read_all_answers(path).labels == ("yes", "net")
