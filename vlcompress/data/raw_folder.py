"""The benchmarks' own annotation files, a sub-folder a data set; `vlcompress.data.detect_layout` lists their names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlcompress.data.examples import Example, images_of
from vlcompress.data.found import PICTURES_ONLY, Found, named_splits
from vlcompress.data.pictures import FilePictures, open_regions
from vlcompress.data.questions import Answers
from vlcompress.data.raw import gqa, karpathy, nlvr2, refcoco, snli_ve, vcr, vqa

NAME = "raw"
GROUND_TRUTH = "_gt"
"""In a TSV's name: its regions are those of the annotated boxes, not the detector's."""


@dataclass(frozen=True)
class Read:
    """What a data set's reader gives.

    Attributes:
        examples: of one split.
        files: the annotation files that were read.
        left_out: rows that were passed over, and why.
    """

    examples: Sequence[Example]
    files: tuple[Path, ...]
    left_out: Mapping[str, int]


Reader = Callable[[Path, str, tuple[str, ...], str], Read]
"""Reads a split from its folder; told the labels, and how COCO's images are named there ("COCO_")."""


@dataclass(frozen=True)
class DataSet:
    """A data set in its folder.

    Attributes:
        task: whose data it is.
        folder: its sub-folder's name; "" where it is the data folder itself.
        splits: gives the splits that its folder has.
        read: reads one.
        features: folders of region features at the top, without "_imgfeat".
        pictures: other folders in which its pictures may lie.
        labels: gives the label list of its folder.
    """

    task: str
    folder: str
    splits: Callable[[Path], tuple[str, ...]]
    read: Reader
    features: tuple[str, ...]
    pictures: tuple[str, ...] = ()
    labels: Callable[[Path], tuple[str, ...]] | None = None


def _plain(read: Callable[[Path, str], Sequence[Example]], *names: Callable[[Path, str], Path]) -> Reader:
    """Read a split by its folder and name alone, from those of the named files that are there."""

    def read_split(folder: Path, split: str, labels: tuple[str, ...], prefix: str) -> Read:
        files = (name(folder, split) for name in names)
        return Read(read(folder, split), tuple(path for path in files if path.is_file()), {})

    return read_split


def _vqa(folder: Path, split: str, labels: tuple[str, ...], prefix: str) -> Read:
    files = (vqa.question_file(folder, split), vqa.annotation_file(folder, split))
    return Read(vqa.read_split(folder, split, labels, prefix), tuple(path for path in files if path.is_file()), {})


def _gqa_labels(folder: Path) -> tuple[str, ...]:
    listed = (folder / "trainval_label2ans.json").is_file()
    return Answers.read(folder).labels if listed else gqa.labels(folder)


def _snli_ve(folder: Path, split: str, labels: tuple[str, ...], prefix: str) -> Read:
    examples, undecided = snli_ve.read_split(folder, split)
    return Read(examples, (snli_ve.question_file(folder, split),), {"no gold label": undecided} if undecided else {})


def _refcoco(folder: Path, split: str, labels: tuple[str, ...], prefix: str) -> Read:
    return Read(refcoco.read_split(folder, split), refcoco.files(folder), {})


def _captions(folder: Path, split: str, labels: tuple[str, ...], prefix: str) -> Read:
    path = karpathy.caption_file(folder)
    return Read(karpathy.read_split(path, split), (path,), {})


def _caption_splits(folder: Path) -> tuple[str, ...]:
    return karpathy.splits(karpathy.caption_file(folder))


_COCO = ("vqav2", "coco", "images")

_gqa = _plain(gqa.read_split, gqa.question_file, gqa.choices_file)
_nlvr2 = _plain(nlvr2.read_split, nlvr2.question_file)
_vcr = _plain(vcr.read_split, vcr.question_file)

DATA_SETS = (
    DataSet("vqa", "vqav2", vqa.splits, _vqa, ("mscoco",), _COCO, vqa.labels),
    DataSet("vqa", "vqa_v2", vqa.splits, _vqa, ("mscoco",), _COCO, vqa.labels),
    DataSet(
        "gqa",
        "gqa",
        gqa.splits,
        _gqa,
        ("vg_gqa", "gqa"),
        ("images",),
        _gqa_labels,
    ),
    DataSet("nlvr2", "nlvr2", nlvr2.splits, _nlvr2, ("nlvr2",), ("images",)),
    DataSet("snli_ve", "snli_ve", snli_ve.splits, _snli_ve, ("snli_ve", "flickr30k"), ("flickr30k", "images")),
    DataSet("vcr", "vcr", vcr.splits, _vcr, ("vcr",), ("images",)),
    DataSet("refcoco", "refcoco+", refcoco.splits, _refcoco, ("refcoco+", "refcoco", "mscoco"), _COCO),
    DataSet("refcoco", "refcoco", refcoco.splits, _refcoco, ("refcoco", "mscoco"), _COCO),
    DataSet("refcoco", "refcocog", refcoco.splits, _refcoco, ("refcocog", "refcoco", "mscoco"), _COCO),
    DataSet("retrieval", "flickr30k", _caption_splits, _captions, ("flickr30k",), ("images",)),
    DataSet("retrieval", "coco", _caption_splits, _captions, ("mscoco",), _COCO),
    DataSet("retrieval", "", _caption_splits, _captions, ()),  # a data set that is the folder itself
)
"""In the order in which a task's data sets are taken where the split does not name one."""


def splits(folder: Path, task: str) -> tuple[str, ...]:
    """List the splits of a task: those of its first data set plain, those of the others as "DATASET/SPLIT" too."""
    return named_splits({one.folder: one.splits(folder / one.folder) for one in _of(folder, task)})


def open_splits(folder: Path, task: str, splits: Sequence[str], feature_dim: int | None) -> Found:
    """Open splits that `splits` named; see `vlcompress.data.found.Layout`."""
    chosen = [_choose(folder, task, split) for split in splits]
    first = chosen[0][0]
    labels, label_files = _labels(folder, first)
    tables = _tables(folder, [data_set for data_set, _ in chosen]) if feature_dim != PICTURES_ONLY else []
    roots = _picture_roots(folder, [data_set for data_set, _ in chosen])
    prefix = _prefix(tables, roots) if task == "vqa" else ""
    parts = [data_set.read(folder / data_set.folder, split, labels, prefix) for data_set, split in chosen]
    examples = tuple(example for part in parts for example in part.examples)
    images = dict.fromkeys(image for example in examples for image in images_of(example))
    truth = open_regions([path for path in tables if GROUND_TRUTH in path.stem], images, feature_dim)
    detected = open_regions([path for path in tables if GROUND_TRUTH not in path.stem], images, feature_dim)
    files = [path for part in parts for path in part.files] + [file.path for file in (*detected, *truth)]
    left_out = {why: count for part in parts for why, count in part.left_out.items()}
    return Found(examples, FilePictures(roots, detected, truth), labels, (*files, *label_files), left_out)


def _of(folder: Path, task: str) -> list[DataSet]:
    return [data_set for data_set in DATA_SETS if data_set.task == task and (folder / data_set.folder).is_dir()]


def _choose(folder: Path, task: str, split: str) -> tuple[DataSet, str]:
    """Find the data set that a split name means; `splits` has named it, so that there is one."""
    named, _, name = split.rpartition("/")
    data_sets = [one for one in _of(folder, task) if named in ("", one.folder)]
    return next((one, name) for one in data_sets if name in one.splits(folder / one.folder))


def _labels(folder: Path, data_set: DataSet) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """Read the label list: of the data set's folder; for VQA also LXMERT's, where the folder holds both."""
    if data_set.labels is None:
        return (), ()
    own = folder / data_set.folder
    names = ("ans2label.json", "trainval_ans2label.json", "trainval_label2ans.json")
    files = tuple(own / name for name in names if (own / name).is_file())
    beside = folder / "vqa" / "trainval_label2ans.json"
    if not files and data_set.task == "vqa" and beside.is_file():
        return Answers.read(beside.parent).labels, (beside,)
    return data_set.labels(own), files


def _tables(folder: Path, data_sets: Sequence[DataSet]) -> list[Path]:
    """Find the TSVs: those in the data set's own folder, else those of the features folders at the top."""
    tables: dict[Path, None] = {}
    for data_set in data_sets:
        own = sorted((folder / data_set.folder).glob("**/*_imgfeat/*.tsv"))
        beside = [path for name in data_set.features for path in sorted((folder / f"{name}_imgfeat").glob("*.tsv"))]
        tables.update(dict.fromkeys(own or beside))
    return list(tables)


def _picture_roots(folder: Path, data_sets: Sequence[DataSet]) -> list[Path]:
    names = dict.fromkeys(name for data_set in data_sets for name in (data_set.folder, *data_set.pictures))
    return [folder / name for name in names]


def _prefix(tables: Sequence[Path], roots: Sequence[Path]) -> str:
    """Say how the folder's images of COCO are named; VQA v2's files give their numbers only."""
    for path in tables:
        with path.open("rb") as file:
            start = file.read(64).decode("ascii", "replace")
        if start.startswith(vqa.PREFIXES):
            return next(prefix for prefix in vqa.PREFIXES if start.startswith(prefix))
    names = FilePictures(roots).names
    return next((prefix for prefix in vqa.PREFIXES if any(name.startswith(prefix) for name in names)), vqa.PREFIXES[0])
