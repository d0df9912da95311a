"""Retrieval by two towers: CLIP's loss, and ranks that do not hang on the noise of rounding."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from vlcompress.tasks import two_towers
from vlcompress.tasks.metrics.retrieval import Ranks


def test_the_loss_is_that_of_both_directions() -> None:
    embedded = torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(0))
    scores = embedded[:, 0] @ embedded[:, 1].T
    own = torch.arange(4)
    expected = (cross_entropy(scores, own) + cross_entropy(scores.T, own)) / 2
    assert two_towers.contrast(embedded, own).item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_second_caption_of_an_image_is_no_wrong_answer() -> None:
    embedded = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0))
    embedded[1, 1] = embedded[0, 1]  # the same image
    pair = embedded[[0, 2]]
    loss = two_towers.contrast(embedded, torch.tensor([5, 5, 7]))
    rows = [cross_entropy((embedded[row, :1] @ embedded[[row, 2], 1].T), torch.tensor([0])).item() for row in (0, 1)]
    assert torch.isfinite(loss)
    assert rows[0] == pytest.approx(cross_entropy(pair[:1, 0] @ pair[:, 1].T, torch.tensor([0])).item())
    unmasked = embedded[:, 0] @ embedded[:, 1].T
    assert loss < (cross_entropy(unmasked, torch.arange(3)) + cross_entropy(unmasked.T, torch.arange(3))) / 2


def test_a_model_that_embeds_all_alike_finds_nothing() -> None:
    texts, images = 37, 12
    one = torch.randn(24, generator=torch.Generator().manual_seed(1))
    text_TD, image_ID = one.expand(texts, -1).clone(), one.flip(0).expand(images, -1).clone()
    image_of = [row % images for row in range(texts)]
    ranks = Ranks(image_of, images)
    ranks.right(slice(0, texts), two_towers.products(text_TD, image_ID[image_of]))
    for rows, columns, scores in two_towers.blocks(text_TD, image_ID):
        ranks.block(rows, columns, scores)
    assert ranks.image_rank_T.tolist() == [images - 1] * texts
    assert ranks.recalls()["text R@1"] == 0


def test_every_image_is_embedded_once_with_its_first_text() -> None:
    image_of = [1, 0, 1, 2]
    inputs = lambda pairs: {"pairs": torch.tensor(pairs, dtype=torch.float32)}  # noqa: E731
    text_TD, image_ID = two_towers.embed(
        lambda given: given["pairs"][:, :, None], inputs, image_of, batch=3, called=str
    )
    assert text_TD[:, 0].tolist() == [0, 1, 2, 3]
    assert image_ID[:, 0].tolist() == [0, 1, 2]
