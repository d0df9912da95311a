"""Where a recipe's data comes from: a folder of the user's, or the built-in scenes, made once and kept."""

from collections.abc import Callable
from pathlib import Path

from vlcompress.data.scenes.benchmarks import make_benchmark
from vlcompress.data.scenes.write import SIZES, make_scenes
from vlcompress.errors import VlcompressError, unknown

SCENES = "scenes"


def data_folder(source: str, home: Path, say: Callable[[str], None] = print, *, task: str = "vqa") -> Path:
    """Find the folder of a data source, making the built-in one if it is not there yet.

    Args:
        source: "scenes:SIZE" (or "scenes", the small one), "scenes:SIZE:CLASSES" for another set of classes to
            tell apart ("colours", "counts", "concepts"), or a path.
        home: folder under which built-in data is kept.
        say: told one line before something long.
        task: what the built-in data is for; a folder of the user's is taken as it is.

    Raises:
        VlcompressError: unknown size, no built-in data for the task, or no such folder.
    """
    folder = place_of(source, home, task=task)
    if not is_there(folder, source):
        size, classes = _built_in(source)
        task = f"{task}-{classes}" if classes else task
        say(f"making the built-in data '{SCENES}:{size}' for {task} in {folder}")
        if task == "vqa":
            make_scenes(folder, size=size)
        else:
            make_benchmark(folder, task, size=size)
    return folder


def place_of(source: str, home: Path, *, task: str) -> Path:
    """Name the folder of a data source, whether built-in data has been made in it or not; see `data_folder`.

    Raises:
        VlcompressError: unknown size, or no such folder of the user's.
    """
    if source.partition(":")[0] == SCENES:
        size, classes = _built_in(source)
        if size not in SIZES:
            raise unknown("size of scenes", size, SIZES)
        made_for = [task, classes] if classes else [task] if task != "vqa" else []
        return home / "data" / "-".join([SCENES, size, *made_for])
    if not Path(source).is_dir():
        raise VlcompressError(
            f"no data folder at '{source}': give a folder in the published layout, or scenes:SIZE for built-in data"
        )
    return Path(source)


def is_there(folder: Path, source: str) -> bool:
    """Say whether a source's folder holds its data; built-in data is made when it is first needed."""
    return source.partition(":")[0] != SCENES or (folder / "scenes.json").is_file()


def smallest(source: str) -> str:
    """Name the source of the least built-in data that is like a source's."""
    _, classes = _built_in(source)
    return f"{SCENES}:tiny:{classes}" if classes else f"{SCENES}:tiny"


def _built_in(source: str) -> tuple[str, str]:
    """Read the size and the set of classes of built-in data; "" for the task's own classes."""
    size, _, classes = source.partition(":")[2].partition(":")
    return size or "small", classes


def pretraining_folder(
    pictures: int, home: Path, say: Callable[[str], None] = print, *, captions: bool = False
) -> Path:
    """Make the built-in data for pre-training with this many pictures, once and kept under `home`.

    With `captions` that is what retrieval learns from: five captions of each picture, and the pictures themselves.

    Raises:
        VlcompressError: no pictures.
    """
    if pictures < 2:
        raise VlcompressError(f"pre-training on {pictures} pictures is not possible: give at least 2")
    if captions:
        return data_folder(SCENES, home, say, task="retrieval")
    folder = home / "data" / f"{SCENES}-pretrain-{pictures}"
    if not (folder / "scenes.json").is_file():
        say(f"making {pictures} pictures to pre-train on in {folder}")
        make_scenes(folder, size="tiny", pretrain=pictures, images=False)
    return folder
