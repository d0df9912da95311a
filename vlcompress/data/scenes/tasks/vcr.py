"""VCR: a question about a tagged thing with four answers and four rationales on each picture.

FOLDER/vcr/{train,val,test}.jsonl, vcr/object_categories.json, vcr/vcr1images/{SPLIT.zip,scenes/NAME.json}
FOLDER/vcr_imgfeat/SPLIT_{obj36,gt}.tsv: the detector's regions, and those of the tagged boxes
"""

from random import Random

from vlcompress.artefacts import Json
from vlcompress.data.scenes.choices import CHOICES, choice
from vlcompress.data.scenes.shots import Shot
from vlcompress.data.scenes.tasks.folder import Folder, write_json, write_lines
from vlcompress.data.scenes.world import HEIGHT, WIDTH


def write(folder: Folder) -> Json:
    """Write the three splits; give the chance level."""
    movie = "scenes"
    for split in ("train", "val", "test"):
        names = [f"vcr_{split}_{number:06d}" for number in range(folder.count(split))]
        features = f"vcr_imgfeat/{split}_obj36.tsv"
        gallery, truth = f"vcr/vcr1images/{split}.zip", f"vcr_imgfeat/{split}_gt.tsv"
        rows: list[Json] = []
        for number, shot in enumerate(folder.shoot(split, names, gallery=gallery, features=features, truth=truth)):
            metadata = f"{movie}/{shot.name}.json"
            write_json(folder.root / "vcr/vcr1images" / metadata, _metadata(shot))
            rows.append(_row(f"{split}-{number}", f"{movie}/{shot.name}.jpg", metadata, shot, folder.seed))
        write_lines(folder.root / f"vcr/{split}.jsonl", rows)
    write_json(folder.root / "vcr/object_categories.json", {"person": 0})
    return {"chance": {"Q->A": 1 / CHOICES, "QA->R": 1 / CHOICES, "Q->AR": 1 / CHOICES**2}}


def _metadata(shot: Shot) -> Json:
    boxes = [[*(float(value) for value in box), 1.0] for box in shot.annotated.boxes.tolist()]
    corners = [[[[x1, y1], [x2, y1], [x2, y2], [x1, y2]]] for x1, y1, x2, y2, _ in boxes]
    return {"boxes": boxes, "segms": corners, "names": ["person"] * len(boxes), "width": WIDTH, "height": HEIGHT}


def _row(annot_id: str, image: str, metadata: str, shot: Shot, seed: int) -> Json:
    asked = choice(shot.scene, Random(f"{seed}/vcr/{shot.name}"))
    return {
        "movie": "scenes",
        "objects": ["person"] * len(shot.scene.things),
        "img_fn": image,
        "metadata_fn": metadata,
        "question": asked.question,
        "answer_choices": asked.answers,
        "answer_label": asked.answer,
        "rationale_choices": asked.rationales,
        "rationale_label": asked.rationale,
        "img_id": annot_id,
        "question_number": 0,
        "annot_id": annot_id,
        "match_fold": "train-0",
        "match_index": 0,
    }
