"""The data set on disk: published formats, the same bytes for the same recipe, honest baselines, whole or absent."""

import json
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from vlcompress.artefacts import unseal
from vlcompress.data.detect_layout import open_task
from vlcompress.data.pretraining import open_pretraining
from vlcompress.data.questions import Answers, read_questions
from vlcompress.data.scenes.baselines import report
from vlcompress.data.scenes.boxes import BOXES
from vlcompress.data.scenes.encoder import FEATURE_DIM, encode
from vlcompress.data.scenes.questions import ANSWERS
from vlcompress.data.scenes.render import decode
from vlcompress.data.scenes.write import make_scenes
from vlcompress.data.vqa_v2 import read_vqa_v2, to_lxmert
from vlcompress.errors import VlcompressError


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_reader_of_official_folders_opens_it(tiny: Path) -> None:
    data = open_task(tiny, "vqa", ("train", "minival"))
    assert len(data.examples) == 60 * 4
    assert data.labels == ANSWERS
    assert data.pictures.feature_dim == FEATURE_DIM
    assert data.pictures.regions(data.examples[0].image).features.shape == (BOXES, FEATURE_DIM)
    assert data.vocabulary is not None
    assert data.vocabulary.unknown_rate([question.text for question in data.examples]) == 0


def test_pretraining_has_pictures_of_its_own(tiny: Path) -> None:
    data = open_pretraining(tiny)
    other = {question.image for question in open_task(tiny, "vqa", ("train", "minival")).examples}
    assert {example.kind for example in data.examples} == {"mscoco", "vqa"}
    assert len(data.examples) == 10 * 8
    assert not {example.image for example in data.examples} & other
    assert data.labels == ANSWERS


def test_soft_scores_are_those_of_the_raw_annotations(tiny: Path) -> None:
    raw = tiny / "vqa_v2"
    questions = raw / "v2_OpenEnded_mscoco_val2014_questions.json"
    annotated = read_vqa_v2(questions, raw / "v2_mscoco_val2014_annotations.json")
    written = read_questions(tiny / "vqa/minival.json")
    assert to_lxmert(annotated, Answers.read(tiny / "vqa"), "scenes_val2014_{:012d}") == written
    assert any(len(question.label) > 1 for question in written)  # annotators disagree
    assert all(len(question.answers) == 10 for question in annotated)


def test_features_are_those_of_the_pictures_on_disk(tiny: Path) -> None:
    regions = open_task(tiny, "vqa", ["train"]).pictures.regions("scenes_train2014_000000000007")
    with ZipFile(tiny / "images/train2014.zip") as archive:
        picture = decode(archive.read("train2014/scenes_train2014_000000000007.jpg"))
    assert (picture.width, picture.height) == (regions.width, regions.height)
    np.testing.assert_array_equal(encode(picture, regions.boxes), regions.features)


def test_the_same_recipe_gives_the_same_bytes_with_any_number_of_processes(tiny: Path, tmp_path: Path) -> None:
    again = make_scenes(tmp_path / "again", size="tiny", pretrain=10, processes=2)
    assert content(again) == content(tiny)


def test_another_seed_gives_other_data(tiny: Path, tmp_path: Path) -> None:
    other = make_scenes(tmp_path / "other", size="tiny", seed=1, images=False)
    assert not (other / "images").exists()
    assert not (other / "lxmert/pretrain.json").exists()
    assert read_questions(other / "vqa/train.json") != read_questions(tiny / "vqa/train.json")


def test_its_document_seals_every_file(tiny: Path) -> None:
    document = unseal(tiny, "scenes.json")
    assert document["recipe"] == {"size": "tiny", "seed": 0, "pretrain": 10, "images": True, "version": 2}
    assert set(document["files"]) == set(content(tiny)) - {"scenes.json"}


def test_the_report_scores_blind_baselines(tiny: Path) -> None:
    document = json.loads((tiny / "data_report.json").read_text())
    assert document == report(tiny)
    scores = document["scores"]
    assert scores["best_possible"]["overall"] == pytest.approx(100, abs=3)
    assert set(scores) == {"majority", "majority_by_question_type", "question_only", "best_possible"}
    assert all(scores[name]["overall"] < 60 for name in scores if name != "best_possible")


def test_the_question_only_baseline_learns_what_words_give_away(tiny: Path, tmp_path: Path) -> None:
    rows = json.loads((tiny / "vqa/train.json").read_text())
    for row in rows:
        row["label"] = {"yes": 1.0} if "red" in row["sent"] else {"no": 1.0}
    for name in ("train", "minival"):
        (tmp_path / "vqa").mkdir(exist_ok=True)
        (tmp_path / f"vqa/{name}.json").write_text(json.dumps(rows))
    for name in ("trainval_label2ans.json", "trainval_ans2label.json"):
        (tmp_path / "vqa" / name).write_bytes((tiny / "vqa" / name).read_bytes())
    scores = report(tmp_path)["scores"]
    assert scores["question_only"]["overall"] > scores["majority"]["overall"]
    assert scores["question_only"]["overall"] > 95


def test_an_unknown_size_is_refused_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match=r"unknown size of the built-in data 'tinny'.* did you mean 'tiny'"):
        make_scenes(tmp_path / "data", size="tinny")
    with pytest.raises(VlcompressError, match="pretrain -1"):
        make_scenes(tmp_path / "data", pretrain=-1)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path) -> None:
        raise RuntimeError

    monkeypatch.setattr("vlcompress.data.scenes.baselines.report", fail)
    with pytest.raises(RuntimeError):
        make_scenes(tmp_path / "data", size="tiny", processes=1)
    assert not list(tmp_path.iterdir())
