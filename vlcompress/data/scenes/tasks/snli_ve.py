"""SNLI-VE: three hypotheses on each picture, entailed, contradicted and neither.

FOLDER/snli_ve/snli_ve_{train,dev,test}.jsonl, flickr30k/flickr30k-images/SPLIT.zip, snli_ve_imgfeat/SPLIT_obj36.tsv
"""

from dataclasses import asdict
from random import Random

from vlcompress.artefacts import Json
from vlcompress.data.scenes.baselines import labels_report
from vlcompress.data.scenes.statements import hypotheses
from vlcompress.data.scenes.tasks.folder import Folder, write_lines


def write(folder: Folder) -> Json:
    """Write the three splits; give what words alone score."""
    labelled: dict[str, list[tuple[str, str]]] = {}
    for place, split in enumerate(("train", "dev", "test")):
        names = [f"{place + 1}{number:06d}" for number in range(folder.count(split))]
        gallery = f"flickr30k/flickr30k-images/{split}.zip"
        rows: list[Json] = []
        for shot in folder.shoot(split, names, gallery=gallery, features=f"snli_ve_imgfeat/{split}_obj36.tsv"):
            said = hypotheses(shot.scene, Random(f"{folder.seed}/snli_ve/{shot.name}"))
            rows += [_row(shot.name, label, sentence) for label, sentence in asdict(said).items()]
        write_lines(folder.root / f"snli_ve/snli_ve_{split}.jsonl", rows)
        labelled[split] = [(row["sentence2"], row["gold_label"]) for row in rows]
    return labels_report(labelled["train"], labelled["dev"])


def _row(image: str, label: str, sentence: str) -> Json:
    return {
        "annotator_labels": [label],
        "captionID": f"{image}.jpg#0",
        "gold_label": label,
        "pairID": f"{image}.jpg#0r1{label[0]}",
        "sentence1": "",
        "sentence1_binary_parse": "",
        "sentence1_parse": "",
        "sentence2": sentence,
        "sentence2_binary_parse": "",
        "sentence2_parse": "",
        "Flikr30kID": f"{image}.jpg",
    }
