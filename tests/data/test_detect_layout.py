"""Opening a task's data: which layout is taken, and what is given whatever it is."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from vlcompress.data.detect_layout import open_task
from vlcompress.data.examples import AnswerExample, PairExample, TaskData, images_of
from vlcompress.data.questions import Answers, Question
from vlcompress.data.regions import Regions, write_regions
from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError
from vlcompress.tasks.build_task import check_apart, tell_stand_ins

FIXTURES = Path(__file__).parents[1] / "fixtures"
LXMERT = FIXTURES / "data/lxmert/data"
RAW = FIXTURES / "data/raw"
VCR_IMAGE = "3015_CHARLIE_ST_CLOUD_00.23.57.935-00.24.{}.783@0"


def some_regions(name: str, boxes: int = 3, width: int = 8) -> Regions:
    rng = np.random.default_rng(len(name))
    corner = rng.uniform(0, 50, (boxes, 2)).astype(np.float32)
    return Regions(
        name, 100, 100, np.hstack([corner, corner + 40]), rng.normal(size=(boxes, width)).astype(np.float32),
        np.zeros(boxes, np.int64), np.ones(boxes, np.float32), np.zeros(boxes, np.int64), np.ones(boxes, np.float32),
    )  # fmt: skip


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RAW, tmp_path / "raw"))


@pytest.mark.evidence("format", "lxmert-vqa", "lxmert-gqa")
@pytest.mark.parametrize(
    ("task", "split"),
    [("gqa", "train"), ("gqa", "testdev"), ("vqa", "minival"), ("vqa", "nominival"), ("vqa", "train")],
)
def test_lxmerts_questions_give_the_official_batch(task: str, split: str) -> None:
    expected = load_file(FIXTURES / f"data/lxmert/expected_batches/{task}_{split}.safetensors")
    facts = json.loads((FIXTURES / f"data/lxmert/expected_batches/{task}_{split}.json").read_text())
    data: TaskData[AnswerExample] = open_task(LXMERT, task, [split], allow_missing=True)
    assert [example.text for example in data.examples] == facts["sent"]
    assert data.left_out.get("no region features", 0) == facts["n_raw"] - facts["n_items"]
    ids = WordPiece.load(FIXTURES / "vocab/bert-tiny-uncased").encode([one.text for one in data.examples], fixed=True)
    np.testing.assert_array_equal(ids, expected["input_ids"])
    questions = [Question(one.id, one.image, one.text, one.answers) for one in data.examples]
    np.testing.assert_array_equal(Answers(data.labels).targets(questions), expected["target"])
    for row, example in enumerate(data.examples):
        regions = data.pictures.regions(example.image)
        np.testing.assert_array_equal(regions.features, expected["feats"][row])
        np.testing.assert_array_equal(regions.normalized_boxes, expected["boxes"][row])


@pytest.mark.evidence("format", "lxmert-nlvr2")
@pytest.mark.parametrize("split", ["valid", "dev"])
def test_lxmerts_pairs_give_the_official_batch_by_either_name(split: str) -> None:
    expected = load_file(FIXTURES / "data/lxmert/expected_batches/nlvr2_valid.safetensors")
    data: TaskData[PairExample] = open_task(LXMERT, "nlvr2", [split])
    for row, example in enumerate(data.examples):
        assert example.label == expected["label"][row]
        for side, image in enumerate(example.images):
            regions = data.pictures.regions(image)
            np.testing.assert_array_equal(regions.features, expected["feats"][row, side])
            np.testing.assert_array_equal(regions.normalized_boxes, expected["boxes"][row, side])


@pytest.mark.parametrize(
    ("task", "split", "examples"),
    [("vqa", "train", 22), ("vqa", "val", 3), ("nlvr2", "test", 2), ("snli_ve", "dev", 2), ("retrieval", "test", 5)],
)
def test_raw_files_with_pictures(task: str, split: str, examples: int) -> None:
    data = open_task(RAW, task, [split])
    assert len(data.examples) == examples
    assert data.pictures.feature_dim == 0
    for image in images_of(data.examples[0]):
        pixels = data.pictures.pixels(image)
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        with Image.open(next(RAW.glob(f"**/{image}.*"))) as picture:
            np.testing.assert_array_equal(pixels, np.asarray(picture.convert("RGB")))


def test_region_features_are_found_beside_raw_files_and_only_the_files_that_are_needed(raw: Path) -> None:
    write_regions(raw / "vg_gqa_imgfeat/train.tsv", [some_regions("2375101"), some_regions("2375102")])
    write_regions(raw / "vg_gqa_imgfeat/zz_other.tsv", [some_regions("n250101", width=5)])
    data = open_task(raw, "gqa", ["train"], feature_dim=8)
    assert data.pictures.feature_dim == 8
    np.testing.assert_array_equal(data.pictures.regions("2375102").features, some_regions("2375102").features)


def test_regions_of_annotated_boxes_lie_in_files_of_their_own(raw: Path) -> None:
    names = [f"COCO_train2014_{number:012d}" for number in (581957, 581663, 581057)]
    write_regions(raw / "refcoco_imgfeat/train2014_det.tsv", [some_regions(name, 6) for name in names])
    write_regions(raw / "refcoco_imgfeat/train2014_gt.tsv", [some_regions(name, 4) for name in names])
    data = open_task(raw, "refcoco", ["train", "val"])
    assert len(data.pictures.regions(names[0]).boxes) == 6
    assert len(data.pictures.regions(names[0], ground_truth=True).boxes) == 4
    assert [example.target for example in data.examples] == [3, 3, 1, 0, 0, 0]


def test_vcr_takes_its_own_features(raw: Path) -> None:
    write_regions(raw / "vcr/vcr_imgfeat/all_gt.tsv", [some_regions(VCR_IMAGE.format(f"0{i}"), 4) for i in (0, 1)])
    data = open_task(raw, "vcr", ["val"])
    assert len(data.examples) == 2
    with pytest.raises(VlcompressError, match="no region features of the detector"):
        data.pictures.regions(VCR_IMAGE.format("00"))


def test_a_second_data_set_of_a_task_is_named_with_the_split(raw: Path) -> None:
    coco = json.loads((raw / "flickr30k/karpathy/dataset_flickr30k.json").read_text())
    (raw / "coco").mkdir()
    (raw / "coco/dataset_coco.json").write_text(json.dumps({"images": coco["images"][:1]}))
    shutil.copytree(raw / "flickr30k/flickr30k-images", raw / "images")
    assert len(open_task(raw, "retrieval", ["train"]).examples) == 10
    assert len(open_task(raw, "retrieval", ["coco/train"]).examples) == 5
    assert len(open_task(raw, "retrieval", ["flickr30k/train"]).examples) == 10


def test_an_image_that_is_not_there_is_refused_or_left_out(raw: Path) -> None:
    next(raw.glob("**/train-103-2-img1.png")).unlink()
    with pytest.raises(VlcompressError, match="1 of 4 examples have no picture, the first of image 'train-103-2-img1'"):
        open_task(raw, "nlvr2", ["train"])
    data = open_task(raw, "nlvr2", ["train"], allow_missing=True)
    assert (len(data.examples), data.left_out) == (3, {"no picture": 1})


def test_pixels_can_be_asked_for_where_there_are_features(raw: Path) -> None:
    write_regions(raw / "nlvr2_imgfeat/dev.tsv", [some_regions("dev-105-0-img0")])
    assert open_task(raw, "nlvr2", ["dev"], feature_dim=0).pictures.feature_dim == 0
    with pytest.raises(VlcompressError, match="have no region features, the first of image 'dev-105-0-img1'"):
        open_task(raw, "nlvr2", ["dev"])


def test_other_content_is_another_identity(raw: Path) -> None:
    before = open_task(raw, "snli_ve", ["dev"]).identity
    assert open_task(RAW, "snli_ve", ["dev"]).identity == before
    path = raw / "snli_ve/snli_ve_dev.jsonl"
    path.write_text(path.read_text().replace("two people", "four people"))
    assert open_task(raw, "snli_ve", ["dev"]).identity != before


def test_what_is_not_there_is_refused_with_what_is(raw: Path) -> None:
    with pytest.raises(VlcompressError, match="no split 'testdev' of vqa in one layout: it has raw train, val, test"):
        open_task(raw, "vqa", ["testdev"])
    with pytest.raises(VlcompressError, match="has no data of vqa in a known layout"):
        open_task(raw / "gqa", "vqa", ["train"])
    with pytest.raises(VlcompressError, match=r"unknown task 'ref': .* did you mean"):
        open_task(raw, "ref", ["train"])
    with pytest.raises(VlcompressError, match="no data folder at"):
        open_task(raw / "none", "vqa", ["train"])


@pytest.mark.parametrize(
    ("folder", "asked", "opened"),
    [
        ("raw", ("minival",), ("val",)),
        ("uniter", ("train", "minival"), ("train", "devval")),
        ("vilt", ("minival",), ("rest_val",)),
        ("lxmert/data", ("minival", "nominival"), ("minival", "nominival")),
    ],
)
def test_the_usual_parts_of_validation_are_found_in_every_layout(
    folder: str, asked: tuple[str, ...], opened: tuple[str, ...]
) -> None:
    data: TaskData[AnswerExample] = open_task(FIXTURES / "data" / folder, "vqa", asked, allow_missing=True)
    assert data.splits == opened
    said: list[str] = []
    tell_stand_ins(data, asked, said.append)
    assert len(said) == sum(name != other for name, other in zip(asked, opened, strict=True))
    with pytest.raises(VlcompressError, match=f"split '{min(opened)}' is trained on"):
        check_apart(data, open_task(FIXTURES / "data" / folder, "vqa", opened, allow_missing=True))


def test_region_files_of_two_widths_are_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(LXMERT, tmp_path / "data"))
    shutil.copy(LXMERT / "mscoco_imgfeat/realdim2048_10boxes.tsv", folder / "mscoco_imgfeat/train2014_obj36.tsv")
    with pytest.raises(VlcompressError, match="feature size 2048 where 64"):
        open_task(folder, "vqa", ("minival", "train"))


def test_raw_files_have_no_part_of_validation_to_train_on() -> None:
    with pytest.raises(
        VlcompressError, match=r"no split 'train, nominival' .* raw train, val.*data.train and data.score"
    ):
        open_task(RAW, "vqa", ["train", "nominival"])


def test_a_damaged_picture_is_named(raw: Path) -> None:
    data = open_task(raw, "snli_ve", ["dev"])
    path = raw / "flickr30k/flickr30k-images/40095.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(VlcompressError, match=r"40095.jpg' is not a readable JPEG or PNG"):
        data.pictures.pixels("40095")


@pytest.mark.parametrize(
    ("path", "old", "new", "message"),
    [
        ("snli_ve/snli_ve_dev.jsonl", '"There are two people."', "5", r"example '40095.jpg#1r1c': text 5 is no text"),
        ("gqa/val_balanced_questions.json", '"answer": "red"', '"answer": 5', r"example '0090011': answers \{5: 1.0\}"),
        ("gqa/val_balanced_questions.json", '"types": {', '"types": 3, "was": {', "row 1: it is not in the format"),
        ("nlvr2/nlvr2/data/dev.json", '"label": "True"', '"label": ["True"]', r"row 1: it is not in"),
        ("vqav2/v2_OpenEnded_mscoco_val2014_questions.json", ": 142,", ": [142],", r"image_id \[142\] is not a whole"),
        (
            "flickr30k/karpathy/dataset_flickr30k.json",
            '"sentid": 511',
            '"sentid": []',
            r"sentid \[\] is neither",
        ),
    ],
)
def test_values_of_other_types_are_named(raw: Path, path: str, old: str, new: str, message: str) -> None:
    task = {"vqav2": "vqa", "flickr30k": "retrieval"}.get(path.split("/")[0], path.split("/")[0])
    split = "dev" if "dev" in path else "val"
    write_regions(raw / "gqa_imgfeat/all.tsv", [some_regions("2375101")])
    text = (raw / path).read_text()
    assert old in text
    (raw / path).write_text(text.replace(old, new))
    with pytest.raises(VlcompressError, match=message) as caught:
        open_task(raw, task, [split])
    assert "\n" not in str(caught.value)
