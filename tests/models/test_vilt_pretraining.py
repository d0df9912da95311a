"""ViLT's pre-training: what is drawn, what is asked, and the three losses against numbers worked out by hand."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Head
from vlcompress.models.transport import transport_distance
from vlcompress.models.vilt.adapter import ViltFamily
from vlcompress.models.vilt.model import encode
from vlcompress.models.vilt.pretraining import LOSSES, ViltPretraining

WORDS = WordPiece(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "cat", "##s", "and", "dog"))
TEXTS = (("one", "a red cat and a blue dog"), ("two", "cats"), ("three", "blue dogs and red cats"), ("one", "a cat"))
FAMILY = ViltFamily()


@dataclass(frozen=True)
class Caption:
    """A caption beside a picture of one value."""

    img_id: str
    tokens: NDArray[np.int64]

    @property
    def pixels(self) -> NDArray[np.uint8]:
        return np.full((48, 64, 3), {"one": 10, "two": 100, "three": 200}[self.img_id], np.uint8)


CAPTIONS = [
    Caption(image, tokens)
    for (image, _), tokens in zip(TEXTS, WORDS.encode([text for _, text in TEXTS], fixed=True), strict=True)
]


@pytest.fixture(scope="module")
def task() -> ViltPretraining:
    return ViltPretraining(CAPTIONS, WORDS)


@pytest.fixture(scope="module")
def model() -> Any:
    return FAMILY.build(FAMILY.config("tiny", vocab_size=12), Head("pretraining"), seed=0).eval()


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_batch_is_doubled_and_depends_on_the_generator_alone(task: ViltPretraining) -> None:
    first, again, other = (task.batch([0, 1, 2, 3], _rng(seed)) for seed in (1, 1, 2))
    assert first.inputs["input_ids"].shape[0] == first.inputs["pixel_values"].shape[0] == 8
    assert all(torch.equal(first.inputs[name], again.inputs[name]) for name in first.inputs)
    assert any(not torch.equal(first.inputs[name], other.inputs[name]) for name in first.inputs)


def test_half_the_pictures_are_others(task: ViltPretraining) -> None:
    for seed in range(10):
        batch = task.batch([0, 1, 2, 3], _rng(seed))
        pictures = batch.inputs["pixel_values"][:, 0, 0, 0]
        assert batch.targets["matched"].sum() == 2
        assert torch.equal(pictures[:4] == pictures[4:], batch.targets["matched"].bool())


def test_hidden_words_are_whole_and_the_rest_is_shown(task: ViltPretraining) -> None:
    whole = task.batch([2], _rng()).inputs["input_ids"][1]
    split = {(2, 3), (6, 7)}  # dog ##s, cat ##s
    masked, asked_pieces, pieces = 0, 0, 0
    for seed in range(400):
        batch = task.batch([2], _rng(seed))
        shown, asked = batch.inputs["input_ids"][0], batch.targets["words"][0]
        assert not (asked[[0, -1]] + 1).any()
        assert torch.equal(asked[asked >= 0], whole[asked >= 0])
        assert torch.equal(shown[asked < 0], whole[asked < 0])
        assert all((asked[a] < 0) == (asked[b] < 0) for a, b in split)
        asked_pieces += int((asked >= 0).sum())
        pieces += len(whole) - 2
        masked += int((shown[asked >= 0] == WORDS.mask_id).sum())
    assert asked_pieces / pieces == pytest.approx(6 / 38, abs=0.03)
    assert masked / asked_pieces == pytest.approx(0.8, abs=0.05)


def test_losses_are_those_of_the_objectives(task: ViltPretraining, model: nn.Module) -> None:
    parts: Any = model
    batch = task.batch([0, 1, 2, 3], _rng(5))
    with torch.no_grad():
        losses = task.losses(model, batch)
        encoded = encode(model, batch.inputs)
        words, matched = batch.targets["words"], batch.targets["matched"]
        scores = parts.mlm_score(encoded.text[:4])
        assert torch.isclose(losses["words"], cross_entropy(scores.flatten(0, 1), words.flatten(), ignore_index=-1))
        assert torch.isclose(losses["matched"], cross_entropy(parts.itm_score["fc"](encoded.pooled[4:]), matched))
        distances = []
        for row in range(4):  # words without [CLS], [SEP] and padding, patches without the image's [CLS]
            length = int(batch.inputs["attention_mask"][4 + row].sum())
            text, image = encoded.text[4 + row, 1 : length - 1], encoded.image[4 + row, 1:]
            there = [torch.ones(1, len(side), dtype=torch.bool) for side in (text, image)]
            distances.append(transport_distance(text[None], image[None], *there))
        sign = torch.where(matched == 1, 1.0, -1.0)
        torch.testing.assert_close(losses["alignment"], 0.1 * (torch.cat(distances) * sign).sum() / 4)
        torch.testing.assert_close(task.loss(model, batch), sum(losses.values()))
    assert tuple(losses) == LOSSES


def test_a_batch_without_any_hidden_word_has_a_loss(task: ViltPretraining, model: nn.Module) -> None:
    seed = next(seed for seed in range(99) if bool((task.batch([1], _rng(seed)).targets["words"] < 0).all()))
    loss = task.loss(model, task.batch([1], _rng(seed)))
    assert bool(torch.isfinite(loss))


def test_gradients_reach_every_parameter(task: ViltPretraining) -> None:
    model = FAMILY.build(FAMILY.config("tiny", vocab_size=12), Head("pretraining"), seed=0)
    task.loss(model, task.batch([0, 1, 2, 3], _rng(1))).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_captions_of_one_image_are_refused() -> None:
    task = ViltPretraining([CAPTIONS[0], CAPTIONS[3]], WORDS)
    with pytest.raises(VlcompressError, match="no other image than 'one' found"):
        task.batch([0, 1], _rng())
