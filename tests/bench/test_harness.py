"""No speed without correctness; with it, one complete record."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from vlcompress.bench.harness import bench_models, measure_openings
from vlcompress.bench.variants import Variant, torch_variant
from vlcompress.errors import VerificationError, VlcompressError
from vlcompress.results import to_json
from vlcompress.sparse.compile import compile_model
from vlcompress.sparse.timing import Effort
from vlcompress.tasks.base import torch_predictor

TicketOf = Callable[..., Any]
QUICK = Effort(rounds=4, burst_s=0.0, warmup=0)


def slowed(variant: Variant, seconds: float) -> Variant:
    """Make every call of a variant slower."""

    def bind(inputs: Any) -> Callable[[], Any]:
        call = variant.bind(inputs)

        def slow() -> Any:
            time.sleep(seconds)
            return call()

        return slow

    return replace(variant, bind=bind)


@pytest.fixture
def variants(ticket_of: TicketOf) -> tuple[Any, list[Variant]]:
    """Return a ticket and its dense (unpruned), masked and compiled variants; the dense one is slow."""
    ticket, other = ticket_of((16, 16), 0.4), ticket_of((16, 16), 1.0)
    compiled, _ = compile_model(
        ticket.family, ticket.model, ticket.masks, (16, 16), inputs=ticket.inputs, effort=Effort(1, 0.0, 0)
    )
    models = {"dense": other.model, "masked": ticket.model, "compiled": compiled}
    dense, masked, compiled_ = (
        torch_variant(
            name, model, torch_predictor(ticket.family, model), truth="masked" if name == "compiled" else None
        )
        for name, model in models.items()
    )
    return ticket, [slowed(dense, 0.02), masked, compiled_]


def test_the_record_has_every_variant_and_batch_size(variants: tuple[Any, list[Variant]]) -> None:
    ticket, rows = variants
    single = {name: tensor[:1] for name, tensor in ticket.inputs.items()}
    record = bench_models(rows, {1: single, 3: ticket.inputs}, threads=1, effort=QUICK)
    record = json.loads(json.dumps(to_json(record)))
    assert set(record["variants"]) == {"dense", "masked", "compiled"}
    for row in record["variants"].values():
        assert set(row["batches"]) == {"1", "3"}
        assert row["parity"]["answer_agreement"] == 1.0
        assert row["batches"]["3"]["p50_ms"] <= row["batches"]["3"]["p99_ms"]
        assert row["batches"]["3"]["calls"] == 4
    assert record["variants"]["dense"]["batches"]["1"]["speedup"]["dense"]["value"] == 1.0
    faster = record["variants"]["compiled"]["batches"]["1"]["speedup"]["dense"]
    assert faster["low"] > 1.0
    assert faster["significant"]
    assert record["environment"]["packages"]["torch"] == torch.__version__


def test_a_variant_that_is_wrong_stops_the_benchmark(variants: tuple[Any, list[Variant]]) -> None:
    ticket, rows = variants
    rows[2] = replace(rows[2], truth="dense")
    with pytest.raises(VerificationError, match="'compiled' does not compute what 'dense' does, so no speed"):
        bench_models(rows, {3: ticket.inputs}, threads=1, effort=QUICK)


def test_a_missing_reference_is_named(variants: tuple[Any, list[Variant]]) -> None:
    ticket, rows = variants
    with pytest.raises(VlcompressError, match="no variant 'dense'"):
        bench_models(rows[1:], {3: ticket.inputs}, threads=1, effort=QUICK)


def test_of_several_openings_the_fastest_counts() -> None:
    effort = Effort(rounds=3, burst_s=0.0, warmup=0)
    found = measure_openings({"a": [lambda: time.sleep(0.01), lambda: None], "b": [lambda: None]}, effort)
    assert {name: len(rounds) for name, rounds in found.items()} == {"a": 3, "b": 3}
    assert max(second for rounds in found["a"] for second in rounds) < 0.01
