"""A task's data as a family reads it: whose code normalises VQA's answers, and answers that no list has."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tasks.conftest import VOCABULARY, make_data
from vlcompress.data.examples import CaptionExample
from vlcompress.data.regions import Regions, write_regions
from vlcompress.data.tokenizer import WordPiece
from vlcompress.models.registry import FAMILIES, family_named
from vlcompress.tasks.build_task import open_data, tell_unlisted, without_long_texts
from vlcompress.tasks.preprocessing import Preprocessor, max_words
from vlcompress.tasks.vqa import soft_targets

FIXTURES = Path(__file__).parents[1] / "fixtures"
OFFICIAL = FIXTURES / "metrics/vqa_official"
UNITER = FIXTURES / "data/uniter"
IMAGES = sorted({row["image_id"] for row in json.loads((OFFICIAL / "questions.json").read_text())["questions"]})
EXPECTED = json.loads((OFFICIAL / "training_targets_expected.json").read_text())


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """The questions that the official VQA evaluator was run on, as training data with features."""
    folder = tmp_path / "vqav2"
    folder.mkdir()
    shutil.copy(OFFICIAL / "questions.json", folder / "v2_OpenEnded_mscoco_train2014_questions.json")
    shutil.copy(OFFICIAL / "annotations.json", folder / "v2_mscoco_train2014_annotations.json")
    (folder / "ans2label.json").write_text(json.dumps(EXPECTED["ans2label"]))
    write_regions(tmp_path / "mscoco_imgfeat/train2014_obj36.tsv", map(regions, IMAGES))
    return tmp_path


def regions(image_id: int) -> Regions:
    ids, conf = np.zeros(1, np.int64), np.ones(1, np.float32)
    boxes, features = np.array([[1, 1, 9, 9]], np.float32), np.ones((1, 4), np.float32)
    return Regions(f"COCO_train2014_{image_id:012d}", 10, 10, boxes, features, ids, conf, ids, conf)


def test_uniter_counts_normalised_answers_as_its_official_code(raw: Path) -> None:
    data = open_data(raw, "vqa", ("train",), family_named("uniter"))
    targets = dict(zip([str(one.id) for one in data.examples], soft_targets(data), strict=True))
    assert targets == {
        key: dict(zip(target["labels"], target["scores"], strict=True)) for key, target in EXPECTED["targets"].items()
    }


@pytest.mark.parametrize("name", ["lxmert", "vilt"])
def test_the_others_count_answers_as_they_are(raw: Path, name: str) -> None:
    """Of "none" x 8, "2" and "10" they know only "2": the list has 0 for "none"."""
    if name == "vilt":
        images = raw / "vqav2" / "train2014"
        images.mkdir()
        for image in IMAGES:
            (images / f"COCO_train2014_{image:012d}.png").touch()
    data = open_data(raw, "vqa", ("train",), family_named(name))
    assert next(one for one in data.examples if one.id == 1000).answers == {"2": 0.3}
    assert data.identity != open_data(raw, "vqa", ("train",), family_named("uniter")).identity


def test_uniters_own_databases_hold_counted_answers_already() -> None:
    data = open_data(UNITER, "vqa", ("train",), family_named("uniter"))
    assert data.identity == open_data(UNITER, "vqa", ("train",), family_named("lxmert")).identity


def test_uniter_trains_on_texts_of_so_many_pieces_and_reads_longer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database counts 5, 6, 6, 5 and 5 pieces (id2len.json), [CLS] and [SEP] apart; inference has no limit."""
    monkeypatch.setattr(FAMILIES["uniter"], "longest_trained", 5)
    uniter, cased = family_named("uniter"), WordPiece.load(FIXTURES / "vocab/bert-tiny-cased")
    data, told = open_data(UNITER, "vqa", ("train",), uniter), []
    kept = without_long_texts(data, uniter, cased, told.append)
    lengths = json.loads((UNITER / "txt_db/vqa_train.db/id2len.json").read_text())
    assert [str(one.id) for one in kept.examples] == [key for key, length in lengths.items() if length <= 5]
    assert told == ["2 of 5 texts are longer than 5 word pieces: left out of training"]
    assert kept.identity != data.identity
    preprocessor = Preprocessor(uniter, cased, data.pictures, max_words(uniter, {}), data.encoded)
    assert [len(ids) for ids in preprocessor.ids([one.text for one in data.examples])] == [
        n + 2 for n in lengths.values()
    ]
    assert without_long_texts(replace(data, encoded=None), uniter, cased, told.append).examples == kept.examples
    assert without_long_texts(data, family_named("lxmert"), cased, told.append) is data


@pytest.mark.parametrize(("task", "most"), [("refcoco", 59), ("snli_ve", 60)])
def test_refcocos_limit_is_one_less(task: str, most: int) -> None:
    """Its official loader asks for fewer than 60, the others for 60 at most."""
    examples = [CaptionExample(length, "a", "the " * length) for length in (58, 59, 60, 61)]
    data = make_data(task, examples, None)
    kept = without_long_texts(data, family_named("uniter"), VOCABULARY, lambda line: None)
    assert [one.id for one in kept.examples] == list(range(58, most + 1))


def test_the_share_of_questions_without_a_listed_answer_is_told(raw: Path) -> None:
    told: list[str] = []
    data = open_data(raw, "vqa", ("train",), family_named("uniter"))
    tell_unlisted(data, told.append)
    unlisted = sum(not target["labels"] for target in EXPECTED["targets"].values())
    share = f"{unlisted} of {len(data.examples)} questions ({unlisted / len(data.examples):.0%})"
    assert told == [
        f"warning: vqa train: {share} have no answer among the 12 listed, so that no answer to them is right"
    ]
    tell_unlisted(open_data(UNITER, "vqa", ("train",), family_named("uniter")), told.append)
    assert len(told) == 1
