"""The store: what goes in comes out, whatever layout it came from; broken data leaves nothing behind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.data.test_detect_layout import some_regions
from vlcompress.data import shards
from vlcompress.data.detect_layout import open_task
from vlcompress.data.examples import images_of, text_of
from vlcompress.data.importing import import_task
from vlcompress.data.regions import Regions, write_regions
from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError

FIXTURES = Path(__file__).parents[1] / "fixtures"
DATA = FIXTURES / "data"
UNCASED = FIXTURES / "vocab/bert-tiny-uncased/vocab.txt"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Every raw data set, with features or pictures for every image."""
    folder = Path(shutil.copytree(DATA / "raw", tmp_path / "raw"))
    coco = [f"COCO_train2014_{number:012d}" for number in (581957, 581663, 581057)]
    vcr = [f"3015_CHARLIE_ST_CLOUD_00.23.57.935-00.24.0{i}.783@0" for i in (0, 1)]
    write_regions(
        folder / "gqa_imgfeat/all.tsv", [some_regions(name) for name in ("2375101", "2375102", "n250101", "n250102")]
    )
    write_regions(folder / "refcoco_imgfeat/all_det.tsv", [some_regions(name, 6) for name in coco])
    write_regions(folder / "refcoco_imgfeat/all_gt.tsv", [some_regions(name, 4) for name in coco])
    write_regions(folder / "vcr_imgfeat/all.tsv", [some_regions(name, 5) for name in vcr])
    write_regions(folder / "vcr_imgfeat/all_gt.tsv", [some_regions(name, 4) for name in vcr])
    return folder


def same_regions(ours: Regions, theirs: Regions) -> None:
    for name in (
        "boxes",
        "features",
        "objects_id",
        "objects_conf",
        "attrs_id",
        "attrs_conf",
        "position_features",
        "pixel_boxes",
    ):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), strict=True)
    assert (ours.img_id, ours.height, ours.width) == (theirs.img_id, theirs.height, theirs.width)
    if theirs.soft_labels is not None:
        np.testing.assert_array_equal(ours.soft_labels, theirs.soft_labels, strict=True)  # type: ignore[arg-type]


def check_same(source: Path, store: Path, task: str, split: str) -> None:
    theirs, ours = open_task(source, task, [split]), open_task(store, task, [split])
    assert ours.examples == theirs.examples
    assert ours.labels == theirs.labels
    assert ours.pictures.feature_dim == theirs.pictures.feature_dim
    for image in {image for example in ours.examples for image in images_of(example)}:
        for truth in (False, True):
            if theirs.pictures.has_regions(image, ground_truth=truth):
                regions = theirs.pictures.regions(image, ground_truth=truth)
                same_regions(ours.pictures.regions(image, ground_truth=truth), regions)
        if not theirs.pictures.feature_dim:
            np.testing.assert_array_equal(ours.pictures.pixels(image), theirs.pictures.pixels(image))


@pytest.mark.parametrize("task", ["vqa", "gqa", "nlvr2", "snli_ve", "vcr", "refcoco", "retrieval"])
def test_raw_data_comes_back(raw: Path, tmp_path: Path, task: str) -> None:
    done = import_task(raw, tmp_path / "store", task)
    assert sum(done.examples.values()) > 0
    for split in done.examples:
        check_same(raw, tmp_path / "store", task, split)


@pytest.mark.parametrize(
    ("source", "task", "splits"),
    [
        (DATA / "uniter", "vqa", ("train", "devval")),
        (DATA / "uniter", "nlvr2", ("dev", "test1")),
        (DATA / "uniter", "retrieval", ("train", "val", "test")),
        (DATA / "uniter", "refcoco", ("train", "val")),
        (DATA / "uniter", "vcr", ("train",)),
        (DATA / "uniter", "snli_ve", ("dev",)),
        (DATA / "vilt", "nlvr2", ("dev", "test1")),
        (DATA / "vilt", "vqa", ("train", "val")),
        (DATA / "lxmert/data", "gqa", ("train", "testdev")),
        (DATA / "lxmert/data", "nlvr2", ("valid",)),
    ],
)
def test_published_layouts_come_back(tmp_path: Path, source: Path, task: str, splits: tuple[str, ...]) -> None:
    import_task(source, tmp_path / "store", task, splits)
    for split in splits:
        check_same(source, tmp_path / "store", task, split)


def test_many_shards_are_one(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 100)
    import_task(raw, tmp_path / "store", "refcoco")
    assert len(list((tmp_path / "store/regions").glob("*.safetensors"))) == 3
    check_same(raw, tmp_path / "store", "refcoco", "train")


def test_half_precision_is_kept_only_where_it_loses_nothing(raw: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    import_task(DATA / "uniter", tmp_path / "half", "vqa", ["devval"])
    import_task(raw, tmp_path / "full", "gqa", ["train"])
    for name, dtype in (("half", "F16"), ("full", "F32")):
        with safe_open(tmp_path / name / "regions/00000.safetensors", "numpy") as file:
            assert file.get_slice("features").get_dtype() == dtype


def test_a_vocabulary_tokenises_at_import(raw: Path, tmp_path: Path) -> None:
    words = WordPiece.load(UNCASED)
    import_task(raw, tmp_path / "store", "nlvr2", ["dev", "train"], vocabulary=UNCASED)
    data = open_task(tmp_path / "store", "nlvr2", ["train", "dev"])
    assert data.encoded is not None
    assert data.encoded.vocabulary == words.sha256
    assert data.vocabulary == words
    for i, example in enumerate(data.examples):
        np.testing.assert_array_equal(data.encoded[i], words.pieces(text_of(example) or ""))


def test_uniters_own_ids_are_kept(tmp_path: Path) -> None:
    import_task(DATA / "uniter", tmp_path / "store", "vqa", ["devval"])
    ours = open_task(tmp_path / "store", "vqa", ["devval"]).encoded
    theirs = open_task(DATA / "uniter", "vqa", ["devval"]).encoded
    assert ours is not None
    assert theirs is not None
    np.testing.assert_array_equal(ours.ids, theirs.ids)


def test_a_vocabulary_of_other_data_is_refused(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "zebra"]) + "\n")
    with pytest.raises(VlcompressError, match="does not know 100% of the words"):
        import_task(raw, tmp_path / "store", "nlvr2", vocabulary=tmp_path / "vocab.txt")
    assert not (tmp_path / "store").exists()


def test_pictures_can_be_had_without_features(raw: Path, tmp_path: Path) -> None:
    names = [path.stem for path in raw.glob("nlvr2/**/*.png")]
    write_regions(raw / "nlvr2_imgfeat/all.tsv", [some_regions(name) for name in names])
    import_task(raw, tmp_path / "store", "nlvr2", ["dev"])
    assert open_task(tmp_path / "store", "nlvr2", ["dev"]).pictures.feature_dim == 8
    data = open_task(tmp_path / "store", "nlvr2", ["dev"], feature_dim=0)
    assert data.pictures.feature_dim == 0
    assert data.pictures.pixels("dev-105-0-img0").ndim == 3
    with pytest.raises(VlcompressError, match="features of size 8 where 2048 was expected"):
        open_task(tmp_path / "store", "nlvr2", ["dev"], feature_dim=2048)


def test_left_out_examples_are_counted_in_the_store(raw: Path, tmp_path: Path) -> None:
    next(raw.glob("**/dev-105-0-img1.png")).unlink()
    import_task(raw, tmp_path / "store", "nlvr2", ["dev"], allow_missing=True)
    data = open_task(tmp_path / "store", "nlvr2", ["dev"])
    assert (len(data.examples), data.left_out) == (2, {"no picture": 1})


def test_the_identity_is_that_of_the_opened_splits(raw: Path, tmp_path: Path) -> None:
    import_task(raw, tmp_path / "one", "nlvr2", ["dev", "train"])
    import_task(raw, tmp_path / "two", "nlvr2", ["dev", "train"])
    first = open_task(tmp_path / "one", "nlvr2", ["dev"])
    assert first.identity == open_task(tmp_path / "two", "nlvr2", ["dev"]).identity
    assert first.identity != open_task(tmp_path / "one", "nlvr2", ["train"]).identity


def test_a_folder_of_something_else_is_not_replaced(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match="exists and is no imported data"):
        import_task(raw, raw, "nlvr2")
    assert (raw / "nlvr2").is_dir()
    import_task(raw, tmp_path / "store", "nlvr2", ["dev"])
    import_task(raw, tmp_path / "store", "nlvr2", ["train"])
    assert not (tmp_path / "store/examples/dev.jsonl").exists()


def cut_tsv(raw: Path) -> None:
    path = raw / "gqa_imgfeat/all.tsv"
    path.write_bytes(path.read_bytes()[:-300])


def nan_tsv(raw: Path) -> None:
    one = some_regions("2375102")
    one.features[1, 2] = np.nan
    write_regions(raw / "gqa_imgfeat/all.tsv", [some_regions("2375101"), one])


def box_outside(raw: Path) -> None:
    one = some_regions("2375102")
    one.boxes[1, 2] = 101
    write_regions(raw / "gqa_imgfeat/all.tsv", [some_regions("2375101"), one])


def no_image(raw: Path) -> None:
    write_regions(raw / "gqa_imgfeat/all.tsv", [some_regions("2375101")])


def twice(raw: Path) -> None:
    write_regions(raw / "gqa_imgfeat/all.tsv", [some_regions("2375101"), some_regions("2375101")])


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut": (cut_tsv, "all.tsv', row 4: .* fields|all.tsv', row 4: features hold"),
    "NaN": (nan_tsv, "all.tsv', row 2: features hold NaN"),
    "box outside": (box_outside, "all.tsv', row 2: box 1 is outside the image of 100x100 pixels"),
    "question without an image": (no_image, "1 of 3 examples have no region features, the first of image '2375102'"),
    "image twice": (twice, "all.tsv', row 2: image '2375101' is already in row 1"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_data_is_named_and_nothing_is_written(raw: Path, tmp_path: Path, kind: str) -> None:
    damage, message = BROKEN[kind]
    damage(raw)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(VlcompressError, match=message) as caught:
        import_task(raw, tmp_path / "store", "gqa", ["train"])
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_damaged_picture_stops_the_import(raw: Path, tmp_path: Path) -> None:
    path = next(raw.glob("**/dev-105-0-img1.png"))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(VlcompressError, match=r"dev-105-0-img1.png' is not a readable"):
        import_task(raw, tmp_path / "store", "nlvr2", ["dev"])
    assert not (tmp_path / "store").exists()


def damaged(store: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    path = store / name
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("examples/train.jsonl", lambda data: data.replace(b"car", b"cat"), "train.jsonl' is not as it was written"),
        ("regions/00000.safetensors", lambda data: data[:-9], "00000.safetensors' is missing or has not the recorded"),
        ("regions/index.json", lambda data: data[:-9], "index.json' is missing or has not"),
        (
            "data.json",
            lambda data: data.replace(b"vlcompress data", b"another thing"),
            "is of 'another thing' version 1",
        ),
        ("data.json", lambda data: data[:-9], "data.json' is not valid JSON"),
    ],
)
def test_a_damaged_store_is_named(
    raw: Path, tmp_path: Path, name: str, change: Callable[[bytes], bytes], message: str
) -> None:
    import_task(raw, tmp_path / "store", "gqa", ["train"])
    damaged(tmp_path / "store", name, change)
    with pytest.raises(VlcompressError, match=message):
        open_task(tmp_path / "store", "gqa", ["train"])


def test_an_index_that_points_past_its_shard_is_named(raw: Path, tmp_path: Path) -> None:
    import_task(raw, tmp_path / "store", "gqa", ["train"])
    reader = shards.ShardReader(tmp_path / "store/regions")
    index = json.loads((tmp_path / "store/regions/index.json").read_text())
    index["2375102"][1] = 1000
    (tmp_path / "store/regions/index.json").write_text(json.dumps(index))
    assert len(reader.read("2375102")["boxes"]) == 3
    with pytest.raises(VlcompressError, match="record '2375102' is not in its shard"):
        shards.ShardReader(tmp_path / "store/regions").read("2375102")


def test_classes_of_pictures_come_back(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        shutil.copytree(DATA / "raw/flickr30k/flickr30k-images", tmp_path / f"source/train/{name}")
    import_task(tmp_path / "source", tmp_path / "store", "classification")
    theirs = open_task(tmp_path / "source", "classification", ["train"])
    ours = open_task(tmp_path / "store", "classification", ["train"])
    assert (ours.examples, ours.labels) == (theirs.examples, ("cat", "dog"))
    image = ours.examples[0].image
    np.testing.assert_array_equal(ours.pictures.pixels(image), theirs.pictures.pixels(image))
