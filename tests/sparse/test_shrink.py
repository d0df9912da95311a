"""Removing units changes shapes and nothing else."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from vlcompress.errors import VlcompressError
from vlcompress.sparse.compile import scores
from vlcompress.sparse.shrink import Kept, linear, reshape, shrink

TicketOf = Callable[..., Any]


def kill(ticket: Any, weight: str, rows: slice = slice(None), columns: slice = slice(None)) -> None:
    """Prune a rectangle of one weight, in the model and in the mask."""
    ticket.masks[weight][rows, columns] = False
    with torch.no_grad():
        linear(ticket.model, weight).weight[rows, columns] = 0


def couplings(ticket: Any, kind: str) -> list[Any]:
    """List the couplings of one kind."""
    return [coupling for coupling in ticket.family.couplings(ticket.model) if coupling.kind == kind]


def assert_same_scores(ticket: Any, smaller: torch.nn.Module) -> None:
    """Compare a shrunk model's scores with the masked one's."""
    expected = scores(ticket.family, ticket.model, ticket.inputs)
    torch.testing.assert_close(scores(ticket.family, smaller, ticket.inputs), expected, atol=1e-5, rtol=1e-5)


def test_heads_with_zero_value_rows_leave_their_bias_behind(ticket_of: TicketOf) -> None:
    ticket = ticket_of((1, 1), 0.9)
    for coupling in couplings(ticket, "head"):  # the shared cross attention is among them
        kill(ticket, coupling.constant_from, rows=slice(8, 24))
    smaller, masks, kept = shrink(ticket.family, ticket.model, ticket.masks)
    assert {units.kept for units in kept if units.kind == "head"} == {(0, 3)}
    for coupling in ticket.family.couplings(smaller):
        if coupling.kind == "head":
            assert linear(smaller, coupling.consumer).weight.shape == masks[coupling.consumer].shape == (32, 16)
            assert all(
                linear(smaller, name).weight.shape == masks[name].shape == (16, 32) for name in coupling.producers
            )
            assert coupling.units == 2
    assert_same_scores(ticket, smaller)


def test_folding_is_what_keeps_the_scores(ticket_of: TicketOf) -> None:
    ticket = ticket_of((1, 1), 0.9)
    for coupling in couplings(ticket, "head"):
        kill(ticket, coupling.constant_from, rows=slice(8, 24))
    smaller, _, _ = shrink(ticket.family, ticket.model, ticket.masks)
    with torch.no_grad():
        for coupling in couplings(ticket, "head"):
            linear(smaller, coupling.consumer).bias.copy_(linear(ticket.model, coupling.consumer).bias)
    difference = scores(ticket.family, smaller, ticket.inputs) - scores(ticket.family, ticket.model, ticket.inputs)
    assert difference.abs().max() > 1e-3


def test_neurons_go_when_unread_or_constant(ticket_of: TicketOf) -> None:
    ticket = ticket_of((1, 1), 0.9)
    for coupling in couplings(ticket, "neuron"):
        kill(ticket, coupling.consumer, columns=slice(0, 10))
        kill(ticket, coupling.producers[0], rows=slice(20, 30))
    smaller, masks, kept = shrink(ticket.family, ticket.model, ticket.masks)
    expected = tuple(i for i in range(64) if i >= 10 and not 20 <= i < 30)
    assert {units.kept for units in kept if units.kind == "neuron"} == {expected}
    first = couplings(ticket, "neuron")[0]
    assert masks[first.producers[0]].shape == (44, 32)
    assert torch.equal(masks[first.consumer], ticket.masks[first.consumer][:, list(expected)])
    assert_same_scores(ticket, smaller)


def test_layers_that_contribute_nothing_go_whole(ticket_of: TicketOf) -> None:
    ticket = ticket_of((1, 1), 0.9)
    couplings = ticket.family.couplings(ticket.model)
    for coupling in couplings[::2]:  # unread
        kill(ticket, coupling.consumer)
    for coupling in couplings[1::2]:  # a constant
        kill(ticket, coupling.constant_from)
    smaller, masks, kept = shrink(ticket.family, ticket.model, ticket.masks)
    assert {units.kept for units in kept} == {()}
    assert not set(masks) & {name for one in couplings for name in (*one.producers, one.consumer)}
    assert not any(name.endswith(".dense.weight") for name in smaller.state_dict() if ".encoder." in name)
    assert_same_scores(ticket, smaller)


def test_the_given_model_is_left_alone_and_nothing_goes_from_a_full_one(ticket_of: TicketOf) -> None:
    ticket = ticket_of((1, 1), 0.9)
    before = {name: tensor.clone() for name, tensor in ticket.model.state_dict().items()}
    smaller, _, kept = shrink(ticket.family, ticket.model, ticket.masks)
    assert all(len(units.kept) == units.units for units in kept)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ticket.model.state_dict().items())
    assert torch.equal(
        scores(ticket.family, smaller, ticket.inputs), scores(ticket.family, ticket.model, ticket.inputs)
    )


def test_reshape_refuses_units_of_another_architecture(ticket_of: TicketOf) -> None:
    ticket = ticket_of((1, 1), 0.9)
    coupling = ticket.family.couplings(ticket.model)[0]
    for consumer, units in (("nowhere.weight", coupling.units), (coupling.consumer, coupling.units + 1)):
        with pytest.raises(VlcompressError, match="made for another architecture"):
            reshape(ticket.family, ticket.model, [Kept(consumer, coupling.kind, units, (0,))])
