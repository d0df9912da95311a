"""The benchmarks' own files: what each reader makes of them, and broken ones."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vlcompress.data.examples import HIDDEN
from vlcompress.data.raw import gqa, karpathy, nlvr2, refcoco, snli_ve, vcr, vqa
from vlcompress.errors import VlcompressError

RAW = Path(__file__).parents[2] / "fixtures/data/raw"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RAW, tmp_path / "raw"))


def test_vqa_counts_its_votes_and_keeps_them() -> None:
    labels = vqa.labels(RAW / "vqav2")
    examples = {example.id: example for example in vqa.read_split(RAW / "vqav2", "val", labels)}
    assert labels == tuple(json.loads((RAW / "vqav2/ans2label.json").read_text()))
    shirt = examples[142002]
    assert shirt.image == "COCO_val2014_000000000142"
    assert shirt.answers == {"white": 0.6, "black and white": 1.0, "black": 0.9}
    assert shirt.votes.count("black and white") == 5
    assert shirt.kind == "other"


def test_vqas_test_parts_hide_their_answers_and_share_their_pictures() -> None:
    for split, count in (("test", 3), ("test-dev", 2)):
        examples = vqa.read_split(RAW / "vqav2", split, ("yes",))
        assert len(examples) == count
        assert {example.image for example in examples} <= {f"COCO_test2015_{i:012d}" for i in (101, 116)}
        assert all(example.answers == {} and example.votes == () for example in examples)


def test_vqa_without_a_label_list_takes_the_common_answers(raw: Path) -> None:
    (raw / "vqav2/ans2label.json").unlink()
    assert vqa.labels(raw / "vqav2") == ("yes", "no")


def test_gqa_has_one_answer_a_question() -> None:
    first = gqa.read_split(RAW / "gqa", "val")[0]
    assert (first.id, first.image, first.text) == ("0090011", "2375101", "What color is the car?")
    assert (first.answers, first.kind) == ({"red": 1.0}, "query")
    assert gqa.labels(RAW / "gqa")[0] == gqa.read_split(RAW / "gqa", "train")[0].answers.popitem()[0]


def test_nlvr2_names_its_images_and_its_sentences() -> None:
    assert nlvr2.splits(RAW / "nlvr2")[:3] == ("train", "dev", "test1")
    first = nlvr2.read_split(RAW / "nlvr2", "test1")[0]
    assert first.id == "test1-108-0-1"
    assert first.images == ("test1-108-0-img0", "test1-108-0-img1")
    assert (first.label, first.group) == (0, "test1-108-1")


def test_snli_ve_takes_the_hypothesis_and_passes_over_undecided_pairs(raw: Path) -> None:
    examples, undecided = snli_ve.read_split(RAW / "snli_ve", "dev")
    newer = raw / "snli_ve/snli_ve_test.jsonl"
    newer.write_text((RAW / "snli_ve/snli_ve_dev.jsonl").read_text().replace('"Flikr30kID"', '"Flickr30K_ID"'))
    assert snli_ve.read_split(raw / "snli_ve", "test") == (examples, undecided)
    assert [(one.image, one.text, one.label) for one in examples] == [
        ("40095", "There are two people.", 0),
        ("40095", "A dog is near a tree", 1),
    ]
    assert undecided == 0
    path = raw / "snli_ve/snli_ve_dev.jsonl"
    path.write_text(path.read_text().replace('"gold_label": "entailment"', '"gold_label": "-"'))
    assert snli_ve.read_split(raw / "snli_ve", "dev")[1] == 1


def test_vcr_keeps_words_and_objects_apart() -> None:
    first = vcr.read_split(RAW / "vcr", "val")[0]
    assert first.image == "3015_CHARLIE_ST_CLOUD_00.23.57.935-00.24.00.783@0"
    assert first.objects == ("person", "person", "person", "car")
    assert first.question == ("Why", "is", (0,), "standing", "near", (1,), "?")
    assert first.answers[3][-2] == (0, 1)
    assert (first.answer, first.rationale) == (3, 2)
    assert vcr.read_split(RAW / "vcr", "test")[0].answer == HIDDEN


def test_captions_come_one_an_example() -> None:
    path = karpathy.caption_file(RAW / "flickr30k")
    examples = karpathy.read_split(path, "train")
    assert [example.id for example in examples] == list(range(500, 510))
    assert examples[5].image == "66567"
    assert karpathy.splits(path) == ("train", "val", "test")


def test_two_folders_pictures_of_one_file_name_are_refused(tmp_path: Path) -> None:
    row = {"filename": "0.jpg", "sentences": [{"sentid": 1, "raw": "a cube"}], "split": "train"}
    rows = [{**row, "filepath": "train"}, {**row, "filepath": "test", "split": "test"}]
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"images": rows}))
    with pytest.raises(VlcompressError, match=r"'0.jpg' is a picture in 'train' and another in 'test'"):
        karpathy.splits(path)
    path.write_text(json.dumps({"images": [rows[0], {**rows[1], "filename": "1.jpg"}]}))
    assert karpathy.splits(path) == ("train", "test")


def test_refcoco_reads_its_python_2_pickle_and_orders_boxes_as_mattnet() -> None:
    folder = RAW / "refcoco+"
    expected = json.loads((folder / "refs_unc_as_json_for_reading.json").read_text())
    order = json.loads((folder / "iid_to_ann_ids.json").read_text())["iid_to_ann_ids"]
    read = {one.id: one for split in refcoco.splits(folder) for one in refcoco.read_split(folder, split)}
    for ref in expected:
        for sentence in ref["sentences"]:
            example = read.pop(sentence["sent_id"])
            assert example.text == sentence["sent"]
            assert example.image == f"COCO_train2014_{ref['image_id']:012d}"
            assert example.target == order[str(ref["image_id"])].index(ref["ann_id"])
    assert not read
    assert refcoco.read_split(folder, "train")[0].box == (213.56, 350.13, 135.93, 64.54)


def test_refcoco_without_mattnets_file_takes_the_order_of_the_instances(raw: Path) -> None:
    (raw / "refcoco+/iid_to_ann_ids.json").unlink()
    assert refcoco.read_split(raw / "refcoco+", "train")[0].target == 0


def edit(path: str, old: str, new: str) -> Callable[[Path], None]:
    def change(raw: Path) -> None:
        text = (raw / path).read_text()
        assert old in text
        (raw / path).write_text(text.replace(old, new))

    return change


def plant(raw: Path) -> None:
    (raw / "refcoco+/refs(unc).p").write_bytes(pickle.dumps([print], 0))


BROKEN: dict[str, tuple[Callable[[Path], None], Callable[[Path], object], str]] = {
    "cut json": (
        lambda raw: (raw / "gqa/val_balanced_questions.json").write_text('{"1": '),
        lambda raw: gqa.read_split(raw / "gqa", "val"),
        "val_balanced_questions.json' is not valid JSON",
    ),
    "cut jsonl": (
        edit("snli_ve/snli_ve_dev.jsonl", '"Flikr30kID": "40095.jpg"}', '"Flikr30kID": "400'),
        lambda raw: snli_ve.read_split(raw / "snli_ve", "dev"),
        "snli_ve_dev.jsonl', line 1 is not valid JSON",
    ),
    "missing field": (
        edit("gqa/val_balanced_questions.json", '"imageId"', '"image"'),
        lambda raw: gqa.read_split(raw / "gqa", "val"),
        "val_balanced_questions.json', row 1: no 'imageId'",
    ),
    "missing annotation": (
        edit("vqav2/v2_mscoco_val2014_annotations.json", '"question_id": 142002', '"question_id": 9'),
        lambda raw: vqa.read_split(raw / "vqav2", "val", ("yes",)),
        "has no annotation of question 142002",
    ),
    "duplicate question": (
        edit("vqav2/v2_OpenEnded_mscoco_val2014_questions.json", '"question_id": 142002', '"question_id": 142000'),
        lambda raw: vqa.read_split(raw / "vqav2", "val", ("yes",)),
        "v2_OpenEnded_mscoco_val2014_questions.json', row .*: question 142000 is already in row 1",
    ),
    "duplicate identifier": (
        edit("nlvr2/nlvr2/data/dev.json", "dev-105-1-0", "dev-105-0-0"),
        lambda raw: nlvr2.read_split(raw / "nlvr2", "dev"),
        "dev.json', row 2: identifier dev-105-0-0 is already in row 1",
    ),
    "unknown label": (
        edit("snli_ve/snli_ve_dev.jsonl", '"gold_label": "entailment"', '"gold_label": "maybe"'),
        lambda raw: snli_ve.read_split(raw / "snli_ve", "dev"),
        "snli_ve_dev.jsonl', row 2: gold_label 'maybe' is none of",
    ),
    "an object that is not there": (
        edit("vcr/val.jsonl", "[0, 1]", "[0, 4]"),
        lambda raw: vcr.read_split(raw / "vcr", "val"),
        r"val.jsonl', row 1: \[0, 4\] is neither a word",
    ),
    "a VCR box outside its image": (
        edit("vcr/vcr1images/lsmdc_3015_CHARLIE_ST_CLOUD/3015_CHARLIE_ST_CLOUD_00.23.57.935-00.24.00.783@0.json",
             "[815.074, 227.428, 1043.337", "[2815.074, 227.428, 3043.337"),
        lambda raw: vcr.read_split(raw / "vcr", "val"),
        r"783@0.json', row 1: box \(2815.074, .* is outside the image of 1920x817",
    ),
    "a RefCOCO box outside its image": (
        edit("refcoco+/instances.json", "[213.56, 350.13, 135.93, 64.54]", "[613.56, 350.13, 135.93, 64.54]"),
        lambda raw: refcoco.read_split(raw / "refcoco+", "train"),
        r"instances.json', row 1: annotation 1000: box .* is outside 'COCO_train2014_000000581957.jpg' of 640x480",
    ),
    "a NaN box": (
        edit("refcoco+/instances.json", "[213.56, 350.13, 135.93, 64.54]", "[NaN, 350.13, 135.93, 64.54]"),
        lambda raw: refcoco.read_split(raw / "refcoco+", "train"),
        "instances.json', row 1: annotation 1000: box .* is outside",
    ),
    "a reference to no annotation": (
        edit("refcoco+/refs(unc).p", "I1002", "I2002"),
        lambda raw: refcoco.read_split(raw / "refcoco+", "train"),
        r"refs\(unc\).p', row 2: annotation 2002 of image 581957 is not in instances.json",
    ),
    "another data set's order": (
        edit("refcoco+/iid_to_ann_ids.json", "1001, ", ""),
        lambda raw: refcoco.read_split(raw / "refcoco+", "train"),
        "iid_to_ann_ids.json', image 581957: its annotations are not those of instances.json",
    ),
    "a pickle with a name": (plant, lambda raw: refcoco.splits(raw / "refcoco+"), r"refs\(unc\).p' is refused"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named_with_its_record(raw: Path, kind: str) -> None:
    damage, read, message = BROKEN[kind]
    damage(raw)
    with pytest.raises(VlcompressError, match=message) as caught:
        read(raw)
    assert "\n" not in str(caught.value)
