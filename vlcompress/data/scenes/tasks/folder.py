"""A folder of built-in data while it is written: pictures and features as they come, JSON in the published shapes."""

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

from vlcompress.artefacts import Json
from vlcompress.data.regions import format_row
from vlcompress.data.scenes.shots import Shot, shots


@dataclass(frozen=True)
class Size:
    """How many pictures there are to learn from, and in each split that is scored."""

    train: int
    score: int


@dataclass(frozen=True)
class Folder:
    """A folder that is being written."""

    root: Path
    size: Size
    seed: int
    processes: int | None

    def count(self, split: str) -> int:
        """Count the pictures of a split."""
        return self.size.train if split == "train" else self.size.score

    def shoot(self, split: str, names: Sequence[str], *, gallery: str, features: str, truth: str = "") -> list[Shot]:
        """Make a split's pictures, and write them and their features as they come.

        Args:
            split: seeds the pictures.
            names: the images' names.
            gallery: zip file of the pictures, under the folder.
            features: TSV of the detector's regions, under the folder.
            truth: TSV of the annotated regions; "" writes none.
        """
        made: list[Shot] = []
        with ExitStack() as stack:
            archive = ZipFile(stack.enter_context(new_file(self.root / gallery)), "w")
            stack.enter_context(archive)
            rows = stack.enter_context(new_file(self.root / features))
            annotated = stack.enter_context(new_file(self.root / truth)) if truth else None
            for shot in stack.enter_context(shots(self.seed, names, self.processes)):
                # ZipInfo's default date is fixed, so that the same pictures give the same bytes.
                archive.writestr(ZipInfo(f"{Path(gallery).stem}/{shot.name}.jpg"), shot.jpeg)
                rows.write(format_row(shot.detected))
                if annotated:
                    annotated.write(format_row(shot.annotated))
                made.append(shot)
        return made


def write_json(path: Path, document: Any) -> None:
    """Write one JSON document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document) + "\n", encoding="utf-8")


def write_rows(path: Path, rows: Sequence[Json]) -> None:
    """Write a JSON list with one row a line: still JSON, and one can look at it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")


def write_lines(path: Path, rows: Iterable[Json]) -> None:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def new_file(path: Path) -> Any:
    """Open a file to be written, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("wb")
