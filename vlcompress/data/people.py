"""VCR's words: people in a picture are token ids of their own, other objects the names of their classes."""

from collections.abc import Iterator, Sequence

from vlcompress.data.examples import Words
from vlcompress.data.tokenizer import WordPiece

PEOPLE = 81
"""Extra token ids for people: the vocabulary's size + the person's row among the image's objects."""

LONGEST = 220
"""Word pieces of a text of several parts, [CLS] and [SEP] included (ChenRocks/UNITER, ``max_txt_len``)."""

QUESTION, ANSWER, RATIONALE = 0, 2, 3
"""Segments of a text's parts (ChenRocks/UNITER ``data/vcr.py``)."""

_PERSON = "person"


def runs(words: Words, objects: Sequence[str]) -> Iterator[str | int]:
    """Split words into runs of plain words as text, and people as their rows among the objects."""
    text: list[str] = []
    for word in words:
        for part in (word,) if isinstance(word, str) else word:
            if isinstance(part, str) or objects[part] != _PERSON or part >= PEOPLE:
                text.append(part if isinstance(part, str) else objects[part])
                continue
            if text:
                yield " ".join(text)
                text = []
            yield part
    if text:
        yield " ".join(text)


def pieces(vocabulary: WordPiece, words: Words, objects: Sequence[str]) -> list[int]:
    """Make token ids of words, without [CLS] and [SEP]."""
    found: list[int] = []
    for run in runs(words, objects):
        found += [vocabulary.vocab_size + run] if isinstance(run, int) else vocabulary.pieces(run)
    return found
