"""The examples of every task in one neutral form: what the readers of published formats give, and what tasks take.

Readers differ by format, tasks by what they ask; this is all that they need to know of each other. Text is kept as
text: a task tokenises it with the vocabulary that the model wants.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from vlcompress.data.regions import Regions
from vlcompress.data.tokenizer import WordPiece

HIDDEN = -1
"""The label of an example whose answer is not published (test splits)."""

ENTAILMENT_LABELS = ("contradiction", "entailment", "neutral")
"""SNLI-VE's labels in the order of UNITER's head (ChenRocks/UNITER)."""


@dataclass(frozen=True)
class GqaFacts:
    """What GQA's own files say of a question, for its figures beside accuracy.

    Attributes:
        balanced: whether it is of the balanced set, which accuracy is counted over.
        detailed: its detailed type ("relChooser", "sameCommon").
        group: the group of answers that it belongs to ("color"), "" where it has none.
        entailed: ids of the questions whose answers follow from its own, itself perhaps among them.
        valid, plausible: answers of the right kind, and those that make sense, where they are published.
    """

    balanced: bool = True
    detailed: str = ""
    group: str = ""
    entailed: tuple[str, ...] = ()
    valid: tuple[str, ...] = ()
    plausible: tuple[str, ...] = ()


@dataclass(frozen=True)
class AnswerExample:
    """A question about an image (VQA v2, GQA).

    Attributes:
        id: the benchmark's question id.
        image: the image's name.
        text: the question.
        answers: answer to soft score in (0, 1]; empty where hidden.
        kind: the benchmark's answer type, "" where it has none.
        votes: the ten annotators' answers as given, where published (the official VQA metric needs them).
        gqa: what GQA's own files say besides; None elsewhere.
    """

    id: int | str
    image: str
    text: str
    answers: Mapping[str, float]
    kind: str = ""
    votes: tuple[str, ...] = ()
    gqa: GqaFacts | None = None


@dataclass(frozen=True)
class EntailmentExample:
    """A picture as premise and a sentence as hypothesis (SNLI-VE); `label` indexes `ENTAILMENT_LABELS`, or HIDDEN."""

    id: str
    image: str
    text: str
    label: int


@dataclass(frozen=True)
class PairExample:
    """A statement about two images (NLVR2).

    Attributes:
        id: the benchmark's identifier, ``split-set-pair-sentence``.
        images: left, right.
        text: the statement.
        label: 1 true, 0 false, or HIDDEN.
        group: what consistency is counted over: examples of one sentence, ``split-set-sentence``.
    """

    id: str
    images: tuple[str, str]
    text: str
    label: int
    group: str


Words = tuple[str | tuple[int, ...], ...]
"""Tokens of a VCR sentence: a word, or indices of the image's objects that it names."""


@dataclass(frozen=True)
class ChoiceExample:
    """A question with four answers and four rationales (VCR).

    Attributes:
        id: the benchmark's annot_id.
        image: the image's name.
        objects: class name of each tagged object, in the order that `Words` index.
        question: its words.
        answers, rationales: the choices (4 each; 16 rationales where the test split gives one set for each answer).
        answer, rationale: the right choice, or HIDDEN.
    """

    id: str
    image: str
    objects: tuple[str, ...]
    question: Words
    answers: tuple[Words, ...]
    rationales: tuple[Words, ...]
    answer: int
    rationale: int


@dataclass(frozen=True)
class ReferringExample:
    """An expression that names one object of an image (RefCOCO, RefCOCO+, RefCOCOg).

    Attributes:
        id: sent_id.
        image: the image's name.
        text: the expression.
        box: (x, y, width, height) in pixels of the object meant.
        target: its row among the image's ground-truth regions, or HIDDEN.
    """

    id: int | str
    image: str
    text: str
    box: tuple[float, float, float, float]
    target: int


@dataclass(frozen=True)
class CaptionExample:
    """A caption of an image (Flickr30k, COCO): text and image belong together."""

    id: int | str
    image: str
    text: str


@dataclass(frozen=True)
class ClassExample:
    """A picture with one class; `label` indexes the data's labels."""

    id: int | str
    image: str
    label: int


@dataclass(frozen=True)
class SentenceExample:
    """A sentence with one class and no picture; `label` indexes the data's labels."""

    id: int | str
    text: str
    label: int


Example = (
    AnswerExample
    | EntailmentExample
    | PairExample
    | ChoiceExample
    | ReferringExample
    | CaptionExample
    | ClassExample
    | SentenceExample
)
E = TypeVar("E", bound=Example)


def images_of(example: Example) -> tuple[str, ...]:
    """Name an example's images; a sentence alone has none."""
    if isinstance(example, SentenceExample):
        return ()
    return example.images if isinstance(example, PairExample) else (example.image,)


def text_of(example: Example) -> str | None:
    """Give an example's sentence; None where it has none, or several (VCR)."""
    return None if isinstance(example, ChoiceExample | ClassExample) else example.text


def is_writable(*texts: str) -> bool:
    """Say whether texts are Unicode: JSON can hold half of a surrogate pair, names of files bytes of another code."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def _words(example: Example) -> Iterator[str]:
    """Go through what an example says besides its text: answers, the words of VCR's sentences."""
    if isinstance(example, AnswerExample):
        yield from map(str, example.answers)
    if isinstance(example, ChoiceExample):
        for sentence in (example.question, *example.answers, *example.rationales):
            yield from (word for word in sentence if isinstance(word, str))


def problem_of(example: Example) -> str | None:
    """Say what is not as its class says; None where all is well. Readers take values as the files have them."""
    for image in images_of(example):
        if not isinstance(image, str) or not image or not is_writable(image):
            return f"image {images_of(example)!r} is no name"
    text: Any = getattr(example, "text", "")
    if not isinstance(text, str):
        return f"text {text!r} is no text"
    if not is_writable(str(example.id), text, *_words(example)):
        return "it holds half of a surrogate pair (half an emoji), which is no text"
    if isinstance(example, AnswerExample):
        scores = example.answers.items()
        right = all(isinstance(a, str) and isinstance(s, int | float) and 0 < s <= 1 for a, s in scores)
        return None if right else f"answers {example.answers!r} are not texts with scores above 0 and up to 1"
    if isinstance(example, ReferringExample):
        right = len(example.box) == 4 and all(isinstance(x, int | float) and math.isfinite(x) for x in example.box)
        return None if right else f"box {example.box!r} is not four numbers"
    return None


class Pictures(Protocol):
    """Where a task's images are read from, one at a time."""

    @property
    def feature_dim(self) -> int:
        """Width of the region features; 0 where there are only pixels."""

    def has_regions(self, image: str, *, ground_truth: bool | None = None) -> bool:
        """Say whether the image has region features: the detector's, of its annotated boxes, or (None) of either."""

    def regions(self, image: str, *, ground_truth: bool = False) -> Regions:
        """Read an image's regions: the detector's, or those of the annotated boxes (VCR, RefCOCO).

        Raises:
            VlcompressError: no such image, a damaged record.
        """

    def has_pixels(self, image: str) -> bool:
        """Say whether there is a picture."""

    def pixels(self, image: str) -> NDArray[np.uint8]:
        """Read an image as uint8 [height, width, 3], RGB.

        Raises:
            VlcompressError: no such image, or not a picture.
        """


@dataclass(frozen=True)
class TokenIds:
    """Token ids that the data brings along: made by a tokenising import, or stored in UNITER's text databases.

    Attributes:
        vocabulary: sha256 (64 hex digits) of the vocabulary (`WordPiece.sha256`); "" where the data does not say.
        ids: int32 or int64 [T], the pieces of all sentences one after another, without [CLS] and [SEP].
        starts: int64 [examples + 1]; example i has ids[starts[i]:starts[i + 1]].
    """

    vocabulary: str
    ids: NDArray[np.integer[Any]]
    starts: NDArray[np.int64]

    def __getitem__(self, index: int) -> NDArray[np.integer[Any]]:
        """Slice out the pieces of one example's sentence."""
        return self.ids[self.starts[index] : self.starts[index + 1]]

    def keep(self, indices: Sequence[int]) -> "TokenIds":
        """Select some of the examples."""
        rows = [self[index] for index in indices]
        return token_ids(rows, self.vocabulary)


def token_ids(rows: Sequence[Sequence[int] | NDArray[np.integer[Any]]], vocabulary: str = "") -> TokenIds:
    """Join the pieces of some sentences; `vocabulary` is its sha256."""
    starts = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64)
    ids = np.concatenate([np.asarray(row, dtype=np.int32) for row in rows]) if rows else np.zeros(0, np.int32)
    return TokenIds(vocabulary, ids, starts)


@dataclass(frozen=True)
class TaskData(Generic[E]):
    """Some splits of a task's data, opened.

    Attributes:
        task: the task's name ("vqa", "gqa", "nlvr2", "snli_ve", "vcr", "refcoco", "retrieval", "classification").
        splits: what was opened.
        examples: of all splits, in the order of the files.
        pictures: where their images are read from.
        labels: the closed list of answers or classes, in the data's own order; () where the task has none.
        vocabulary: the folder's own; None where it has none (a recipe must name one then).
        identity: sha256 (64 hex digits) over the opened files: other data, other identity.
        left_out: what was passed over, and why: {"no region features": 3}.
        encoded: token ids of the examples' texts, where the data brings them along; None where a task must tokenise.
    """

    task: str
    splits: tuple[str, ...]
    examples: tuple[E, ...]
    pictures: Pictures
    labels: tuple[str, ...]
    vocabulary: WordPiece | None
    identity: str
    left_out: Mapping[str, int] = field(default_factory=dict)
    encoded: TokenIds | None = None

    def called(self, index: int) -> str:
        """Name an example in a message."""
        return f"example '{self.examples[index].id}' of {self.task} {', '.join(self.splits)}"
