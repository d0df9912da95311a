"""LXMERT's pre-training files: `lxmert/*.json` (sentences of an image by source) and `lxmert/all_ans.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlcompress.data.documents import Row, read_rows, take
from vlcompress.data.questions import Answers, check_answer_list
from vlcompress.errors import VlcompressError


@dataclass(frozen=True)
class PretrainingExample:
    """One sentence about an image.

    Attributes:
        source: where the sentence comes from ("mscoco" captions, "vqa" questions, ...).
        label: answer to score in (0, 1] where the sentence is a question, else None.
    """

    img_id: str
    sentence: str
    source: str
    label: Mapping[str, float] | None


@dataclass(frozen=True)
class ImageSentences:
    """A row of the file: everything said about one image.

    Attributes:
        sentences: source to sentences.
        labels: source to the label of each of its sentences; captions have none.
    """

    img_id: str
    sentences: Mapping[str, Sequence[str]]
    labels: Mapping[str, Sequence[Mapping[str, float]]]

    def examples(self) -> list[PretrainingExample]:
        """Return one example a sentence, sources in the order of the file."""
        return [
            PretrainingExample(self.img_id, sentence, source, self.labels[source][i] if source in self.labels else None)
            for source, sentences in self.sentences.items()
            for i, sentence in enumerate(sentences)
        ]


def read_pretraining(path: Path) -> list[PretrainingExample]:
    """Read a pre-training file: one example a sentence, in the order of the file.

    Raises:
        VlcompressError: no such file, not in the format, labels that do not match their sentences.
    """
    rows = enumerate(read_rows(path), start=1)
    return [example for number, row in rows for example in _image(path, number, row).examples()]


def read_all_answers(path: Path) -> Answers:
    """Read the pre-training answer list (`all_ans.json`: a list of {"ans", "dsets"}).

    Raises:
        VlcompressError: no such file, not in the format.
    """
    rows = enumerate(read_rows(path), start=1)
    labels = tuple(take(path, number, row, "ans")[0] for number, row in rows)
    check_answer_list(path, labels)
    return Answers(labels)


def pretraining_document(images: Sequence[ImageSentences]) -> list[dict[str, Any]]:
    """Return the content of a pre-training file."""
    return [{"img_id": image.img_id, "sentf": image.sentences, "labelf": image.labels} for image in images]


def _image(path: Path, number: int, row: Row) -> ImageSentences:
    img_id, sentences, label_rows = take(path, number, row, "img_id", "sentf", "labelf")
    labels = {source: [_label(entry) for entry in entries] for source, entries in label_rows.items()}
    for source, entries in labels.items():
        if len(entries) != len(sentences.get(source, ())):
            raise VlcompressError(
                f"'{path}', row {number}: {len(entries)} labels for the {len(sentences.get(source, ()))} sentences of "
                f"'{source}': every sentence needs one"
            )
    return ImageSentences(img_id, sentences, labels)


def _label(entry: Any) -> dict[str, float]:
    """The official code takes one object a sentence; lists of one-answer objects are met too."""
    parts = entry if isinstance(entry, list) else [entry]
    return {answer: float(score) for part in parts for answer, score in part.items()}
