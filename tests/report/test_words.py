from typing import Any

import pytest

from vlcompress.report.facts import report_facts
from vlcompress.report.words import caveats, comparison, headline, place, seeds_words, speed_words
from vlcompress.tickets.run import Run


def speedup(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high}


def test_the_headline_says_what_was_found_how_fast_and_where(measured: Run) -> None:
    assert headline(report_facts(measured)) == (
        "A block:16x16 ticket at 70.0 % sparsity scores 69.00 against 70.00 dense (98.6 %), which is below the 99 % "
        "line, but within noise of it (a single seed); compiled, it is 1.40× (1.36 to 1.44) as fast as dense; "
        "exported, it is 1.40× (1.36 to 1.44) as fast as dense in ONNX Runtime (batch 1, on Example CPU, 2 threads)."
    )


def test_without_a_benchmark_no_speed_is_claimed(pruned: Run) -> None:
    said = headline(report_facts(pruned))
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
    facts = report_facts(pruned)
    facts["ticket"]["levels"]["relaxed"]["outcome"] = outcome
    assert words in headline(facts)


def test_a_slower_model_is_called_slower(measured: Run) -> None:
    facts = report_facts(measured)
    facts["speed"]["variants"]["compiled"]["batches"]["1"]["speedup"]["dense"] = speedup(0.8, 0.75, 0.85)
    assert "slower than dense, 0.80× (0.75 to 0.85)" in headline(facts)


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (speedup(1.4, 1.3, 1.5), "1.40× (1.30 to 1.50) as fast as dense"),
        (speedup(1.02, 0.99, 1.05), "as fast as dense as far as one can tell"),
        (speedup(0.8, 0.7, 0.9), "slower than dense"),
    ],
)
def test_an_interval_that_holds_one_decides_nothing(ratio: dict[str, Any], words: str) -> None:
    assert words in comparison(ratio)


def test_a_speed_without_a_measurement_is_called_that() -> None:
    assert speed_words(None) == "not measured"
    assert speed_words(speedup(2.0, 1.9, 2.1)) == "2.00× (1.90 to 2.10)"


def test_the_gain_of_the_runtime_is_not_ascribed_to_the_ticket(measured: Run) -> None:
    facts = report_facts(measured)
    facts["speed"]["variants"]["onnx compiled"]["batches"]["1"]["speedup"]["onnx dense"] = speedup(1.0, 0.9, 1.1)
    assert "exported, it is as fast as dense in ONNX Runtime as far as one can tell" in headline(facts)
    assert any(line.startswith("onnx compiled at batch 1 is as fast as onnx dense") for line in caveats(facts))


def test_a_dense_model_that_beats_the_compiled_one_in_another_runtime_is_told(measured: Run) -> None:
    facts = report_facts(measured)
    facts["speed"]["variants"]["compiled"]["batches"]["1"]["speedup"]["onnx dense"] = speedup(0.98, 0.95, 1.01)
    said = [line for line in caveats(facts) if "in ONNX Runtime is faster" in line]
    assert [line.split(" the ")[0] for line in said] == ["At batch 32"]  # at batch 1 the interval holds 1


def test_a_gpu_is_named_only_where_it_was_measured(measured: Run) -> None:
    facts = report_facts(measured)
    facts["environment"]["gpu"] = "Example GPU"
    assert place(facts) == "Example CPU, 2 threads"
    facts["speed"]["device"] = "cuda"
    assert place(facts) == "Example GPU"


def test_one_seed_is_a_single_seed() -> None:
    assert seeds_words(1) == "a single seed"
    assert seeds_words(3) == "3 seeds"


def test_caveats_name_what_is_missing(pruned: Run) -> None:
    said = " ".join(caveats(report_facts(pruned)))
    for words in ("single seed", "`vlcompress compile`", "`vlcompress export --format onnx`", "`vlcompress bench`"):
        assert words in said


def test_caveats_name_what_is_slower_and_what_cannot_be_told_apart(measured: Run) -> None:
    said = caveats(report_facts(measured))
    assert "compiled at batch 32 is slower than dense, 0.90× (0.86 to 0.94) of its speed." in said
    assert "masked at batch 1 is as fast as dense as far as one can tell, 1.01× (0.97 to 1.05)." in said
    assert not any(line.startswith("compiled at batch 1 ") for line in said)
    assert any(
        "50 of 51 pruned layers run dense: 1 because no sparse form was measured clearly faster, 49" in line
        for line in said
    )
    assert any("Accuracy is not measured for: onnx dense." in line for line in said)


def test_few_calls_and_a_busy_machine_are_told(measured: Run) -> None:
    facts = report_facts(measured)
    assert not any("busy" in line or "p99" in line for line in caveats(facts))
    facts["speed"]["variants"]["dense"]["batches"]["32"]["calls"] = 15
    facts["environment"]["load_average"] = 5.5
    said = " ".join(caveats(facts))
    assert "as few as 15 calls" in said
    assert "load average 5.5 on 2 cores" in said
