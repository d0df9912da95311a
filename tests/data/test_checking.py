"""Looking through data folders: counts, what is missing, samples, and files that cannot be read."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlcompress.data.checking import SplitReport, check_folder
from vlcompress.data.detect_layout import open_task
from vlcompress.data.importing import import_task
from vlcompress.errors import VlcompressError

DATA = Path(__file__).parents[1] / "fixtures/data"


def of(reports: tuple[SplitReport, ...], task: str, split: str) -> SplitReport:
    return next(one for one in reports if (one.task, one.split) == (task, split))


def test_every_raw_data_set_is_found() -> None:
    report = check_folder(DATA / "raw")
    assert report.errors == ()
    assert {one.task for one in report.splits} == {"vqa", "gqa", "nlvr2", "snli_ve", "vcr", "refcoco", "retrieval"}
    vqa = of(report.splits, "vqa", "val")
    assert (vqa.examples, vqa.images, vqa.labels, vqa.with_pictures, vqa.missing) == (3, 2, 15, 2, ())
    assert of(report.splits, "vqa", "test").unlabelled == 3
    assert of(report.splits, "gqa", "train").missing == (
        "2 of 2 images have no region features",
        "2 of 2 images have no picture",
    )


def test_samples_show_what_was_understood() -> None:
    lines = "\n".join(check_folder(DATA / "raw").lines())
    assert "142002: What color is her shirt? ['black and white' 1, 'black' 0.9, 'white' 0.6]" in lines
    assert "val-1: What is [person 2]+[person 0] holding ? [answer 0, rationale 3]" in lines
    assert "dev-105-0-img0: picture of 16x20 pixels" in lines


def test_of_many_answers_the_best_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    label = {f"answer {number}": number / 20 for number in range(1, 20)}
    (tmp_path / "vqa").mkdir()
    row = {"question_id": 1, "img_id": "COCO_val2014_000000000001", "sent": "what?", "label": label}
    (tmp_path / "vqa/minival.json").write_text(json.dumps([row]))
    (tmp_path / "vqa/trainval_label2ans.json").write_text(json.dumps(list(label)))
    (tmp_path / "vqa/trainval_ans2label.json").write_text(json.dumps({answer: i for i, answer in enumerate(label)}))
    line = next(line for line in check_folder(tmp_path).lines() if "what?" in line)
    assert "['answer 19' 0.95, 'answer 18' 0.9, " in line
    assert "'answer 10' 0.5, 9 more]" in line


def test_answers_outside_the_list_and_listed_twice_are_told(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DATA / "raw", tmp_path / "raw"))
    listed = folder / "vqav2/ans2label.json"
    listed.write_text('{"white": 0}')
    report = of(check_folder(folder).splits, "vqa", "val")
    assert (report.labels, report.unlabelled, report.unlisted) == (1, 0, 2)
    assert "3 examples of 2 images, 1 labels, 2 of whose answers the list knows none" in "\n".join(
        check_folder(folder).lines()
    )


def test_databases_and_stores_are_found(tmp_path: Path) -> None:
    uniter = check_folder(DATA / "uniter")
    train = of(uniter.splits, "vqa", "train")
    assert (train.layout, train.with_regions, train.feature_dim) == ("uniter", 3, 32)
    assert of(uniter.splits, "vqa", "test").missing[0] == "2 of 2 images have no region features"
    import_task(DATA / "uniter", tmp_path / "store", "vqa", ["train"])
    assert check_folder(tmp_path / "store").splits[0].layout == "store"


def test_the_other_splits_are_still_looked_at(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DATA / "raw", tmp_path / "raw"))
    (folder / "snli_ve/snli_ve_dev.jsonl").write_text("{")
    report = check_folder(folder)
    assert len(report.errors) == 1
    assert "snli_ve_dev.jsonl', line 1 is not valid JSON" in of(report.splits, "snli_ve", "dev").missing[0]
    assert of(report.splits, "nlvr2", "dev").examples == 3


def in_questions(change: Callable[[list[Any]], object]) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        path = folder / "vqa/minival.json"
        rows = json.loads(path.read_text())
        change(rows)
        path.write_text(json.dumps(rows))

    return edit


def rewritten(change: Callable[[str], bytes | str]) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        path = folder / "vqa/minival.json"
        text = change(path.read_text())
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    return edit


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no question": (in_questions(lambda rows: rows[0].update(sent=None)), "text None is no text"),
    "number as image": (in_questions(lambda rows: rows[0].update(img_id=7)), r"image \(7,\) is no name"),
    "half an emoji": (in_questions(lambda rows: rows[0].update(sent="a \ud83d")), "half of a surrogate pair"),
    "half an emoji as answer": (in_questions(lambda rows: rows[0].update(label={"\ud83d": 1})), "half of a surrogate"),
    "UTF-16": (rewritten(lambda text: text.encode("utf-16")), "is not UTF-8 text .* save it as UTF-8"),
    "a row a line": (rewritten(lambda text: "\n".join(map(json.dumps, json.loads(text)))), "expected, not one a line"),
    "number of 5,000 digits": (rewritten(lambda text: text.replace('"sent"', f'"x": {"9" * 5000}, "sent"')), "digits"),
    "deep brackets": (rewritten(lambda text: "[" * 100_000 + "]" * 100_000), "no data set has .*recursion"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_a_run_would_refuse_is_found_before(tmp_path: Path, kind: str) -> None:
    folder = Path(shutil.copytree(DATA / "lxmert/data", tmp_path / "data"))
    edit, message = WRONG[kind]
    edit(folder)
    (error,) = check_folder(folder).errors
    assert re.search(message, error)
    assert error.isascii() or error.isprintable()
    with pytest.raises(VlcompressError, match=message):
        open_task(folder, "vqa", ["minival"], allow_missing=True)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DATA / "lxmert/data", tmp_path / "data"))
    rewritten(lambda text: "\ufeff" + text)(folder)
    assert of(check_folder(folder).splits, "vqa", "minival").examples == 3
    raw = Path(shutil.copytree(DATA / "raw/nlvr2", tmp_path / "raw/nlvr2"))
    lines = next(raw.rglob("dev.json"))
    lines.write_text("\ufeff" + lines.read_text())
    assert of(check_folder(tmp_path / "raw").splits, "nlvr2", "dev").examples > 0


def test_a_link_to_nowhere_is_a_missing_picture(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DATA / "raw", tmp_path / "raw"))
    picture = next((folder / "vqav2/val2014").glob("*.jpg"))
    picture.unlink()
    picture.symlink_to("nowhere.jpg")
    report = of(check_folder(folder).splits, "vqa", "val")
    assert (report.images, report.with_pictures) == (2, 1)
    assert report.missing == ("2 of 2 images have no region features", "1 of 2 images have no picture")


def test_a_class_named_in_another_code_is_refused(tmp_path: Path) -> None:
    picture = next((DATA / "raw/vqav2/val2014").glob("*.jpg"))
    for place in (b"train/caf\xe9", b"train/tea", b"val/caf\xe9", b"val/tea"):
        os.makedirs(os.path.join(os.fsencode(tmp_path), place))
        shutil.copy(os.fsencode(picture), os.path.join(os.fsencode(tmp_path), place, b"a.jpg"))
    with pytest.raises(VlcompressError, match=r"image \('train/caf.udce9/a.jpg',\) is no name"):
        open_task(tmp_path, "classification", ["train"])


def test_an_altered_store_is_found_out(tmp_path: Path) -> None:
    import_task(DATA / "uniter", tmp_path / "store", "vqa", ["train"])
    path = tmp_path / "store/regions/00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "00000.safetensors' is corrupted" in check_folder(tmp_path / "store").errors[0]


def test_folders_without_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match="holds no data in a known layout"):
        check_folder(tmp_path)
    with pytest.raises(VlcompressError, match="no data folder at"):
        check_folder(tmp_path / "none")
