"""Every task's built-in data: the benchmark's own file shapes, the same bytes again, splits without common pictures."""

import json
import pickle
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest

from vlcompress.artefacts import unseal
from vlcompress.data.regions import RegionFile
from vlcompress.data.scenes.benchmarks import SIZES, TASKS, make_benchmark
from vlcompress.data.scenes.classes import CLASS_SETS, COARSE, FINE, SIDE
from vlcompress.data.scenes.encoder import encode
from vlcompress.data.scenes.render import decode
from vlcompress.data.scenes.vocabulary import tokens
from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("benchmarks")
    return {task: make_benchmark(root / task, task, size="tiny", processes=1) for task in TASKS}


def rows(path: Path) -> list[Any]:
    text = path.read_text()
    return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("task", TASKS)
def test_every_folder_is_sealed_and_speaks_the_shared_vocabulary(made: dict[str, Path], task: str) -> None:
    document = unseal(made[task], "scenes.json")
    assert document["recipe"] == {"task": task, "size": "tiny", "seed": 0, "version": 1}
    assert WordPiece.load(made[task]).tokens == tokens()
    report = json.loads((made[task] / "data_report.json").read_text())
    assert "scores" in report or "chance" in report


@pytest.mark.parametrize("task", ["nlvr2", "vcr", "classification"])
def test_the_same_recipe_gives_the_same_bytes(made: dict[str, Path], task: str, tmp_path: Path) -> None:
    again = make_benchmark(tmp_path / task, task, size="tiny", processes=2)
    assert (again / "scenes.json").read_bytes() == (made[task] / "scenes.json").read_bytes()


def test_gqa_says_the_same_in_both_layouts(made: dict[str, Path]) -> None:
    root = made["gqa"] / "gqa"
    raw = json.loads((root / "testdev_balanced_questions.json").read_text())
    lxmert = {row["question_id"]: row for row in rows(root / "testdev.json")}
    assert raw.keys() == lxmert.keys()
    for name, row in raw.items():
        assert lxmert[name]["sent"] == row["question"]
        assert lxmert[name]["label"] == {row["answer"]: 1.0}
        assert lxmert[name]["img_id"] == row["imageId"]
    features = RegionFile(made["gqa"] / "vg_gqa_imgfeat/gqa_testdev_obj36.tsv")
    assert all(row["imageId"] in features for row in raw.values())


def test_nlvr2_sentences_are_true_of_half_of_their_pairs(made: dict[str, Path]) -> None:
    labels: dict[tuple[str, str], list[str]] = {}
    for row in rows(made["nlvr2"] / "nlvr2/nlvr2/data/dev.json"):
        split, number, _, place = row["identifier"].split("-")
        assert split == "dev"
        labels.setdefault((number, place), []).append(row["label"])
    assert labels
    assert all(sorted(said) == ["False", "False", "True", "True"] for said in labels.values())
    features = RegionFile(made["nlvr2"] / "nlvr2_imgfeat/valid_obj36.tsv")
    for row in rows(made["nlvr2"] / "nlvr2/valid.json"):
        assert row["img0"] in features
        assert row["img1"] in features


def test_snli_ve_has_every_label_for_every_picture(made: dict[str, Path]) -> None:
    said = rows(made["snli_ve"] / "snli_ve/snli_ve_dev.jsonl")
    assert len(said) == 3 * SIZES["tiny"].score
    assert len({row["pairID"] for row in said}) == len(said)
    for row in said[:3]:
        assert row["pairID"].endswith(row["gold_label"][0])
    with ZipFile(made["snli_ve"] / "flickr30k/flickr30k-images/dev.zip") as archive:
        assert {Path(name).name for name in archive.namelist()} == {row["Flikr30kID"] for row in said}


def test_vcr_tags_are_objects_with_boxes_and_features(made: dict[str, Path]) -> None:
    root = made["vcr"]
    truth = RegionFile(root / "vcr_imgfeat/val_gt.tsv")
    for row in rows(root / "vcr/val.jsonl"):
        metadata = json.loads((root / "vcr/vcr1images" / row["metadata_fn"]).read_text())
        assert metadata["names"] == row["objects"]
        regions = truth.read(Path(row["img_fn"]).stem)
        np.testing.assert_array_equal(regions.boxes, np.array(metadata["boxes"], dtype=np.float32)[:, :4])
        tags = [token for sentence in row["answer_choices"] for token in sentence if isinstance(token, list)]
        assert all(0 <= tag < len(row["objects"]) for (tag,) in tags)


def test_refcoco_files_agree(made: dict[str, Path]) -> None:
    root = made["refcoco"] / "refcoco+"
    refs = pickle.loads((root / "refs(unc).p").read_bytes())
    instances = json.loads((root / "instances.json").read_text())
    boxes = {row["id"]: row for row in instances["annotations"]}
    order = json.loads((root / "iid_to_ann_ids.json").read_text())["iid_to_ann_ids"]
    files = {split: RegionFile(made["refcoco"] / f"refcoco+_imgfeat/{split}_gt.tsv") for split in ("train", "testB")}
    sentences = [sentence["sent_id"] for ref in refs for sentence in ref["sentences"]]
    assert len(set(sentences)) == len(sentences)
    for ref in refs:
        assert boxes[ref["ann_id"]]["image_id"] == ref["image_id"]
        if ref["split"] in files:
            place = order[str(ref["image_id"])].index(ref["ann_id"])
            x1, y1, x2, y2 = files[ref["split"]].read(f"COCO_train2014_{ref['image_id']:012d}").boxes[place]
            assert boxes[ref["ann_id"]]["bbox"] == [x1, y1, x2 - x1, y2 - y1]


def test_retrieval_has_five_captions_a_picture(made: dict[str, Path]) -> None:
    document = json.loads((made["retrieval"] / "flickr30k/karpathy/dataset_flickr30k.json").read_text())
    images = document["images"]
    assert {image["split"] for image in images} == {"train", "val", "test"}
    assert all(len({sentence["raw"] for sentence in image["sentences"]}) == 5 for image in images)
    ids = [sentence["sentid"] for image in images for sentence in image["sentences"]]
    assert ids == list(range(len(ids)))


def test_features_are_those_of_the_pictures_on_disk(made: dict[str, Path]) -> None:
    regions = RegionFile(made["refcoco"] / "refcoco+_imgfeat/val_gt.tsv").read("COCO_train2014_000001000001")
    with ZipFile(made["refcoco"] / "refcoco+/images/val.zip") as archive:
        picture = decode(archive.read("val/COCO_train2014_000001000001.jpg"))
    np.testing.assert_array_equal(encode(picture, regions.boxes), regions.features)


def test_classification_is_cifar_100_s_binary_format(made: dict[str, Path]) -> None:
    root = made["classification"] / "cifar-100-binary"
    data = np.frombuffer((root / "train.bin").read_bytes(), dtype=np.uint8).reshape(-1, 2 + 3 * SIDE * SIDE)
    assert len(data) == 2 * SIZES["tiny"].train
    coarse = (root / "coarse_label_names.txt").read_text().split("\n")[:-1]
    fine = (root / "fine_label_names.txt").read_text().split("\n")[:-1]
    assert (tuple(coarse), tuple(fine)) == (COARSE, FINE)
    for label, name in data[:, :2].tolist():
        assert fine[name].split()[1] == coarse[label]


@pytest.mark.parametrize(("task", "size"), [("captioning", "tiny"), ("gqa", "huge")])
def test_what_there_is_not_is_said(task: str, size: str, tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match=r"gqa, nlvr2|small, tiny"):
        make_benchmark(tmp_path / "x", task, size=size)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["colours", "concepts", "counts"])
def test_other_sets_of_classes_have_pictures_of_their_own(made: dict[str, Path], name: str) -> None:
    chosen, count = CLASS_SETS[name], 2 * SIZES["tiny"].train
    folder = made[f"classification-{name}"] / "cifar-100-binary"
    records, plain = (
        np.fromfile(one / "train.bin", np.uint8).reshape(count, -1)
        for one in (folder, made["classification"] / "cifar-100-binary")
    )
    together = len(chosen.fine) // len(chosen.coarse)
    assert (records[:, 0] == records[:, 1] // together).all()
    assert records[:, 1].max() < len(chosen.fine)
    assert not {row.tobytes() for row in records[:, 2:]} & {row.tobytes() for row in plain[:, 2:]}
    assert (folder / "fine_label_names.txt").read_text().split("\n")[:-1] == list(chosen.fine)
