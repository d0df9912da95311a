"""LXMERT's layout of VQA, GQA and NLVR2 (github airsplay/lxmert): JSON lists and region features.

FOLDER/vqa/{train,nominival,minival,valid,test}.json, trainval_{label2ans,ans2label}.json
FOLDER/gqa/{train,valid,testdev}.json,                trainval_{label2ans,ans2label}.json
FOLDER/nlvr2/{train,valid,test}.json
FOLDER/mscoco_imgfeat/, vg_gqa_imgfeat/, nlvr2_imgfeat/   the TSVs of `FEATURES`
"""

from collections.abc import Sequence
from pathlib import Path

from vlcompress.data.documents import Row, bad_row, check_unique, parsed, read_rows, take
from vlcompress.data.examples import HIDDEN, AnswerExample, Example, PairExample
from vlcompress.data.found import PICTURES_ONLY, Found
from vlcompress.data.pictures import FilePictures
from vlcompress.data.questions import Answers, Question, check_some_answer_known, read_questions
from vlcompress.data.raw.nlvr2 import image_names, is_jsonl
from vlcompress.data.regions import RegionFile, region_file

NAME = "lxmert"

FEATURES = {
    "vqa": {
        "train": "mscoco_imgfeat/train2014_obj36.tsv",
        "nominival": "mscoco_imgfeat/val2014_obj36.tsv",
        "minival": "mscoco_imgfeat/val2014_obj36.tsv",
        "valid": "mscoco_imgfeat/val2014_obj36.tsv",
        "test": "mscoco_imgfeat/test2015_obj36.tsv",
    },
    "gqa": {
        "train": "vg_gqa_imgfeat/vg_gqa_obj36.tsv",
        "valid": "vg_gqa_imgfeat/vg_gqa_obj36.tsv",
        "testdev": "vg_gqa_imgfeat/gqa_testdev_obj36.tsv",
    },
    "nlvr2": {
        "train": "nlvr2_imgfeat/train_obj36.tsv",
        "valid": "nlvr2_imgfeat/valid_obj36.tsv",
        "test": "nlvr2_imgfeat/test_obj36.tsv",
    },
}
"""Region features of each split, as the official loaders name them."""

PICTURES = {"vqa": ("vqav2", "vqa_v2", "images"), "gqa": ("gqa", "images"), "nlvr2": ("nlvr2", "images")}
"""Folders in which pictures of the same names may lie beside."""


def splits(folder: Path, task: str) -> tuple[str, ...]:
    """List the splits of a task that the folder has; NLVR2's own JSONL files of the same names are not meant."""
    files = {split: folder / task / f"{split}.json" for split in FEATURES.get(task, ())}
    return tuple(split for split, path in files.items() if path.is_file() and not (task == "nlvr2" and is_jsonl(path)))


def open_splits(folder: Path, task: str, splits: Sequence[str], feature_dim: int | None) -> Found:
    """Open splits that `splits` named; see `vlcompress.data.found.Layout`."""
    paths = [folder / task / f"{split}.json" for split in splits]
    regions = _regions(folder, task, splits, feature_dim)
    pictures = FilePictures([folder / name for name in PICTURES[task]], regions)
    files = [*paths, *(file.path for file in regions)]
    if task == "nlvr2":
        pairs = [pair for path in paths for pair in read_pairs(path)]
        return Found(tuple(pairs), pictures, files=tuple(files))
    answers = Answers.read(folder / task)
    files += [folder / task / f"trainval_{name}.json" for name in ("label2ans", "ans2label")]
    examples: list[Example] = []
    for path in paths:
        questions = read_questions(path)
        check_some_answer_known(path, questions, answers)
        examples += [answer_example(question) for question in questions]
    return Found(tuple(examples), pictures, answers.labels, tuple(files))


def answer_example(question: Question) -> AnswerExample:
    """Turn a question of LXMERT's files into an example."""
    return AnswerExample(question.question_id, question.img_id, question.sentence, question.label, question.answer_type)


def read_pairs(path: Path) -> list[PairExample]:
    """Read an NLVR2 file, in its order.

    Raises:
        VlcompressError: not in the format, an identifier used twice.
    """
    pairs = parsed(path, read_rows(path), _pair)
    check_unique(path, (pair.id for pair in pairs), "identifier")
    return pairs


def _pair(path: Path, number: int, row: Row) -> PairExample:
    identifier, left, right, text = take(path, number, row, "identifier", "img0", "img1", "sent")
    label = row.get("label", HIDDEN)
    if label not in (0, 1, HIDDEN):
        raise bad_row(path, number, f"label {label!r} is neither 0 nor 1")
    return PairExample(identifier, (left, right), text, int(label), image_names(path, number, identifier)[1])


def _regions(folder: Path, task: str, splits: Sequence[str], feature_dim: int | None) -> list[RegionFile]:
    """Open the splits' TSVs; none where pictures are wanted, or where the folder has no features at all."""
    names = dict.fromkeys(FEATURES[task][split] for split in splits)
    if feature_dim == PICTURES_ONLY or (feature_dim is None and not any((folder / name).is_file() for name in names)):
        return []
    files: list[RegionFile] = []
    for name in names:
        files.append(region_file(folder / name, files[0].feature_dim if files else feature_dim))
    return files
