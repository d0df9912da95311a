"""LXMERT as a family: the numbers of transformers' own model, its weights counted, its units coupled."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LxmertConfig, LxmertForPreTraining, LxmertForQuestionAnswering

from vlcompress.data.regions import Regions
from vlcompress.errors import VlcompressError
from vlcompress.models.attention import Attention
from vlcompress.models.base import Head, Sample
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.models.lxmert.model import encode, pooled

FAMILY = LxmertFamily()
CONFIG = FAMILY.config("tiny", vocab_size=50, feature_dim=24, objects=7, attributes=5) | {"x_layers": 2}
ANSWERS = Head("answers", ("yes", "no", "red"))
PRETRAINING = Head("pretraining", ("yes", "no", "red"))


def _model(head: Head = ANSWERS, seed: int = 0) -> nn.Module:
    model = FAMILY.build(CONFIG, head, seed=seed).eval()
    with torch.no_grad():  # weights wide enough that attention is far from uniform, and biases that are not zero
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)) * 0.1)
    return model


def _reference(model: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """Return transformers' own model, with its own attention, on the same weights."""
    reference = kind(LxmertConfig(**CONFIG | {"num_qa_labels": 3})).eval()
    reference.load_state_dict(model.state_dict())
    return reference


def _inputs(**changes: Tensor) -> dict[str, Tensor]:
    return FAMILY.example_inputs(CONFIG, batch=5, text=7, regions=6, seed=1) | changes


@pytest.mark.parametrize("masked_regions", [False, True])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_logits_are_those_of_transformers_eager_attention(masked_regions: bool, dtype: torch.dtype) -> None:
    inputs = _inputs()
    inputs["attention_mask"] = inputs["attention_mask"].to(dtype)
    if masked_regions:
        inputs["visual_attention_mask"] = (torch.arange(6) < torch.tensor([[6], [3], [1], [5], [2]])).to(dtype)
    model = _model()
    with torch.no_grad():
        expected = _reference(model, LxmertForQuestionAnswering)(
            **inputs | {"attention_mask": inputs["attention_mask"]}
        )
        torch.testing.assert_close(FAMILY.logits(model, inputs), expected.question_answering_score, atol=1e-6, rtol=0)


def test_encode_gives_every_output_of_transformers() -> None:
    model = _model(PRETRAINING)
    with torch.no_grad():
        expected = _reference(model, LxmertForPreTraining).lxmert(**_inputs())
        actual = encode(model, _inputs())
    for name in ("language", "vision", "pooled"):
        torch.testing.assert_close(getattr(actual, name), expected[f"{name}_output"], atol=2e-6, rtol=0)


def test_gradients_are_those_of_transformers() -> None:
    model = _model()
    reference = _reference(model, LxmertForQuestionAnswering)
    FAMILY.logits(model, _inputs()).square().sum().backward()
    reference(**_inputs()).question_answering_score.square().sum().backward()
    expected = {name: parameter.grad for name, parameter in reference.named_parameters()}
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (expected[name] is None), name
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4)


def test_pooled_leaves_out_only_what_it_does_not_depend_on() -> None:
    model = _model()
    with torch.no_grad():
        torch.testing.assert_close(pooled(model, _inputs()), encode(model, _inputs()).pooled, atol=1e-6, rtol=0)


def test_padding_does_not_change_an_answer() -> None:
    model = _model()
    inputs = _inputs(attention_mask=torch.ones(5, 7, dtype=torch.int64))
    padded = inputs | {
        "input_ids": torch.nn.functional.pad(inputs["input_ids"], (0, 3)),
        "attention_mask": torch.nn.functional.pad(inputs["attention_mask"], (0, 3)),
    }
    with torch.no_grad():
        torch.testing.assert_close(FAMILY.logits(model, padded), FAMILY.logits(model, inputs), atol=1e-6, rtol=0)


def test_dropout_reaches_the_attention_weights() -> None:
    attention = Attention(_reference(_model(), LxmertForQuestionAnswering).lxmert.encoder.layer[0].attention.self)
    x = torch.randn(2, 4, 32)
    attention.dropout.p = 0.5
    assert torch.equal(attention.eval()(x, x)[0], attention(x, x)[0])
    assert not torch.equal(attention.train()(x, x)[0], attention(x, x)[0])


def test_regions_are_masked_where_images_differ_in_their_number() -> None:
    def batch(*counts: int) -> dict[str, Tensor]:
        regions = [
            Regions(
                "a", 10, 10, np.ones((count, 4), np.float32), np.ones((count, 24), np.float32), *[np.ones(count)] * 4
            )
            for count in counts
        ]
        return FAMILY.collate([Sample(np.array([5]), np.array([0]), (one,)) for one in regions])

    assert "visual_attention_mask" not in batch(3, 3)
    assert batch(3, 1)["visual_attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_build_is_seeded_and_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (FAMILY.build(CONFIG, ANSWERS, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    weight = "lxmert.encoder.layer.0.intermediate.dense.weight"
    assert not torch.equal(first[weight], other[weight])


def test_backbone_of_a_seed_is_the_same_under_every_head() -> None:
    answers, pretraining = (FAMILY.build(CONFIG, head, seed=3).state_dict() for head in (ANSWERS, PRETRAINING))
    names = [name for name in answers if name.startswith("lxmert.")]
    assert names
    assert all(torch.equal(answers[name], pretraining[name]) for name in names)


def test_fresh_weights_are_berts() -> None:
    model = FAMILY.build(CONFIG, PRETRAINING, seed=0)
    state = model.state_dict()
    assert state["lxmert.encoder.layer.0.intermediate.dense.weight"].std().item() == pytest.approx(0.02, rel=0.1)
    assert not state["lxmert.encoder.layer.0.intermediate.dense.bias"].any()
    assert state["lxmert.encoder.layer.0.output.LayerNorm.weight"].eq(1).all()
    assert state["answer_head.logit_fc.2.weight"].eq(1).all()
    assert model.cls.predictions.decoder.weight is model.lxmert.embeddings.word_embeddings.weight


def test_base_is_the_published_model() -> None:
    config = FAMILY.config("base", vocab_size=30522, feature_dim=2048)
    prunable = FAMILY.prunable(FAMILY.skeleton(config, ANSWERS), "bert-tickets")
    assert prunable.weights == 182_255_616
    assert prunable.weights - 768 * 768 == 181_665_792  # the encoder's linears without the pooler
    assert prunable.backbone == 207_936_768
    assert len(prunable.names) == 9 * 6 + 5 * 6 + 5 * (4 + 4 + 4 + 2 + 2) + 1


def test_prunable_and_excluded_are_every_parameter_once() -> None:
    model = _model(PRETRAINING)
    prunable = FAMILY.prunable(model, "bert-tickets")
    assert sorted([*prunable.names, *prunable.excluded]) == sorted(name for name, _ in model.named_parameters())
    reasons = prunable.excluded
    assert reasons["lxmert.embeddings.word_embeddings.weight"].startswith("embedding")
    assert reasons["lxmert.encoder.visn_fc.visn_fc.weight"].startswith("input projection")
    assert reasons["lxmert.encoder.visn_fc.box_layer_norm.weight"].startswith("LayerNorm")
    assert reasons["lxmert.encoder.layer.0.intermediate.dense.bias"].startswith("bias")
    assert reasons["cls.predictions.transform.dense.weight"].startswith("task head")
    order = list(model.state_dict())
    assert list(prunable.names) == sorted(prunable.names, key=order.index)


def test_couplings_name_weights_that_fit() -> None:
    model = _model()
    weights = dict(model.named_parameters())
    couplings = FAMILY.couplings(model)
    assert [unit.kind for unit in couplings].count("head") == 1 + 1 + 2 * 3
    assert [unit.kind for unit in couplings].count("neuron") == 1 + 1 + 2 * 2
    for unit in couplings:
        rows = unit.units * unit.unit_size
        assert all(weights[name].shape[0] == rows for name in unit.producers)
        assert weights[unit.consumer].shape[1] == rows
    covered = {name for unit in couplings for name in (*unit.producers, unit.consumer)}
    assert covered == {name for name in FAMILY.prunable(model, "bert-tickets").names if "pooler" not in name}


@pytest.mark.parametrize("kept", [[0, 2, 3], [1], []])
def test_removed_heads_are_heads_whose_output_counts_for_nothing(kept: list[int]) -> None:
    model = _model()
    gone = [head for head in range(4) if head not in kept]
    zeroed, shrunk = copy.deepcopy(model), copy.deepcopy(model)
    for unit in (unit for unit in FAMILY.couplings(model) if unit.kind == "head"):
        consumer = zeroed.get_parameter(unit.consumer).data.view(32, 4, 8)
        consumer[:, gone] = 0
        _remove_heads(shrunk, unit.owner, unit.consumer, kept)
    with torch.no_grad():
        torch.testing.assert_close(
            FAMILY.logits(shrunk, _inputs()), FAMILY.logits(zeroed, _inputs()), atol=1e-6, rtol=0
        )
    assert {unit.units for unit in FAMILY.couplings(shrunk) if unit.kind == "head"} == {len(kept)}


def _remove_heads(model: nn.Module, owner: str, consumer: str, kept: list[int]) -> None:
    attention = model.get_submodule(owner)
    rows = [head * 8 + row for head in kept for row in range(8)]
    for name in ("query", "key", "value"):
        linear = getattr(attention, name)
        linear.weight, linear.bias = nn.Parameter(linear.weight[rows]), nn.Parameter(linear.bias[rows])
    dense = model.get_submodule(consumer.removesuffix(".weight"))
    dense.weight = nn.Parameter(dense.weight[:, rows])
    attention.num_attention_heads = len(kept)


def test_example_inputs_are_seeded_and_in_range() -> None:
    inputs = _inputs()
    assert {name: tuple(value.shape) for name, value in inputs.items()} == {
        "input_ids": (5, 7),
        "attention_mask": (5, 7),
        "visual_feats": (5, 6, 24),
        "visual_pos": (5, 6, 4),
    }
    assert inputs.keys() == FAMILY.dynamic_axes().keys()
    assert all(torch.equal(value, _inputs()[name]) for name, value in inputs.items())
    boxes = inputs["visual_pos"]
    assert bool((boxes[..., :2] <= boxes[..., 2:]).all())
    assert inputs["input_ids"][inputs["attention_mask"] == 0].eq(0).all()


def test_exports_with_free_axes(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = _model()

    class Answers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(
            self, input_ids: Tensor, attention_mask: Tensor, visual_feats: Tensor, visual_pos: Tensor
        ) -> Tensor:
            values = (input_ids, attention_mask, visual_feats, visual_pos)
            names = ("input_ids", "attention_mask", "visual_feats", "visual_pos")
            return FAMILY.logits(self.model, dict(zip(names, values, strict=True)))

    dims = {
        "batch": torch.export.Dim("batch"),
        "text": torch.export.Dim("text", max=24),
        "regions": torch.export.Dim("regions"),
    }
    shapes = {name: {axis: dims[dim] for axis, dim in axes.items()} for name, axes in FAMILY.dynamic_axes().items()}
    path = tmp_path / "model.onnx"
    torch.onnx.export(Answers().eval(), (), path, kwargs=_inputs(), dynamic_shapes=shapes, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path)
    for sizes in ((5, 7, 6), (1, 3, 9), (3, 24, 1)):
        batch, text, regions = sizes
        inputs = FAMILY.example_inputs(CONFIG, batch=batch, text=text, regions=regions, seed=2)
        with torch.no_grad():
            expected = FAMILY.logits(model, inputs)
        (actual,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        torch.testing.assert_close(torch.from_numpy(actual), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: FAMILY.config("huge", vocab_size=9, feature_dim=4), ["'huge'", "base, small, tiny"]),
        (lambda: FAMILY.prunable(_model(), "bert-ticket"), ["'bert-ticket'", "did you mean 'bert-tickets'"]),
        (lambda: FAMILY.build(CONFIG, Head("answers"), seed=0), ["at least one answer"]),
        (lambda: FAMILY.build(CONFIG | {"num_attention_heads": 5}, ANSWERS, seed=0), ["32", "5"]),
    ],
)
def test_bad_input_is_explained(call: Callable[[], object], words: list[str]) -> None:
    with pytest.raises(VlcompressError) as caught:
        call()
    assert all(word in str(caught.value) for word in words)


def test_attention_scale_is_of_one_head() -> None:
    attention = Attention(
        _reference(_model(), LxmertForQuestionAnswering).lxmert.encoder.layer[0].attention.self
    ).eval()
    x = torch.randn(1, 3, 32)
    q, k, v = (part(x).view(1, 3, 4, 8).transpose(1, 2) for part in (attention.query, attention.key, attention.value))
    expected = (q @ k.mT / math.sqrt(8)).softmax(-1) @ v
    torch.testing.assert_close(attention(x, x)[0], expected.transpose(1, 2).flatten(2), atol=1e-6, rtol=0)
