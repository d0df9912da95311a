"""The pre-training files of LXMERT."""

import json
import shutil
from pathlib import Path

import pytest

from vlcompress.data.pretraining import (
    ImageSentences,
    open_pretraining,
    pretraining_document,
    read_all_answers,
    read_pretraining,
)
from vlcompress.errors import VlcompressError

LXMERT = Path(__file__).parents[1] / "fixtures/data/lxmert/data"
IMAGE = ImageSentences("a", {"mscoco": ["A dog.", "A cat."], "vqa": ["Is it?"]}, {"vqa": [{"yes": 1.0, "no": 0.3}]})


def test_every_sentence_becomes_an_example_in_order(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps(pretraining_document([IMAGE])))
    assert read_pretraining(path) == [
        ("a", "mscoco", "A dog.", {}),
        ("a", "mscoco", "A cat.", {}),
        ("a", "vqa", "Is it?", {"yes": 1.0, "no": 0.3}),
    ]


def test_a_label_may_be_a_list_of_answers(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    row = {"img_id": "a", "sentf": {"gqa": ["Is it?"]}, "labelf": {"gqa": [[{"yes": 1}, {"no": 0.3}]]}}
    path.write_text(json.dumps([row]))
    assert read_pretraining(path)[0][-1] == {"yes": 1.0, "no": 0.3}


def test_labels_without_their_sentence_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps([{"img_id": "a", "sentf": {"vqa": []}, "labelf": {"vqa": [{"yes": 1}]}}]))
    with pytest.raises(VlcompressError, match="row 1: 1 labels for the 0 sentences of 'vqa'"):
        read_pretraining(path)


def test_the_answer_list_keeps_its_order(tmp_path: Path) -> None:
    path = tmp_path / "all_ans.json"
    path.write_text(json.dumps([{"ans": "yes", "dsets": ["vqa"]}, {"ans": "net", "dsets": ["gqa"]}]))
    assert read_all_answers(path).labels == ("yes", "net")


def test_unknown_splits_and_images_without_regions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match=r"unknown split 'pretrian': .* did you mean"):
        open_pretraining(tmp_path, ["pretrian"])
    (tmp_path / "lxmert").mkdir()
    (tmp_path / "lxmert/mscoco_minival.json").write_text(json.dumps(pretraining_document([IMAGE])))
    shutil.copytree(LXMERT / "mscoco_imgfeat", tmp_path / "mscoco_imgfeat")
    with pytest.raises(VlcompressError, match="3 of 3 sentences have no region features, the first of image 'a'"):
        open_pretraining(tmp_path, ["mscoco_minival"])
