"""Pictures sorted into folders, one a class."""

from pathlib import Path

import pytest
from PIL import Image

from vlcompress.data.detect_layout import open_task
from vlcompress.errors import VlcompressError


def _tree(folder: Path, *, skip: str = "") -> None:
    for split, count in (("train", 3), ("val", 1)):
        for color, name in enumerate(("cat", "dog")):
            if f"{split}/{name}" != skip:
                (folder / split / name / "more").mkdir(parents=True)
                for index in range(count):
                    place = folder / split / name / ("more" if index else ".")
                    Image.new("RGB", (8, 6), (50 * color + index, 0, 0)).save(place / f"{index}.png")


def test_class_folders(tmp_path: Path) -> None:
    _tree(tmp_path)
    data = open_task(tmp_path, "classification", ["train", "val"])
    assert data.labels == ("cat", "dog")
    assert [example.label for example in data.examples] == [0, 0, 0, 1, 1, 1, 0, 1]
    assert data.examples[3].image == "train/dog/0.png"
    assert data.pictures.pixels("train/dog/more/2.png")[0, 0].tolist() == [52, 0, 0]
    assert data.pictures.pixels("train/dog/0.png").shape == (6, 8, 3)


def test_a_split_without_a_class_is_refused(tmp_path: Path) -> None:
    _tree(tmp_path, skip="val/dog")
    (tmp_path / "val" / "fox").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "val" / "fox" / "0.png")
    with pytest.raises(VlcompressError, match=r"has no class 'dog', another split has it"):
        open_task(tmp_path, "classification", ["val"])
