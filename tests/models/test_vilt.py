"""ViLT as a family: the numbers of transformers' own model, its weights counted, its units coupled, its batches."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import ViltConfig, ViltForImageAndTextRetrieval, ViltForImagesAndTextClassification

from vlcompress.data.examples import Pictures
from vlcompress.data.pixels import normalized
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Head, Sample
from vlcompress.models.registry import family_named
from vlcompress.models.vilt.adapter import ViltFamily
from vlcompress.models.vilt.model import encode, pooled

FAMILY = ViltFamily()
CONFIG = FAMILY.config("tiny", vocab_size=50)
ANSWERS = Head("answers", ("yes", "no", "red"))
PAIR = Head("pair", ("false", "true"))
MATCH = Head("match")


def _model(head: Head = ANSWERS, seed: int = 0) -> nn.Module:
    model = FAMILY.build(CONFIG, head, seed=seed).eval()
    with torch.no_grad():  # weights wide enough that attention is far from uniform, and biases that are not zero
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)) * 0.1)
    return model


def _reference(model: nn.Module, kind: Callable[[ViltConfig], nn.Module], **more: int) -> nn.Module:
    """Return transformers' own model, with its own attention and patch order, on the same weights."""
    reference = kind(
        ViltConfig(**{name: value for name, value in CONFIG.items() if name != "model_type"} | more)
    ).eval()
    reference.load_state_dict(model.state_dict())
    return reference


def _inputs(regions: int = 5, **changes: Tensor) -> dict[str, Tensor]:
    return FAMILY.example_inputs(CONFIG, batch=4, text=7, regions=regions, seed=1) | changes


def _paired(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return two rows a statement as transformers takes them: one text, an axis for its two images."""
    images = {name: value.view(-1, 2, *value.shape[1:]) for name, value in inputs.items() if "pixel" in name}
    return {name: value[::2] for name, value in inputs.items()} | images


def test_it_is_registered() -> None:
    assert isinstance(family_named("vilt"), ViltFamily)
    assert FAMILY.reads == "pixels"


def test_pair_scores_are_those_of_transformers() -> None:
    model, inputs = _model(PAIR), _inputs()
    inputs = {name: value if "pixel" in name else value[::2].repeat_interleave(2, 0) for name, value in inputs.items()}
    reference = _reference(
        model, ViltForImagesAndTextClassification, num_images=2, modality_type_vocab_size=3, num_labels=2
    )
    with torch.no_grad():
        expected = reference(**_paired(inputs)).logits
        assert expected.shape == (2, 2)
        torch.testing.assert_close(FAMILY.logits(model, inputs), expected, atol=5e-6, rtol=0)


def test_match_scores_are_those_of_transformers() -> None:
    model = _model(MATCH)
    with torch.no_grad():
        expected = _reference(model, ViltForImageAndTextRetrieval)(**_inputs()).logits[:, 0]
        torch.testing.assert_close(FAMILY.logits(model, _inputs()), expected, atol=5e-6, rtol=0)


def test_pooled_is_encodes() -> None:
    model = _model()
    with torch.no_grad():
        torch.testing.assert_close(pooled(model, _inputs()), encode(model, _inputs()).pooled, atol=1e-6, rtol=0)


def test_neither_order_nor_padding_changes_a_score() -> None:
    model, inputs = _model(), _inputs()
    wider = inputs | {name: torch.nn.functional.pad(inputs[name], (0, 32, 0, 16)) for name in inputs if "pixel" in name}
    longer = wider | {name: torch.nn.functional.pad(inputs[name], (0, 3)) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        alone = torch.cat(
            [
                FAMILY.logits(
                    model,
                    {
                        "input_ids": inputs["input_ids"][row : row + 1, : int(inputs["attention_mask"][row].sum())],
                        "pixel_values": inputs["pixel_values"][
                            row : row + 1, :, :, : int(inputs["pixel_mask"][row, 0].sum())
                        ],
                    },
                )
                for row in range(4)
            ]
        )
        torch.testing.assert_close(FAMILY.logits(model, longer), alone, atol=2e-6, rtol=0)


def test_tokens_that_pad_every_picture_are_cut() -> None:
    inputs = _inputs()
    inputs["pixel_values"][:, :, :, 32:] = 0
    inputs["pixel_mask"][:, :, 32:] = 0
    assert encode(_model(), inputs).image.shape[1] == 1 + 3 * 2


def test_where_padding_is_not_cut_it_stays_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = _model(), _inputs()
    with torch.no_grad():
        cut = FAMILY.logits(model, inputs)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        encoded = encode(model, inputs)
        torch.testing.assert_close(FAMILY.logits(model, inputs), cut, atol=2e-6, rtol=0)
    patches = inputs["pixel_mask"][:, ::16, ::16].flatten(1)
    assert torch.equal(encoded.image_mask[:, 1:], patches)


def test_padding_makes_no_patch_of_a_rest() -> None:
    model, inputs = _model(), _inputs(regions=3)
    pixels, mask = inputs["pixel_values"][:1, :, :40, :40], inputs["pixel_mask"][:1, :40, :40]  # 2.5 patches of 16
    words = {name: inputs[name][:1] for name in ("input_ids", "attention_mask")}
    padded = {
        "pixel_values": torch.nn.functional.pad(pixels, (0, 8, 0, 8)),
        "pixel_mask": torch.nn.functional.pad(mask, (0, 8, 0, 8)),
    }
    with torch.no_grad():
        alone = FAMILY.logits(model, words | {"pixel_values": pixels, "pixel_mask": mask})
        torch.testing.assert_close(FAMILY.logits(model, words | padded), alone, atol=2e-6, rtol=0)


def test_dropout_is_the_originals() -> None:
    config = FAMILY.config("base", vocab_size=100) | {"num_hidden_layers": 1, "hidden_size": 24}
    model = FAMILY.build(config | {"num_attention_heads": 2, "intermediate_size": 8}, ANSWERS, seed=0)
    layer = model.vilt.encoder.layer[0]
    assert layer.attention.attention.dropout.p == 0
    assert {layer.output.dropout.p, layer.attention.output.dropout.p, model.vilt.embeddings.dropout.p} == {0.1}
    assert {
        layer.layernorm_before.eps,
        model.vilt.layernorm.eps,
        model.vilt.embeddings.text_embeddings.LayerNorm.eps,
    } == {1e-6, 1e-12}
    assert model.classifier[1].eps == 1e-5


def test_dropout_reaches_the_inside_of_the_feed_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.Size, float, bool]] = []

    def spy(x: Tensor, p: float, training: bool) -> Tensor:
        seen.append((x.shape, p, training))
        return x

    monkeypatch.setattr("vlcompress.models.vilt.model.dropout", spy)
    encode(_model().train(), _inputs())
    assert [(shape[-1], p, training) for shape, p, training in seen] == [(64, 0.1, True)] * 2


def test_build_is_seeded_and_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (FAMILY.build(CONFIG, ANSWERS, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    weight = "vilt.encoder.layer.0.intermediate.dense.weight"
    assert not torch.equal(first[weight], other[weight])


def test_a_built_model_also_runs_as_transformers_runs_it() -> None:
    model = _model(MATCH)
    positions = model.vilt.embeddings.text_embeddings.position_ids
    assert torch.equal(positions, torch.arange(40)[None])
    assert all(not buffer.is_meta for buffer in model.buffers())


def test_base_is_the_published_model() -> None:
    config = FAMILY.config("base", vocab_size=30522)
    prunable = FAMILY.prunable(FAMILY.skeleton(config, ANSWERS), "bert-tickets")
    assert prunable.weights == 84_934_656
    assert prunable.backbone == 111_595_008
    assert len(prunable.names) == 12 * 6


def test_prunable_and_excluded_are_every_parameter_once() -> None:
    model = _model(Head("pretraining"))
    prunable = FAMILY.prunable(model, "bert-tickets")
    assert sorted([*prunable.names, *prunable.excluded]) == sorted(name for name, _ in model.named_parameters())
    reasons = prunable.excluded
    assert reasons["vilt.embeddings.text_embeddings.word_embeddings.weight"].startswith("embedding")
    assert reasons["vilt.embeddings.cls_token"].startswith("embedding")
    assert reasons["vilt.embeddings.patch_embeddings.projection.weight"].startswith("input projection")
    assert reasons["vilt.encoder.layer.0.layernorm_after.weight"].startswith("LayerNorm")
    assert reasons["vilt.pooler.dense.weight"].startswith("pooler")
    assert reasons["itm_score.fc.weight"].startswith("task head")
    with pytest.raises(VlcompressError, match="unknown pruning policy 'all'"):
        FAMILY.prunable(model, "all")


def test_couplings_are_units_that_can_be_silenced_together() -> None:
    model, inputs = _model(), _inputs()
    couplings = FAMILY.couplings(model)
    assert [(one.kind, one.units, one.unit_size) for one in couplings] == [("head", 4, 8)] * 2 + [("neuron", 64, 1)] * 2
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for one in couplings:  # without its columns in the consumer a unit's rows in the producers cannot matter
            rows = slice(one.unit_size, 2 * one.unit_size)
            parameters[one.consumer][:, rows] = 0
        before = FAMILY.logits(model, inputs)
        for one in couplings:
            for name in one.producers:
                parameters[name][one.unit_size : 2 * one.unit_size] = 9.0
        assert torch.equal(FAMILY.logits(model, inputs), before)


def _sample(words: int, *sizes: tuple[int, int]) -> Sample:
    rng = np.random.default_rng(words)
    images = tuple(rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes)
    return Sample(np.arange(1, words + 1), np.zeros(words, np.int64), images)


def test_collate_pads_words_and_pictures() -> None:
    samples = [_sample(3, (48, 64)), _sample(5, (64, 48))]
    inputs = FAMILY.collate(samples)
    assert inputs["input_ids"].tolist() == [[1, 2, 3, 0, 0], [1, 2, 3, 4, 5]]
    assert inputs["attention_mask"].sum(1).tolist() == [3, 5]
    assert inputs["pixel_values"].shape == (2, 3, 64, 64)
    assert inputs["pixel_mask"].sum((1, 2)).tolist() == [48 * 64, 64 * 48]
    picture = samples[0].images[0]
    assert isinstance(picture, np.ndarray)
    assert np.array_equal(inputs["pixel_values"][0, :, :48].permute(1, 2, 0).numpy(), normalized(picture))
    assert not inputs["pixel_values"][0, :, 48:].any()


def test_collate_gives_two_rows_for_two_images() -> None:
    inputs = FAMILY.collate([_sample(3, (48, 48), (48, 48)), _sample(3, (48, 48), (48, 48))])
    assert inputs["pixel_mask"].all()
    assert inputs["pixel_values"].shape == (4, 3, 48, 48)
    assert inputs["input_ids"].tolist() == [[1, 2, 3]] * 4
    assert FAMILY.logits(_model(PAIR), inputs).shape == (2, 2)


def test_pictures_come_in_the_size_of_the_model() -> None:
    class Source:
        def pixels(self, image: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
            return np.zeros((96, 128, 3), np.uint8)

    sizes = {"tiny": (48, 64, 3), "small": (96, 128, 3), "base": (384, 512, 3)}
    for size, shape in sizes.items():
        pictures = FAMILY.pictures(FAMILY.config(size, vocab_size=9), cast(Pictures, Source()))
        assert pictures.pixels("any").shape == shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: FAMILY.config("large", vocab_size=9), "unknown size of vilt 'large'"),
        (lambda: FAMILY.build(CONFIG, Head("region"), seed=0), "unknown kind of head 'region'"),
        (lambda: FAMILY.build(CONFIG, Head("answers"), seed=0), "no labels"),
        (lambda: FAMILY.build(CONFIG | {"num_attention_heads": 5}, ANSWERS, seed=0), "makes no ViLT model"),
    ],
)
def test_refusals(change: Callable[[], object], message: str) -> None:
    with pytest.raises(VlcompressError, match=message):
        change()
