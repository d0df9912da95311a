"""Sentences, pictures and captions from CSV, TSV, JSONL, Parquet and Arrow, and what is wrong with a row."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import ipc, parquet

from vlcompress.data.checking import check_folder
from vlcompress.data.detect_layout import open_task, splits_of
from vlcompress.data.examples import HIDDEN, CaptionExample, ClassExample, SentenceExample
from vlcompress.data.importing import import_task
from vlcompress.data.pictures import encode
from vlcompress.errors import VlcompressError

FILES = {
    "train.csv": 'text,label\n"good, really",pos\nbad,neg\n',
    "dev.tsv": "sentence\tlabel\nfine\tpos\n",
    "test.jsonl": '{"text": "dull", "label": "neg"}\n',
}
NAMES = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}


def picture(shade: int) -> bytes:
    """Make a picture file of 6 x 8 pixels of one grey."""
    import numpy as np

    return encode(np.full((6, 8, 3), shade, np.uint8))


def written(path: Path, *, names: bool = False, **columns: Any) -> None:
    """Write a Parquet file of one row a group, with or without the class names that `datasets` writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(columns)
    if names:
        table = table.replace_schema_metadata({"huggingface": json.dumps(NAMES)})
    parquet.write_table(table, path, row_group_size=1)


def test_every_format_is_read_and_labels_are_those_of_all_splits(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    written(tmp_path / "data" / "validation-00000-of-00001.parquet", text=["so so"], label=["odd"])
    assert splits_of(tmp_path, "sentences") == ("train", "validation", "dev", "test")
    assert splits_of(tmp_path, "classification") == splits_of(tmp_path, "retrieval") == ()
    data = open_task(tmp_path, "sentences", ["train", "dev", "test", "validation"])
    assert data.labels == ("neg", "odd", "pos")
    assert data.examples == (
        SentenceExample("train/0", "good, really", 2),
        SentenceExample("train/1", "bad", 0),
        SentenceExample("dev/0", "fine", 2),
        SentenceExample("test/0", "dull", 0),
        SentenceExample("validation/0", "so so", 1),
    )


def test_numbers_are_labels_too(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"sentence": "a", "label": 1}\n{"sentence": "b", "label": 0}\n')
    data = open_task(tmp_path, "sentences", ["train"])
    assert (data.labels, [one.label for one in data.examples]) == (("0", "1"), [1, 0])


def test_pictures_are_in_the_cells_and_classes_go_by_their_names(tmp_path: Path) -> None:
    """The layout of the hub: parts below data/, cells of bytes and path, labels that metadata names; -1 is hidden."""
    cells = [{"bytes": picture(shade), "path": f"{shade}.png"} for shade in (10, 20, 30)]
    written(tmp_path / "data" / "train-00000-of-00002.parquet", names=True, image=cells[:2], label=[1, 0])
    written(tmp_path / "data" / "train-00001-of-00002.parquet", names=True, image=cells[2:], label=[1])
    written(tmp_path / "data" / "test-00000-of-00001.parquet", names=True, image=[picture(40)], label=[-1])
    data = open_task(tmp_path, "classification", ["train"])
    assert (data.labels, [one.label for one in data.examples]) == (("cat", "dog"), [1, 0, 1])
    assert [data.pictures.pixels(one.image)[0, 0, 0] for one in data.examples] == [10, 20, 30]
    hidden = open_task(tmp_path, "classification", ["test"])
    assert hidden.examples == (ClassExample("test/0", "test/0", HIDDEN),)


def test_captions_of_one_picture_share_it_and_a_folder_is_checked_and_imported(tmp_path: Path) -> None:
    shown = [picture(shade) for shade in (10, 10, 20)]
    written(tmp_path / "here" / "test.parquet", image=shown, caption=[["a", "b"], ["c"], ["d"]])
    data = open_task(tmp_path / "here", "retrieval", ["test"])
    assert data.examples == (
        CaptionExample("test/0-0", "test/0", "a"),
        CaptionExample("test/0-1", "test/0", "b"),
        CaptionExample("test/1-0", "test/0", "c"),
        CaptionExample("test/2-0", "test/2", "d"),
    )
    assert not check_folder(tmp_path / "here").errors
    import_task(tmp_path / "here", tmp_path / "store", "retrieval", ["test"])
    stored = open_task(tmp_path / "store", "retrieval", ["test"])
    assert stored.examples == data.examples
    assert stored.pictures.pixels("test/2")[0, 0, 0] == 20


def test_pictures_lie_beside_a_table(tmp_path: Path) -> None:
    """`datasets`' image folders: metadata beside the pictures, paths from there; else from the data folder."""
    (tmp_path / "train" / "more").mkdir(parents=True)
    (tmp_path / "train" / "more" / "1.png").write_bytes(picture(50))
    (tmp_path / "train" / "metadata.csv").write_text("file_name,text,label\nmore/1.png,grey,cat\n")
    (tmp_path / "test.jsonl").write_text('{"image": "train/more/1.png", "captions": ["dim"]}\n')
    captions = open_task(tmp_path, "retrieval", ["train", "test"])
    assert [one.image for one in captions.examples] == ["train/more/1.png"] * 2
    assert captions.pictures.pixels("train/more/1.png")[0, 0, 0] == 50
    assert open_task(tmp_path, "classification", ["train"]).labels == ("cat",)


def test_arrow_streams_are_read_as_datasets_saves_them(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    table = pyarrow.table({"text": ["a", "b"], "label": [0, 1]}).replace_schema_metadata(
        {"huggingface": json.dumps(NAMES)}
    )
    with ipc.new_stream(str(tmp_path / "train" / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
    data = open_task(tmp_path, "sentences", ["train"])
    assert (data.labels, [one.text for one in data.examples]) == (("cat", "dog"), ["a", "b"])


@pytest.mark.parametrize("form", ["to_parquet", "save_to_disk"])
def test_what_datasets_itself_writes_is_read(form: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"]))
    rows = {"image": [{"bytes": picture(shade), "path": None} for shade in (10, 20)], "label": [1, 0]}
    made = datasets.Dataset.from_dict(rows, features=features)
    if form == "to_parquet":
        made.to_parquet(tmp_path / "train.parquet")
    else:
        datasets.DatasetDict(train=made).save_to_disk(tmp_path)
    data = open_task(tmp_path, "classification", ["train"])
    assert (data.labels, [one.label for one in data.examples]) == (("cat", "dog"), [1, 0])
    assert data.pictures.pixels("train/1")[0, 0, 0] == 20


@pytest.mark.parametrize(
    ("name", "text", "task", "message"),
    [
        ("train.csv", "text,label\na,x\nb\n", "sentences", "row 2: it needs 'label', a text or a whole number"),
        ("train.csv", "words,label\na,x\n", "sentences", "row 1: it needs a text at 'text' or 'sentence'"),
        (
            "train.jsonl",
            '{"text": "a", "label": "x"}\n{"text": 5, "label": "x"}\n',
            "sentences",
            "row 2: it needs a te",
        ),
        ("train.csv", "image,label\n../../a.png,x\n", "classification", "row 1: it needs a picture below"),
        ("train.csv", "image,label\n,x\n", "classification", "row 1: it needs a picture at 'image' or 'file_name'"),
        ("train.csv", "image,label\na.png,x\n", "classification", "1 of 1 examples have no"),
        ("train.jsonl", '{"image": "a", "caption": []}\n', "retrieval", "row 1: it needs a text or a list of texts"),
        ("train.parquet", "no Parquet", "sentences", "is not a whole Parquet file"),
        ("train.csv", "words,kind\na,x\n", "sentences", "has no data of sentences"),
    ],
)
def test_what_is_wrong_is_named(name: str, text: str, task: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(VlcompressError, match=re.escape(message)) as caught:
        open_task(tmp_path, task, ["train"])
    assert "\n" not in str(caught.value)


def test_a_cut_file_is_told_and_so_is_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "train.parquet", text=["a"], label=["x"])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(VlcompressError, match=r"needs the package 'pyarrow', which is not installed: pip install 'vlc"):
        open_task(tmp_path, "sentences", ["train"])
    monkeypatch.undo()
    whole = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VlcompressError, match="is not a whole Parquet file"):
        open_task(tmp_path, "sentences", ["train"])
