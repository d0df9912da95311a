"""Image classification in CIFAR-100's binary format (see `vlcompress.data.scenes.classes`)."""

from collections.abc import Callable
from functools import partial

from vlcompress.artefacts import Json
from vlcompress.data.scenes.classes import CLASS_SETS, write_classes
from vlcompress.data.scenes.tasks.folder import Folder


def write(folder: Folder, classes: str = "shapes") -> Json:
    """Write both splits, twice as many pictures to learn from as other tasks have; give the chance level."""
    write_classes(folder.root, train=2 * folder.size.train, test=folder.size.score, seed=folder.seed, classes=classes)
    chosen = CLASS_SETS[classes]
    return {"chance": {"fine": 1 / len(chosen.fine), "coarse": 1 / len(chosen.coarse)}}


def others() -> dict[str, Callable[[Folder], Json]]:
    """Name the writers of the other sets of classes, "classification-colours" and so on."""
    return {f"classification-{name}": partial(write, classes=name) for name in CLASS_SETS if name != "shapes"}
