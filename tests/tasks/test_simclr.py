"""NT-Xent against its definition in double precision; views and their retrieval."""

import math

import numpy as np
import pytest
import torch

from tests.tasks.conftest import MemoryPictures, make_data, make_reader
from vlcompress.data.examples import ClassExample
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Head
from vlcompress.models.resnet.adapter import ResnetFamily
from vlcompress.tasks.contrastive import LEAST_AREA, partners, view
from vlcompress.tasks.simclr import SimclrTask, nt_xent


def by_definition(rows: list[list[float]], temperature: float) -> float:
    """Equation 1 of simCLR, term by term."""

    def cosine(one: list[float], other: list[float]) -> float:
        dot = sum(a * b for a, b in zip(one, other, strict=True))
        return dot / math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))

    half = len(rows) // 2
    total = 0.0
    for i, row in enumerate(rows):
        j = (i + half) % len(rows)
        others = sum(math.exp(cosine(row, rows[k]) / temperature) for k in range(len(rows)) if k != i)
        total -= math.log(math.exp(cosine(row, rows[j]) / temperature) / others)
    return total / len(rows)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_the_loss_is_its_definition(temperature: float) -> None:
    rows = torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(nt_xent(rows, temperature)) == pytest.approx(by_definition(rows.tolist(), temperature), rel=1e-12)
    assert float(nt_xent(3 * rows, temperature)) == pytest.approx(float(nt_xent(rows, temperature)))


def task() -> SimclrTask:
    family = ResnetFamily()
    pictures = MemoryPictures({}, {})
    examples = [ClassExample(name, name, 0) for name in ("a", "bb", "ccc", "dddd")]
    return SimclrTask(make_data("simclr", examples, pictures, ("x", "y")), make_reader(family, pictures))


def test_a_batch_has_both_views_of_each_picture_and_repeats_with_its_chance() -> None:
    one, again, other = (task().batch([0, 3], torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one.inputs["pixel_values"].shape == (4, 3, 4, 4)
    assert one.targets["other"].tolist() == [2, 3, 0, 1]
    assert torch.equal(one.inputs["pixel_values"], again.inputs["pixel_values"])
    assert not torch.equal(one.inputs["pixel_values"], other.inputs["pixel_values"])


def test_retrieval_counts_views_whose_partner_is_nearest() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [1.0, 0.05]])
    scores, nearest = task().judge(logits, {"other": partners(4)})
    assert scores.tolist() == [0.0, 0.0]  # both first views are nearest to rows that are not their partners
    assert nearest.tolist() == [3, 2]
    scores, _ = task().judge(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.1], [0.1, 3.0]]), {"other": partners(4)})
    assert scores.tolist() == [1.0, 1.0]


def test_a_view_keeps_the_size_and_shows_a_part() -> None:
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8)[None, :, None], (64, 32, 1, 3)).reshape(64, 32, 32, 3)
    seen = view(ramp, torch.Generator().manual_seed(0))
    assert seen.shape == ramp.shape
    assert seen.dtype == np.uint8
    spans = seen.astype(int).mean(axis=(1, 3)).max(axis=1) - seen.astype(int).mean(axis=(1, 3)).min(axis=1)
    assert (spans < 255 * 1.75).all()
    assert spans.min() > 255 * math.sqrt(LEAST_AREA) * 0.45  # jitter takes away at most half of the contrast
    rises = seen[:, 16, -1, 0].astype(int) > seen[:, 16, 0, 0]
    assert 10 < rises.sum() < 54  # about half are mirrored


def test_nothing_is_handed_in_and_the_head_is_the_projection() -> None:
    assert task().head == Head("classes", tuple(str(place) for place in range(64)))
    with pytest.raises(VlcompressError, match="pre-training ticket"):
        task().submission(lambda inputs: torch.zeros(8, 64), batch=4)


@pytest.mark.parametrize(("pictures", "chance"), [(2, 1 / 3), (300, 1 / 511)])
def test_chance_is_one_of_the_views_that_are_scored_together(pictures: int, chance: float) -> None:
    data = make_data("simclr", [ClassExample(at, str(at), 0) for at in range(pictures)], MemoryPictures({}, {}))
    task = SimclrTask(data, make_reader(ResnetFamily(), MemoryPictures({}, {})))
    assert task.constant() == pytest.approx(chance)
