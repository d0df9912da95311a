"""Opening a data folder laid out as the official LXMERT code has it; the built-in data is laid out the same way.

FOLDER/vqa/{train,nominival,minival,...}.json          questions with soft scores
FOLDER/vqa/trainval_{label2ans,ans2label}.json         the answer list
FOLDER/lxmert/{SPLIT}.json, lxmert/all_ans.json        pre-training sentences and their answer list
FOLDER/mscoco_imgfeat/{train2014,val2014,...}_obj36.tsv  region features
FOLDER/vocab.txt                                       WordPiece vocabulary (optional)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vlcompress.artefacts import file_sha256, identity
from vlcompress.data.pretraining import PretrainingExample, read_all_answers, read_pretraining
from vlcompress.data.questions import Answers, Question, check_answers, check_some_answer_known, read_questions
from vlcompress.data.regions import RegionFile, Regions
from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError, unknown

FEATURES = {
    "train": "mscoco_imgfeat/train2014_obj36.tsv",
    "valid": "mscoco_imgfeat/val2014_obj36.tsv",
    "minival": "mscoco_imgfeat/val2014_obj36.tsv",
    "nominival": "mscoco_imgfeat/val2014_obj36.tsv",
    "test": "mscoco_imgfeat/test2015_obj36.tsv",
}
"""Region features of each VQA split (the official code's SPLIT2NAME)."""

PRETRAINING_FEATURES = {
    "mscoco_train": "mscoco_imgfeat/train2014_obj36.tsv",
    "mscoco_minival": "mscoco_imgfeat/val2014_obj36.tsv",
    "mscoco_nominival": "mscoco_imgfeat/val2014_obj36.tsv",
    "vgnococo": "vg_gqa_imgfeat/vg_gqa_obj36.tsv",
    "pretrain": "mscoco_imgfeat/pretrain_obj36.tsv",
}
"""Region features of each pre-training split; "pretrain" is the built-in data's, the others are official."""


@dataclass(frozen=True)
class RegionFiles:
    """The region files of the opened splits, as one.

    Attributes:
        files: in the order of the splits, all of one feature width.
    """

    files: tuple[RegionFile, ...]

    @property
    def feature_dim(self) -> int:
        """Feature width."""
        return self.files[0].feature_dim

    def __contains__(self, img_id: object) -> bool:
        """Say whether one of the files has this image."""
        return any(img_id in file for file in self.files)

    def read(self, img_id: str) -> Regions:
        """Read one image's regions from the first file that has it.

        Raises:
            VlcompressError: no file has the image, or its row is damaged.
        """
        return next((file for file in self.files if img_id in file), self.files[0]).read(img_id)


class _Opened:
    """What opened VQA and pre-training splits have in common."""

    folder: Path
    region_files: RegionFiles

    @property
    def feature_dim(self) -> int:
        """Width of the region features."""
        return self.region_files.feature_dim

    @cached_property
    def vocabulary(self) -> WordPiece:
        """The folder's own vocabulary; an error where it has none."""
        return WordPiece.load(self.folder)

    def regions(self, img_id: str) -> Regions:
        """Read one image's regions."""
        return self.region_files.read(img_id)


@dataclass(frozen=True)
class VqaFolder(_Opened):
    """Questions, answers and regions of some splits.

    Attributes:
        folder: where they come from.
        splits: the splits that were opened.
        answers: the answer list.
        questions: of all splits, in the order of the files; every image has regions.
        region_files: where the regions are read from.
        without_features: how many questions were left out because their image has no regions.
    """

    folder: Path
    splits: tuple[str, ...]
    answers: Answers
    questions: tuple[Question, ...]
    region_files: RegionFiles
    without_features: int = 0

    @cached_property
    def identity(self) -> str:
        """Sha256 (64 hex digits) over names and contents of the opened files: other data, other identity."""
        questions = [f"vqa/{split}.json" for split in self.splits]
        answers = ["vqa/trainval_ans2label.json", "vqa/trainval_label2ans.json"]
        return _identity(self.folder, [*questions, *answers, *_feature_names(self.splits, FEATURES)])


@dataclass(frozen=True)
class PretrainingFolder(_Opened):
    """Sentences, answers and regions of some pre-training splits; attributes as of `VqaFolder`."""

    folder: Path
    splits: tuple[str, ...]
    answers: Answers
    examples: tuple[PretrainingExample, ...]
    region_files: RegionFiles
    without_features: int = 0

    @cached_property
    def identity(self) -> str:
        """Sha256 (64 hex digits) over names and contents of the opened files: other data, other identity."""
        sentences = [f"lxmert/{split}.json" for split in self.splits]
        names = [*sentences, "lxmert/all_ans.json", *_feature_names(self.splits, PRETRAINING_FEATURES)]
        return _identity(self.folder, names)


def open_vqa(
    folder: Path | str,
    splits: Sequence[str] = ("train",),
    *,
    feature_dim: int | None = None,
    strict: bool = True,
    allow_missing: bool = False,
) -> VqaFolder:
    """Open VQA splits; region files are indexed now and read when asked.

    Args:
        folder: the data folder.
        splits: names of files in `vqa/`; also a key of `FEATURES`.
        feature_dim: the feature width that is wanted; None accepts the file's.
        strict: refuse an answer that is not in the list. The official code, and False, pass over it.
        allow_missing: leave out questions whose image has no regions, as the official code does in silence.

    Raises:
        VlcompressError: unknown split, a missing or damaged file, an unknown answer, images without regions.
    """
    root = _existing(Path(folder))
    region_files = _open_features(root, splits, FEATURES, feature_dim)
    answers = Answers.read(root / "vqa")
    questions: list[Question] = []
    for split in splits:
        path = root / "vqa" / f"{split}.json"
        rows = read_questions(path)
        check_some_answer_known(path, rows, answers)
        if strict:
            check_answers(path, rows, answers)
        questions += rows
    kept = tuple(question for question in questions if question.img_id in region_files)
    missing = [question.img_id for question in questions if question.img_id not in region_files]
    _check_missing(root, missing, len(questions), allow_missing)
    return VqaFolder(root, tuple(splits), answers, kept, region_files, len(missing))


def open_pretraining(
    folder: Path | str,
    splits: Sequence[str] = ("pretrain",),
    *,
    feature_dim: int | None = None,
    allow_missing: bool = False,
) -> PretrainingFolder:
    """Open pre-training splits; arguments and errors as of `open_vqa`, with the keys of `PRETRAINING_FEATURES`."""
    root = _existing(Path(folder))
    region_files = _open_features(root, splits, PRETRAINING_FEATURES, feature_dim)
    examples = [example for split in splits for example in read_pretraining(root / "lxmert" / f"{split}.json")]
    kept = tuple(example for example in examples if example.img_id in region_files)
    missing = [example.img_id for example in examples if example.img_id not in region_files]
    _check_missing(root, missing, len(examples), allow_missing)
    answers = read_all_answers(root / "lxmert" / "all_ans.json")
    return PretrainingFolder(root, tuple(splits), answers, kept, region_files, len(missing))


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise VlcompressError(
            f"no data folder at '{folder}': give one laid out as the official LXMERT data (vqa/, mscoco_imgfeat/)"
        )
    return folder


def _feature_names(splits: Sequence[str], table: dict[str, str]) -> list[str]:
    for split in splits:
        if split not in table:
            raise unknown("split", split, table)
    return list(dict.fromkeys(table[split] for split in splits))


def _open_features(folder: Path, splits: Sequence[str], table: dict[str, str], feature_dim: int | None) -> RegionFiles:
    files: list[RegionFile] = []
    for name in _feature_names(splits, table):
        files.append(RegionFile(folder / name, files[0].feature_dim if files else feature_dim))
    if not files:
        raise VlcompressError(f"no split was named: allowed are {', '.join(table)}")
    return RegionFiles(tuple(files))


def _check_missing(folder: Path, missing: Sequence[str], total: int, allowed: bool) -> None:
    if len(missing) == total or (missing and not allowed):
        example = f", the first of image '{missing[0]}'" if missing else ""
        raise VlcompressError(
            f"'{folder}': {len(missing)} of {total} sentences have no region features{example}: extract the features "
            "of these images, or open the folder with allow_missing=True to leave the sentences out"
        )


def _identity(folder: Path, names: Sequence[str]) -> str:
    return identity({name: file_sha256(folder / name) for name in sorted(names)})
