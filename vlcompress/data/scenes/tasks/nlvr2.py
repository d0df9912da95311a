"""NLVR2: sentences about pairs of pictures, each true of half of its pairs. Raw files and LXMERT's.

FOLDER/nlvr2/nlvr2/data/{train,dev,test1}.json, nlvr2/images/SPLIT.zip
FOLDER/nlvr2/{train,valid,test}.json, nlvr2_imgfeat/{train,valid,test}_obj36.tsv
"""

from collections.abc import Sequence
from random import Random

from vlcompress.artefacts import Json
from vlcompress.data.scenes.baselines import labels_report
from vlcompress.data.scenes.shots import Shot
from vlcompress.data.scenes.statements import statement
from vlcompress.data.scenes.tasks.folder import Folder, write_lines, write_rows

PAIRS = 4
"""Pairs of pictures that share sentences."""
SENTENCES = 3
"""Sentences of a set of pairs."""


def write(folder: Folder) -> Json:
    """Write the three splits; give what words alone score."""
    labelled: dict[str, list[tuple[str, str]]] = {}
    for split, lxmert_split in (("train", "train"), ("dev", "valid"), ("test1", "test")):
        sets = folder.count(split) // (2 * PAIRS)
        names = [
            f"{split}-{number}-{pair}-img{side}" for number in range(sets) for pair in range(PAIRS) for side in (0, 1)
        ]
        gallery, features = f"nlvr2/images/{split}.zip", f"nlvr2_imgfeat/{lxmert_split}_obj36.tsv"
        made = folder.shoot(split, names, gallery=gallery, features=features)
        rows = [row for number in range(sets) for row in _set(folder.seed, split, number, made)]
        raw = folder.root / f"nlvr2/nlvr2/data/{split}.json"
        write_lines(raw, rows)
        write_rows(folder.root / f"nlvr2/{lxmert_split}.json", [_lxmert_row(row) for row in rows])
        labelled[split] = [(row["sentence"], row["label"]) for row in rows]
    return labels_report(labelled["train"], labelled["dev"])


def _set(seed: int, split: str, number: int, made: Sequence[Shot]) -> list[Json]:
    """Write the sentences of one set of pairs; each is true of half of the pairs."""
    scenes = [shot.scene for shot in made[2 * PAIRS * number : 2 * PAIRS * (number + 1)]]
    pairs = list(zip(scenes[::2], scenes[1::2], strict=True))
    rng = Random(f"{seed}/nlvr2/{split}/{number}")
    found = {one.text: one for _ in range(2 * SENTENCES) if (one := statement(pairs, rng)) is not None}
    return [
        {
            "identifier": f"{split}-{number}-{pair}-{place}",
            "sentence": text,
            "label": str(said.holds(pairs[pair])),
            "left_url": "",
            "right_url": "",
            "synset": "scene",
            "query": "scenes",
            "writer": "0",
            "validation": {},
        }
        for place, (text, said) in enumerate(list(found.items())[:SENTENCES])
        for pair in range(PAIRS)
    ]


def _lxmert_row(row: Json) -> Json:
    images = row["identifier"].rpartition("-")[0]
    return {
        "identifier": row["identifier"],
        "img0": f"{images}-img0",
        "img1": f"{images}-img1",
        "label": int(row["label"] == "True"),
        "sent": row["sentence"],
        "uid": f"nlvr2_{row['identifier']}",
    }
