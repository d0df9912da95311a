"""Sentence classification: which of fifteen kinds of question is it? The scenes that they are about are not drawn.

FOLDER/{train,val,test}.jsonl: {"text", "label"}
"""

from collections import Counter
from random import Random

from vlcompress.artefacts import Json
from vlcompress.data.scenes.questions import ask
from vlcompress.data.scenes.tasks.folder import Folder, write_lines
from vlcompress.data.scenes.world import sample_scene

QUESTIONS = 2
"""On each scene."""


def write(folder: Folder) -> Json:
    """Write the three splits; give the share of the commonest kind in what is scored."""
    counts: Counter[str] = Counter()
    for split in ("train", "val", "test"):
        rows = [
            row for number in range(folder.count(split)) for row in _rows(Random(f"{folder.seed}/{split}/{number}"))
        ]
        write_lines(folder.root / f"{split}.jsonl", rows)
        counts = Counter(row["label"] for row in rows)
    return {"chance": {"kind": counts.most_common(1)[0][1] / counts.total()}}


def _rows(rng: Random) -> list[Json]:
    return [{"text": one.text, "label": one.kind} for one in ask(sample_scene(rng), rng, QUESTIONS)]
