"""A run is found again by its recipe where that names the same bytes as when it was made."""

import shutil
from pathlib import Path

import pytest

from vlcompress.devices import CPU
from vlcompress.recipe import Recipe
from vlcompress.tickets.run import find_ticket, newest_run, rehearse


@pytest.fixture
def data(recipe: Recipe, tmp_path: Path) -> Path:
    return shutil.copytree(recipe.data.source, tmp_path / "project" / "data")


def test_two_projects_with_one_home_get_tickets_of_their_own(
    recipe: Recipe, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, relative = tmp_path / "home", recipe.override(data={"source": "data"}, pruning={"rounds": 1})
    monkeypatch.chdir(data.parent)
    first = find_ticket(relative, home, say=lambda line: None)
    other = shutil.copytree(data, tmp_path / "other project" / "data")
    questions = other / "vqa" / "train.json"
    questions.write_text(questions.read_text().replace(" the ", " that "))
    monkeypatch.chdir(other.parent)
    lines: list[str] = []
    second = find_ticket(relative, home, say=lines.append)
    assert second.folder != first.folder
    assert any("the data of this recipe changed since" in line for line in lines)
    assert second.result().data.train != first.result().data.train
    assert newest_run(home) == second
    for project, run in ((data.parent, first), (other.parent, second)):
        monkeypatch.chdir(project)
        lines.clear()
        assert find_ticket(relative, home, say=lines.append) == run
        rehearse(relative, home, compute=CPU, say=lines.append)
        assert [line for line in lines if "has been run" in line] == [f"this recipe has been run: {run.folder}"] * 2


def test_another_vocabulary_under_the_same_path_is_another_run(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    shutil.copy(data / "vocab.txt", words)
    named = recipe.override(data={"vocabulary": str(words)}, pruning={"rounds": 1})
    first = find_ticket(named, tmp_path, say=lambda line: None)
    words.write_text(words.read_text() + "another\n")
    assert find_ticket(named, tmp_path, say=lambda line: None) != first


def test_a_run_on_what_is_built_in_is_found_without_making_that_again(recipe: Recipe, tmp_path: Path) -> None:
    built_in = recipe.override(data={"source": "scenes:tiny"}, pruning={"rounds": 1})
    first = find_ticket(built_in, tmp_path, say=lambda line: None)
    shutil.rmtree(tmp_path / "data")
    lines: list[str] = []
    assert find_ticket(built_in, tmp_path, say=lines.append) == first
    assert lines == [f"this recipe has been run: {first.folder}"]


def test_built_in_data_with_another_vocabulary_are_another_run(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    shutil.copy(data / "vocab.txt", words)
    named = recipe.override(data={"source": "scenes:tiny", "vocabulary": str(words)}, pruning={"rounds": 1})
    first = find_ticket(named, tmp_path, say=lambda line: None)
    words.write_text(words.read_text() + "another\n")
    assert find_ticket(named, tmp_path, say=lambda line: None) != first
