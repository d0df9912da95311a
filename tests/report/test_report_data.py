from pathlib import Path
from typing import Any

import pytest

from vlcompress.artefacts import dumps, read_json, write_file
from vlcompress.errors import VlcompressError
from vlcompress.recipe import parse_recipe
from vlcompress.report.report_data import report_data
from vlcompress.results import Accuracy, to_json
from vlcompress.tickets.run import Run


def rewrite(run: Run, **changes: Any) -> None:
    write_file(run.folder / "run.json", dumps({**to_json(run.result()), **changes}))


def cells(run: Run) -> Any:
    return to_json(run.result())["cells"]


def test_what_has_not_been_made_is_none(pruned: Run) -> None:
    found = to_json(report_data(pruned))
    missing = ["plan", "onnx", "speed", "curve", "environment", "losses"]
    assert [name for name, value in found.items() if value is None] == missing


def test_the_ticket_is_the_last_round(pruned: Run) -> None:
    ticket = report_data(pruned).ticket
    assert (ticket.round, ticket.sparsity) == (7, 0.7)
    assert ticket.score == pytest.approx(69.0)
    assert ticket.of_dense == pytest.approx(0.69 / 0.70)


def test_a_single_seed_has_the_interval_of_its_difference_from_dense(pruned: Run) -> None:
    ticket = report_data(pruned).ticket
    assert ticket.sd is None
    assert (ticket.low, ticket.high) == pytest.approx((68.0, 70.0))  # the fixture's intervals are ±1 point


def test_several_seeds_have_their_standard_deviation(pruned: Run) -> None:
    found = cells(pruned)
    for cell in found:
        cell["scores"] = [cell["scores"][0] - 0.02, cell["scores"][0], cell["scores"][0] + 0.02]
    rewrite(pruned, cells=found)
    dense = report_data(pruned).dense
    assert dense.sd == pytest.approx(2.0)
    assert (dense.low, dense.high) == pytest.approx((68.0, 72.0))


def test_blocks_cost_what_unstructured_scores_more(pruned: Run) -> None:
    costs = report_data(pruned).block_cost
    assert costs is not None
    assert [cost.round for cost in costs] == [1, 2, 3, 4, 5, 6, 7]
    assert costs[-1].cost == pytest.approx(0.7)
    assert costs[-1].cost_sd is None


def test_cost_is_paired_by_seed(pruned: Run) -> None:
    dense, *_ = cells(pruned)
    ticket = {**dense, "arm": "ticket", "round": 1, "scores": [0.5, 0.7]}
    rewrite(pruned, cells=[dense, ticket, {**ticket, "arm": "unstructured", "scores": [0.51, 0.71]}])
    found = report_data(pruned).block_cost
    assert found is not None
    assert found[0].cost == pytest.approx(1.0)
    assert found[0].cost_sd == pytest.approx(0.0)  # though the seeds themselves are 20 points apart


def test_without_the_control_there_is_no_cost(pruned: Run) -> None:
    rewrite(pruned, cells=[cell for cell in cells(pruned) if cell["arm"] != "unstructured"])
    assert report_data(pruned).block_cost is None


def test_variants_come_in_the_order_of_the_work_with_their_accuracy(measured: Run) -> None:
    speed = report_data(measured).speed
    assert speed is not None
    variants = speed.variants
    assert list(variants) == ["dense", "masked", "compiled", "onnx dense", "onnx compiled"]
    assert variants["compiled"].accuracy == Accuracy(0.69, 4000)
    assert variants["onnx dense"].accuracy is None


def test_speeds_lie_under_their_references(measured: Run) -> None:
    speed = report_data(measured).speed
    assert speed is not None
    speedup = speed.variants["compiled"].batches["1"].speedup
    assert speedup["dense"].value == 1.4
    assert speedup["onnx dense"].value == pytest.approx(1.4 / 1.5)


def test_a_benchmark_without_accuracy_and_curve_is_read(measured: Run) -> None:
    bench = read_json(measured.folder / "bench.json")
    del bench["accuracy"], bench["curve"]
    write_file(measured.folder / "bench.json", dumps(bench))
    found = report_data(measured)
    assert found.curve is None
    assert found.speed is not None
    assert all(variant.accuracy is None for variant in found.speed.variants.values())


def test_the_toml_is_the_recipe_of_the_run(pruned: Run) -> None:
    import tomllib

    assert parse_recipe(tomllib.loads(report_data(pruned).toml())) == pruned.recipe()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match="not a finished run"):
        report_data(Run(tmp_path))


def test_a_damaged_file_is_named(measured: Run) -> None:
    (measured.folder / "bench.json").write_text('{"variants": ')
    with pytest.raises(VlcompressError, match=r"bench\.json"):
        report_data(measured)
