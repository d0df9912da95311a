"""A task's data as a family reads it: whose code normalises VQA's answers, and answers that no list has."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vlcompress.data.regions import Regions, write_regions
from vlcompress.models.registry import family_named
from vlcompress.tasks.opening import open_data, tell_unlisted
from vlcompress.tasks.vqa import soft_targets

OFFICIAL = Path(__file__).parents[1] / "fixtures/metrics/vqa_official"
UNITER = Path(__file__).parents[1] / "fixtures/data/uniter"
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
