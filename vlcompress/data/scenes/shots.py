"""Pictures for the tasks beside VQA: a scene, its picture, and both kinds of regions, from a name and a seed alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from random import Random

import numpy as np

from vlcompress.data.regions import Regions
from vlcompress.data.scenes.boxes import ATTRIBUTE_CLASSES, OBJECT_CLASSES, detect
from vlcompress.data.scenes.choices import in_order
from vlcompress.data.scenes.encoder import encode
from vlcompress.data.scenes.make import detected_regions
from vlcompress.data.scenes.processes import spread
from vlcompress.data.scenes.referring import true_boxes
from vlcompress.data.scenes.render import decode, render
from vlcompress.data.scenes.world import HEIGHT, WIDTH, Scene, sample_scene


@dataclass(frozen=True)
class Shot:
    """A picture of a scene.

    Attributes:
        name: the image's name, without a suffix.
        scene: what it shows, things from left to right.
        jpeg: the picture file.
        detected: the detector's regions.
        annotated: the regions of the true boxes, in the order of the scene's things.
    """

    name: str
    scene: Scene
    jpeg: bytes
    detected: Regions
    annotated: Regions


def shoot(seed: int, name: str) -> Shot:
    """Make the picture of this name."""
    rng = Random(f"{seed}/{name}")
    scene = in_order(sample_scene(rng))
    jpeg = render(scene)
    return Shot(name, scene, jpeg, detected_regions(name, jpeg, detect(scene, rng)), _annotated(name, scene, jpeg))


@contextmanager
def shots(seed: int, names: Sequence[str], processes: int | None = None) -> Iterator[Iterator[Shot]]:
    """Make the pictures of these names in order, by as many processes as pay."""
    with spread(partial(shoot, seed), names, processes) as made:
        yield made


def _annotated(name: str, scene: Scene, jpeg: bytes) -> Regions:
    boxes = true_boxes(scene)
    sure = np.ones(len(boxes), dtype=np.float32)
    return Regions(
        name,
        HEIGHT,
        WIDTH,
        boxes,
        encode(decode(jpeg), boxes),
        np.array([OBJECT_CLASSES.index(f"{thing.size} {thing.shape}") for thing in scene.things], dtype=np.int64),
        sure,
        np.array([ATTRIBUTE_CLASSES.index(f"{thing.color} {thing.texture}") for thing in scene.things], dtype=np.int64),
        sure,
    )
