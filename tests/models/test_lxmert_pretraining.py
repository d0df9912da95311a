"""Pre-training: transformers' own losses on the same batch, and masks drawn at LXMERT's rates."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import LxmertConfig, LxmertForPreTraining

from vlcompress.errors import VlcompressError
from vlcompress.models.base import Head
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.models.lxmert.pretraining import LOSSES, PretrainingObjective
from vlcompress.models.objective import Batch

OBJECTS, ATTRIBUTES, ANSWERS, REGIONS, WIDTH = 7, 5, 4, 6, 24
CONFIG = LxmertFamily().config("tiny", vocab_size=50, feature_dim=WIDTH, objects=OBJECTS, attributes=ATTRIBUTES)


@dataclass(frozen=True)
class FakeRegions:
    features: NDArray[np.float32]
    normalized_boxes: NDArray[np.float32]
    objects_id: NDArray[np.int64]
    objects_conf: NDArray[np.float32]
    attrs_id: NDArray[np.int64]
    attrs_conf: NDArray[np.float32]


@dataclass(frozen=True)
class FakeExample:
    img_id: str
    tokens: NDArray[np.int64]
    answer: int
    regions: FakeRegions


@dataclass(frozen=True)
class FakeVocabulary:
    vocab_size: int = 50
    pad_id: int = 0
    cls_id: int = 2
    sep_id: int = 3
    mask_id: int = 4


def _regions(rng: np.random.Generator, image: int) -> FakeRegions:
    features = rng.uniform(0.5, 1, (REGIONS, WIDTH)).astype(np.float32)
    features[:, 0] = image + np.arange(REGIONS) / 10  # tells which region of which image a row is
    return FakeRegions(
        features=features,
        normalized_boxes=rng.random((REGIONS, 4), dtype=np.float32),
        objects_id=rng.integers(OBJECTS, size=REGIONS),
        objects_conf=rng.random(REGIONS, dtype=np.float32),
        attrs_id=rng.integers(ATTRIBUTES, size=REGIONS),
        attrs_conf=rng.random(REGIONS, dtype=np.float32),
    )


def _examples(images: int = 40, sentences: int = 3) -> list[FakeExample]:
    rng = np.random.default_rng(0)
    examples = []
    for image in range(images):
        regions = _regions(rng, image)
        for sentence in range(sentences):
            words = rng.integers(5, 50, rng.integers(1, 8))
            tokens = np.concatenate([[2], words, [3], [0] * (12 - len(words))])
            answer = int(rng.integers(ANSWERS)) if sentence else -1
            examples.append(FakeExample(str(image), tokens, answer, regions))
    return examples


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _model() -> nn.Module:
    head = Head("pretraining", tuple(str(answer) for answer in range(ANSWERS)))
    model = LxmertFamily().build(CONFIG, head, seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=_rng(7)) * 0.1)
    return model


def _whole(**changes: float) -> tuple[PretrainingObjective, Batch]:
    objective = PretrainingObjective(_examples(), FakeVocabulary(), **changes)
    return objective, objective.batch(range(len(objective)), _rng())


def test_losses_are_those_of_transformers() -> None:
    # transformers follows the official code but for the weight, which it rounds to 6.67 and lets us set exactly.
    model = _model()
    reference = LxmertForPreTraining(
        LxmertConfig(**CONFIG | {"num_qa_labels": ANSWERS, "visual_loss_normalizer": 1 / 0.15})
    )
    reference.load_state_dict(model.state_dict())
    objective, batch = _whole()
    targets = batch.targets
    regions = {
        "obj": (targets["objects"], targets["objects_conf"]),
        "attr": (targets["attributes"], targets["attributes_conf"]),
        "feat": (targets["features"], targets["features_asked"]),
    }
    asked = {
        "words": {"labels": targets["words"].where(targets["words"] != -1, -100)},
        "matched": {"matched_label": targets["matched"]},
        "answers": {"ans": targets["answers"].where(targets["answers"] != -1, -100)},
        "regions": {"obj_labels": regions},
    }
    losses = objective.losses(model, batch)
    assert tuple(losses) == LOSSES
    losses["regions"] = losses["objects"] + losses["attributes"] + losses["features"]
    for name, labels in asked.items():
        expected = reference.eval()(**batch.inputs, **labels).loss
        torch.testing.assert_close(losses[name], expected, atol=1e-5, rtol=1e-5, msg=name)
    everything = {key: value for labels in asked.values() for key, value in labels.items()}
    expected = reference(**batch.inputs, **everything).loss
    torch.testing.assert_close(objective.loss(model, batch), expected, atol=1e-5, rtol=1e-5)


def test_every_weight_learns() -> None:
    model = _model()
    objective, batch = _whole()
    objective.loss(model, batch).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_words_are_masked_at_the_official_rates() -> None:
    examples = _examples(images=1000)
    objective = PretrainingObjective(examples, FakeVocabulary(), mismatch_rate=0.0)
    batch = objective.batch(range(len(examples)), _rng())
    shown, asked = batch.inputs["input_ids"], batch.targets["words"]
    words = torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(e.tokens[e.tokens != 0]) for e in examples], batch_first=True
    )
    special = (words == 0) | (words == 2) | (words == 3)
    assert torch.equal(shown[asked == -1], words[asked == -1])
    assert torch.equal(asked[asked != -1], words[asked != -1])
    assert not (asked[special] != -1).any()
    assert torch.equal(batch.inputs["attention_mask"], (words != 0).long())
    predicted = asked != -1
    assert predicted.sum() / (~special).sum() == pytest.approx(0.15, abs=0.015)
    assert (shown[predicted] == 4).float().mean() == pytest.approx(0.8, abs=0.05)
    kept = (shown == words) & predicted
    assert kept.sum() / predicted.sum() == pytest.approx(0.1 + 0.1 / 50, abs=0.03)


def test_regions_are_masked_at_the_official_rates() -> None:
    objective, batch = _whole()
    clean, shown, asked = (
        batch.targets["features"],
        batch.inputs["visual_feats"],
        batch.targets["features_asked"].bool(),
    )
    assert torch.equal(shown[~asked], clean[~asked])
    assert asked.float().mean() == pytest.approx(0.15, abs=0.03)
    hidden = (shown == 0).all(-1)
    assert (hidden & ~asked).sum() == 0
    assert hidden.sum() / asked.sum() == pytest.approx(0.8, abs=0.1)
    replaced = (shown != clean).any(-1) & ~hidden
    assert replaced.sum() / asked.sum() == pytest.approx(0.1, abs=0.08)
    real = {example.regions.features[row].tobytes() for example in objective.examples for row in range(REGIONS)}
    assert all(row.numpy().tobytes() in real for row in shown[replaced])


def test_half_of_the_sentences_are_of_another_image_and_have_no_answer() -> None:
    examples = _examples()
    objective = PretrainingObjective(examples, FakeVocabulary(), word_rate=0.0)
    batch = objective.batch(range(len(examples)), _rng())
    matched = batch.targets["matched"].bool()
    assert matched.float().mean() == pytest.approx(0.5, abs=0.15)
    images: dict[tuple[int, ...], set[str]] = {}
    for example in examples:
        images.setdefault(tuple(example.tokens[example.tokens != 0].tolist()), set()).add(example.img_id)
    for row, example in enumerate(examples):
        ids = batch.inputs["input_ids"][row]
        sources = images[tuple(ids[ids != 0].tolist())]
        assert example.img_id in sources if matched[row] else sources != {example.img_id}
        assert batch.targets["answers"][row] == (example.answer if matched[row] else -1)


def test_chance_comes_from_the_generator_alone() -> None:
    objective, first = _whole()
    torch.manual_seed(123)
    again = objective.batch(range(len(objective)), _rng())
    other = objective.batch(range(len(objective)), _rng(1))
    before = torch.random.get_rng_state()
    objective.batch([0, 1], _rng())
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first.inputs[name], again.inputs[name]) for name in first.inputs)
    assert all(torch.equal(first.targets[name], again.targets[name]) for name in first.targets)
    assert not torch.equal(first.targets["matched"], other.targets["matched"])


def test_batch_leaves_the_examples_alone() -> None:
    examples, fresh = _examples(), _examples()
    PretrainingObjective(examples, FakeVocabulary()).batch(range(len(examples)), _rng())
    for example, expected in zip(examples, fresh, strict=True):
        assert np.array_equal(example.tokens, expected.tokens)
        assert np.array_equal(example.regions.features, expected.regions.features)


def test_text_is_as_long_as_the_longest_sentence_of_the_batch() -> None:
    examples = [example for example in _examples() if (example.tokens != 0).sum() == 4]
    batch = PretrainingObjective(examples, FakeVocabulary(), mismatch_rate=0.0).batch([0, 1], _rng())
    assert batch.inputs["input_ids"].shape == (2, 4)


def test_nothing_to_predict_is_no_loss_and_no_nan() -> None:
    examples = [replace(example, answer=-1) for example in _examples()]
    objective = PretrainingObjective(examples, FakeVocabulary(), word_rate=0.0, region_rate=0.0)
    losses = objective.losses(_model(), objective.batch([0, 1, 2], _rng()))
    assert (losses["words"], losses["features"], losses["answers"]) == (0, 0, 0)
    assert losses["matched"] > 0


def test_data_that_cannot_be_used_are_explained() -> None:
    one_image = [example for example in _examples() if example.img_id == "1"]
    with pytest.raises(VlcompressError, match="needs two images"):
        PretrainingObjective(one_image, FakeVocabulary(), mismatch_rate=1.0).batch([0], _rng())
    examples = _examples()
    regions = examples[0].regions
    examples[0] = replace(examples[0], regions=replace(regions, features=regions.features[:2]))
    with pytest.raises(VlcompressError, match="images with 2 and with 6 regions"):
        PretrainingObjective(examples, FakeVocabulary()).batch([0, 5], _rng())
