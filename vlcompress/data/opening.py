"""Opening a task's data (placeholder until the readers land): LXMERT's layout of VQA."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlcompress.data.examples import AnswerExample, TaskData
from vlcompress.data.regions import Regions
from vlcompress.data.tokenizer import WordPiece
from vlcompress.data.vqa_folder import VqaFolder, open_vqa
from vlcompress.errors import VlcompressError, unknown


class FolderPictures:
    """Region features of a VQA folder."""

    def __init__(self, folder: VqaFolder) -> None:
        self._folder = folder
        self.feature_dim = folder.feature_dim

    def has_regions(self, image: str) -> bool:
        """Say whether the image has region features."""
        return image in self._folder.region_files

    def regions(self, image: str, *, ground_truth: bool = False) -> Regions:
        """Read an image's regions."""
        return self._folder.regions(image)

    def pixels(self, image: str) -> NDArray[np.uint8]:
        """Refuse."""
        raise VlcompressError(f"image '{image}' has no pixels here")


def open_task(
    folder: Path | str,
    task: str,
    splits: Sequence[str],
    *,
    feature_dim: int | None = None,
    allow_missing: bool = False,
) -> TaskData[Any]:
    """Open some splits of a task's data."""
    if task != "vqa":
        raise unknown("task", task, ("vqa",))
    opened = open_vqa(folder, splits, feature_dim=feature_dim, strict=not allow_missing, allow_missing=allow_missing)
    examples = tuple(
        AnswerExample(one.question_id, one.img_id, one.sentence, one.label, one.answer_type) for one in opened.questions
    )
    vocabulary = WordPiece.load(folder) if (Path(folder) / "vocab.txt").is_file() else None
    return TaskData(
        task, tuple(splits), examples, FolderPictures(opened), opened.answers.labels, vocabulary, opened.identity
    )
