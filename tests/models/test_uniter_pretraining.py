"""UNITER's objectives: what is drawn and at which rates, and losses that know what they ask for."""

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy, kl_div

from vlcompress.data.regions import Regions
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Head
from vlcompress.models.objective import Batch
from vlcompress.models.uniter.adapter import UniterFamily
from vlcompress.models.uniter.pretraining import MIX, UniterPretrainingObjective

OBJECTS, WIDTH = 7, 24
CONFIG = UniterFamily().config("tiny", vocab_size=50, feature_dim=WIDTH, objects=OBJECTS)
TARGET = {"mlm": "words", "mrfr": "features", "mrc": "classes", "itm": "matched"}


@dataclass(frozen=True)
class FakeExample:
    img_id: str
    tokens: NDArray[np.int64]
    regions: Regions
    answer_tokens: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


@dataclass(frozen=True)
class FakeVocabulary:
    vocab_size: int = 50
    pad_id: int = 0
    cls_id: int = 2
    sep_id: int = 3
    mask_id: int = 4


def _regions(rng: np.random.Generator, image: int) -> Regions:
    count = int(rng.integers(1, 9))
    corners = np.sort(rng.random((count, 2, 2), dtype=np.float32), axis=1).reshape(count, 4)
    features = rng.uniform(0.5, 1, (count, WIDTH)).astype(np.float32)
    features[:, 0] = image + 1  # tells which image a row is of
    confidence = rng.random(count, dtype=np.float32)
    classes = rng.integers(OBJECTS - 1, size=count)  # the head's class 0 is the background
    return Regions(f"image {image}", 1, 1, corners, features, classes, confidence, classes, confidence)


def _examples(images: int = 60, sentences: int = 4) -> list[FakeExample]:
    rng = np.random.default_rng(0)
    examples = []
    for image in range(images):
        regions = _regions(rng, image)
        for _ in range(sentences):
            words = rng.integers(5, 50, rng.integers(1, 8))
            tokens = np.concatenate([[2], words, [3], [0] * (12 - len(words))])
            examples.append(FakeExample(str(image), tokens, regions))
    return examples


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _model() -> nn.Module:
    model = UniterFamily().build(CONFIG, Head("pretraining"), seed=0).eval()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=_rng(number)) * 0.1)
    return model


def _whole(name: str, **changes: float) -> tuple[UniterPretrainingObjective, Batch]:
    """Return every example in one batch of one objective."""
    objective = UniterPretrainingObjective(_examples(), FakeVocabulary(), mix={name: 1}, **changes)
    return objective, objective.batch(range(len(objective)), _rng())


def test_objectives_are_drawn_by_the_mix_and_by_the_generator_alone() -> None:
    objective = UniterPretrainingObjective(_examples(6), FakeVocabulary())
    names = {target: name for name, target in TARGET.items()}
    drawn = Counter(names[next(iter(objective.batch([0, 9], _rng(seed)).targets))] for seed in range(600))
    for name, weight in MIX.items():
        assert drawn[name] / 600 == pytest.approx(weight / 6, abs=0.06)
    first, again = (objective.batch([0, 9, 17], _rng(5)) for _ in range(2))
    for tensors, others in ((first.inputs, again.inputs), (first.targets, again.targets)):
        assert all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())


def test_masked_words_have_official_rates_and_every_sentence_one() -> None:
    objective, batch = _whole("mlm")
    assert "visual_masked" not in batch.inputs  # the image stays whole
    shown, words = batch.inputs["input_ids"], batch.targets["words"]
    asked = words != -1
    assert asked.any(dim=1).all()
    originals = torch.tensor(np.stack([example.tokens[: words.shape[1]] for example in objective.examples]))
    assert torch.equal(words[asked], originals[asked])
    assert torch.equal(shown[~asked], originals[~asked])
    assert not ((originals == 2) | (originals == 3) | (originals == 0))[asked].any()
    assert float((shown[asked] == 4).float().mean()) == pytest.approx(0.9, abs=0.05)  # 80 %, and the first words
    replaced = shown[asked & (shown != 4) & (shown != originals)]
    assert 0 < len(replaced) < 0.15 * int(asked.sum())
    assert int(replaced.min()) >= 5  # a random word is no special token


def test_first_word_is_masked_where_none_was_drawn() -> None:
    _, batch = _whole("mlm", word_rate=0.0)
    asked = batch.targets["words"] != -1
    assert torch.equal(asked.nonzero()[:, 1], torch.ones(len(asked), dtype=torch.int64))
    assert (batch.inputs["input_ids"][:, 1] == 4).all()


def test_answers_end_their_questions_and_are_hidden_and_asked_for() -> None:
    one, other = _examples(1, 2)
    asked = replace(one, answer_tokens=np.array([7, 8]))
    objective = UniterPretrainingObjective(
        [asked, other], FakeVocabulary(), word_rate=0.0, answer_rate=1.0, mix={"mlm": 1}
    )
    batch = objective.batch([0, 1], _rng())
    end = int((one.tokens == 3).argmax())
    assert batch.inputs["input_ids"][0, end : end + 3].tolist() == [4, 4, 3]
    assert batch.targets["words"][0, : end + 3].tolist() == [-1] * end + [7, 8, -1]
    assert (batch.targets["words"][1] != -1).tolist().count(True) == 1  # the first word, as ever
    matching = replace(objective, examples=[asked, replace(other, img_id="1")], mix={"itm": 1}).batch([0, 1], _rng())
    assert matching.inputs["input_ids"][0, end : end + 3].tolist() == [7, 8, 3]


def test_regions_that_are_seen_are_classified_too() -> None:
    objective, batch = _whole("mrc", region_rate=0.0, seen_rate=1.0)
    assert len(batch.targets["asked"]) == int(batch.inputs["visual_attention_mask"].sum())
    assert batch.inputs["visual_masked"].sum() == len(objective)
    model, heavier = _model(), replace(objective, class_weight=3.0)
    torch.testing.assert_close(heavier.loss(model, batch), 3 * objective.loss(model, batch))


@pytest.mark.parametrize("name", ["mrfr", "mrc"])
def test_hidden_regions_are_zero_and_every_image_has_one(name: str) -> None:
    objective, batch = _whole(name)
    masked, there = batch.inputs["visual_masked"], batch.inputs["visual_attention_mask"].bool()
    assert masked.any(dim=1).all()
    assert not (masked & ~there).any()
    assert not batch.inputs["visual_feats"][masked].any()
    assert (batch.inputs["visual_feats"][there & ~masked][:, 0] > 0).all()
    alone = there.sum(dim=1) >= 6  # the region that every image must have weighs less in these
    assert float(masked[alone].sum() / there[alone].sum()) == pytest.approx(0.2, abs=0.06)
    assert (batch.inputs["input_ids"] != 4).all()  # the text stays whole
    if name == "mrfr":
        image = torch.tensor([int(example.img_id) + 1.0 for example in objective.examples])
        assert torch.equal(batch.targets["features"][..., 0].amax(dim=1), image)


def test_mismatched_images_are_another_sentences() -> None:
    objective, batch = _whole("itm")
    own = torch.tensor([int(example.img_id) + 1.0 for example in objective.examples])
    shown = batch.inputs["visual_feats"][:, 0, 0]
    assert torch.equal(shown == own, batch.targets["matched"].bool())
    assert float(batch.targets["matched"].float().mean()) == pytest.approx(0.5, abs=0.1)
    tokens = torch.tensor(np.stack([example.tokens for example in objective.examples]))
    assert torch.equal(batch.inputs["input_ids"], tokens[:, : batch.inputs["input_ids"].shape[1]])


def test_one_image_makes_no_mismatch() -> None:
    objective = UniterPretrainingObjective(_examples(1), FakeVocabulary(), mix={"itm": 1}, mismatch_rate=1.0)
    with pytest.raises(VlcompressError, match="needs two images or more"):
        objective.batch([0], _rng())


def test_regions_without_classes_are_told() -> None:
    one = _examples(1)[0]
    unknown = replace(one, regions=replace(one.regions, objects_id=np.full_like(one.regions.objects_id, -1)))
    objective = UniterPretrainingObjective([unknown], FakeVocabulary(), mix={"mrc": 1})
    with pytest.raises(VlcompressError, match="'image 0' has neither class probabilities nor classes"):
        objective.batch([0], _rng())


def test_class_loss_is_the_mean_divergence_and_one_class_a_cross_entropy() -> None:
    model = _model()
    objective, batch = _whole("mrc")
    hard = objective.loss(model, batch)
    masked = batch.inputs["visual_masked"]
    hidden = model.hidden(**batch.inputs)[:, batch.inputs["input_ids"].shape[1] :]
    scores = model.region_classifier(hidden[masked])
    ids = [torch.tensor(one.regions.objects_id) for one in objective.examples]
    official = torch.cat(ids)[masked[batch.inputs["visual_attention_mask"].bool()]] + 1  # class 0 is the background
    expected = cross_entropy(scores, official) / OBJECTS
    torch.testing.assert_close(hard, expected)
    soft = np.random.default_rng(1).dirichlet(np.ones(OBJECTS), 8).astype(np.float32)
    examples = [
        replace(one, regions=replace(one.regions, soft_labels=soft[: len(one.regions.boxes)]))
        for one in objective.examples
    ]
    objective = replace(objective, examples=examples)
    batch = objective.batch(range(len(examples)), _rng())
    wanted = batch.targets["classes"][batch.inputs["visual_masked"]]
    assert wanted.shape == (len(scores), OBJECTS)
    expected = kl_div(scores.log_softmax(-1), wanted, reduction="sum") / wanted.numel()
    torch.testing.assert_close(objective.loss(model, batch), expected)


def test_alignment_is_pulled_for_matches_and_pushed_for_mismatches() -> None:
    model = _model()
    losses = {}
    for rate in (0.0, 1.0):
        objective, batch = _whole("itm", mismatch_rate=rate)
        plain = replace(objective, transport_weight=0.0).loss(model, batch)
        losses[rate] = (objective.loss(model, batch) - plain).item() / objective.transport_weight
    assert losses[0.0] > 0 > losses[1.0]


@pytest.mark.parametrize("name", sorted(MIX))
def test_every_objective_can_be_learnt(name: str) -> None:
    model = _model().train()
    objective = UniterPretrainingObjective(_examples(8), FakeVocabulary(), mix={name: 1})
    batch = objective.batch(range(len(objective)), _rng())
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = objective.loss(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-3:]) < 0.9 * losses[0]
