"""What the terminal is told of a compiled ticket: a row for each kind of layer, and each layer if asked."""

from dataclasses import replace
from pathlib import Path

from tests.conftest import make_ticket
from vlcompress.report.text import plan_text
from vlcompress.sparse.compile import compile_model
from vlcompress.sparse.plan import CompilePlan
from vlcompress.sparse.timing import Effort, Timing


def plan() -> CompilePlan:
    ticket = make_ticket((4, 4), 0.3, size="small")
    effort = Effort(rounds=1, burst_s=0.0, warmup=0)
    return compile_model(ticket.family, ticket.model, ticket.masks, (4, 4), inputs=ticket.inputs, effort=effort)[1]


def test_layers_of_a_kind_share_a_row_with_the_sums_of_their_times() -> None:
    made = plan()
    query = "lxmert.encoder.layer.{}.attention.self.query.weight"
    timings = {"dense": Timing(10.0, 0.0, 1), "grouped": Timing(4.0, 0.0, 1)}
    picked = {query.format(0): "grouped", query.format(1): "dense"}
    layers = tuple(
        replace(one, choice=replace(one.choice, picked=picked[one.name], timings=timings))
        if one.name in picked
        else one
        for one in made.layers
    )
    lines = plan_text(Path("run"), replace(made, layers=layers)).splitlines()
    (row,) = (line.split() for line in lines if line.startswith("lxmert.encoder.layer.*.attention.self.query"))
    assert row[1:] == ["2", "70.0", row[3], "20", "8", "grouped", "1,", "dense", "1"]
    assert len(lines) < 40
    assert "1 of 51 layers run sparse" in "\n".join(lines)


def test_every_layer_is_told_if_asked() -> None:
    made = plan()
    text = plan_text(Path("run"), made, explain=True)
    assert all(text.count(f"\n{layer.name.removesuffix('.weight')} ") == 1 for layer in made.layers)
    assert all(
        f"  {layer.name.removesuffix('.weight')}: {layer.choice.picked}, because" in text for layer in made.layers
    )
