"""GQA: questions with one answer each. Raw files and LXMERT's.

FOLDER/gqa/{train,val,testdev}_balanced_questions.json, gqa/images/SPLIT.zip
FOLDER/gqa/{train,valid,testdev}.json, gqa/trainval_*.json, vg_gqa_imgfeat/{vg_gqa,gqa_testdev}_obj36.tsv
"""

from pathlib import Path
from random import Random

from vlcompress.artefacts import Json
from vlcompress.data.scenes.baselines import labels_report
from vlcompress.data.scenes.questions import ANSWERS, SceneQuestion, ask
from vlcompress.data.scenes.tasks.folder import Folder, write_json, write_rows

QUESTIONS = 4
"""Questions on each picture."""


def write(folder: Folder) -> Json:
    """Write the three splits; give what words alone score."""
    labelled: dict[str, list[tuple[str, str]]] = {}
    splits = (("train", "train"), ("val", "valid"), ("testdev", "testdev"))
    for place, (split, lxmert_split) in enumerate(splits):
        names = [f"{place + 1}{number:06d}" for number in range(folder.count(split))]
        features = f"vg_gqa_imgfeat/{'gqa_testdev' if split == 'testdev' else f'vg_gqa_{split}'}_obj36.tsv"
        asked = [
            (f"{shot.name}{number}", shot.name, one)
            for shot in folder.shoot(split, names, gallery=f"gqa/images/{split}.zip", features=features)
            for number, one in enumerate(ask(shot.scene, Random(f"{folder.seed}/gqa/{shot.name}"), QUESTIONS))
        ]
        write_json(
            folder.root / f"gqa/{split}_balanced_questions.json",
            {question_id: _row(name, one) for question_id, name, one in asked},
        )
        rows = [
            {"img_id": name, "label": {one.answer: 1.0}, "question_id": question_id, "sent": one.text}
            for question_id, name, one in asked
        ]
        write_rows(folder.root / f"gqa/{lxmert_split}.json", rows)
        labelled[split] = [(one.text, one.answer) for _, _, one in asked]
    _join_features(folder.root / "vg_gqa_imgfeat")
    write_json(folder.root / "gqa/trainval_label2ans.json", list(ANSWERS))
    write_json(folder.root / "gqa/trainval_ans2label.json", {answer: row for row, answer in enumerate(ANSWERS)})
    return labels_report(labelled["train"], labelled["testdev"])


def _join_features(folder: Path) -> None:
    """Put the regions of train and val into one file, as LXMERT publishes them."""
    parts = [folder / f"vg_gqa_{split}_obj36.tsv" for split in ("train", "val")]
    (folder / "vg_gqa_obj36.tsv").write_bytes(b"".join(part.read_bytes() for part in parts))
    for part in parts:
        part.unlink()


def _row(image: str, asked: SceneQuestion) -> Json:
    structural = {"yes/no": "verify", "number": "query", "other": "query"}[asked.answer_type]
    return {
        "question": asked.text,
        "imageId": image,
        "answer": asked.answer,
        "fullAnswer": asked.answer,
        "isBalanced": True,
        "groups": {"global": asked.kind, "local": None},
        "entailed": [],
        "equivalent": [],
        "types": {"structural": structural, "semantic": asked.kind, "detailed": asked.kind},
        "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
        "semantic": [],
        "semanticStr": "",
    }
