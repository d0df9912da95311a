"""The cells of study families."""

import pytest

from vlcompress.errors import VlcompressError
from vlcompress.studies.base import Choices
from vlcompress.studies.families import Families


def test_only_families_that_have_the_task_are_asked() -> None:
    cells = Families().cells(Choices(tasks=("vqa", "gqa"), size="tiny"))
    assert [cell.name for cell in cells] == ["uniter vqa", "uniter gqa", "lxmert vqa", "lxmert gqa", "vilt vqa"]


def test_a_task_of_no_family_says_which_there_are() -> None:
    with pytest.raises(VlcompressError, match=r"unknown task .classification"):
        Families().cells(Choices(tasks=("classification",), size="tiny"))
