"""How much a run writes, said before; weights kept once; and what nothing refers to found and removed."""

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from vlcompress.artefacts import file_sha256, keep_once
from vlcompress.cli.main import main
from vlcompress.devices import CPU
from vlcompress.errors import VlcompressError
from vlcompress.recipe import Recipe
from vlcompress.tickets.disk import Asked, bytes_of_a_training, spelt, tell_size, unused
from vlcompress.tickets.open_experiment import open_experiment
from vlcompress.tickets.run import find_ticket
from vlcompress.tickets.spec import Trial
from vlcompress.tickets.ticket import load_ticket


@pytest.mark.parametrize("criterion", ["magnitude", "gradient"])
def test_a_run_writes_what_was_said_and_the_tickets_weights_once(
    recipe: Recipe, tmp_path: Path, criterion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, said = recipe.override(pruning={"criterion": criterion}), list[str]()
    run = find_ticket(recipe, tmp_path, say=said.append)
    each = bytes_of_a_training(open_experiment(recipe, tmp_path))
    assert f"on the disk: {spelt(each)} a training" in next(line for line in said if "on the disk" in line)
    trainings = sorted((tmp_path / "trainings").iterdir())
    sizes = [sum(one.stat().st_size for one in folder.iterdir()) for folder in trainings]
    assert len(trainings) == 3
    assert all(size == pytest.approx(each, rel=0.2) for size in sizes)  # beside it: headers and scores of a tiny model
    same = run.training("ticket", 2) / "weights.safetensors"
    assert os.path.samefile(run.ticket / "model.safetensors", same)
    shutil.rmtree(same.parent)
    load_ticket(run.ticket)
    assert unused(tmp_path, young=0).paths == ()


def test_of_a_control_scores_and_mask_alone_are_kept(recipe: Recipe, tmp_path: Path) -> None:
    said: list[str] = []
    controls = ["random", "shuffle", "magnitude"]
    recipe = recipe.override(pruning={"criterion": "gradient", "controls": controls})
    run = find_ticket(recipe, tmp_path, say=said.append)
    told = next(line for line in said if "on the disk" in line)
    assert "for 5 (2 of them scores and masks alone) at most" in told
    left = {cell.arm: tmp_path / "trainings" / cell.trainings[0] for cell in run.result().cells}
    for name in controls:
        held = {path.name for path in left[name].iterdir()}
        assert {"training.json", "scores.safetensors", "mask.safetensors"} <= held
        assert not held & {"weights.safetensors", "saliency.safetensors"}
    assert (left["ticket"] / "weights.safetensors").is_file()


def test_what_was_kept_by_its_scores_is_trained_anew_for_its_weights(recipe: Recipe, tmp_path: Path) -> None:
    said: list[str] = []
    light, whole = (open_experiment(recipe, tmp_path / home, say=said.append) for home in ("light", "whole"))
    first = light.train(Trial(0, light.keep_all(), scored=True), "control")
    assert not (first.folder / "weights.safetensors").exists()
    light.train(Trial(0, light.keep_all(), scored=True), "again")
    assert "again: " in said[-1]
    assert said[-1].endswith("(done before)")
    again = light.train(Trial(0, light.keep_all()), "ticket")
    other = whole.train(Trial(0, whole.keep_all()), "ticket")
    assert file_sha256(again.folder / "training.json") == file_sha256(other.folder / "training.json")
    assert light.train(Trial(0, light.keep_all(), scored=True), "control").weights().keys() == other.weights().keys()


def test_weights_that_are_gone_are_damage_and_not_trained_anew(recipe: Recipe, tmp_path: Path) -> None:
    experiment = open_experiment(recipe, tmp_path, say=[].append)
    (experiment.train(Trial(0), "dense").folder / "weights.safetensors").unlink()
    with pytest.raises(VlcompressError, match=r"weights\.safetensors"):
        experiment.train(Trial(0), "dense")


def test_too_little_space_is_warned_of(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    experiment = open_experiment(recipe, tmp_path / "not" / "yet", compute=CPU, say=said.append)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    assert tell_size([Asked(experiment, 3)]) > 3 * bytes_of_a_training(experiment)
    assert said[-1].startswith("warning: that is more than is free")


def test_files_that_differ_are_not_linked(tmp_path: Path) -> None:
    (one, other) = (tmp_path / name for name in "ab")
    one.write_text("abc")
    other.write_text("abd")
    keep_once(one, other)
    keep_once(one, tmp_path / "c")
    assert (one.read_text(), one.stat().st_nlink) == ("abc", 1)


def test_clean_removes_what_nothing_refers_to_and_nothing_else(recipe: Recipe, tmp_path: Path) -> None:
    run = find_ticket(recipe, tmp_path, say=lambda line: None)
    trainings = tmp_path / "trainings"
    kept = {path.name for path in trainings.iterdir()}
    shutil.copytree(trainings / min(kept), trainings / "0123456789abcdef")
    (trainings / "fedcba9876543210.under-way").mkdir()
    (trainings / "fedcba9876543210.under-way.log.jsonl").write_text("{}\n")
    found = unused(tmp_path)
    assert (found.paths, found.young) == ((), 3)
    for path in trainings.rglob("*"):
        os.utime(path, (1, 1))

    def command(*more: str) -> str:
        result = CliRunner().invoke(main, ["clean", "--home", str(tmp_path), *more])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "would remove 3, " in command("--dry-run")
    assert len(list(trainings.iterdir())) == len(kept) + 3
    assert "removed 3, " in command()
    assert {path.name for path in trainings.iterdir()} == kept
    assert run.is_finished
    assert "removed 0, 0.0 MB" in command()
    assert CliRunner().invoke(main, ["clean", "--home", str(tmp_path / "none")]).exit_code == 0


def test_what_studies_refer_to_stays(tmp_path: Path) -> None:
    for name in ("a" * 16, "b" * 16):
        (tmp_path / "trainings" / name).mkdir(parents=True)
    study = tmp_path / "studies" / "curves"
    study.mkdir(parents=True)
    (study / "study.json").write_text(f'{{"results": {{"vqa": {{"cells": [{{"trainings": ["{"a" * 16}"]}}]}}}}}}')
    assert [path.name for path in unused(tmp_path, young=0).paths] == ["b" * 16]
