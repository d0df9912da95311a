"""What an exported folder says of its inputs and scores, for whoever runs model.onnx with nothing of this project.

``preprocessing.json`` with ``tokenizer.json`` beside it: our own server reads them, and a reader of plain ONNX Runtime,
tokenizers and Pillow can (`tests/serve/test_plain_reader.py` is one).
"""

from collections.abc import Mapping

from vlcompress.artefacts import Json, dumps
from vlcompress.data import people
from vlcompress.data.published_tokenizer import read_words
from vlcompress.models.base import Config, Family, Head, HeadKind

FILE, TOKENIZER, VOCABULARY = "preprocessing.json", "tokenizer.json", "vocab.txt"

ROWS: Mapping[HeadKind, int] = {"pair": 2}
"""Rows that one answer takes, where that is not one: a statement is read once with each of its two images."""

LONGEST: Mapping[HeadKind, int] = {"choice": people.LONGEST}
"""The longest text of a head whose task has a limit of its own, in word pieces."""

SCORES: Mapping[HeadKind, str] = {
    "answers": "sigmoid", "pair": "softmax", "choice": "softmax", "classes": "softmax", "region": "softmax",
    "match": "sigmoid",
}  # fmt: skip
"""What makes probabilities of logits: of each label alone, or of all labels, or regions of an image, together."""


def reading_files(family: Family, config: Config, head: Head, vocabulary: str | None) -> dict[str, str]:
    """Write what a reader needs: texts of files by name.

    Args:
        family, config, head: of the model.
        vocabulary: text of its vocab.txt; None where it reads no words.
    """
    reads = family.preprocessing(config)
    document: Json = {
        **reads,
        "longest_text": min(reads["longest_text"], LONGEST.get(head.kind, reads["longest_text"])),
        "head": head.kind,
        "rows": ROWS.get(head.kind, 1),
        "scores": SCORES.get(head.kind),
    }
    if vocabulary is None or not document["longest_text"]:
        return {FILE: dumps(document)}
    words = read_words(vocabulary)
    document |= {"tokenizer": TOKENIZER, "lowercase": words.lowercase}
    return {FILE: dumps(document), TOKENIZER: words.to_json(document["longest_text"])}
