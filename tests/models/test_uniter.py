"""UNITER as a family: its weights counted and coupled, its heads and batches, and what it loads."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, BertConfig, BertForPreTraining

from vlcompress.data.regions import Regions
from vlcompress.errors import VlcompressError
from vlcompress.export.trace import trace
from vlcompress.models.base import Head, Sample
from vlcompress.models.uniter.adapter import PEOPLE, UniterFamily
from vlcompress.models.uniter.heads import PADDED
from vlcompress.models.uniter.model import UniterModel
from vlcompress.sparse.shrink import shrink

FAMILY = UniterFamily()
CONFIG = FAMILY.config("tiny", vocab_size=50, feature_dim=24, objects=7)
ANSWERS = Head("answers", ("yes", "no", "red"))
HEADS = [
    ANSWERS,
    Head("match"),
    Head("region"),
    Head("region", variant="mlp"),
    Head("choice"),
    Head("pair"),
    Head("pair", variant="paired"),
    Head("pair", variant="triplet"),
    Head("pretraining"),
]
TYPES = "uniter.embeddings.token_type_embeddings.weight"
WORDS = "uniter.embeddings.word_embeddings.weight"
WEIGHT = "uniter.encoder.layer.0.intermediate.dense.weight"


def _model(head: Head = ANSWERS, seed: int = 0) -> nn.Module:
    model = FAMILY.build(CONFIG, head, seed=seed).eval()
    with torch.no_grad():  # weights wide enough that attention is far from uniform, and biases that are not zero
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.1)
    return model


def _picture(regions: int, seed: int) -> Regions:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((regions, 2, 2)), axis=1).reshape(regions, 4) * [40, 30, 40, 30]
    zeros = np.zeros(regions)
    return Regions(
        img_id=f"image {seed}",
        height=30,
        width=40,
        boxes=corners.astype(np.float32),
        features=rng.random((regions, 24), dtype=np.float32),
        objects_id=zeros.astype(np.int64),
        objects_conf=zeros.astype(np.float32),
        attrs_id=zeros.astype(np.int64),
        attrs_conf=zeros.astype(np.float32),
    )


def _sample(words: int, *regions: int, types: int = 0, seed: int = 0) -> Sample:
    ids = np.random.default_rng(seed).integers(5, 50, words)
    kinds = np.where(np.arange(words) < words // 2, 0, types)
    return Sample(ids, kinds, tuple(_picture(count, seed + place) for place, count in enumerate(regions)))


def _save(tensors: dict[str, Tensor], path: Path) -> str:
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    return str(path)


def test_base_and_large_are_the_published_models() -> None:
    config = FAMILY.config("base", vocab_size=28996, feature_dim=2048)
    prunable = FAMILY.prunable(FAMILY.skeleton(config, ANSWERS), "bert-tickets")
    assert (prunable.weights, prunable.backbone) == (85_524_480, 109_898_752)
    assert len(prunable.names) == 12 * 6 + 1
    large = FAMILY.config("large", vocab_size=28996, feature_dim=2048)
    assert FAMILY.prunable(FAMILY.skeleton(large, ANSWERS), "bert-tickets").weights == 24 * 12 * 1024**2 + 1024**2


@pytest.mark.parametrize("head", HEADS, ids=str)
def test_prunable_and_excluded_are_every_parameter_once(head: Head) -> None:
    model = _model(head)
    prunable = FAMILY.prunable(model, "bert-tickets")
    assert sorted([*prunable.names, *prunable.excluded]) == sorted(name for name, _ in model.named_parameters())
    assert prunable.names == FAMILY.prunable(_model(), "bert-tickets").names
    assert prunable.excluded["uniter.img_embeddings.pos_linear.weight"].startswith("input projection")
    assert prunable.excluded["uniter.img_embeddings.mask_embedding.weight"].startswith("embedding")
    assert prunable.excluded["uniter.img_embeddings.img_layer_norm.weight"].startswith("LayerNorm")


@pytest.mark.parametrize("head", HEADS, ids=str)
def test_backbone_of_a_seed_is_the_same_under_every_head(head: Head) -> None:
    mine, answers = (FAMILY.build(CONFIG, one, seed=3).state_dict() for one in (head, ANSWERS))
    for name in (name for name in answers if name.startswith("uniter.")):
        assert torch.equal(mine[name][: len(answers[name])], answers[name]), name


def test_build_leaves_the_global_generator_alone_and_ties_what_is_tied() -> None:
    before = torch.random.get_rng_state()
    model = FAMILY.build(CONFIG, Head("pretraining"), seed=0)
    assert torch.equal(before, torch.random.get_rng_state())
    assert model.cls.predictions.decoder.weight is model.uniter.embeddings.word_embeddings.weight
    assert model.feat_regress.weight is model.uniter.img_embeddings.img_linear.weight
    assert model.state_dict()[WEIGHT].std().item() == pytest.approx(0.02, rel=0.1)


def test_couplings_name_weights_that_fit_and_shrinking_changes_nothing() -> None:
    model = _model()
    couplings = FAMILY.couplings(model)
    assert [unit.kind for unit in couplings] == ["head", "head", "neuron", "neuron"]
    covered = {name for unit in couplings for name in (*unit.producers, unit.consumer)}
    assert covered == {name for name in FAMILY.prunable(model, "bert-tickets").names if "pooler" not in name}
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for unit in couplings:  # the second half is not read; the value or up-projection of unit 0 is silent
            width = unit.units * unit.unit_size
            assert weights[unit.consumer].shape[1] == weights[unit.producers[0]].shape[0] == width
            weights[unit.consumer][:, width // 2 :] = 0
            weights[unit.constant_from][: unit.unit_size] = 0
    smaller, _, kept = shrink(FAMILY, model, {})
    assert {units.kind: units.kept for units in kept} == {"head": (1,), "neuron": tuple(range(1, 32))}
    inputs = FAMILY.collate([_sample(6, 5), _sample(3, 2, seed=9)])
    with torch.no_grad():
        torch.testing.assert_close(FAMILY.logits(smaller, inputs), FAMILY.logits(model, inputs), atol=1e-5, rtol=0)


def test_collate_gives_official_boxes_masks_and_types() -> None:
    batch = FAMILY.collate([_sample(4, 3), _sample(6, 5, seed=1)])
    assert batch["input_ids"].shape == (2, 6)
    assert batch["attention_mask"].tolist() == [[1] * 4 + [0] * 2, [1] * 6]
    assert batch["visual_attention_mask"].tolist() == [[1] * 3 + [0] * 2, [1] * 5]
    assert not batch["token_type_ids"].any()
    assert (batch["visual_type_ids"] == 1).all()
    assert (
        batch.keys()
        == FAMILY.dynamic_axes().keys()
        == FAMILY.example_inputs(CONFIG, batch=2, text=3, regions=4, seed=0).keys()
    )
    x1, y1, x2, y2, width, height, area = batch["visual_pos"].unbind(-1)
    torch.testing.assert_close(torch.stack([x2 - x1, y2 - y1, width * height]), torch.stack([width, height, area]))
    assert float(batch["visual_pos"].max()) <= 1
    pair = FAMILY.collate([_sample(4, 3, 2), _sample(6, 5, 1, seed=7)])
    assert pair["visual_type_ids"][:, 0].tolist() == [1, 2, 1, 2]
    assert pair["visual_attention_mask"].sum(1).tolist() == [3, 2, 5, 1]
    assert torch.equal(pair["input_ids"][2], pair["input_ids"][3])
    assert FAMILY.collate([_sample(4, 3, types=2)])["token_type_ids"].tolist() == [[0, 0, 2, 2]]


@pytest.mark.parametrize("head", HEADS[:-1], ids=str)
def test_padding_does_not_change_a_score(head: Head) -> None:
    model, images = _model(head), 2 if head.kind == "pair" else 1
    samples = [_sample(5, *[4, 3][:images], types=3 if head.kind == "choice" else 0), _sample(9, *[7, 6][:images])]
    with torch.no_grad():
        alone = FAMILY.logits(model, FAMILY.collate(samples[:1]))[0]
        padded = FAMILY.logits(model, FAMILY.collate(samples))
    shape = {"answers": (2, 3), "match": (2,), "region": (2, 7), "choice": (2, 2), "pair": (2, 2)}[head.kind]
    assert padded.shape == shape
    if head.kind == "region":
        assert (padded[0, 4:] == PADDED).all()
        padded = padded[:, :4]
    torch.testing.assert_close(padded[0], alone, atol=1e-5, rtol=0)


def test_first_word_alone_is_the_first_word() -> None:
    model, inputs = _model(), FAMILY.collate([_sample(5, 4), _sample(7, 3)])
    with torch.no_grad():
        whole = model.uniter(**inputs)
        torch.testing.assert_close(model.pooled(**inputs), whole.pooler_output, atol=1e-6, rtol=0)
    assert whole.last_hidden_state.shape == (2, 11, 32)


def test_nlvr2_sees_both_images_and_their_sides() -> None:
    for head in HEADS[5:8]:
        model, sample = _model(head), _sample(5, 4, 3)
        model.get_parameter(TYPES).data[2] += torch.linspace(-1, 1, 32) ** 3 * 3  # LayerNorm would undo a constant
        left, right = sample.images
        with torch.no_grad():
            scores = FAMILY.logits(model, FAMILY.collate([sample]))
            swapped = FAMILY.logits(model, FAMILY.collate([Sample(sample.ids, sample.types, (right, left))]))
            same = FAMILY.logits(model, FAMILY.collate([Sample(sample.ids, sample.types, (left, left))]))
        assert not torch.allclose(scores, swapped, atol=1e-3)
        assert not torch.allclose(scores, same, atol=1e-3)


def test_added_rows_start_as_officially(tmp_path: Path) -> None:
    saved = _model()
    path = _save(saved.state_dict(), tmp_path / "x.safetensors")
    for head, source in ((Head("pair"), [0, 1, 1]), (Head("choice"), [0, 1, 0, 0])):
        model = FAMILY.build(CONFIG, head, seed=1)
        fresh = model.state_dict()[WORDS].clone()
        report = FAMILY.load(model, path)
        assert torch.equal(model.state_dict()[TYPES], saved.state_dict()[TYPES][source])
        assert any(TYPES in note for note in report.notes)
        words = model.state_dict()[WORDS]
        assert torch.equal(words[:50], saved.state_dict()[WORDS])
        assert torch.equal(words[50:], fresh[50:])
        assert len(words) == 50 + (PEOPLE if head.kind == "choice" else 0)
        assert model.config.vocab_size == len(words)


def test_rank_head_starts_from_the_second_row_of_the_matching_head(tmp_path: Path) -> None:
    saved = _model(Head("pretraining"))
    tensors = {name: tensor for name, tensor in saved.state_dict().items() if "decoder" not in name}
    model = _model(Head("match"), seed=1)
    report = FAMILY.load(model, _save(tensors, tmp_path / "x.safetensors"))
    assert report.head == "loaded"
    assert "rank_output.* starts from row 1 of itm_output, as officially" in report.notes
    assert torch.equal(model.rank_output.weight, saved.itm_output.weight[1:])
    assert torch.equal(model.rank_output.bias, saved.itm_output.bias[1:])
    again = _model(Head("match"), seed=2)
    report = FAMILY.load(again, str(tmp_path / "x.safetensors"), fresh_head=True)  # as a ticket's search loads it
    assert (report.head, report.notes[0]) == ("fresh", "the task head stays fresh, as asked")
    assert torch.equal(again.rank_output.weight, saved.itm_output.weight[1:])
    FAMILY.load(model, _save(model.state_dict() | {"rank_output.bias": torch.ones(1)}, tmp_path / "y.safetensors"))
    assert model.rank_output.bias.item() == 1  # a fine-tuned rank head is loaded as it is


@pytest.mark.parametrize("prefix", ["bert.", "uniter.", "module.uniter.", ""])
def test_official_prefixes_and_old_layer_norm_names(tmp_path: Path, prefix: str) -> None:
    old = (("uniter.", prefix), ("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
    tensors = {}
    for name, tensor in _model().state_dict().items():
        if name.startswith("uniter."):
            for here, there in old:
                name = name.replace(here, there)
            tensors[name] = tensor
    torch.save(tensors, tmp_path / "uniter-base.pt")
    model = FAMILY.build(CONFIG, ANSWERS, seed=5)
    report = FAMILY.load(model, str(tmp_path / "uniter-base.pt"))
    assert (report.head, report.notes) == ("fresh", ("vqa_output.* stays fresh: the checkpoint has no such head",))
    assert torch.equal(model.state_dict()[WEIGHT], _model().state_dict()[WEIGHT])


def test_bert_fills_the_encoder_and_leaves_the_image_embeddings_fresh(tmp_path: Path) -> None:
    sizes = {name: value for name, value in CONFIG.items() if name not in ("model_type", "visual_feat_dim")}
    bert = BertForPreTraining(BertConfig(**sizes))
    bert.save_pretrained(tmp_path)
    for head in (ANSWERS, Head("pretraining")):
        model = FAMILY.build(CONFIG, head, seed=5)
        before = model.uniter.img_embeddings.pos_linear.weight.clone()
        report = FAMILY.load(model, str(tmp_path), fresh_head=head == ANSWERS)
        assert any("the paper's BERT-init control" in note for note in report.notes)
        assert torch.equal(model.state_dict()[WEIGHT], bert.state_dict()[WEIGHT.replace("uniter", "bert")])
        assert torch.equal(model.uniter.img_embeddings.pos_linear.weight, before)
    dense = "cls.predictions.transform.dense.weight"
    assert torch.equal(model.state_dict()[dense], bert.state_dict()[dense])


@pytest.mark.parametrize("head", HEADS, ids=str)
def test_folder_that_transformers_saved_loads_again(tmp_path: Path, head: Head) -> None:
    saved = _model(head)
    saved.save_pretrained(tmp_path)
    model = FAMILY.build(CONFIG, head, seed=5)
    assert FAMILY.load(model, str(tmp_path)).head == "loaded"
    assert all(torch.equal(tensor, saved.state_dict()[name]) for name, tensor in model.state_dict().items())
    encoder = AutoModel.from_pretrained(tmp_path)
    assert isinstance(encoder, UniterModel)
    assert torch.equal(encoder.state_dict()[WEIGHT.removeprefix("uniter.")], saved.state_dict()[WEIGHT])
    assert AutoConfig.from_pretrained(tmp_path).model_type == "uniter"


def test_answers_in_another_order_are_permuted_others_refused(tmp_path: Path) -> None:
    saved, inputs = _model(), FAMILY.collate([_sample(5, 4)])
    path = _save(saved.state_dict(), tmp_path / "x.safetensors")
    (tmp_path / "ans2label.json").write_text(json.dumps({"no": 1, "yes": 0, "red": 2}))
    model = FAMILY.build(CONFIG, Head("answers", ("red", "yes", "no")), seed=5).eval()
    assert FAMILY.load(model, path).notes == ()
    with torch.no_grad():
        mine, theirs = FAMILY.logits(model, inputs), FAMILY.logits(saved, inputs)
    torch.testing.assert_close(mine, theirs[:, [2, 0, 1]])
    other = FAMILY.build(CONFIG, Head("answers", ("red", "yes", "blue")), seed=5)
    with pytest.raises(VlcompressError, match="answers with other labels than this task's 3: no instead"):
        FAMILY.load(other, path)
    (tmp_path / "ans2label.json").write_text(json.dumps({"no": 1, "yes": 1, "red": 2}))
    with pytest.raises(VlcompressError, match="does not number its 3 labels from 0"):
        FAMILY.load(other, path)
    (tmp_path / "ans2label.json").unlink()
    assert "nothing says the order of its answers" in FAMILY.load(other, path).notes[0]


@pytest.mark.parametrize("head", [Head("choice"), pytest.param(Head("region"), marks=pytest.mark.nightly)], ids=str)
def test_exports_with_free_axes_and_types(head: Head, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    ir = pytest.importorskip("onnx_ir")
    model = _model(head)
    ir.save(trace(FAMILY, model, CONFIG), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for batch, text, regions in ((5, 7, 6), (1, 3, 9), (3, 24, 1)):
        inputs = FAMILY.example_inputs(CONFIG, batch=batch, text=text, regions=regions, seed=2)
        if head.kind == "choice":
            inputs["token_type_ids"] += 2  # answer and rationale
        with torch.no_grad():
            expected = FAMILY.logits(model, inputs)
        (actual,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        torch.testing.assert_close(torch.from_numpy(actual), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: FAMILY.config("huge", vocab_size=9, feature_dim=4), ["'huge'", "base, large, small, tiny"]),
        (lambda: FAMILY.prunable(_model(), "bert-ticket"), ["'bert-ticket'", "did you mean 'bert-tickets'"]),
        (lambda: FAMILY.build(CONFIG, Head("answers"), seed=0), ["at least one answer"]),
        (lambda: FAMILY.build(CONFIG, Head("classes"), seed=0), ["'classes'", "answers"]),
        (lambda: FAMILY.build(CONFIG, Head("pair", variant="tripled"), seed=0), ["did you mean 'triplet'"]),
        (lambda: FAMILY.build(CONFIG | {"num_attention_heads": 5}, ANSWERS, seed=0), ["32", "5"]),
    ],
)
def test_bad_input_is_explained(call: Callable[[], object], words: list[str]) -> None:
    with pytest.raises(VlcompressError) as caught:
        call()
    assert all(word in str(caught.value) for word in words)
