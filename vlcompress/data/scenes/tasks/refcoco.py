"""RefCOCO+: expressions without words of place that name one thing of a picture.

FOLDER/refcoco+/{refs(unc).p,instances.json,iid_to_ann_ids.json}, refcoco+/images/SPLIT.zip
FOLDER/refcoco+_imgfeat/SPLIT_{obj36,gt}.tsv: the detector's regions, and those of the annotated boxes
"""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from vlcompress.artefacts import Json
from vlcompress.data.scenes.referring import expressions
from vlcompress.data.scenes.shots import Shot
from vlcompress.data.scenes.tasks.folder import Folder, write_json
from vlcompress.data.scenes.world import HEIGHT, WIDTH


@dataclass
class _Rows:
    """The rows of the three files, numbered as they come."""

    refs: list[Json] = field(default_factory=list)
    images: list[Json] = field(default_factory=list)
    annotations: list[Json] = field(default_factory=list)
    sentences: int = 0


def write(folder: Folder) -> Json:
    """Write the four splits into one set of files, as RefCOCO is; give the chance level."""
    rows = _Rows()
    for place, split in enumerate(("train", "val", "testA", "testB")):
        first = 1_000_000 * place + 1
        ids = {f"COCO_train2014_{number:012d}": number for number in range(first, first + folder.count(split))}
        features, truth = f"refcoco+_imgfeat/{split}_obj36.tsv", f"refcoco+_imgfeat/{split}_gt.tsv"
        gallery = f"refcoco+/images/{split}.zip"
        for shot in folder.shoot(split, list(ids), gallery=gallery, features=features, truth=truth):
            _add(rows, shot, ids[shot.name], split, Random(f"{folder.seed}/refcoco/{shot.name}"))
    _write(folder.root / "refcoco+", rows)
    return {"chance": len(rows.images) / len(rows.annotations), "chance_of": "a true box drawn at random"}


def _add(rows: _Rows, shot: Shot, image_id: int, split: str, rng: Random) -> None:
    rows.images.append({"id": image_id, "file_name": f"{shot.name}.jpg", "height": HEIGHT, "width": WIDTH})
    for thing, box in zip(shot.scene.things, shot.annotated.boxes.tolist(), strict=True):
        ann_id = len(rows.annotations) + 1
        rows.annotations.append(_annotation(ann_id, image_id, box))
        said = expressions(shot.scene, thing, rng)
        if said:
            rows.refs.append(_ref(len(rows.refs) + 1, ann_id, image_id, split, said, rows.sentences))
            rows.sentences += len(said)


def _write(root: Path, rows: _Rows) -> None:
    # The published file is a pickle of protocol 0.
    (root / "refs(unc).p").write_bytes(pickle.dumps(rows.refs, protocol=0))
    categories = [{"id": 1, "name": "thing", "supercategory": "thing"}]
    instances = {"images": rows.images, "annotations": rows.annotations, "categories": categories}
    write_json(root / "instances.json", instances)
    order: dict[str, list[int]] = {}
    for annotation in rows.annotations:
        order.setdefault(str(annotation["image_id"]), []).append(annotation["id"])
    write_json(root / "iid_to_ann_ids.json", {"iid_to_ann_ids": order})


def _annotation(ann_id: int, image_id: int, box: Sequence[float]) -> Json:
    x1, y1, x2, y2 = box
    width, height = x2 - x1, y2 - y1
    corners = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    bbox = [x1, y1, width, height]
    where = {"bbox": bbox, "area": width * height, "segmentation": corners, "iscrowd": 0}
    return {"id": ann_id, "image_id": image_id, "category_id": 1, **where}


def _ref(ref_id: int, ann_id: int, image_id: int, split: str, said: Sequence[str], first: int) -> Json:
    sentences = [
        {"raw": text, "sent": text, "sent_id": first + place, "tokens": text.split()} for place, text in enumerate(said)
    ]
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "image_id": image_id,
        "category_id": 1,
        "file_name": f"COCO_train2014_{image_id:012d}_{ann_id}.jpg",
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "sentences": sentences,
        "split": split,
    }
