"""ViLT's Arrow files: what the official loaders yield for the same files, and files that must be refused."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from safetensors.numpy import load_file

from vlcompress.data.detect_layout import open_task
from vlcompress.data.examples import AnswerExample, CaptionExample, PairExample, TaskData
from vlcompress.data.pictures import encode
from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError

FIXTURES = Path(__file__).parents[1] / "fixtures"
VILT = FIXTURES / "data/vilt"
UNCASED = WordPiece.load(FIXTURES / "vocab/bert-tiny-uncased")
CONTENTS = json.loads((VILT / "expected_batches/arrow_contents.json").read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(VILT, tmp_path / "vilt"))


def official(name: str) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    path = VILT / "expected_batches" / name
    return load_file(path.with_suffix(".safetensors")), json.loads(path.with_suffix(".json").read_text())


def check_pixels(pixels: np.ndarray[Any, Any], view_CHW: np.ndarray[Any, Any], size: list[int]) -> None:
    """Compare a picture with the official view of it, which Pillow has resized."""
    height, width = size
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.asarray(resized).transpose(2, 0, 1), view_CHW[:, :height, :width])


@pytest.mark.evidence("format", "vilt-vqa")
@pytest.mark.parametrize(
    ("name", "split"), [("vqa_train_first4", "train"), ("vqa_val", "rest_val"), ("vqa_test", "test")]
)
def test_vqa_gives_the_official_batch(name: str, split: str) -> None:
    tensors, facts = official(name)
    data: TaskData[AnswerExample] = open_task(VILT, "vqa", [split])
    index = {answer: label for label, answer in enumerate(data.labels)}
    for row, example in enumerate(data.examples[: len(facts["qid"])]):
        assert (example.id, example.text) == (facts["qid"][row], facts["text"][row])
        assert list(example.answers) == facts["vqa_answer"][row]
        assert [index[answer] for answer in example.answers] == facts["vqa_labels"][row]
        assert list(example.answers.values()) == facts["vqa_scores"][row]
        ids = UNCASED.encode([example.text], 20, fixed=True)[0]
        np.testing.assert_array_equal(ids, tensors["text_ids"][row])
        check_pixels(data.pictures.pixels(example.image), tensors["image/view0_u8"][row], facts["image/view0_hw"][row])


@pytest.mark.evidence("format", "vilt-nlvr2")
def test_nlvr2_gives_the_official_batch() -> None:
    tensors, facts = official("nlvr2_val_first2")
    data: TaskData[PairExample] = open_task(VILT, "nlvr2", ["dev", "test1"])
    assert len(data.examples) == facts["n"]
    for row, text in enumerate(facts["text"]):
        example = data.examples[row]
        assert (example.text, example.label) == (text, int(facts["answers"][row]))
        for side, image in enumerate(example.images):
            name = f"image_{side}/view0"
            check_pixels(data.pictures.pixels(image), tensors[f"{name}_u8"][row], facts[f"{name}_hw"][row])


@pytest.mark.evidence("format", "vilt-retrieval", "vilt-pretraining")  # it takes the captions
def test_captions_give_the_official_batch() -> None:
    tensors, facts = official("f30k_test_first3")
    data: TaskData[CaptionExample] = open_task(VILT, "retrieval", ["test"])
    assert len(data.examples) == facts["n"]
    examples = {example.text: example for example in data.examples}  # their order is that of a Python set
    for row, text in enumerate(facts["text"]):
        example = examples[text]
        np.testing.assert_array_equal(UNCASED.encode([text], 20, fixed=True)[0], tensors["text_ids"][row])
        check_pixels(data.pictures.pixels(example.image), tensors["image/view0_u8"][row], facts["image/view0_hw"][row])


@pytest.mark.parametrize("name", [name for name, facts in CONTENTS.items() if facts["rows"]])
def test_every_file_holds_what_the_conversion_wrote(name: str) -> None:
    task = {"vqav2": "vqa", "nlvr2": "nlvr2", "f30k": "retrieval"}[name.split("_")[0]]
    split = name.removesuffix(".arrow").removeprefix("f30k_caption_karpathy_").removeprefix(f"{name.split('_')[0]}_")
    data = open_task(VILT, task, [split])
    expected = CONTENTS[name]["data"]
    texts = [text for row in expected.get("questions", expected.get("caption")) for text in row]
    assert sorted(example.text for example in data.examples) == sorted(texts)
    columns = [expected[column] for column in ("image", "image_0", "image_1") if column in expected]
    hashes = {
        hashlib.sha256(data.pictures.picture_bytes(image)).hexdigest()
        for example in data.examples
        for image in (example.images if isinstance(example, PairExample) else (example.image,))
    }
    assert hashes == {value for column in columns for value in column}


def rows(path: Path) -> list[dict[str, Any]]:
    with pa.memory_map(str(path)) as source:
        found: list[dict[str, Any]] = pa.ipc.open_file(source).read_all().to_pylist()
    return found


def rewrite(path: Path, **columns: Any) -> None:
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all().to_pydict()
    table = pa.table({name: values for name, values in {**table, **columns}.items() if values is not None})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


VAL = "arrow/vqav2_val.arrow"


@pytest.mark.parametrize("data", [b"", b"not an arrow file", (VILT / VAL).read_bytes()[:-200]])
def test_what_is_not_an_arrow_file_is_named(folder: Path, data: bytes) -> None:
    (folder / VAL).write_bytes(data)
    with pytest.raises(VlcompressError, match=r"vqav2_val.arrow' is not a whole Arrow file"):
        open_task(folder, "vqa", ["val"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"questions": None}, "has no column 'questions'"),
        ({"image": ["text"]}, "column 'image' is string, not binary"),
        ({"question_id": [[1, 2]]}, "row 1: 1 questions with 2 ids"),
        ({"answers": [[["yes", "no"]]]}, "row 1: its answers and scores differ"),
        ({"answers": [[["perhaps"]]]}, "label 0 is '.*' here and '.*' elsewhere"),
    ],
)
def test_a_broken_table_is_named(folder: Path, columns: dict[str, Any], message: str) -> None:
    rewrite(folder / VAL, **columns)
    with pytest.raises(VlcompressError, match=rf"(vqav2_val|_train).arrow'.*{message}"):
        open_task(folder, "vqa", ["val"])


def test_a_damaged_picture_is_named_with_its_row(folder: Path) -> None:
    rewrite(folder / VAL, image=[b"not a picture"])
    data = open_task(folder, "vqa", ["val"])
    with pytest.raises(VlcompressError, match=r"vqav2_val.arrow', row 1 \(image '.*'\) is not a readable JPEG"):
        data.pictures.pixels(data.examples[0].image)


def test_rows_of_one_image_id_keep_their_own_pictures(folder: Path) -> None:
    """As in the official loader, which reads the row's; a row that repeats a picture is the same image."""
    other, third = (np.full((2, 2, 3), value, np.uint8) for value in (1, 2))
    (row,) = rows(folder / VAL)
    pictures = [row["image"], encode(other), row["image"], encode(third)]
    rewrite(folder / VAL, **{**{name: [value] * 4 for name, value in row.items()}, "image": pictures})
    data = open_task(folder, "vqa", ["val"])
    first, second, again, last = (example.image for example in data.examples)
    assert first == again
    assert len({first, second, last}) == 3
    for name, content in zip((first, second, last), (row["image"], *pictures[1::2]), strict=True):
        assert data.pictures.picture_bytes(name) == content
    assert np.array_equal(data.pictures.pixels(second), other)


def test_pairs_of_one_identifier_keep_their_own_pictures(folder: Path) -> None:
    path = folder / "arrow/nlvr2_dev.arrow"
    row = rows(path)[0]
    changed = encode(np.zeros((2, 2, 3), np.uint8))
    rewrite(path, **{**{name: [value] * 2 for name, value in row.items()}, "image_1": [row["image_1"], changed]})
    data = open_task(folder, "nlvr2", ["dev"])
    left, right = data.examples[0].images
    assert data.examples[-1].images[0] == left
    assert data.pictures.picture_bytes(right) == row["image_1"]
    assert data.pictures.picture_bytes(data.examples[-1].images[1]) == changed


def test_an_answer_list_of_its_own_is_taken_and_a_hole_is_refused(folder: Path) -> None:
    (folder / "vqa2-id2label.json").write_text('{"0": "yes", "1": "no", "2": "maybe"}')
    assert open_task(folder, "vqa", ["val"]).labels == ("yes", "no", "maybe")
    (folder / "vqa2-id2label.json").unlink()
    for path in (folder / "arrow").glob("vqav2_*.arrow"):
        if path.name not in ("vqav2_val.arrow", "vqav2_test.arrow"):
            path.unlink()
    rewrite(folder / VAL, answer_labels=[[[1]]])
    with pytest.raises(VlcompressError, match="no file names answer 0 of VQA"):
        open_task(folder, "vqa", ["val"])


def test_features_and_empty_files_are_refused() -> None:
    with pytest.raises(VlcompressError, match="without features of size 2048"):
        open_task(VILT, "vqa", ["val"], feature_dim=2048)
    with pytest.raises(VlcompressError, match="trainable_val: there are no examples"):
        open_task(VILT, "vqa", ["trainable_val"])
