"""The granularity study: the same rounds for every pattern, paired comparisons, scores and speeds in one row."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import onnx
import pytest
from torch import nn

import vlcompress.studies.granularity as granularity
import vlcompress.studies.latency as latency
from tests.studies.made import arm, curve, dense
from vlcompress.devices import CPU
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Head
from vlcompress.pruning.patterns import parse_pattern
from vlcompress.recipe import default_recipe
from vlcompress.results import Outcome, Ratio
from vlcompress.sparse.timing import Effort
from vlcompress.studies.base import Choices, StudyRunner
from vlcompress.studies.curves import Difference
from vlcompress.studies.granularity import PATTERNS, Granularity
from vlcompress.studies.granularity_report import (
    OptionResult,
    PatternResult,
    Result,
    SpeedResult,
    findings,
    summary,
)
from vlcompress.studies.latency import (
    BATCHES,
    FileBatch,
    FileSpeed,
    MeasuredTicket,
    NotExported,
    Speeds,
    measure_tickets,
)
from vlcompress.studies.registry import study_named
from vlcompress.studies.run import StudyOutcome, command_of, folder_name, run_study
from vlcompress.tickets.experiment import Experiment
from vlcompress.tickets.imp import rounds
from vlcompress.tickets.open_experiment import open_experiment
from vlcompress.tickets.spec import Trial
from vlcompress.tickets.store import TrainingResult

TINY = Choices(size="tiny", source="scenes:tiny", seeds=(0, 1), levels=(0.5,))
OPTION = {"faster": {"training": {"learning_rate": 2e-3}}, "growth": {"pruning": {"growth": "4x4"}}}


def speeds(names: Sequence[str], value: float = 1.5, load: float = 0.1) -> Speeds:
    """What `measure_tickets` gives, with the same figures for every ticket."""
    batch = FileBatch(1.0, 1.0, 1.0, 0.0, 10, 1.0, Ratio(value, value - 0.1, value + 0.1))
    row = FileSpeed(1_000_000, "dense", 0, {str(size): batch for size in BATCHES})
    return Speeds(1, {"load_average": load, "cores": 2}, row, dict.fromkeys(names, row))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> StudyOutcome:
    """The study at the smallest size with one option; speeds are made up."""

    def measured(bench: Experiment, dense: Any, tickets: Sequence[MeasuredTicket]) -> Speeds:
        assert all(one.trained.masks().sparsity == pytest.approx(0.5, abs=0.03) for one in tickets)
        return speeds([one.name for one in tickets])

    runner = StudyRunner(tmp_path_factory.mktemp("home"), CPU, lambda line: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(granularity, "measure_tickets", measured)
        patch.setattr(granularity, "OPTIONS", OPTION)
        patch.setattr(granularity, "PATTERNS", ("unstructured", "block:16x16", "block:64x64", "neuron+head"))
        return run_study(Granularity(), TINY, runner)


def test_a_pattern_that_does_not_divide_fails_alone_with_its_reason(outcome: StudyOutcome) -> None:
    assert list(outcome.document["failed"]) == ["vqa block:64x64"]
    assert "block:32x32" in outcome.document["failed"]["vqa block:64x64"]
    assert set(outcome.document["results"]) == {
        *("vqa unstructured", "vqa block:16x16", "vqa neuron+head", "vqa block:16x16 with faster", "vqa speed"),
        "vqa block:16x16 with growth",
    }


def test_every_pattern_starts_from_the_same_dense_model_and_passes_the_same_rounds(outcome: StudyOutcome) -> None:
    curves = [one for one in outcome.document["results"].values() if "pattern" in one]
    assert len({tuple(one["cells"][0]["trainings"]) for one in curves}) == 1
    for one in curves:
        assert [round(cell["sparsity"], 1) for cell in one["cells"]] == [0.0, 0.3, 0.5]
        assert one["rounds"] == {"50": 2}
    assert outcome.document["trainings"]["count"] == 2 * (1 + 3 * 2 + 1 + 2 + 2)  # one option has its own dense model


def test_differences_are_paired_by_seed_and_example(outcome: StudyOutcome) -> None:
    results = outcome.document["results"]
    plain, block = results["vqa unstructured"], results["vqa block:16x16"]
    found = block["differences"]["50"]
    points = [b - a for a, b in zip(plain["cells"][2]["scores"], block["cells"][2]["scores"], strict=True)]
    assert found["points"] == pytest.approx(points)
    assert found["margin"] == pytest.approx(sum(points) / 2)
    assert found["low"] <= found["margin"] <= found["high"]
    assert plain["differences"]["50"]["points"] == [0, 0]
    option = results["vqa block:16x16 with faster"]
    points = [b - a for a, b in zip(block["cells"][2]["scores"], option["cells"][2]["scores"], strict=True)]
    assert option["differences"]["50"]["points"] == pytest.approx(points)


def test_score_and_speed_stand_in_one_row(outcome: StudyOutcome) -> None:
    overview, verdicts, options = outcome.document["tables"]
    rows = {row[0]: row for row in overview["rows"]}
    assert rows["block:16x16"][1] == "50"
    assert rows["block:16x16"][5] == str(len(outcome.document["results"]["vqa block:16x16"]["gone"]["50"]))
    assert rows["block:16x16"][6:] == ("1.50 (1.40-1.60)", "1.50 (1.40-1.60)", "1.00")
    assert [row[0] for row in verdicts["rows"]] == ["dense", "unstructured", "block:16x16", "neuron+head"]
    assert [row[:3] for row in options["rows"]] == [("faster", "50", "2"), ("growth", "50", "2")]
    by_sparsity, by_speed = outcome.document["charts"]
    assert {series["name"] for series in by_sparsity["series"]} == {"unstructured", "block:16x16", "neuron+head"}
    assert {point["x"] for series in by_speed["series"] for point in series["points"]} == {1.5}


def test_the_default_takes_about_a_hundred_trainings() -> None:
    cells = [cell for cell in Granularity().cells(Choices()) if " with " not in cell.name]
    assert sum(cell.trainings for cell in cells) == 3 * (1 + 5 * len(PATTERNS)) == 108
    assert str(cells[0].recipe.pruning.schedule) == "levels:30,50,70,80,90"


def test_blocks_that_grow_are_compared_in_the_last_round_alone() -> None:
    cells = {cell.name: cell for cell in Granularity().cells(Choices())}
    assert cells["vqa block:16x16 with blocks that grow"].trainings == 3 * 3
    plan = granularity._plan((0.5, 0.7, 0.9))
    base = granularity._recipe(Choices(), "vqa", granularity.OPTION_PATTERN, plan)
    assert granularity._levels_of(base.override(pruning={"growth": "4x4,8x8"}), plan) == {0.7: 3}
    assert granularity._levels_of(base, plan) == {0.5: 2, 0.7: 3}


def test_the_option_pattern_and_the_options_make_valid_recipes() -> None:
    for changes in granularity.OPTIONS.values():
        base = default_recipe("lxmert", "vqa", "small").override(pruning={"criterion": "magnitude", "target": ""})
        assert base.override(**changes).sha256() != base.sha256()
    assert granularity.OPTION_PATTERN in PATTERNS


def compared(score: float, margin: float, outcome: Outcome, gone: tuple[str, ...] = ()) -> dict[str, Any]:
    found = Difference(0.5, (margin,), margin, margin - 0.01, margin + 0.01, 0.5)
    said = {"task": "vqa", "rounds": {"50": 1}, "differences": {"50": found}, "gone": {"50": gone}}
    return {**curve(dense(0.6), arm("ticket", score, outcome=outcome, margin=margin)), **said}


UNSTRUCTURED = PatternResult(**compared(0.6, 0.0, "pass"), pattern="unstructured")


def test_findings_name_cost_verdict_speed_and_options() -> None:
    results: dict[str, Result] = {
        "a": UNSTRUCTURED,
        "b": PatternResult(**compared(0.5, -0.1, "fail"), pattern="block:16x16"),
        "c": OptionResult(**compared(0.55, 0.05, "fail"), option="distillation"),
        "d": OptionResult(**compared(0.45, -0.05, "fail"), option="movement"),
        "e": OptionResult(**compared(0.501, 0.001, "fail"), option="growth"),
        "f": SpeedResult("vqa", speeds(["unstructured at 50 %", "block:16x16 at 50 %"], 1.02)),
    }
    said = "\n".join(findings(results))
    assert "costs least is block:16x16, -10.00 (-11.00 to -9.00)" in said
    assert "passes relaxed: unstructured 50 % (pass), block:16x16 none." in said
    assert "fastest ticket that does not fail relaxed is unstructured at 50 %: 1.02 (0.92-1.12) × dense" in said
    assert "distillation (+5.00 (+4.00 to +6.00)) help; movement (-5.00 (-6.00 to -4.00)) hurt; growth" in said
    assert "a mask alone makes nothing faster" in said
    assert "busy" not in said
    line = summary(results)
    assert line.startswith(
        "vqa: at 50 % unstructured pruning keeps 60.00; points from it: block:16x16 -10.00. The fastest"
    )
    gone = ("pooler.dense.weight", "query.weight")
    results["b"] = PatternResult(**compared(0.5, -0.1, "fail", gone), pattern="block:16x16")
    assert "nothing of some weight matrices (first seed): block:16x16 2." in "\n".join(findings(results))
    results["f"] = SpeedResult("vqa", speeds(["unstructured at 50 %"], 1.3))
    assert any("some of its units are empty" in one for one in findings(results))


def test_a_busy_machine_is_said() -> None:
    speed = speeds(["unstructured at 50 %"], load=5.0)
    results: dict[str, Result] = {"a": UNSTRUCTURED, "f": SpeedResult("vqa", speed)}
    assert any("load average 5 on 2 cores" in said for said in findings(results))


def exported(family: Any, model: nn.Module, folder: Path, samples: Any, *, head: Head, **kwargs: Any) -> Any:
    """Stand in for the export: a graph that gives zeros, as the tests of `export` take the real one."""
    zeros = onnx.numpy_helper.from_array(numpy.zeros((1, len(head.labels)), dtype=numpy.float32), "logits")
    ids = onnx.helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["batch", "text"])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Constant", [], ["logits"], value=zeros)], "g", [ids], [logits]
    )
    folder.mkdir()
    opset = onnx.helper.make_opsetid("", 20)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), folder / "model.onnx")
    size = sum(parameter.numel() for parameter in model.parameters())
    return SimpleNamespace(bytes=SimpleNamespace(model=size), speed=SimpleNamespace(picked="dense"), layers=())


def test_tickets_are_compiled_exported_and_measured_beside_dense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "export_onnx", exported)
    recipe = default_recipe("lxmert", "vqa", "tiny").override(pruning={"pattern": "neuron+head", "schedule": "oneshot"})
    bench = open_experiment(recipe, tmp_path, say=lambda line: None)
    dense = bench.train(Trial(0), "dense")
    ticket = next(rounds(bench, 0, dense, parse_pattern("neuron+head"), "ticket")).result
    damaged = TrainingResult(tmp_path / "nothing")
    pattern = parse_pattern("neuron+head")
    tickets = [MeasuredTicket("good", bench, ticket, pattern), MeasuredTicket("bad", bench, damaged, pattern)]
    found = measure_tickets(bench, dense, tickets, effort=Effort(rounds=2, burst_s=0.001, warmup=1))
    assert isinstance(found.tickets["bad"], NotExported)
    row = found.tickets["good"]
    assert isinstance(row, FileSpeed)
    assert row.bytes < 0.9 * found.dense.bytes  # neurons and heads are gone from the model that is exported
    for batch in ("1", "32"):
        ratio = row.batches[batch].speedup
        assert 0 < ratio.low <= ratio.value <= ratio.high
        assert found.dense.batches[batch].speedup.value == 1
    assert found.environment["cores"] > 0


def test_pretraining_is_no_task_to_export(tmp_path: Path) -> None:
    recipe = default_recipe("lxmert", "pretraining", "tiny")
    bench = open_experiment(recipe, tmp_path, say=lambda line: None)
    with pytest.raises(VlcompressError, match="pre-training"):
        measure_tickets(bench, bench.train(Trial(0), "dense"), [])


def test_another_criterion_ranks_every_pattern_and_leaves_the_options_out() -> None:
    cells = Granularity().cells(Choices(size="tiny", criterion="gradient"))
    assert {str(cell.recipe.pruning.criterion) for cell in cells} == {"gradient"}
    assert len(cells) == len(PATTERNS) + 1
    assert folder_name(Granularity(), Choices(criterion="gradient")) == "granularity-gradient"
    assert "--criterion gradient" in command_of(Granularity(), Choices(criterion="gradient"))


def test_a_study_of_a_paper_keeps_to_magnitudes() -> None:
    for name in ("paper-b", "vision"):
        with pytest.raises(VlcompressError, match="leave --criterion out"):
            study_named(name).cells(Choices(criterion="gradient"))
