"""Fixtures that several parts of the tree share."""

import os

os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported, which torch may do before any kernel is

import tempfile

os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="vlcompress-tests-")  # nothing of the user's is read or written

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vlcompress.data.scenes.write import make_scenes
from vlcompress.models.base import Config, Head
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.tickets.spec import TrainingSpec, Trial
from vlcompress.tickets.store import TrainingResult, TrainingStore

torch.set_num_threads(1)  # tiny sizes: a second thread only waits, and on a busy machine it waits long

Blocky = Callable[..., Tensor]


def make_blocky(rows: int, columns: int, block: tuple[int, int], keep: float, seed: int = 0) -> Tensor:
    """Make a random bool mask [rows, columns] of whole blocks, a share `keep` of them kept."""
    scores = torch.rand(rows // block[0], columns // block[1], generator=torch.Generator().manual_seed(seed))
    kept = scores.flatten().argsort().argsort().view_as(scores) < round(keep * scores.numel())
    return kept.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that is recorded as evidence and is skipped: it shows nothing."""
    report = yield
    if report.skipped and item.get_closest_marker("evidence"):
        report.outcome, report.longrepr = (
            "failed",
            f"evidence may not be skipped or expected to fail: {report.longrepr}",
        )
    return report


@dataclass(frozen=True)
class Ticket:
    """A masked model and what it takes to compile it."""

    family: LxmertFamily
    config: Config
    head: Head
    model: nn.Module
    masks: dict[str, Tensor]
    inputs: dict[str, Tensor]


def make_ticket(block: tuple[int, int], keep: float, *, size: str = "tiny", batch: int = 3) -> Ticket:
    """Mask a fresh LXMERT at random; its biases are made non-zero, as after training."""
    family, head = LxmertFamily(), Head("answers", tuple(f"answer {i}" for i in range(7)))
    config = family.config(size, vocab_size=50, feature_dim=16)
    model = family.build(config, head, seed=0).eval()
    masks = {}
    with torch.no_grad():
        for i, (name, parameter) in enumerate(model.named_parameters()):
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
            elif name in family.prunable(model, "bert-tickets").names:
                masks[name] = make_blocky(*parameter.shape, block, keep, seed=i)
                parameter *= masks[name] * 5  # larger weights: the layers then matter to the answer
    inputs = family.example_inputs(config, batch=batch, text=6, regions=5, seed=1)
    return Ticket(family, config, head, model, masks, inputs)


@pytest.fixture(scope="session")
def tiny_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in data at its smallest, made once a session; do not change it."""
    return make_scenes(tmp_path_factory.mktemp("data") / "scenes-tiny", size="tiny", images=False)


@pytest.fixture
def blocky() -> Blocky:
    """Return the maker of random block masks."""
    return make_blocky


@pytest.fixture
def ticket_of() -> Callable[..., Ticket]:
    """Return the maker of masked models."""
    return make_ticket


@pytest.fixture
def whole_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have controls kept with their weights, for tests that look at those."""
    keep = TrainingStore.keep

    def whole(store: TrainingStore, spec: TrainingSpec, trial: Trial, *rest: Any) -> TrainingResult:
        return keep(store, spec, replace(trial, scored=False), *rest)

    monkeypatch.setattr(TrainingStore, "keep", whole)
