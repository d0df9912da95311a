"""What CONTRIBUTING.md says is needed is what is needed: each test adds a toy by those steps and nothing else."""

import re
from dataclasses import dataclass
from typing import ClassVar, Self

import pytest
import torch

from vlcompress.errors import VlcompressError
from vlcompress.kernels.formats import BlockSparseWeight
from vlcompress.models.base import Head
from vlcompress.models.registry import family_named
from vlcompress.pruning.allocation import prune
from vlcompress.pruning.mask import Masks
from vlcompress.pruning.pattern import WeightPattern
from vlcompress.pruning.patterns import PATTERNS, parse_pattern
from vlcompress.recipe import parse_recipe
from vlcompress.sparse.compile import pack_model


@dataclass(frozen=True)
class Strip(WeightPattern):
    """Runs of `width` inputs go together."""

    form: ClassVar[str] = "'strip:W' (W inputs of an output, e.g. strip:4)"
    width: int

    def __str__(self) -> str:
        return f"strip:{self.width}"

    @classmethod
    def read(cls, text: str) -> Self | None:
        """Read ``strip:W``."""
        match = re.fullmatch(r"strip:([1-9]\d*)", text)
        return cls(int(match[1])) if match else None

    @property
    def unit(self) -> int:  # type: ignore[override]
        """The width."""
        return self.width

    @property
    def block(self) -> tuple[int, int]:  # type: ignore[override]
        """One row of the width."""
        return 1, self.width

    def unit_scores(self, scores: torch.Tensor) -> torch.Tensor:
        """Take the root mean square of each run."""
        return scores.float().view(-1, self.width).square().mean(dim=1).sqrt()

    def spread(self, kept_units: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Repeat each run's bool."""
        return kept_units.repeat_interleave(self.width).view(shape)


def test_a_toy_pattern_is_a_class_and_a_line_and_then_prunes_and_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"pruning": {"pattern": "strip:4", "sparsity": 0.75}, "training": {"steps": 1}}
    with pytest.raises(VlcompressError, match="unknown pattern 'strip:4'"):
        parse_recipe(document)
    monkeypatch.setattr("vlcompress.pruning.patterns.PATTERNS", [*PATTERNS, Strip])
    with pytest.raises(VlcompressError, match=r"unknown pattern 'stripe:4': .*'strip:W'"):
        parse_pattern("stripe:4")
    recipe = parse_recipe(document)
    assert recipe.document()["pruning"]["pattern"] == "strip:4"

    family = family_named("lxmert")
    config = family.config("tiny", vocab_size=50, feature_dim=16)
    model = family.build(config, Head("answers", ("a", "b", "c")), seed=0).eval()
    names = family.prunable(model, "bert-tickets").names
    weights = {name: model.get_parameter(name).detach() for name in names}
    pruning, kept = recipe.pruning, Masks.keep_all(weights)
    masks = prune(
        weights, kept, 0.75, pattern=pruning.pattern, criterion=pruning.criterion.of(0), allocation=pruning.allocation
    )
    assert masks.sparsity == 0.75
    assert all(set(mask.view(-1, 4).sum(dim=1).tolist()) <= {0, 4} for mask in masks.values())

    masks.apply(model)
    inputs = family.example_inputs(config, batch=1, text=6, regions=5, seed=1)
    packed = pack_model(family, model, dict(masks), pruning.pattern.storage, inputs)
    stored = [module.weight for module in packed.model.modules() if hasattr(module, "weight")]
    assert any(isinstance(weight, BlockSparseWeight) and weight.block == (1, 4) for weight in stored)
