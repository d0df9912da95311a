from dataclasses import asdict

import pytest

from tests.report.conftest import change
from vlcompress.report.report_data import report_data
from vlcompress.report.sentences import caveats, comparison, headline, place, seeds_words, speed_words
from vlcompress.results import Ratio
from vlcompress.tickets.run import Run


def set_speedup(run: Run, variant: str, size: str, to: str, ratio: Ratio) -> None:
    where = f"variants/{variant}/batches/{size}/speedup/{to}"
    change(run.folder / "bench.json", where, {**asdict(ratio), "significant": True})


def test_the_headline_says_what_was_found_how_fast_and_where(measured: Run) -> None:
    assert headline(report_data(measured)) == (
        "The block:16x16 ticket at 70.0 % sparsity scores 69.00 against 70.00 dense (98.6 %), which is below the 99 % "
        "line, but within noise of it (a single seed); compiled, it is 1.40× (1.36 to 1.44) as fast as dense; "
        "exported, it is 1.40× (1.36 to 1.44) as fast as dense in ONNX Runtime (batch 1, on Example CPU, 2 threads)."
    )


def test_without_a_benchmark_no_speed_is_claimed(pruned: Run) -> None:
    said = headline(report_data(pruned))
    assert "not measured yet" in said
    assert "×" not in said


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ("pass", "reaches the 99 % line"),
        ("fail", "fails the 99 % line"),
        ("no verdict", "says nothing: the dense model"),
    ],
)
def test_the_headline_follows_the_verdict(pruned: Run, outcome: str, words: str) -> None:
    change(pruned.folder / "run.json", "cells/7/verdict/levels/relaxed/outcome", outcome)
    assert words in headline(report_data(pruned))


def test_a_slower_model_is_called_slower(measured: Run) -> None:
    set_speedup(measured, "compiled", "1", "dense", Ratio(0.8, 0.75, 0.85))
    assert "slower than dense, 0.80× (0.75 to 0.85)" in headline(report_data(measured))


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (Ratio(1.4, 1.3, 1.5), "1.40× (1.30 to 1.50) as fast as dense"),
        (Ratio(1.02, 0.99, 1.05), "as fast as dense as far as one can tell"),
        (Ratio(0.8, 0.7, 0.9), "slower than dense"),
    ],
)
def test_an_interval_that_holds_one_decides_nothing(ratio: Ratio, words: str) -> None:
    assert words in comparison(ratio)


def test_a_speed_without_a_measurement_is_called_that() -> None:
    assert speed_words(None) == "not measured"
    assert speed_words(Ratio(2.0, 1.9, 2.1)) == "2.00× (1.90 to 2.10)"


def test_the_gain_of_the_runtime_is_not_ascribed_to_the_ticket(measured: Run) -> None:
    set_speedup(measured, "onnx compiled", "1", "onnx dense", Ratio(1.0, 0.9, 1.1))
    data = report_data(measured)
    assert "exported, it is as fast as dense in ONNX Runtime as far as one can tell" in headline(data)
    assert any(line.startswith("onnx compiled at batch 1 is as fast as onnx dense") for line in caveats(data))


def test_a_dense_model_that_beats_the_compiled_one_in_another_runtime_is_told(measured: Run) -> None:
    set_speedup(measured, "compiled", "1", "onnx dense", Ratio(0.98, 0.95, 1.01))
    said = [line for line in caveats(report_data(measured)) if "in ONNX Runtime is faster" in line]
    assert [line.split(" the ")[0] for line in said] == ["At batch 32"]  # at batch 1 the interval holds 1


def test_a_gpu_is_named_only_where_it_was_measured(measured: Run) -> None:
    bench = measured.folder / "bench.json"
    change(bench, "environment/gpu", "Example GPU")
    assert place(report_data(measured)) == "Example CPU, 2 threads"
    change(bench, "computed_on", {"device": "cuda", "dtype": "fp32", "name": "Example GPU"})
    assert place(report_data(measured)) == "Example GPU"


def test_one_seed_is_a_single_seed() -> None:
    assert seeds_words(1) == "a single seed"
    assert seeds_words(3) == "3 seeds"


def test_caveats_name_what_is_missing(pruned: Run) -> None:
    said = " ".join(caveats(report_data(pruned)))
    for words in ("single seed", "`vlcompress compile`", "`vlcompress export --format onnx`", "`vlcompress bench`"):
        assert words in said


def test_caveats_name_what_is_slower_and_what_cannot_be_told_apart(measured: Run) -> None:
    said = caveats(report_data(measured))
    assert "compiled at batch 32 is slower than dense, 0.90× (0.86 to 0.94) of its speed." in said
    assert "masked at batch 1 is as fast as dense as far as one can tell, 1.01× (0.97 to 1.05)." in said
    assert not any(line.startswith("compiled at batch 1 ") for line in said)
    assert any(
        "50 of 51 pruned layers run dense: 1 because no sparse form was measured clearly faster, 49" in line
        for line in said
    )
    assert any("Accuracy is not measured for: onnx dense." in line for line in said)


def test_few_calls_and_a_busy_machine_are_told(measured: Run) -> None:
    bench = measured.folder / "bench.json"
    assert not any("busy" in line or "p99" in line for line in caveats(report_data(measured)))
    change(bench, "variants/dense/batches/32/calls", 15)
    change(bench, "environment/load_average", 5.5)
    said = " ".join(caveats(report_data(measured)))
    assert "as few as 15 calls" in said
    assert "load average 5.5 on 2 cores" in said
