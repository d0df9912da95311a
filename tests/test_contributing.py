"""What CONTRIBUTING.md says is needed is what is needed: each test adds a toy by those steps and nothing else."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import pytest
import torch
from click.testing import CliRunner

from tests.serve.conftest import LABELS, Client, expected_words, settings_of, write_words
from tests.toys import layout
from tests.toys.adapter import ToyFamily
from tests.toys.counting import CountingTask
from tests.toys.spelling import SpellingEndpoint
from vlcompress.artefacts import read_json
from vlcompress.bench.check_family import check_family
from vlcompress.cli.main import main
from vlcompress.data import detect_layout
from vlcompress.data.regions import region_file
from vlcompress.devices import DTYPES, Compute
from vlcompress.errors import VlcompressError
from vlcompress.kernels.formats import BlockSparseWeight
from vlcompress.models.base import Head
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.models.registry import FAMILIES, family_named
from vlcompress.pruning.mask import Masks, prune
from vlcompress.pruning.pattern import WeightPattern
from vlcompress.pruning.patterns import PATTERNS, parse_pattern
from vlcompress.recipe import parse_recipe
from vlcompress.serve.app import create_app
from vlcompress.serve.routes_v1 import TASKS as SERVED
from vlcompress.sparse.compile import pack_model
from vlcompress.tasks.registry import TASKS, TaskKind
from vlcompress.tickets.run import newest_run


@dataclass(frozen=True)
class Strip(WeightPattern):
    """Runs of `width` inputs go together."""

    form: ClassVar[str] = "'strip:W' (W inputs of an output, e.g. strip:4)"
    width: int

    def __str__(self) -> str:
        return f"strip:{self.width}"

    @classmethod
    def read(cls, text: str) -> Self | None:
        """Read ``strip:W``."""
        match = re.fullmatch(r"strip:([1-9]\d*)", text)
        return cls(int(match[1])) if match else None

    @property
    def unit(self) -> int:  # type: ignore[override]
        """The width."""
        return self.width

    @property
    def block(self) -> tuple[int, int]:  # type: ignore[override]
        """One row of the width."""
        return 1, self.width

    def unit_scores(self, scores: torch.Tensor) -> torch.Tensor:
        """Take the root mean square of each run."""
        return scores.float().view(-1, self.width).square().mean(dim=1).sqrt()

    def spread(self, kept_units: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Repeat each run's bool."""
        return kept_units.repeat_interleave(self.width).view(shape)


def test_a_toy_pattern_is_a_class_and_a_line_and_then_prunes_and_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"pruning": {"pattern": "strip:4", "sparsity": 0.75}, "training": {"steps": 1}}
    with pytest.raises(VlcompressError, match="unknown pattern 'strip:4'"):
        parse_recipe(document)
    monkeypatch.setattr("vlcompress.pruning.patterns.PATTERNS", [*PATTERNS, Strip])
    with pytest.raises(VlcompressError, match=r"unknown pattern 'stripe:4': .*'strip:W'"):
        parse_pattern("stripe:4")
    recipe = parse_recipe(document)
    assert recipe.document()["pruning"]["pattern"] == "strip:4"

    family = family_named("lxmert")
    config = family.config("tiny", vocab_size=50, feature_dim=16)
    model = family.build(config, Head("answers", ("a", "b", "c")), seed=0).eval()
    names = family.prunable(model, "bert-tickets").names
    weights = {name: model.get_parameter(name).detach() for name in names}
    pruning, kept = recipe.pruning, Masks.keep_all(weights)
    masks = prune(
        weights, kept, 0.75, pattern=pruning.pattern, criterion=pruning.criterion.of(0), allocation=pruning.allocation
    )
    assert masks.sparsity == 0.75
    assert all(set(mask.view(-1, 4).sum(dim=1).tolist()) <= {0, 4} for mask in masks.values())

    masks.apply(model)
    inputs = family.example_inputs(config, batch=1, text=6, regions=5, seed=1)
    packed = pack_model(family, model, dict(masks), pruning.pattern.storage, inputs)
    stored = [module.weight for module in packed.model.modules() if hasattr(module, "weight")]
    assert any(isinstance(weight, BlockSparseWeight) and weight.block == (1, 4) for weight in stored)


def run(home: Path, *arguments: str) -> str:
    result = CliRunner().invoke(main, [*arguments, "--home", str(home)])
    assert result.exit_code == 0, result.output
    return result.output


def pruned_compiled_exported(home: Path, *arguments: str) -> Path:
    run(home, "prune", *arguments, "--size", "tiny", "--steps", "4", "--pattern", "block:8x4")
    run(home, "compile", "--batch", "4")
    run(home, "export", "--batch", "4")
    folder = newest_run(home).folder
    assert (folder / "onnx" / "model.onnx").is_file()
    return folder


def test_a_toy_dtype_is_an_entry_and_then_trains_compiles_and_predicts(
    monkeypatch: pytest.MonkeyPatch, tiny_scenes: Path, tmp_path: Path
) -> None:
    pruning = ["prune", "--size", "tiny", "--steps", "4", "--pattern", "block:8x4", "--data", str(tiny_scenes)]
    unknown = CliRunner().invoke(main, [*pruning, "--dtype", "twin"])
    assert (unknown.exit_code, "unknown dtype 'twin'" in unknown.output) == (2, True)
    monkeypatch.setitem(DTYPES, "twin", DTYPES["bf16"])  # the entry in devices.py
    run(tmp_path, *pruning, "--dtype", "twin")
    run(tmp_path, "compile", "--batch", "4", "--dtype", "twin")
    assert Compute("cpu", "twin").torch_dtype == torch.bfloat16
    folder = newest_run(tmp_path).folder
    assert read_json(folder / "run.json")["computed_on"]["dtype"] == "twin"
    said = [tmp_path / f"{dtype}.json" for dtype in ("twin", "bf16")]
    for path in said:
        run(tmp_path, "predict", "--split", "minival", "--dtype", path.stem, "--out", str(path))
    assert said[0].read_text() == said[1].read_text()


def test_a_toy_family_is_a_folder_and_a_line_and_then_runs_end_to_end(
    monkeypatch: pytest.MonkeyPatch, tiny_scenes: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(FAMILIES, "toy", ToyFamily)  # the line in models/registry.py
    assert [check for check in check_family("toy") if check.fix] == []
    pruned_compiled_exported(tmp_path, "--model", "toy", "--data", str(tiny_scenes))
    table = CliRunner().invoke(main, ["tasks"]).output.splitlines()
    assert table[0].split().index("toy") == table[0].split().index("encoder") + 1
    assert "not run ..m" in next(line for line in table if line.startswith("VQA v2"))


def counting_folder(folder: Path, scenes: Path) -> Path:
    """Write the toy task's data beside region features of the built-in pictures."""
    (folder / "counting").mkdir()
    shutil.copy(scenes / "vocab.txt", folder)
    for split, source in (("train", "train2014_obj36.tsv"), ("val", "val2014_obj36.tsv")):
        features = Path(shutil.copy(scenes / "mscoco_imgfeat" / source, folder / "counting" / f"{split}.tsv"))
        rows = [{"image": image, "many": sum(map(ord, image)) % 2} for image in region_file(features).ids[:16]]
        (folder / "counting" / f"{split}.json").write_text(json.dumps(rows))
    return folder


def test_a_toy_task_is_a_file_a_reader_a_recipe_and_lines_and_then_runs_end_to_end(
    monkeypatch: pytest.MonkeyPatch, tiny_scenes: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    data = counting_folder(tmp_path / "data", tiny_scenes)
    kind = TaskKind("counting", ".json", CountingTask, CountingTask)
    monkeypatch.setitem(TASKS, "counting", kind)  # the entry in tasks/registry.py
    monkeypatch.setattr(LxmertFamily, "tasks", (*LxmertFamily.tasks, "counting"))  # in the adapter
    monkeypatch.setattr(LxmertFamily, "recipes", Path(layout.__file__).parent / "recipes")  # where its file is added
    monkeypatch.setattr(detect_layout, "LAYOUTS", (*detect_layout.LAYOUTS, layout))  # the line in data/detect_layout.py
    pruned_compiled_exported(tmp_path / "home", "--task", "counting", "--data", str(data))
    run(tmp_path / "home", "predict", "--split", "val", "--out", str(tmp_path / "said.json"))
    assert {row["answer"] for row in json.loads((tmp_path / "said.json").read_text())} <= set(layout.LABELS)


def test_a_toy_route_is_a_file_and_a_line_and_is_then_checked_documented_and_answered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(SERVED, "spelling", SpellingEndpoint())  # the line in serve/routes_v1.py
    write_words(tmp_path / "words" / "1" / "model.onnx")
    (tmp_path / "words" / "labels.txt").write_text("".join(f"word {index}\n" for index in range(LABELS)))
    client = Client(create_app(settings_of(tmp_path)))
    (row,) = client.get("/v1").json()["models"]
    assert (row["task"], row["accepts"]) == ("spelling", {"letters": True})
    found = client.post("/v1/spelling", json={"letters": "cab", "top_k": 1}).json()
    best = int(expected_words([[2, 0, 1]], scale=1.0).argmax())
    assert (found["answers"][0]["label"], found["letters"]) == (f"word {best}", 3)
    refused = client.post("/v1/spelling", json={"letters": "C4B"})
    assert refused.status_code == 400
    says = "'letters' of request is C4B: give up to 20 letters from a to z"
    assert refused.json() == {"error": says}
    document = client.get("/openapi.json").json()
    asked = document["paths"]["/v1/{task}"]["post"]["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
    assert {"$ref": "#/components/schemas/SpellingRequest"} in asked
