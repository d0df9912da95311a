"""Data in the official code's own files at the published sizes, made up: what the scripts here read in place of COCO's.

36 boxes of 2048 features in LXMERT's TSV and UNITER's LMDB, 640 x 480 JPEG in ViLT's Arrow; VQA's 3129 answers.
"""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlcompress.data.questions import Question
from vlcompress.data.regions import Regions, write_regions
from vlcompress.data.tokenizer import SPECIAL_TOKENS, WordPiece

SPLITS = {"train": 64, "nominival": 16, "minival": 32}
"""Questions of each split, each with an image of its own."""
Splits = Mapping[str, int]
ANSWERS = tuple(f"answer {number}" for number in range(3129))
WORDS = (
    "what",
    "is",
    "the",
    "color",
    "of",
    "man",
    "on",
    "left",
    "table",
    "how",
    "many",
    "dogs",
    "are",
    "there",
    "a",
    "hat",
)
SIZES = {"lxmert": 30522, "uniter": 28996, "vilt": 30522}
"""Rows of bert-base-uncased, and of bert-base-cased."""
BOXES, WIDTH, CLASSES = 36, 2048, 1601


def vocabulary(family: str) -> WordPiece:
    """Make as many tokens as the published vocabulary has; cased ones for UNITER."""
    cased = family == "uniter"
    known = (*SPECIAL_TOKENS, *WORDS, "?", *(("What", "How") if cased else ()))
    rest = (f"[unused{number}]" for number in range(SIZES[family] - len(known)))
    return WordPiece((*known, *rest), not cased)


def questions(split: str, splits: Splits = SPLITS) -> list[Question]:
    """Make the questions of a split, each with so many answers that a model that knows none scores more than 0."""
    rng = np.random.default_rng(len(split))
    part, first = ("train2014", 0) if split == "train" else ("val2014", 1000 if split == "minival" else 2000)
    made = []
    for number in range(first, first + splits[split]):
        text = " ".join(rng.choice(WORDS, rng.integers(4, 13))) + "?"
        best, *others = rng.choice(len(ANSWERS), 600, replace=False)
        label = {ANSWERS[best]: 1.0, **{ANSWERS[other]: 0.3 for other in others}}
        made.append(Question(1000 * number, f"COCO_{part}_{number:012d}", text, label, "other", "what"))
    return made


def regions(name: str) -> Regions:
    """Draw an image's boxes and features as a detector gives them: not negative, most of them near zero."""
    rng = np.random.default_rng(int(name[-12:]))
    corners = np.sort(rng.uniform(0, 1, (BOXES, 2, 2)), axis=1).reshape(BOXES, 4) * (640, 480, 640, 480)
    features = np.maximum(rng.standard_normal((BOXES, WIDTH)), 0).astype(np.float32)
    classes, sure = rng.integers(0, CLASSES - 1, BOXES), rng.random(BOXES, dtype=np.float32)
    return Regions(name, 480, 640, corners.astype(np.float32), features, classes, sure, classes % 400, sure)


def lxmert_data(folder: Path, splits: Splits = SPLITS) -> None:
    """Write LXMERT's JSON lists and TSVs."""
    (folder / "vqa").mkdir(parents=True)
    for split in splits:
        rows = [
            {"question_id": q.question_id, "img_id": q.img_id, "sent": q.sentence, "label": dict(q.label),
             "answer_type": q.answer_type, "question_type": q.question_type}
            for q in questions(split, splits)
        ]  # fmt: skip
        _dump(folder / "vqa" / f"{split}.json", rows)
    _dump(folder / "vqa/trainval_label2ans.json", ANSWERS)
    _dump(folder / "vqa/trainval_ans2label.json", {answer: label for label, answer in enumerate(ANSWERS)})
    for name, parts in {"train2014": ("train",), "val2014": ("nominival", "minival")}.items():
        images = [regions(q.img_id) for split in parts for q in questions(split, splits)]
        write_regions(folder / f"mscoco_imgfeat/{name}_obj36.tsv", images)


def uniter_data(folder: Path, splits: Splits = SPLITS, *, compressed: bool = False) -> None:
    """Write UNITER's text and image databases, the latter as msgpack or as compressed npz."""
    words = vocabulary("uniter")
    for split, name in {"train": "train", "nominival": "trainval", "minival": "devval"}.items():
        rows = {str(q.question_id): _uniter_row(q, words) for q in questions(split, splits)}
        place = folder / f"txt_db/vqa_{name}.db"
        _database(place, ((key, _lz4(_pack(row))) for key, row in rows.items()))
        _dump(place / "id2len.json", {key: len(row["input_ids"]) for key, row in rows.items()})
        _dump(place / "meta.json", {"CLS": words.cls_id, "SEP": words.sep_id, "bert": "bert-base-cased"})
    _dump(folder / "txt_db/ans2label.json", {answer: label for label, answer in enumerate(ANSWERS)})
    for name, parts in {"train2014": ("train",), "val2014": ("nominival", "minival")}.items():
        place = folder / f"img_db/coco_{name}/feat_th0.2_max100_min10{'_compressed' if compressed else ''}"
        images = {_npz(q): regions(q.img_id) for split in parts for q in questions(split, splits)}
        packed = _npz_bytes if compressed else _pack
        _database(place, ((key, packed(_detected(image))) for key, image in images.items()))
        _dump(place.parent / "nbb_th0.2_max100_min10.json", dict.fromkeys(images, BOXES))


def vilt_data(folder: Path, splits: Splits = SPLITS) -> None:
    """Write ViLT's Arrow files."""
    import pyarrow
    import pyarrow.ipc

    folder.mkdir(parents=True)
    for split, name in {"train": "train", "nominival": "trainable_val", "minival": "rest_val"}.items():
        table = pyarrow.Table.from_pylist([vilt_row(q, name) for q in questions(split, splits)])
        with pyarrow.ipc.new_file(folder / f"vqav2_{name}.arrow", table.schema) as writer:
            writer.write_table(table)
    _dump(folder / "vqa2-id2label.json", {str(label): answer for label, answer in enumerate(ANSWERS)})


def _uniter_row(q: Question, words: WordPiece) -> dict[str, Any]:
    target = {"labels": [ANSWERS.index(answer) for answer in q.label], "scores": list(q.label.values())}
    ids = words.encode([q.sentence], 60)[0]
    ids = [int(one) for one in ids if one not in (words.cls_id, words.sep_id)]
    return {"question": q.sentence, "question_id": q.question_id, "img_fname": _npz(q), "input_ids": ids,
            "answer_type": q.answer_type, "target": target}  # fmt: skip


def _npz(q: Question) -> str:
    return f"{q.img_id.replace('COCO', 'coco')}.npz"


def _detected(image: Regions) -> dict[str, NDArray[np.float16]]:
    sizes = image.normalized_boxes[:, 2:] - image.normalized_boxes[:, :2]
    soft = np.full((BOXES, CLASSES), 0.1 / CLASSES)
    soft[np.arange(BOXES), image.objects_id + 1] = 0.9
    found = {"norm_bb": np.hstack([image.normalized_boxes, sizes]), "features": image.features,
             "conf": np.maximum(image.objects_conf, 0.2), "soft_labels": soft}  # fmt: skip
    return {name: array.astype(np.float16) for name, array in found.items()}


def vilt_row(q: Question, split: str) -> dict[str, Any]:
    number = int(q.img_id[-12:])
    coarse, file = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8), io.BytesIO()
    Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG")
    answers = list(q.label)
    return {"image": file.getvalue(), "questions": [q.sentence],
            "answers": [answers], "answer_labels": [[ANSWERS.index(one) for one in answers]],
            "answer_scores": [list(q.label.values())], "image_id": number, "question_id": [q.question_id],
            "split": "train" if split == "train" else "val"}  # fmt: skip


def _database(folder: Path, rows: Iterator[tuple[str, bytes]]) -> None:
    import lmdb

    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 30) as environment, environment.begin(write=True) as transaction:
        for key, value in rows:
            transaction.put(key.encode(), value)


def _pack(value: Any) -> bytes:
    """Pack as msgpack_numpy does."""
    import msgpack

    def array(one: NDArray[Any]) -> dict[bytes, Any]:
        return {b"nd": True, b"type": one.dtype.str, b"kind": b"", b"shape": one.shape, b"data": one.tobytes()}

    packed: bytes = msgpack.packb(value, default=array, use_bin_type=True)
    return packed


def _npz_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _lz4(data: bytes) -> bytes:
    import lz4.frame

    compressed: bytes = lz4.frame.compress(data)
    return compressed


def _dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


DATA: dict[str, Callable[[Path], None]] = {"lxmert": lxmert_data, "uniter": uniter_data, "vilt": vilt_data}
