"""Forms are chosen by measurement; layers that are alike are measured once."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vlcompress.export import choose
from vlcompress.export.choose import Chooser
from vlcompress.export.lowering import forms
from vlcompress.kernels.formats import BlockSparseWeight, pack_masked
from vlcompress.sparse.choice import LayerChoice
from vlcompress.sparse.timing import Effort

Blocky = Callable[..., Tensor]
QUICK = Effort(1, 0.0, 0)


def layer(blocky: Blocky, block: tuple[int, int], seed: int = 0) -> BlockSparseWeight:
    return pack_masked(torch.randn(128, 64), blocky(128, 64, block, 0.3, seed), block)


def test_the_choice_records_every_form(blocky: Blocky) -> None:
    bsr = layer(blocky, (64, 16))
    choice, form = Chooser(1, Effort(3, 0.001, 1)).choose("a", bsr, 256)
    assert set(choice.timings) == {"dense", *forms(bsr, 256)}
    assert (form is None) == (choice.picked == "dense")
    assert "x as fast" in choice.why or "x the speed of dense" in choice.why


def test_int8_compares_quantised_products_and_leaves_out_transposed_ones(blocky: Blocky) -> None:
    choice, _ = Chooser(1, QUICK, int8=True).choose("a", layer(blocky, (64, 16)), 8)
    assert {name.partition(":")[0] for name in choice.timings} == {"dense", "rows", "gather"}


def test_unstructured_layers_stay_dense_and_say_why(blocky: Blocky) -> None:
    choice, form = Chooser(1, QUICK).choose("a", layer(blocky, (1, 1)), 4)
    assert (choice.picked, form) == ("dense", None)
    assert "the mask is unstructured" in choice.why


def test_layers_that_never_run_are_not_measured(blocky: Blocky) -> None:
    choice, form = Chooser(1, QUICK).choose("a", layer(blocky, (64, 16)), 0)
    assert (choice.picked, form, choice.timings) == ("dense", None, {})


@pytest.mark.parametrize("picked", ["gather:1", "transposed:1", "dense"])
def test_layers_that_are_alike_take_over_the_choice(
    blocky: Blocky, picked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def fake(calls: dict[str, object], effort: Effort) -> LayerChoice:
        measured.append(set(calls))
        return LayerChoice(picked, "measured")

    monkeypatch.setattr(choose, "measure_and_choose", fake)
    chooser = Chooser(1, QUICK)
    first, form = chooser.choose("a", layer(blocky, (64, 16)), 8)
    second, other = chooser.choose("b", layer(blocky, (64, 16), seed=3), 8)
    assert len(measured) == 1
    assert first.why == "measured"
    assert second.why == "as for a, which is alike: measured"
    if picked == "dense":
        assert (form, other) == (None, None)
    else:
        assert form is not None
        assert other is not None
        assert form.kind == other.kind
        assert second.picked == other.name
        assert form.groups is not other.groups  # each layer keeps its own columns
    chooser.choose("c", layer(blocky, (64, 16)), 9)
    assert len(measured) == 2  # other numbers of rows are measured anew
