"""One picture with everything that is written about it, from the data set's seed and the picture's number alone.

A picture depends on nothing else, so any number of processes make the same data set.
"""

from dataclasses import dataclass
from random import Random

import numpy as np

from vlcompress.data.regions import Regions
from vlcompress.data.scenes.annotators import annotate, majority
from vlcompress.data.scenes.boxes import Box, detect
from vlcompress.data.scenes.captions import captions
from vlcompress.data.scenes.encoder import encode
from vlcompress.data.scenes.questions import SceneQuestion, ask
from vlcompress.data.scenes.render import decode, render
from vlcompress.data.scenes.world import HEIGHT, WIDTH, sample_scene
from vlcompress.data.vqa_v2 import Annotated

QUESTIONS_PER_NUMBER = 1000
"""A question's id is its picture's number times this, plus its place (COCO's way)."""


@dataclass(frozen=True)
class Part:
    """A part of the data set with pictures of its own.

    Attributes:
        name: as in the names of files and pictures ("train2014").
        first_number: number of its first picture.
        pictures: how many.
        questions: how many on each picture.
    """

    name: str
    first_number: int
    pictures: int
    questions: int

    def image_name(self, number: int) -> str:
        """Name a picture in COCO's way: "scenes_train2014_000000000017"."""
        return f"scenes_{self.name}_{number:012d}"


@dataclass(frozen=True)
class Picture:
    """A picture and what belongs to it.

    Attributes:
        name: see `Part.image_name`.
        jpeg: the picture file.
        regions: eight boxes with their features, computed from the pixels of `jpeg`.
        questions: with the annotators' answers.
        captions: true sentences.
    """

    name: str
    jpeg: bytes
    regions: Regions
    questions: tuple[Annotated, ...]
    captions: tuple[str, ...]


def make_picture(seed: int, part: Part, number: int) -> Picture:
    """Make one picture of a part."""
    rng = Random(f"{seed}/{part.name}/{number}")
    scene = sample_scene(rng)
    jpeg = render(scene)
    name = part.image_name(number)
    return Picture(
        name,
        jpeg,
        detected_regions(name, jpeg, detect(scene, rng)),
        tuple(_annotated(asked, number, place, rng) for place, asked in enumerate(ask(scene, rng, part.questions))),
        tuple(captions(scene, rng)),
    )


def detected_regions(name: str, jpeg: bytes, boxes: list[Box]) -> Regions:
    """Encode a detector's boxes to regions: features of their pixels, and its reports."""
    corners = np.array([(box.x1, box.y1, box.x2, box.y2) for box in boxes], dtype=np.float32)
    return Regions(
        name,
        HEIGHT,
        WIDTH,
        corners,
        encode(decode(jpeg), corners),
        np.array([box.object_id for box in boxes], dtype=np.int64),
        np.array([box.object_confidence for box in boxes], dtype=np.float32),
        np.array([box.attribute_id for box in boxes], dtype=np.int64),
        np.array([box.attribute_confidence for box in boxes], dtype=np.float32),
    )


def _annotated(asked: SceneQuestion, number: int, place: int, rng: Random) -> Annotated:
    answers = annotate(asked, rng)
    return Annotated(
        question_id=number * QUESTIONS_PER_NUMBER + place,
        image_id=number,
        sentence=asked.text,
        answers=answers,
        majority=majority(answers),
        answer_type=asked.answer_type,
        question_type=_question_type(asked.text),
    )


def _question_type(text: str) -> str:
    """Cut out the words that a question begins with, as VQA does: "what color is", "how many", "is there"."""
    words = text.lower().split()
    return " ".join(words[: 3 if words[0] == "what" else 2])
