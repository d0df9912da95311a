"""Retrieval: pairs that UNITER and ViLT train on, their losses, and the whole matrix scored in blocks."""

import pickle

import pytest
import torch
from torch import nn

from tests.tasks.conftest import MemoryPictures, ShowingFamily, make_data, make_reader, text
from vlcompress.data.examples import CaptionExample
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Sample
from vlcompress.tasks.metrics.retrieval import Ranks
from vlcompress.tasks.retrieval import RetrievalTask, RetrievalTraining, first_of_all_loss, triplet_loss

IMAGES, EACH = 4, 3
PICTURES = MemoryPictures({str(image): [[image, 0, 50, 50]] for image in range(IMAGES)}, {})
CAPTIONS = [CaptionExample(100 + row, str(row // EACH), " ".join(["red"] * (1 + row))) for row in range(IMAGES * EACH)]


def pair(sample: Sample) -> tuple[int, int]:
    """Return the caption and image that a sample was made of."""
    return text(sample).count("red") - 1, int(sample.images[0].img_id)


def data(captions: list[CaptionExample] = CAPTIONS):
    return make_data("retrieval", captions, PICTURES)


@pytest.mark.parametrize(("family", "pairs"), [("uniter", 3), ("vilt", 16)])
def test_an_example_is_the_right_pair_and_wrong_ones(family: str, pairs: int) -> None:
    shown = ShowingFamily(family)
    training = RetrievalTraining(data(), make_reader(shown, PICTURES))
    training.batch([0, 7], torch.Generator().manual_seed(0))
    made = [pair(sample) for sample in shown.batches[0]]
    assert len(made) == 2 * pairs
    for index, start in ((0, 0), (7, pairs)):
        right, *wrong = made[start : start + pairs]
        assert right == (index, index // EACH)
        assert all(image != caption // EACH for caption, image in wrong)
        assert all(index == caption or index // EACH == image for caption, image in wrong)
    if family == "uniter":
        assert [made[1][0], made[2][1]] == [0, 0]  # the text with another image; another text with the image


def test_chance_comes_from_the_generator_alone() -> None:
    shown = ShowingFamily()
    training = RetrievalTraining(data(), make_reader(shown, PICTURES))
    for seed in (1, 1, 2):
        training.batch(range(12), torch.Generator().manual_seed(seed))
    one, again, other = ([pair(sample) for sample in batch] for batch in shown.batches)
    assert one == again != other


def test_losses_by_hand() -> None:
    scores = torch.tensor([[2.0, -1.0, 3.0], [0.0, 0.0, -9.0]])
    s = scores.sigmoid()
    by_hand = (0.2 + s[:, 1:] - s[:, :1]).clamp(min=0).sum() / 4
    assert triplet_loss(scores).item() == pytest.approx(by_hand.item())
    assert first_of_all_loss(scores).item() == pytest.approx(-scores.log_softmax(1)[:, 0].mean().item())


def test_loss_is_the_familys(model: nn.Module) -> None:
    for name, loss in (("uniter", triplet_loss), ("vilt", first_of_all_loss)):
        shown = ShowingFamily(name, lambda sample: pair(sample)[0] - 2.0 * pair(sample)[1])
        training = RetrievalTraining(data(), make_reader(shown, PICTURES))
        batch = training.batch([1, 5], torch.Generator().manual_seed(0))
        scores = torch.tensor([t - 2.0 * i for t, i in map(pair, shown.batches[0])]).view(2, -1)
        assert training.loss(model, batch) == loss(scores)


@pytest.mark.parametrize("batch", [1, 5, 7, 100])
def test_every_pair_is_scored_in_blocks_no_larger_than_a_batch(model: nn.Module, batch: int) -> None:
    scores = torch.randn(IMAGES * EACH, IMAGES, generator=torch.Generator().manual_seed(3))
    shown = ShowingFamily(score=lambda sample: scores[pair(sample)])
    task = RetrievalTask(data(), make_reader(shown, PICTURES))
    found = task.evaluate(model, batch=batch)
    assert max(map(len, shown.batches)) <= batch
    made = [pair(sample) for samples in shown.batches for sample in samples]
    assert set(made) == {(t, i) for t in range(IMAGES * EACH) for i in range(IMAGES)}
    assert len(made) == IMAGES * EACH * (IMAGES + 1)  # each right pair once more, before the others
    ranks = Ranks([row // EACH for row in range(IMAGES * EACH)], IMAGES)
    ranks.right(slice(0, 12), scores[range(12), [row // EACH for row in range(12)]])
    ranks.block(slice(0, 12), slice(0, 4), scores)
    assert found.figures == ranks.recalls()
    assert found.mean == pytest.approx((found.figures["image R@1"] + found.figures["text R@1"]) / 2)
    assert len(found.scores) == IMAGES


def test_submission_is_the_official_dump(model: nn.Module) -> None:
    shown = ShowingFamily(score=lambda sample: float(10 * pair(sample)[0] + pair(sample)[1]))
    task = RetrievalTask(data(), make_reader(shown, PICTURES))
    matrix, texts, images = pickle.loads(task.submission(lambda inputs: shown.logits(model, inputs), batch=5))
    assert matrix.dtype == torch.float16
    assert matrix.tolist() == [[10 * t + i for i in range(IMAGES)] for t in range(IMAGES * EACH)]
    assert (texts[0], images) == ("100", ["0", "1", "2", "3"])


def test_a_single_image_is_refused() -> None:
    for family in ("uniter", "vilt"):
        training = RetrievalTraining(data(CAPTIONS[:2]), make_reader(ShowingFamily(family), PICTURES))
        with pytest.raises(VlcompressError, match="needs two images"):
            training.batch([0], torch.Generator())


def test_chance_is_one_image_among_all() -> None:
    assert RetrievalTask(data(), make_reader(ShowingFamily(), PICTURES)).constant() == 1 / IMAGES
