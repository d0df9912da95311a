"""What the exporter cannot write is told before training, by what it stumbles over."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vlcompress.errors import VlcompressError
from vlcompress.export.trace import trace
from vlcompress.export.trial import try_export
from vlcompress.models.base import Head
from vlcompress.models.module import ModuleFamily


class Picky(nn.Module):
    """Computes what depends on a number in its input, which no graph can say."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.part(x)
        return scores * 2 if x.sum().item() > 0 else scores


class Built(ModuleFamily):
    """A family of the one model."""

    def build(self, config: Any, head: Head, *, seed: int) -> nn.Module:
        return Picky()


def experiment(size: str, said: list[str]) -> Any:
    recipe = SimpleNamespace(model=SimpleNamespace(size=size))
    family = Built({"x": torch.ones(3, 4)})
    return SimpleNamespace(
        recipe=recipe, family=family, config={}, train_task=SimpleNamespace(head=None), say=said.append
    )


def test_a_model_that_cannot_be_written_is_told_in_one_line() -> None:
    said: list[str] = []
    try_export(experiment("checkpoint", said))
    (line,) = said
    assert line.startswith("warning: `vlcompress export` will not write this model (the ONNX exporter cannot write")
    assert "data-dependent" in line
    assert "\n" not in line


def test_built_in_sizes_are_not_tried() -> None:
    said: list[str] = []
    try_export(experiment("small", said))
    assert said == []


def test_an_export_says_so_too() -> None:
    with pytest.raises(VlcompressError, match="the ONNX exporter cannot write this model: Could not"):
        trace(ModuleFamily({"x": torch.ones(3, 4)}), Picky(), {})
