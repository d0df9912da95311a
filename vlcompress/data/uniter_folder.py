"""UNITER's layout of every task: FOLDER/txt_db/NAME_SPLIT.db, FOLDER/img_db/IMAGES/VARIANT or FOLDER/npz/IMAGES/*.npz.

A text database may lie one folder deeper (FOLDER/txt_db/re/refcoco+_val.db), as the official configurations have them.
NAME is vqa, gqa, nlvr2, ve, vcr, refcoco+, refcoco, refcocog, itm_flickr30k or itm_coco. Answer lists are
``ans2label.json`` or ``ans2label.pkl`` in a ``.db`` folder of the task, or ``ans2label.json`` in FOLDER or
FOLDER/txt_db. An image's name is its npz file without the suffix; where an example names the features of annotated
boxes (``vcr_gt_...``, ``visual_grounding_coco_gt_...``), the name is that of the detector's features of the same image.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlcompress.data.documents import read_document, read_rows, take
from vlcompress.data.examples import (
    ENTAILMENT_LABELS,
    HIDDEN,
    AnswerExample,
    CaptionExample,
    EntailmentExample,
    Example,
    PairExample,
    ReferringExample,
    images_of,
    token_ids,
)
from vlcompress.data.found import PICTURES_ONLY, Found, named_splits
from vlcompress.data.pickles import read_pickle
from vlcompress.data.raw.nlvr2 import image_names
from vlcompress.data.raw.vcr import choice
from vlcompress.data.raw.vqa import numbered
from vlcompress.data.regions import Regions
from vlcompress.data.uniter_db import ImageDatabase, ImageSource, NpzFolder, TextDatabase
from vlcompress.errors import VlcompressError

NAME = "uniter"

DATABASES = {
    "vqa": ("vqa",),
    "gqa": ("gqa",),
    "nlvr2": ("nlvr2",),
    "snli_ve": ("ve",),
    "vcr": ("vcr",),
    "refcoco": ("refcoco+", "refcoco", "refcocog"),
    "retrieval": ("itm_flickr30k", "itm_coco"),
}
"""How the names of a task's text databases begin, before "_SPLIT.db"."""

GROUND_TRUTH = (("visual_grounding_coco_gt_", "visual_grounding_det_coco_"), ("vcr_gt_", "vcr_"))
"""How the names of features begin: of annotated boxes, of the detector."""

IMAGES = "images.json"
"""RefCOCO's images, beside its text databases: their sizes, and their annotations in the order of the features."""

Row = Mapping[str, Any]


class DatabasePictures:
    """Images of UNITER's image databases; see `vlcompress.data.examples.Pictures`. They have no pixels."""

    def __init__(
        self,
        databases: Sequence[ImageSource],
        feature_dim: int | None = None,
        sizes: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        """Take databases that are open.

        Args:
            databases: are searched in this order.
            feature_dim: the width of region features that is wanted; None takes that of the first image.
            sizes: height and width in pixels by image, where they are known: the boxes are in pixels then.

        Raises:
            VlcompressError: features of another width than `feature_dim`.
        """
        self.databases = tuple(databases)
        self._sizes = sizes or {}
        self._feature_dim: int | None = None
        if feature_dim is not None and self.feature_dim not in (0, feature_dim):
            raise VlcompressError(
                f"'{self.databases[0].folder}' has features of size {self.feature_dim} where {feature_dim} was "
                "expected: use those that the model was made for"
            )

    @property
    def feature_dim(self) -> int:
        """Width of the region features; 0 where there are none."""
        if self._feature_dim is None:
            first = next((database for database in self.databases if len(database)), None)
            self._feature_dim = first.read(first.names[0]).features.shape[1] if first else 0
        return self._feature_dim

    def has_regions(self, image: str, *, ground_truth: bool | None = None) -> bool:
        """Say whether the image has region features; `ground_truth` None means of either kind."""
        kinds = (False, True) if ground_truth is None else (ground_truth,)
        names = [_file(image, kind) for kind in kinds if not kind or _file(image, kind) != _file(image, False)]
        return any(name in database for name in names for database in self.databases)

    def regions(self, image: str, *, ground_truth: bool = False) -> Regions:
        """Read an image's regions; errors as of `Pictures.regions`."""
        name = _file(image, ground_truth)
        database = next((one for one in self.databases if name in one), None)
        if database is None:
            places = ", ".join(f"'{one.folder}'" for one in self.databases) or "any image database"
            raise VlcompressError(f"image '{name}' is not in {places}: extract its features")
        regions = database.read(name)
        if regions.features.shape[1] != self.feature_dim:
            raise VlcompressError(
                f"'{database.folder}', record '{name}': feature size {regions.features.shape[1]} where "
                f"{self.feature_dim} was expected: use features of one size"
            )
        regions = replace(regions, img_id=image)  # the record of annotated boxes has another name
        return regions.scaled(*self._sizes[image]) if image in self._sizes else regions

    def has_pixels(self, image: str) -> bool:
        """Say whether there is a picture: UNITER's data has none."""
        return False

    def files_of(self, images: Iterable[str]) -> tuple[Path, ...]:
        """Name none: UNITER's data has no pictures."""
        return ()

    def picture_bytes(self, image: str) -> bytes:
        """Refuse, as `pixels`."""
        raise VlcompressError(f"image '{image}': UNITER's databases hold region features and no pictures")

    def pixels(self, image: str) -> NDArray[np.uint8]:
        """Refuse: UNITER's databases hold no pictures."""
        raise VlcompressError(f"image '{image}': UNITER's databases hold region features and no pictures")


def splits(folder: Path, task: str) -> tuple[str, ...]:
    """List the splits of a task: those of its first data set plain; all as "DATASET/SPLIT" if it may have several."""
    data_sets = {
        _data_set(prefix): sorted({path.name[len(prefix) + 1 : -3] for path in _text_folders(folder, f"{prefix}_*.db")})
        for prefix in DATABASES.get(task, ())
    }
    return named_splits(data_sets, prefixed=len(data_sets) > 1)


def open_splits(folder: Path, task: str, splits: Sequence[str], feature_dim: int | None) -> Found:
    """Open splits that `splits` named; see `vlcompress.data.found.Layout`."""
    databases = [TextDatabase(_text_folder(folder, task, split)) for split in splits]
    sizes: dict[str, tuple[int, int]] = {}
    labels, label_files = _labels(folder, task)
    examples: list[Example] = []
    ids: list[Sequence[int]] = []
    for database in databases:
        make = _maker(task, database, labels, sizes)
        for key in database.ids:
            row = database[key]
            try:
                examples.append(make(key, row))
            except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
                raise _bad(database.folder, key, f"it is not in the format ({error})") from error
            ids.append(row.get("input_ids", ()))
    records = _records(task, examples)
    sources = _image_sources(folder, records) if feature_dim != PICTURES_ONLY else []
    pictures = DatabasePictures(sources, feature_dim or None, sizes)
    files = [path for database in databases for path in (*database.files, *_beside(database))]
    files += [path for source in sources for path in source.files]
    has_ids = task != "vcr" and all(len(row) for row in ids)  # a VCR example has nine sentences
    return Found(tuple(examples), pictures, labels, (*files, *label_files), encoded=token_ids(ids) if has_ids else None)


def _records(task: str, examples: Sequence[Example]) -> set[str]:
    """Name the features that the examples need; VCR and RefCOCO need those of annotated boxes too."""
    kinds = (False, True) if task in ("vcr", "refcoco") else (False,)
    return {_file(image, kind) for example in examples for image in images_of(example) for kind in kinds}


def _image_sources(folder: Path, records: set[str]) -> list[ImageSource]:
    """Open image databases, those first whose name fits the records', until every record is found."""
    sample = next(iter(records), "")
    missing = set(records)
    opened: list[ImageSource] = []
    places = [path for path in (*folder.glob("img_db/*"), *folder.glob("npz/*")) if path.is_dir()]
    for place in sorted(places, key=lambda path: (not sample.startswith(path.name), path)):
        if not missing:
            break
        source = _image_source(place)
        found = {name for name in missing if name in source} if source else set()
        if source and found:
            opened.append(source)
        missing -= found
    return opened


def _image_source(place: Path) -> ImageSource | None:
    """Open one variant of an image database, filtered ones first as officially configured, or a folder of npz files."""
    variants = sorted((path.parent for path in place.glob("*/data.mdb")), key=lambda path: (_rank(path), path))
    if variants:
        return ImageDatabase(variants[0])
    return NpzFolder(place) if next(place.glob("*.npz"), None) else None


def _rank(variant: Path) -> int:
    starts = ("feat_th", "feat_numbb", "all")
    return next((rank for rank, start in enumerate(starts) if variant.name.startswith(start)), len(starts))


def _text_folder(folder: Path, task: str, split: str) -> Path:
    named, _, name = split.rpartition("/")
    prefixes = [prefix for prefix in DATABASES[task] if named in ("", _data_set(prefix))]
    found = (path for prefix in prefixes for path in _text_folders(folder, f"{prefix}_{name}.db"))
    return next(found, folder / "txt_db" / f"{prefixes[0]}_{name}.db")


def _text_folders(folder: Path, pattern: str) -> Iterator[Path]:
    return (path for depth in ("txt_db", "txt_db/*") for path in sorted(folder.glob(f"{depth}/{pattern}")))


def _beside(database: TextDatabase) -> tuple[Path, ...]:
    """Name RefCOCO's file of images, from which sizes and the order of annotations come."""
    path = database.folder / IMAGES
    return (path,) if path.is_file() else ()


def _data_set(prefix: str) -> str:
    return prefix.removeprefix("itm_")


def _file(image: str, ground_truth: bool) -> str:
    """Name an image's record: of its annotated boxes, or of the detector's."""
    if ground_truth:
        for truth, detected in GROUND_TRUTH:
            if image.startswith(detected) and not image.startswith(truth):
                return f"{truth}{image.removeprefix(detected)}.npz"
    return f"{image}.npz"


def _name(file_name: str) -> str:
    """Name an image by the detector's features of it."""
    stem = file_name.removesuffix(".npz")
    for truth, detected in GROUND_TRUTH:
        if stem.startswith(truth):
            return detected + stem.removeprefix(truth)
    return stem


def _labels(folder: Path, task: str) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """Read the task's answer list."""
    if task not in ("vqa", "gqa"):
        return (), ()
    own = sorted(folder.glob(f"txt_db/{task}_*.db/ans2label.*"))
    beside = [folder / "txt_db" / f"{task}_ans2label.json", folder / f"{task}_ans2label.json"]
    beside += [folder / "txt_db" / "ans2label.json", folder / "ans2label.json"] if task == "vqa" else []
    path = next((path for path in (*beside, *own) if path.is_file()), None)
    if path is None and task == "gqa" and (named := _named_answers(folder)):
        return named, ()
    if path is None:
        raise VlcompressError(f"'{folder}/txt_db' has no answer list of {task}: put the official ans2label.json there")
    document = read_pickle(path) if path.suffix == ".pkl" else read_document(path)
    return numbered(path, document), (path,)


def _named_answers(folder: Path) -> tuple[str, ...]:
    """Make GQA's answer list of what its databases say themselves: the answers of labels, or else by first appearance.

    The test splits count for nothing, as in the raw files.
    """
    names: dict[int, str] = {}
    plain: dict[str, None] = {}
    for place in _text_folders(folder, "gqa_*.db"):
        database = TextDatabase(place) if "test" not in place.name else None
        for row in map(database.__getitem__, database.ids) if database else ():
            labels = (row.get("target") or {}).get("labels", ())
            if "answer" in row and len(labels) == 1:
                names[labels[0]] = row["answer"]
            elif "answer" in row:
                plain[row["answer"]] = None
    if sorted(names) == list(range(len(names))) and names:
        return tuple(names[label] for label in range(len(names)))
    return tuple(plain) if not names else ()


def _maker(
    task: str, database: TextDatabase, labels: Sequence[str], sizes: dict[str, tuple[int, int]]
) -> Callable[[str, Row], Example]:
    """Say how a row of the database becomes an example; RefCOCO's images note their height and width in `sizes`."""
    if task == "refcoco":
        return _referring(database, sizes)
    makers: Mapping[str, Callable[[Path, str, Row, Sequence[str]], Example]] = {
        "vqa": _answer,
        "gqa": _answer,
        "nlvr2": _pair,
        "snli_ve": _entailment,
        "vcr": _choice,
        "retrieval": _caption,
    }
    make = makers[task]
    return lambda key, row: make(database.folder, key, row, labels)


def _answer(folder: Path, key: str, row: Row, labels: Sequence[str]) -> AnswerExample:
    """Turn a question into an example; its target holds labels and scores, GQA's only an answer."""
    image, text = _take(folder, key, row, "img_fname", "question")
    target = row.get("target")
    if target is None:
        answers = {row["answer"]: 1.0} if "answer" in row else {}
    else:
        if any(not 0 <= label < len(labels) for label in target["labels"]):
            raise _bad(folder, key, f"a label of {target['labels']} is not among the {len(labels)} known answers")
        answers = {labels[label]: float(score) for label, score in zip(target["labels"], target["scores"], strict=True)}
    votes = tuple(vote["answer"] for vote in row.get("answers", ()))
    return AnswerExample(row.get("question_id", key), _name(image), text, answers, row.get("answer_type", ""), votes)


def _pair(folder: Path, key: str, row: Row, labels: Sequence[str]) -> PairExample:
    files, text = _take(folder, key, row, "img_fname", "sentence")
    if len(files) != 2:
        raise _bad(folder, key, f"{len(files)} images where 2 are expected")
    group = image_names(folder, 1, key)[1]
    return PairExample(key, (_name(files[0]), _name(files[1])), text, row.get("target", HIDDEN), group)


def _entailment(folder: Path, key: str, row: Row, labels: Sequence[str]) -> EntailmentExample:
    """Turn a pair into an example; one without a gold label ("-") counts as wrong whatever is said, as officially."""
    image, text, target = _take(folder, key, row, "img_fname", "sentence2", "target")
    chosen = target["labels"]
    if not chosen:
        return EntailmentExample(key, _name(image), text, HIDDEN)
    if len(chosen) != 1 or not 0 <= chosen[0] < len(ENTAILMENT_LABELS):
        raise _bad(folder, key, f"labels {chosen} are not one of 0 to {len(ENTAILMENT_LABELS) - 1}")
    return EntailmentExample(key, _name(image), text, chosen[0])


def _caption(folder: Path, key: str, row: Row, labels: Sequence[str]) -> CaptionExample:
    image, text = _take(folder, key, row, "img_fname", "raw")
    return CaptionExample(key, _name(image), text)


def _choice(folder: Path, key: str, row: Row, labels: Sequence[str]) -> Example:
    """Turn a VCR example, whose row is the published one with token ids beside, into an example."""
    (files,) = _take(folder, key, row, "img_fname")
    detected = next((file for file in files if not file.startswith("vcr_gt_")), files[0])
    return choice(folder, 1, {**row, "annot_id": row.get("annot_id", key), "img_fn": _name(detected)})


def _referring(database: TextDatabase, sizes: dict[str, tuple[int, int]]) -> Callable[[str, Row], ReferringExample]:
    """Say how an expression becomes an example; rows name their image by COCO's number, some by a file too."""
    path = database.folder / IMAGES
    rows = enumerate(read_rows(path), start=1)
    images = {key: image for key, *image in (take(path, n, row, "id", "ann_ids", "height", "width") for n, row in rows)}

    def make(key: str, row: Row) -> ReferringExample:
        text, box, number, annotation = _take(database.folder, key, row, "sent", "bbox", "image_id", "ann_id")
        order, *size = images.get(number, ((),))
        if annotation not in order:
            raise _bad(database.folder, key, f"annotation {annotation} of image {number} is not in {IMAGES}")
        image = _name(row.get("img_fname", f"{GROUND_TRUTH[0][1]}{number:012}"))
        sizes[image] = (size[0], size[1])
        return ReferringExample(row.get("sent_id", key), image, text, tuple(box), list(order).index(annotation))

    return make


def _take(folder: Path, key: str, row: Row, *names: str) -> tuple[Any, ...]:
    missing = [name for name in names if name not in row]
    if missing:
        raise _bad(folder, key, f"no '{missing[0]}' among {sorted(row)}")
    return tuple(row[name] for name in names)


def _bad(folder: Path, key: str, what: str) -> VlcompressError:
    return VlcompressError(f"'{folder}', record '{key}': {what}")
