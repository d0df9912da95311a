"""Opening a task's data: which published layout a folder has is found out, and its reader is called.

One folder may hold several layouts and data sets at once. FOLDER is searched in this order, and the first layout that
has all the splits that are asked for is taken.

**store** (`vlcompress data import`): FOLDER/data.json; see `vlcompress.data.store`.

**lxmert** (github airsplay/lxmert), tasks vqa, gqa, nlvr2; see `vlcompress.data.lxmert_folder`::

    vqa/{train,nominival,minival,valid,test}.json    gqa/{train,valid,testdev}.json    nlvr2/{train,valid,test}.json
    {vqa,gqa}/trainval_label2ans.json, trainval_ans2label.json
    mscoco_imgfeat/{train2014,val2014,test2015}_obj36.tsv    vg_gqa_imgfeat/{vg_gqa,gqa_testdev}_obj36.tsv
    nlvr2_imgfeat/{train,valid,test}_obj36.tsv

**raw**, the benchmarks' own files, a sub-folder a data set; see `vlcompress.data.raw_folder`::

    vqav2/v2_OpenEnded_mscoco_{train2014,val2014,test2015,test-dev2015}_questions.json
    vqav2/v2_mscoco_{train2014,val2014}_annotations.json      vqav2/ans2label.json (optional: UNITER's label list)
    gqa/{train,val,testdev}_balanced_questions.json           gqa/trainval_*.json (optional: LXMERT's label list)
    nlvr2/nlvr2/data/{train,dev,test1}.json                   also nlvr2/data/, nlvr2/; JSONL; balanced/, unbalanced/
    snli_ve/snli_ve_{train,dev,test}.jsonl
    vcr/{train,val,test}.jsonl                                vcr/vcr1images/**/*.json: boxes, beside the pictures
    {refcoco+,refcoco,refcocog}/refs(unc).p, instances.json   refs(umd).p, refs(google).p; also iid_to_ann_ids.json
    flickr30k/karpathy/dataset_flickr30k.json                 coco/karpathy/dataset_coco.json; also without karpathy/,
                                                              and all of it (flickr8k too) in FOLDER itself

    Region features: DATASET/**/*_imgfeat/*.tsv, or else FOLDER/NAME_imgfeat/*.tsv with these NAMEs:
    vqav2 mscoco; gqa vg_gqa, gqa; nlvr2 nlvr2; snli_ve snli_ve, flickr30k; vcr vcr; refcoco+ refcoco+, refcoco, mscoco;
    refcoco refcoco, mscoco; refcocog refcocog, refcoco, mscoco; flickr30k flickr30k; coco mscoco.
    A TSV with "_gt" in its name (vcr_imgfeat/val_gt.tsv, refcoco_imgfeat/train2014_gt.tsv) holds the regions of the
    annotated boxes, rows of an image in the order of the annotation: VCR's "objects", RefCOCO's iid_to_ann_ids.json.

    Pictures (.jpg, .jpeg, .png, or in .zip files), at any depth: the data set's own folder; FOLDER/images/;
    flickr30k/ for snli_ve; vqav2/ and coco/ for the data sets on COCO.

    Images are named by their file name without suffix: COCO_train2014_000000000109 (vqav2, refcoco*, coco; for vqav2
    scenes_train2014_000000000109 too), 2375101 (gqa), dev-105-0-img0 (nlvr2), 37979 (flickr30k, snli_ve),
    3015_CHARLIE_ST_CLOUD_00.23.57.935-00.24.00.783@0 (vcr). A TSV's img_id is that name.

**uniter** (github ChenRocks/UNITER), every task; see `vlcompress.data.uniter_folder`::

    txt_db/{vqa,gqa,nlvr2,ve,vcr,refcoco+,refcoco,refcocog,itm_flickr30k,itm_coco}_SPLIT.db/    data.mdb, *.json
    img_db/IMAGES/{feat_th0.2_max100_min10,feat_numbb100,all}[_compressed]/                     data.mdb, ../nbb_*.json
    npz/IMAGES/*.npz                                                                            in place of img_db/

**vilt** (github dandelin/ViLT), tasks vqa, nlvr2, retrieval; see `vlcompress.data.vilt_arrow`::

    {vqav2,nlvr2,f30k_caption_karpathy,coco_caption_karpathy}_SPLIT.arrow                       also in arrow/

**cifar**, task classification: CIFAR-10 and -100, binary version; see `vlcompress.data.cifar`.

**labelled**, task classification: any FOLDER/SPLIT/CLASS/**/picture.jpg; see `vlcompress.data.class_folders`.

**tables**, tasks sentences, classification and retrieval: {train,val,valid,validation,dev,test}.{csv,tsv,jsonl,
parquet}, parts of Parquet, what `datasets` saves; see `vlcompress.data.tables`.

Splits go by their published names: vqa train, nominival, minival (lxmert), train, val, test, test-dev (raw); gqa train,
valid, testdev; nlvr2 train, valid or dev, test or test1; snli_ve train, dev, test; vcr train, val, test; refcoco train,
val, testA, testB, test; retrieval train, val, test, restval. Where a task has several data sets (refcoco+, refcoco,
refcocog; flickr30k, coco) a plain split is the first one's, "refcoco/val" names another's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from vlcompress.data import (
    cifar,
    class_folders,
    lxmert_folder,
    raw_folder,
    store,
    tables,
    uniter_folder,
    vilt_arrow,
)
from vlcompress.data.examples import Example, TaskData, images_of, problem_of
from vlcompress.data.found import Found, Layout, OpenedPictures
from vlcompress.data.identity import files_identity
from vlcompress.data.questions import check_answer_list
from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError, unknown

_MODULES: tuple[ModuleType, ...] = (
    store,
    lxmert_folder,
    raw_folder,
    uniter_folder,
    vilt_arrow,
    cifar,
    class_folders,
    tables,
)
LAYOUTS: tuple[Layout, ...] = tuple(cast(Layout, module) for module in _MODULES)
"""In the order in which they are tried."""

SAME_SPLITS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "vqa": (("val", "valid"),),
    "gqa": (("val", "valid"),),
    "nlvr2": (("dev", "valid", "val"), ("test1", "test")),
    "snli_ve": (("dev", "valid", "val"),),
    "sentences": (("dev", "valid", "val", "validation"),),
    "classification": (("valid", "val", "validation"),),
    "retrieval": (("valid", "val", "validation", "dev"),),
}
"""Names that publications give the same split."""

STAND_INS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "vqa": {"minival": ("devval", "rest_val", "val"), "nominival": ("trainval", "trainable_val")}
}
"""What is opened for LXMERT's two parts of a validation set, to be scored on and to be trained on, where a folder has
none of that name: UNITER's and ViLT's parts of it, and the whole of it for the first one."""


@dataclass(frozen=True)
class ChosenLayout:
    """A layout and the names by which it knows the splits that were asked for."""

    layout: Layout
    splits: tuple[str, ...]


def open_task(
    folder: Path | str,
    task: str,
    splits: Sequence[str],
    *,
    feature_dim: int | None = None,
    allow_missing: bool = False,
) -> TaskData[Any]:
    """Open some splits of a task's data, whatever published layout the folder has.

    Args:
        folder: the data folder; see this module's text for what may be in it.
        task: by its name in `vlcompress.tasks.registry`.
        splits: by their published names; `TaskData.splits` says which were opened (`SAME_SPLITS`, `STAND_INS`).
        feature_dim: the width of region features that is wanted; 0 asks for pictures alone (families that take pixels);
            None takes the features that the folder has, or pictures where it has none.
        allow_missing: leave out examples whose image has no region features (or no picture), as the official code does
            in silence; they are counted in `TaskData.left_out`.

    Raises:
        VlcompressError: no such folder, task or split; a missing or damaged file, with its name and the record; images
            that are missing; an answer that is listed twice.
    """
    root = Path(folder)
    if not root.is_dir():
        raise VlcompressError(f"no data folder at '{root}': give a folder that exists")
    choice = choose_layout(root, task, splits)
    found = choice.layout.open_splits(root, task, choice.splits, feature_dim)
    return _checked(root, task, choice.splits, found, allow_missing)


def choose_layout(folder: Path, task: str, splits: Sequence[str]) -> ChosenLayout:
    """Find the first layout that has all of the splits.

    Raises:
        VlcompressError: an unknown task, no data of the task, or a split that no layout has; what is there is named.
    """
    if not splits:
        raise VlcompressError(f"no split of {task} was named: name one or more")
    there = {layout.NAME: layout.splits(folder, task) for layout in LAYOUTS}
    for layout in LAYOUTS:
        names = [_named(task, split, there[layout.NAME]) for split in splits]
        if all(names):
            return ChosenLayout(layout, tuple(name for name in names if name))
    has = "; ".join(f"{name} {', '.join(distinct(splits))}" for name, splits in there.items() if splits)
    if not has and task not in store.EXAMPLES:
        raise unknown("task", task, store.EXAMPLES)
    if not has:
        raise VlcompressError(f"'{folder}' has no data of {task} in a known layout: `vlcompress data check` tells more")
    raise VlcompressError(
        f"'{folder}' has no split '{', '.join(splits)}' of {task} in one layout: it has {has} (a recipe names "
        "splits in data.train and data.score)"
    )


def splits_of(folder: Path, task: str) -> tuple[str, ...]:
    """List the splits of a task in the first layout that has any."""
    found = (layout.splits(folder, task) for layout in LAYOUTS)
    return distinct(next((splits for splits in found if splits), ()))


def distinct(splits: Sequence[str]) -> tuple[str, ...]:
    """List every split once: a task's first data set has its splits under a plain name and under "DATASET/SPLIT"."""
    first = next((split.partition("/")[0] for split in splits if "/" in split), "")
    return tuple(split for split in splits if not split.startswith(f"{first}/"))


def _named(task: str, split: str, there: Sequence[str]) -> str | None:
    """Find the name by which a layout knows a split; None where it has none such."""
    same = next((names for names in SAME_SPLITS.get(task, ()) if split in names), ())
    stand_ins = STAND_INS.get(task, {}).get(split, ())
    return next((name for name in (split, *same, *stand_ins) if name in there), None)


def check_examples(folder: Path, task: str, splits: Sequence[str], found: Found) -> None:
    """Refuse examples and answers that are not as their classes say: readers take values as the files have them.

    Raises:
        VlcompressError: names the example.
    """
    for example in found.examples:
        if problem := problem_of(example):
            name = str(example.id).encode("ascii", "backslashreplace").decode()
            raise VlcompressError(f"'{folder}', {task} {', '.join(splits)}, example '{name}': {problem}")
    check_answer_list(folder, found.labels)


def _checked(folder: Path, task: str, splits: tuple[str, ...], found: Found, allow_missing: bool) -> TaskData[Any]:
    """Leave out or refuse the examples whose images are not there."""
    if not found.examples:
        raise VlcompressError(f"'{folder}', {task} {', '.join(splits)}: there are no examples: name another split")
    check_examples(folder, task, splits, found)
    images = dict.fromkeys(image for example in found.examples for image in images_of(example))
    there = {image for image in images if _has(found.pictures, image)}
    kind = "region features" if found.pictures.feature_dim else "picture" if there else "region features and no picture"
    kept = [i for i, example in enumerate(found.examples) if there.issuperset(images_of(example))]
    missing = len(found.examples) - len(kept)
    if not kept or (missing and not allow_missing):
        first = next((image for image in images if image not in there), "none")
        raise VlcompressError(
            f"'{folder}', {task} {', '.join(splits)}: {missing} of {len(found.examples)} examples have no {kind}, the "
            f"first of image '{first}': add them, or leave the examples out by `vlcompress data import --allow-missing`"
        )
    left_out = {**found.left_out, **({f"no {kind}": missing} if missing else {})}
    examples: tuple[Example, ...] = tuple(found.examples[i] for i in kept)
    encoded = found.encoded.keep(kept) if found.encoded and missing else found.encoded
    read = () if found.pictures.feature_dim else found.pictures.files_of(sorted(there))
    identity = found.identity or files_identity(folder, (*found.files, *read))
    vocabulary = WordPiece.load(folder) if (folder / "vocab.txt").is_file() else None
    return TaskData(task, splits, examples, found.pictures, found.labels, vocabulary, identity, left_out, encoded)


def _has(pictures: OpenedPictures, image: str) -> bool:
    return pictures.has_regions(image) if pictures.feature_dim else pictures.has_pixels(image)
