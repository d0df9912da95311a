"""A compiled model computes the same, says why, and comes back from the disk without its ticket."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vlcompress.devices import CPU
from vlcompress.errors import VerificationError, VlcompressError
from vlcompress.results import to_json
from vlcompress.sparse import compile as compiler
from vlcompress.sparse.choice import LayerChoice
from vlcompress.sparse.compile import (
    compile_model,
    layer_rows,
    load_compiled,
    save_compiled,
    scores,
    sparse_layers,
    thread_count,
)
from vlcompress.sparse.plan import CompilePlan, LayerPlan, read_plan
from vlcompress.sparse.shrink import Kept
from vlcompress.sparse.timing import Effort, Timing

TicketOf = Callable[..., Any]
QUICK = Effort(rounds=2, burst_s=0.0, warmup=0)


def compiled(ticket: Any, block: tuple[int, int]) -> tuple[torch.nn.Module, CompilePlan]:
    """Compile with hardly any measuring."""
    return compile_model(ticket.family, ticket.model, ticket.masks, block, inputs=ticket.inputs, effort=QUICK)


@pytest.mark.parametrize("block", [(16, 16), (32, 1), (8, 4)], ids=lambda b: f"{b[0]}x{b[1]}")
@pytest.mark.parametrize("picked", ["dense", "grouped"])
def test_scores_stay_with_either_backend(
    ticket_of: TicketOf, block: tuple[int, int], picked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "choose_backend", lambda *_: LayerChoice(picked, "forced"))
    ticket = ticket_of(block, 0.4)
    model, plan = compiled(ticket, block)
    expected = scores(ticket.family, ticket.model, ticket.inputs)
    torch.testing.assert_close(scores(ticket.family, model, ticket.inputs), expected, atol=1e-5, rtol=1e-5)
    assert plan.max_abs_error < 1e-5
    used = {layer.backend for layer in sparse_layers(model).values()}
    assert picked in used
    gone = {units.consumer for units in plan.kept if not units.kept}
    couplings = [one for one in ticket.family.couplings(ticket.model) if one.consumer in gone]
    assert len(plan.layers) == len(ticket.masks) - sum(len(one.producers) + 1 for one in couplings)
    assert all(layer.choice.why for layer in plan.layers)


def test_an_unstructured_ticket_stays_dense_and_says_why(ticket_of: TicketOf) -> None:
    ticket = ticket_of((1, 1), 0.6)
    model, plan = compiled(ticket, (1, 1))
    assert not sparse_layers(model)
    assert {(layer.format, layer.choice.picked) for layer in plan.layers} == {("dense", "dense")}
    assert all("would take more bytes" in layer.choice.why for layer in plan.layers)


def test_the_plan_knows_rows_and_layers_that_never_run(ticket_of: TicketOf) -> None:
    ticket = ticket_of((8, 4), 0.4)
    rows = layer_rows(ticket.family, ticket.model, ticket.masks, ticket.inputs)
    assert rows["lxmert.encoder.layer.0.intermediate.dense.weight"] == 3 * 6
    assert rows["lxmert.encoder.r_layers.0.intermediate.dense.weight"] == 3 * 5
    assert rows["lxmert.pooler.dense.weight"] == 3
    assert rows["lxmert.encoder.x_layers.0.visn_inter.dense.weight"] == 0
    _, plan = compiled(ticket, (8, 4))
    unused = next(layer for layer in plan.layers if "visn_inter" in layer.name)
    assert "never runs" in unused.choice.why


class Twice:
    """A family whose models run their layer on both of two inputs."""

    def logits(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([model.get_submodule("layer")(x) for x in inputs.values()])


@pytest.mark.parametrize("rows", [(9, 4), (4, 9)])
def test_a_layer_that_runs_twice_counts_the_more_rows(rows: tuple[int, int]) -> None:
    """LXMERT's cross attention is one set of weights for both directions."""
    model = torch.nn.ModuleDict({"layer": torch.nn.Linear(3, 2)})
    inputs = {str(count): torch.zeros(count, 3) for count in rows}
    assert layer_rows(Twice(), model, ["layer.weight"], inputs) == {"layer.weight": 9}


def test_threads_are_as_many_as_before_even_after_an_error() -> None:
    before = torch.get_num_threads()

    def fail_inside() -> None:
        with thread_count(before + 1):
            assert torch.get_num_threads() == before + 1
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert torch.get_num_threads() == before


def test_a_picture_counts_its_places_as_rows() -> None:
    model = torch.nn.ModuleDict({"layer": torch.nn.Conv2d(3, 2, 1)})
    assert layer_rows(Twice(), model, ["layer.weight"], {"a": torch.zeros(2, 3, 5, 7)}) == {"layer.weight": 2 * 5 * 7}


def test_a_full_layer_would_be_larger_packed_and_stays_dense(ticket_of: TicketOf) -> None:
    ticket = ticket_of((8, 4), 1.0)
    model, plan = compiled(ticket, (8, 4))
    assert not sparse_layers(model)
    assert all("blocks of 8x4 would take more bytes than dense" in layer.choice.why for layer in plan.layers)


@pytest.mark.parametrize(("largest", "allowed"), [(0.5, 1e-4), (1000.0, 0.1)])
def test_scores_may_differ_by_rounding_relative_to_the_largest_or_to_one(largest: float, allowed: float) -> None:
    expected = torch.tensor([largest, 0.0])
    assert compiler._verified(expected, expected + 0.9 * allowed, CPU) == pytest.approx(0.9 * allowed, rel=1e-2)
    for wrong in (1.1 * allowed, float("nan")):
        with pytest.raises(VerificationError, match="scores differ from the masked model's"):
            compiler._verified(expected, expected + wrong, CPU)


@pytest.mark.parametrize("block", [(8, 4), (32, 1), (1, 1)], ids=lambda b: f"{b[0]}x{b[1]}")
def test_save_and_load_give_the_same_bits(ticket_of: TicketOf, block: tuple[int, int], tmp_path: Path) -> None:
    ticket = ticket_of(block, 0.3)
    name = "lxmert.encoder.layer.0.output.dense.weight"  # some neurons go, too
    with torch.no_grad():
        ticket.model.get_parameter(name)[:, :12] = 0
    ticket.masks[name][:, :12] = False
    model, plan = compiled(ticket, block)
    folder = tmp_path / "compiled"
    tensors = model.state_dict()
    save_compiled(
        folder, tensors, plan, family=ticket.family, config=ticket.config, head=ticket.head, extra={"ticket": "abc"}
    )
    again = load_compiled(folder, {"lxmert": ticket.family})
    assert to_json(again.plan) == to_json(plan)
    assert again.head == ticket.head
    expected = scores(ticket.family, model, ticket.inputs)
    assert torch.equal(scores(ticket.family, again.model, ticket.inputs), expected)
    assert json.loads((folder / "plan.json").read_text())["ticket"] == "abc"


def test_the_file_is_smaller_than_the_dense_weights(ticket_of: TicketOf, tmp_path: Path) -> None:
    ticket = ticket_of((32, 1), 0.3)
    model, plan = compiled(ticket, (32, 1))
    packed = sum(layer.nbytes for layer in plan.layers)
    dense = sum(4 * mask.numel() for mask in ticket.masks.values())
    assert packed < 0.36 * dense
    state = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    full = sum(tensor.numel() * tensor.element_size() for tensor in ticket.model.state_dict().values())
    assert state - packed <= full - dense


def test_damage_is_noticed(ticket_of: TicketOf, tmp_path: Path) -> None:
    ticket = ticket_of((8, 4), 0.4)
    model, plan = compiled(ticket, (8, 4))
    folder = tmp_path / "compiled"
    save_compiled(
        folder, model.state_dict(), plan, family=ticket.family, config=ticket.config, head=ticket.head, extra={}
    )
    with pytest.raises(VlcompressError, match="unknown model family 'lxmert'"):
        load_compiled(folder, {"vilt": ticket.family})
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(data)
    with pytest.raises(VlcompressError, match="corrupted"):
        load_compiled(folder, {"lxmert": ticket.family})


def test_masks_that_do_not_fit_the_weights_fail_the_check(ticket_of: TicketOf) -> None:
    ticket = ticket_of((8, 4), 0.4)
    name = "lxmert.encoder.layer.0.intermediate.dense.weight"
    with torch.no_grad():
        ticket.model.get_parameter(name)[~ticket.masks[name]] = 1.0
    with pytest.raises(VerificationError, match="differ from the masked model's"):
        compiled(ticket, (8, 4))


def test_a_plan_survives_json() -> None:
    choice = LayerChoice("grouped", "it is faster", {"dense": Timing(2.0, 0.1, 5), "grouped": Timing(1.0, 0.1, 5)})
    layer = LayerPlan("a.weight", (4, 4), "bsr", (2, 2), 0.5, 3, 40, choice)
    where = {"device": "cpu", "dtype": "fp32", "name": "a processor"}
    plan = CompilePlan((layer,), (Kept("a.weight", "head", 4, (0, 2)),), {"x": (3, 4)}, 1, where, 0.0)
    assert read_plan(json.loads(json.dumps(to_json(plan)))) == plan
