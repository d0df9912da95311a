"""The contract holds for every family here, and tells one that breaks it what is missing, clause by clause."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from vlcompress.errors import VlcompressError
from vlcompress.models.base import Family
from vlcompress.models.contract import check_contract, expected_shape, missing_attributes
from vlcompress.models.registry import FAMILIES, family_named
from vlcompress.models.vilt.adapter import ViltFamily


def broken(**changes: Any) -> type[Family]:
    return type("Broken", (ViltFamily,), changes)


def failing(kind: type[Family]) -> dict[str, str]:
    return {one.clause: f"{one.what}. {one.fix}" for one in check_contract(kind) if one.fix}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_keeps_it(name: str) -> None:
    assert failing(FAMILIES[name]) == {}


def test_a_family_that_lacks_attributes_is_told_all_of_them_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bare(Family):
        name = "bare"

    assert {"title", "longest_text", "hub_name", "collate", "logits"} <= set(missing_attributes(Bare))
    assert "name" not in missing_attributes(Bare)
    (finding,) = check_contract(Bare)
    assert re.match(r"it lacks title, sizes, .*logits", finding.what)
    monkeypatch.setitem(FAMILIES, "bare", Bare)
    with pytest.raises(VlcompressError, match=r"'bare' lacks title, .*vlcompress check-family bare"):
        family_named("bare")


def _sums(self: Any, model: nn.Module, inputs: Any) -> torch.Tensor:
    scores = ViltFamily.logits(self, model, inputs)
    return scores - scores.mean(0)


def _asks(self: Any, model: nn.Module, inputs: Any) -> torch.Tensor:
    return ViltFamily.logits(self, model, inputs) * (2 if bool(inputs["input_ids"].any()) else 1)


@pytest.mark.parametrize(
    ("clause", "said", "changes"),
    [
        ("attributes", "sizes are base.*add 'tiny'", {"sizes": {"base": {}}}),
        ("attributes", r"heads \['anwers'\]", {"heads": ("anwers",)}),
        ("attributes", "'pretraining' or the attribute", {"pretraining": None}),
        ("build", "two models", {"build": lambda self, config, head, seed: self.construct({**config}, head)}),
        ("build", "no parameter starts with 'bert.'", {"backbone_prefix": "bert."}),
        ("strict load", "Error", {"load": lambda *_, **__: 1 / 0}),
        ("strict load", "came back changed", {"load": lambda *_, **__: None}),
        ("prunable", "prunes nothing", {"pruned": re.compile("nothing")}),
        ("inputs", "is not open", {"dynamic_axes": lambda self: {name: {0: "batch"} for name in
            ("input_ids", "attention_mask", "pixel_values", "pixel_mask")}}),
        ("inputs", "axes without input", {"dynamic_axes": lambda self: {"input_ids": {0: "batch", 1: "text"}}}),
        ("logits", r"'answers' gives \[4\], not \[4, 3\]",
            {"logits": lambda self, model, inputs: ViltFamily.logits(self, model, inputs).flatten(1).sum(-1)}),
        ("logits", "depend on the other rows", {"logits": _sums}),
        ("collate", "KeyError", {"collate": lambda self, samples: {}["ids"]}),
        ("modalities", "weights belong to .*'head'", {"modality_of": lambda self, name: "head"}),
        ("one graph", "asks for a tensor's numbers", {"logits": _asks}),
        ("optional", "inherited 'nsp.'", {"inherited": ("nsp.",)}),
        ("optional", "perturbed text", {"perturbed": {"text": "words"}}),
        ("optional", "answers_file", {"answers_file": "answers.json"}),
    ],
)  # fmt: skip
def test_what_breaks_it_is_named(clause: str, said: str, changes: dict[str, Any]) -> None:
    found = failing(broken(**changes))
    assert re.search(said, found.get(clause, "")), found


def test_shapes_are_those_of_the_kinds_of_head() -> None:
    assert expected_shape("answers", 7, 4) == (4, 7)
    assert expected_shape("pair", 2, 4) == (2, 2)
    assert expected_shape("region", 0, 4) == (4, None)
