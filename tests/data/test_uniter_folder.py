"""UNITER's databases: what the official loaders yield for the same files, and databases that must be refused."""

import io
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import lmdb
import lz4.frame
import msgpack
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from vlcompress.data import packed as packed_values
from vlcompress.data.detect_layout import open_task
from vlcompress.data.examples import (
    AnswerExample,
    CaptionExample,
    ChoiceExample,
    EntailmentExample,
    PairExample,
    ReferringExample,
    TaskData,
    images_of,
)
from vlcompress.data.questions import Answers, Question
from vlcompress.data.tokenizer import WordPiece
from vlcompress.data.uniter_db import ImageDatabase, NpzFolder, TextDatabase
from vlcompress.data.uniter_folder import DatabasePictures
from vlcompress.errors import VlcompressError
from vlcompress.models.registry import FAMILIES
from vlcompress.tasks.metrics.refcoco import iou
from vlcompress.tasks.preprocessing import Preprocessor
from vlcompress.tasks.refcoco import Expressions, RefcocoTraining
from vlcompress.tasks.snli_ve import SnliVeTask
from vlcompress.tasks.vcr import VcrTraining

FIXTURES = Path(__file__).parents[1] / "fixtures"
UNITER = FIXTURES / "data/uniter"
CASED = WordPiece.load(FIXTURES / "vocab/bert-tiny-cased")
ONE = "coco_val2014_000000000142.npz"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(UNITER, tmp_path / "uniter"))


@dataclass(frozen=True)
class Batch:
    tensors: dict[str, np.ndarray[Any, Any]]
    facts: dict[str, Any]

    def check_regions(self, row: int, pictures: Any, images: list[str], start: int = 0) -> None:
        """Compare one row's regions, of several images one after another."""
        for image in images:
            regions = pictures.regions(image)
            end = start + len(regions.boxes)
            np.testing.assert_array_equal(regions.features, self.tensors["img_feat"][row, start:end], strict=True)
            np.testing.assert_array_equal(
                regions.position_features, self.tensors["img_pos_feat"][row, start:end], strict=True
            )
            start = end
        assert not self.tensors["img_feat"][row, start:].any()

    def check_ids(self, row: int, pieces: Any) -> None:
        ids = [CASED.cls_id, *pieces, CASED.sep_id]
        padding = [0] * (self.tensors["input_ids"].shape[1] - len(ids))
        np.testing.assert_array_equal(self.tensors["input_ids"][row], ids + padding)


def official(name: str) -> Batch:
    path = UNITER / "expected_batches" / name
    return Batch(load_file(path.with_suffix(".safetensors")), json.loads(path.with_suffix(".json").read_text()))


@pytest.mark.evidence("format", "uniter-vqa")
def test_vqa_gives_the_official_batch() -> None:
    batch = official("vqa_train_collate")
    data: TaskData[AnswerExample] = open_task(UNITER, "vqa", ["devval"])
    assert [str(example.id) for example in data.examples] == batch.facts["example_ids"]
    assert data.encoded is not None
    questions = [Question(one.id, one.image, one.text, one.answers) for one in data.examples]
    np.testing.assert_array_equal(Answers(data.labels).targets(questions), batch.tensors["targets"], strict=True)
    for row, example in enumerate(data.examples):
        batch.check_ids(row, data.encoded[row])
        batch.check_regions(row, data.pictures, [example.image])
    assert data.examples[2].votes.count("black and white") == 5


@pytest.mark.evidence("format", "uniter-nlvr2")
@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("nlvr2_paired_dev", "dev"),
        ("nlvr2_paired_eval_test1_maxlen20", "test1"),
        ("nlvr2_paired_dev", "dev_public_prepro"),
    ],
)
def test_nlvr2_pairs_give_the_official_batch(name: str, split: str) -> None:
    batch = official(name)
    data: TaskData[PairExample] = open_task(UNITER, "nlvr2", [split])
    assert [example.id for example in data.examples] == batch.facts["example_ids"]
    assert data.encoded is not None
    for i, example in enumerate(data.examples):
        assert example.label == batch.tensors["targets"][i]
        for side, image in enumerate(example.images):
            batch.check_ids(2 * i + side, data.encoded[i])
            batch.check_regions(2 * i + side, data.pictures, [image])


def test_nlvr2_triplets_give_the_official_batch() -> None:
    batch = official("nlvr2_triplet_dev")
    data: TaskData[PairExample] = open_task(UNITER, "nlvr2", ["dev"])
    for row, example in enumerate(data.examples):
        batch.check_regions(row, data.pictures, list(example.images))


@pytest.mark.evidence("format", "uniter-retrieval")
def test_retrieval_gives_the_official_batches() -> None:
    batch = official("itm_rank_explicit_pairs")
    data: TaskData[CaptionExample] = open_task(UNITER, "retrieval", ["train"])
    rows = {str(example.id): i for i, example in enumerate(data.examples)}
    assert list(rows) == batch.facts["example_ids"]
    assert data.encoded is not None
    for row, (caption, image) in enumerate(pair for triple in batch.facts["id_pairs"] for pair in triple):
        batch.check_ids(row, data.encoded[rows[caption]])
        batch.check_regions(row, data.pictures, [image.removesuffix(".npz")])
    one = official("itm_eval_txt1_minibatch0")
    test: TaskData[CaptionExample] = open_task(UNITER, "retrieval", ["flickr30k/test"])
    row = [str(example.id) for example in test.examples].index(one.facts["txt_id"])
    assert test.encoded is not None
    one.check_ids(0, test.encoded[row])
    one.check_regions(0, test.pictures, [test.examples[row].image])


def test_lengths_are_the_official_ones() -> None:
    facts = official("vqa_train_collate").facts
    text = TextDatabase(UNITER / "txt_db/vqa_devval.db")
    images = ImageDatabase(UNITER / "img_db/coco_val2014/feat_th0.2_max100_min10")
    assert images.boxes == facts["name2nbb"]
    assert [text.lengths[key] + images.boxes[text[key]["img_fname"]] for key in text.ids] == facts["lens"]


def test_a_fixed_number_of_boxes_gives_the_official_batch() -> None:
    batch = official("vqa_eval_collate_numbb11")
    pictures = DatabasePictures([ImageDatabase(UNITER / "img_db/coco_val2014/feat_numbb11")])
    for row, number in enumerate(batch.facts["example_ids"]):
        batch.check_regions(row, pictures, [f"coco_val2014_{int(number) // 1000:012d}"])


@pytest.mark.parametrize("variant", ["feat_th0.2_max100_min10_compressed", "all", "all_compressed"])
def test_every_variant_gives_the_same_regions(variant: str) -> None:
    plain = ImageDatabase(UNITER / "img_db/coco_val2014/feat_th0.2_max100_min10")
    other = ImageDatabase(UNITER / "img_db/coco_val2014" / variant)
    assert other.names == plain.names
    for name in plain.names:
        ours, expected = other.read(name), plain.read(name)
        np.testing.assert_array_equal(ours.features, expected.features, strict=True)
        np.testing.assert_array_equal(ours.position_features, expected.position_features, strict=True)
        np.testing.assert_array_equal(ours.soft_labels, expected.soft_labels, strict=True)  # type: ignore[arg-type]


def test_real_dimensions() -> None:
    regions = ImageDatabase(UNITER / "img_db/realdim/feat_th0.2_max100_min10").read("coco_test2015_000000000001.npz")
    assert regions.features.shape == (10, 2048)
    assert regions.soft_labels is not None
    assert regions.soft_labels.shape == (10, 1601)


@pytest.mark.parametrize(
    ("task", "splits"),
    [("vqa", ("train", "devval")), ("nlvr2", ("train", "dev", "test1")), ("retrieval", ("train", "val", "test"))],
)
def test_our_tokeniser_gives_the_stored_ids(task: str, splits: tuple[str, ...]) -> None:
    data = open_task(UNITER, task, splits)
    assert data.encoded is not None
    for i, example in enumerate(data.examples):
        ids = CASED.encode([example.text], 60)[0][1:-1]
        np.testing.assert_array_equal(ids, data.encoded[i])
        assert all(data.pictures.has_regions(image) for image in images_of(example))


def rewrite(folder: Path, key: str, change: Callable[[bytes], bytes]) -> None:
    with lmdb.open(str(folder), map_size=1 << 24, lock=False) as environment, environment.begin(write=True) as writer:
        writer.put(key.encode(), change(writer.get(key.encode())))


def arrays_with(**changes: object) -> Callable[[bytes], bytes]:
    return lambda value: msgpack.packb({**msgpack.unpackb(value), **changes})


def packed(array: np.ndarray[Any, Any], **changes: object) -> dict[bytes, object]:
    fields = {
        b"nd": True,
        b"type": array.dtype.str,
        b"kind": b"",
        b"shape": list(array.shape),
        b"data": array.tobytes(),
    }
    return {**fields, **{key.encode(): value for key, value in changes.items()}}


BOXES = np.tile(np.array([0.1, 0.1, 0.5, 0.5, 0.4, 0.4], np.float16), (10, 1))
NAN = np.full((10, 32), np.nan, np.float16)
IMAGES = "img_db/coco_val2014/feat_th0.2_max100_min10"

BROKEN_IMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut value": (lambda value: value[:-100], "is not a whole msgpack value"),
    "no value": (lambda value: b"", "is not a whole msgpack value"),
    "integers": (arrays_with(features=packed(np.ones((12, 32), np.int16))), r"'features' is int16 \[12, 32\]"),
    "one axis": (arrays_with(features=packed(np.ones(12, np.float16))), r"'features' is float16 \[12\]"),
    "no features": (arrays_with(features=None), "'features' is NoneType"),
    "wrong width": (arrays_with(norm_bb=packed(BOXES[:, :4])), r"'norm_bb' is \[10, 4\], not \[boxes, 6\]"),
    "NaN": (arrays_with(features=packed(NAN)), "'features' holds NaN or infinity"),
    "other count": (arrays_with(norm_bb=packed(BOXES[:9])), "differ in their number of boxes"),
    "sizes for corners": (
        arrays_with(norm_bb=packed(np.tile(BOXES[:1, [2, 3, 4, 5, 0, 1]] + BOXES[:1, 0], (12, 1)))),
        "a box ends before it begins: 'norm_bb' is x1, y1, x2, y2",
    ),
    "outside": (arrays_with(norm_bb=packed(np.tile(BOXES[:1] + 1, (12, 1)))), "a box is outside the image"),
    "claimed length": (
        arrays_with(features=packed(NAN, shape=[1 << 40, 32])), "an array .* of float16 where 640 bytes are left"
    ),
    "pickled objects": (arrays_with(features=packed(NAN, kind=b"O", data=b"cos\nsystem\n.")), "refused: .* plain"),
    "object dtype": (arrays_with(features=packed(NAN, type="|O")), "is refused: it holds an array of type"),
    "extension": (lambda value: msgpack.packb({"a": msgpack.ExtType(4, b"")}), "it uses msgpack's extension 4"),
    "not arrays": (lambda value: msgpack.packb([1]), "holds no arrays"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN_IMAGES)
def test_a_broken_image_is_named(folder: Path, kind: str) -> None:
    change, message = BROKEN_IMAGES[kind]
    rewrite(folder / IMAGES, ONE, change)
    with pytest.raises(VlcompressError, match=rf"feat_th0.2_max100_min10', record '{ONE}'.*{message}") as caught:
        ImageDatabase(folder / IMAGES).read(ONE)
    assert "\n" not in str(caught.value)


def npz(features: np.ndarray[Any, Any], rows: str = "") -> bytes:
    """Make the bytes of an archive; `rows` is what the header of features claims instead of its number of rows."""
    plain, claimed = io.BytesIO(), io.BytesIO()
    np.savez(plain, norm_bb=BOXES, features=features)
    with ZipFile(plain) as source, ZipFile(claimed, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, data.replace(b"(10, 32)", f"({rows}, 32)".encode()) if rows else data)
    return claimed.getvalue()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value[:-20], "is not a whole npz archive"),
        (lambda value: npz(NAN, rows="99"), "an array .* of float16 where 640 bytes are left"),
        (lambda value: npz(NAN, rows="9" * 15), "an array .* of float16 where 6.. bytes are left"),
        (lambda value: npz(np.array([{}], dtype=object)), "is refused: it holds an array of type 'object'"),
        (lambda value: npz(NAN), "holds NaN"),
        (lambda value: value.replace(b"features", b"futures."), "'features' is NoneType|not a whole npz"),
    ],
)
def test_a_broken_npz_is_named(folder: Path, change: Callable[[bytes], bytes], message: str) -> None:
    rewrite(folder / f"{IMAGES}_compressed", ONE, change)
    with pytest.raises(VlcompressError, match=rf"record '{ONE}'.*({message})"):
        ImageDatabase(folder / f"{IMAGES}_compressed").read(ONE)


def test_an_array_of_an_npz_that_unpacks_to_too_much_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(folder / f"{IMAGES}_compressed", ONE, lambda value: npz(np.zeros((10, 32), np.float16)))
    monkeypatch.setattr(packed_values, "MOST_BYTES", 767)  # the header takes 128 of the 768 bytes
    with pytest.raises(VlcompressError, match=r"is refused: array 'features' has 768 bytes, 767 are allowed"):
        ImageDatabase(folder / f"{IMAGES}_compressed").read(ONE)


@pytest.mark.parametrize("size", [12288, 4096, 100, 0])
def test_a_cut_database_is_refused_before_it_is_mapped(folder: Path, size: int) -> None:
    with (folder / IMAGES / "data.mdb").open("r+b") as file:
        file.truncate(size)
    with pytest.raises(VlcompressError, match=r"data.mdb' (has .* where its pages take|is not an LMDB database)"):
        ImageDatabase(folder / IMAGES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value[:-8], "cut|LZ4"),
        (lambda value: b"nothing", "is not an LZ4 frame"),
        (lambda value: lz4.frame.compress(msgpack.packb([1])), "holds no example"),
        (lambda value: lz4.frame.compress(bytes(65 << 20)), "decompresses to more than"),
        (lambda value: lz4.frame.compress(msgpack.packb({"question": "?"})), "no 'img_fname' among"),
    ],
)
def test_a_broken_example_is_named(folder: Path, change: Callable[[bytes], bytes], message: str) -> None:
    rewrite(folder / "txt_db/vqa_devval.db", "142002", change)
    with pytest.raises(VlcompressError, match=rf"vqa_devval.db', record '142002'.*({message})"):
        open_task(folder, "vqa", ["devval"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("txt_db/vqa_devval.db/id2len.json", "no file at .*id2len.json"),
        ("txt_db/vqa_devval.db/meta.json", "no file at .*meta.json"),
        ("txt_db/vqa_devval.db/data.mdb", "no database at .*vqa_devval.db"),
        ("img_db/coco_val2014/nbb_th0.2_max100_min10.json", "no file at .*nbb_th0.2_max100_min10.json"),
    ],
)
def test_a_missing_side_file_is_named(folder: Path, name: str, message: str) -> None:
    (folder / name).unlink()
    with pytest.raises(VlcompressError, match=message):
        open_task(folder, "vqa", ["devval"])


def test_an_id_without_an_example_is_named(folder: Path) -> None:
    path = folder / "txt_db/vqa_devval.db/id2len.json"
    path.write_text(path.read_text().replace("142002", "142009"))
    with pytest.raises(VlcompressError, match=r"record '142009' is in id2len.json and not in the database"):
        open_task(folder, "vqa", ["devval"])


def test_a_label_that_no_list_has_is_named(folder: Path) -> None:
    (folder / "ans2label.json").write_text('{"yes": 0}')
    with pytest.raises(VlcompressError, match=r"record '\d+': a label of \[.*\] is not among the 1 known answers"):
        open_task(folder, "vqa", ["devval"])


def test_features_of_another_size_are_refused() -> None:
    with pytest.raises(VlcompressError, match="features of size 32 where 2048 was expected"):
        open_task(UNITER, "vqa", ["devval"], feature_dim=2048)


def test_annotated_boxes_are_found_by_the_name_of_the_detectors(tmp_path: Path) -> None:
    for name, rows in (("visual_grounding_coco_gt", 3), ("visual_grounding_det_coco", 5)):
        path = tmp_path / name / "feat_numbb100"
        path.mkdir(parents=True)
        arrays = {"norm_bb": packed(BOXES[:rows]), "features": packed(np.ones((rows, 4), np.float16))}
        with lmdb.open(str(path)) as environment, environment.begin(write=True) as writer:
            writer.put(f"{name}_000000000007.npz".encode(), msgpack.packb(arrays))
    pictures = DatabasePictures([ImageDatabase(path.parent) for path in sorted(tmp_path.glob("*/*/data.mdb"))])
    image = "visual_grounding_det_coco_000000000007"
    assert len(pictures.regions(image, ground_truth=True).boxes) == 3
    assert len(pictures.regions(image).boxes) == 5


@pytest.mark.parametrize("images", ["coco_val2014", "realdim"])
def test_the_detectors_npz_files_give_what_the_database_made_of_them_gives(images: str) -> None:
    database = ImageDatabase(UNITER / f"img_db/{images}/feat_th0.2_max100_min10")
    files = NpzFolder(UNITER / f"npz/{images}")
    assert files.names == database.names
    for name in files.names:
        ours, expected = files.read(name), database.read(name)
        np.testing.assert_array_equal(ours.features, expected.features, strict=True)
        np.testing.assert_array_equal(ours.position_features, expected.position_features, strict=True)


def test_npz_files_stand_in_for_a_database(folder: Path) -> None:
    shutil.rmtree(folder / "img_db")
    data = open_task(folder, "vqa", ["devval"])
    assert data.identity != open_task(UNITER, "vqa", ["devval"]).identity
    official("vqa_train_collate").check_regions(0, data.pictures, [data.examples[0].image])
    path = folder / "npz/coco_val2014" / ONE
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(VlcompressError, match=rf"{ONE}' is not a whole npz archive"):
        data.pictures.regions(data.examples[0].image)


def make_text(folder: Path, name: str, rows: dict[str, Any], **sides: Any) -> None:
    place = folder / "txt_db" / name
    place.mkdir(parents=True)
    with lmdb.open(str(place)) as environment, environment.begin(write=True) as writer:
        for key, row in rows.items():
            writer.put(key.encode(), lz4.frame.compress(msgpack.packb(row)))
    for side, document in {"id2len": dict.fromkeys(rows, 3), "meta": {}, **sides}.items():
        (place / f"{side}.json").write_text(json.dumps(document))


def make_images(folder: Path, place: str, *names: str) -> None:
    path = folder / "img_db" / place / "feat_numbb100"
    path.mkdir(parents=True)
    arrays = {"norm_bb": packed(BOXES), "features": packed(np.ones((10, 4), np.float16))}
    with lmdb.open(str(path)) as environment, environment.begin(write=True) as writer:
        for name in names:
            writer.put(name.encode(), msgpack.packb(arrays))


def test_entailment_is_read(tmp_path: Path) -> None:
    row = {"sentence2": "A dog.", "img_fname": "flickr30k_000000000007.npz", "input_ids": [5, 6, 7]}
    rows = {"7.jpg#0r1e": {**row, "target": {"labels": [1], "scores": [1.0]}}}
    make_text(tmp_path, "ve_dev.db", rows)
    make_images(tmp_path, "flickr30k", "flickr30k_000000000007.npz")
    data: TaskData[EntailmentExample] = open_task(tmp_path, "snli_ve", ["dev"])
    assert data.examples == (EntailmentExample("7.jpg#0r1e", "flickr30k_000000000007", "A dog.", 1),)
    assert data.encoded is not None
    assert list(data.encoded[0]) == [5, 6, 7]


def test_a_question_with_choices_is_read_with_both_kinds_of_features(tmp_path: Path) -> None:
    row = json.loads((FIXTURES / "data/raw/vcr/val.jsonl").read_text().splitlines()[0])
    names = ("vcr_gt_val_0.npz", "vcr_val_0.npz")
    make_text(tmp_path, "vcr_val.db", {"val-0": {**row, "img_fname": list(names), "input_ids": [5]}})
    make_images(tmp_path, "vcr_val", names[1])
    make_images(tmp_path, "vcr_gt_val", names[0])
    data: TaskData[ChoiceExample] = open_task(tmp_path, "vcr", ["val"])
    assert (data.examples[0].image, data.examples[0].answer, data.encoded) == ("vcr_val_0", 3, None)
    assert len(data.pictures.regions("vcr_val_0", ground_truth=True).boxes) == 10
    assert len(data.pictures.regions("vcr_val_0").boxes) == 10


def test_an_expression_is_read_with_its_place_among_the_annotations(tmp_path: Path) -> None:
    name = "visual_grounding_coco_gt_000000000007.npz"
    row = {"sent_id": 3, "sent": "the dog", "bbox": [1, 2, 3, 4], "image_id": 7, "ann_id": 12, "img_fname": name}
    images = [{"id": 7, "ann_ids": [11, 12], "height": 9, "width": 9, "file_name": "7.jpg"}]
    make_text(tmp_path, "refcoco+_val.db", {"3": {**row, "input_ids": [5]}}, images=images)
    make_images(tmp_path, "visual_grounding_coco_gt", name)
    data: TaskData[ReferringExample] = open_task(tmp_path, "refcoco", ["refcoco+/val"])
    image = "visual_grounding_det_coco_000000000007"
    assert data.examples == (ReferringExample(3, image, "the dog", (1, 2, 3, 4), 1),)
    assert len(data.pictures.regions(image, ground_truth=True).boxes) == 10
    with pytest.raises(VlcompressError, match=r"image 'visual_grounding_det_coco_000000000007.npz' is not in"):
        data.pictures.regions(image)
    make_text(tmp_path, "refcoco+_testA.db", {"3": {**row, "ann_id": 13}}, images=images)
    with pytest.raises(VlcompressError, match=r"record '3': annotation 13 of image 7 is not in images.json"):
        open_task(tmp_path, "refcoco", ["testA"])


def reader(data: TaskData[Any]) -> Preprocessor:
    return Preprocessor(FAMILIES["uniter"], CASED, data.pictures, 220, data.encoded)


def check_inputs(inputs: Mapping[str, torch.Tensor], batch: Batch) -> None:
    """Compare a batch of ours with the official one, which calls its tensors otherwise."""
    names = {
        "input_ids": "input_ids",
        "txt_type_ids": "token_type_ids",
        "img_feat": "visual_feats",
        "img_pos_feat": "visual_pos",
    }
    for theirs, ours in names.items():
        if theirs in batch.tensors:
            np.testing.assert_array_equal(inputs[ours].numpy(), batch.tensors[theirs], strict=True)
    lengths = inputs["attention_mask"].sum(dim=1) + inputs["visual_attention_mask"].sum(dim=1)
    assert lengths.tolist() == batch.tensors["attn_masks"].sum(axis=1).tolist()


@pytest.mark.evidence("format", "uniter-vcr")
@pytest.mark.parametrize(("name", "rows"), [("vcr_train_qa", [0, 1]), ("vcr_train_qar", [2, 3])])
def test_vcr_gives_the_official_batches(name: str, rows: list[int]) -> None:
    data: TaskData[ChoiceExample] = open_task(UNITER, "vcr", ["train"])
    assert [example.id for example in data.examples] == official(name).facts["example_ids"]
    ours = VcrTraining(data, reader(data)).batch(rows, torch.Generator())
    check_inputs(ours.inputs, official(name))
    assert ours.targets["right"].tolist() == official(name).tensors["targets"][:, 0].tolist()


def test_vcr_on_annotated_boxes_alone_gives_the_official_batch(folder: Path) -> None:
    shutil.rmtree(folder / "img_db/vcr_train")
    data: TaskData[ChoiceExample] = open_task(folder, "vcr", ["train"])
    check_inputs(
        VcrTraining(data, reader(data)).batch([0, 1], torch.Generator()).inputs, official("vcr_train_qa_gtonly")
    )


@pytest.mark.evidence("format", "uniter-refcoco")
def test_expressions_to_learn_from_give_the_official_batch() -> None:
    data: TaskData[ReferringExample] = open_task(UNITER, "refcoco", ["refcoco+/train"])
    batch = official("re_train_gt")
    assert [str(example.id) for example in data.examples] == batch.facts["example_ids"]
    ours = RefcocoTraining(data, reader(data)).batch([0, 1, 2], torch.Generator())
    check_inputs(ours.inputs, batch)
    assert ours.targets["region"].tolist() == batch.tensors["targets"][:, 0].tolist()


@pytest.mark.parametrize(("name", "ground_truth"), [("re_eval_val_gt", True), ("re_eval_val_det", False)])
def test_expressions_to_be_scored_give_the_official_batch_and_overlaps(name: str, ground_truth: bool) -> None:
    data: TaskData[ReferringExample] = open_task(UNITER, "refcoco", ["val"])
    batch = official(name)
    assert [str(example.id) for example in data.examples] == batch.facts["sent_ids"]
    task = Expressions(data, reader(data), ground_truth=ground_truth)
    ours = task.batch(range(len(data.examples)), torch.Generator())
    check_inputs(ours.inputs, batch)
    overlaps = iou(ours.targets["boxes"], ours.targets["box"][:, None])
    for row, expected in enumerate(batch.facts["computeIoU_of_every_box"]):
        boxes = ours.targets["boxes"][row, : len(expected)].numpy()
        np.testing.assert_array_equal(boxes, batch.tensors[f"obj_boxes/{row}"], strict=True)
        np.testing.assert_allclose(ours.targets["box"][row], batch.tensors[f"tgt_box/{row}"], rtol=1e-6)
        np.testing.assert_allclose(overlaps[row, : len(expected)], expected, atol=1e-5)


@pytest.mark.evidence("format", "uniter-snli_ve")
def test_entailment_gives_the_official_batch_with_a_row_that_has_no_gold_label() -> None:
    data: TaskData[EntailmentExample] = open_task(UNITER, "snli_ve", ["dev"])
    batch = official("ve_dev")
    assert [example.id for example in data.examples] == batch.facts["example_ids"]
    ours = SnliVeTask(data, reader(data)).batch([0, 1, 2], torch.Generator())
    check_inputs(ours.inputs, batch)
    np.testing.assert_array_equal(ours.targets["answers"].numpy(), batch.tensors["targets"], strict=True)
    assert not batch.tensors["targets"][2].any()


@pytest.mark.parametrize("labels", [True, False])
def test_gqa_databases_need_no_answer_list_where_they_name_their_answers(tmp_path: Path, labels: bool) -> None:
    answers = ["red", "no", "red", "left"]
    rows = {
        str(number): {"question": "?", "img_fname": "gqa_7.npz", "input_ids": [5], "answer": answer}
        | ({"target": {"labels": [["left", "no", "red"].index(answer)], "scores": [1.0]}} if labels else {})
        for number, answer in enumerate(answers)
    }
    make_text(tmp_path, "gqa_train.db", rows)
    make_text(tmp_path, "gqa_testdev.db", {"9": {**rows["0"], "answer": "yes", "target": None}})
    make_images(tmp_path, "gqa", "gqa_7.npz")
    data: TaskData[AnswerExample] = open_task(tmp_path, "gqa", ["train"])
    assert data.labels == (("left", "no", "red") if labels else ("red", "no", "left"))
    assert [example.answers for example in data.examples] == [{answer: 1.0} for answer in answers]
    assert open_task(tmp_path, "gqa", ["testdev"]).labels == data.labels


def test_databases_one_folder_deeper_are_found(folder: Path) -> None:
    (folder / "txt_db/re").mkdir()
    for split in ("train", "val"):
        (folder / f"txt_db/refcoco+_{split}.db").rename(folder / f"txt_db/re/refcoco+_{split}.db")
    assert len(open_task(folder, "refcoco", ["refcoco+/val"]).examples) == 6
