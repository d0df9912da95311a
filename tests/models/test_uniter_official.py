"""UNITER against reference outputs of the official code, loaded from the official names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from vlcompress.models.base import Head
from vlcompress.models.checkpoints import load_strictly
from vlcompress.models.masking import places
from vlcompress.models.objective import Batch
from vlcompress.models.transport import transport_distance
from vlcompress.models.uniter.adapter import UniterFamily
from vlcompress.models.uniter.pretraining import UniterPretrainingObjective

if TYPE_CHECKING:
    from tests.models.conftest import UniterCase

FAMILY = UniterFamily()
HEADS = Path(__file__).parents[1] / "fixtures" / "uniter" / "heads"
HEADS_CONFIG = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 24,
    "visual_feat_dim": 12,
    "num_object_labels": 9,
}
ANSWERS = Head("answers", tuple(f"answer {row}" for row in range(17)))


def check_hidden(case: UniterCase, model: nn.Module, part: str = "") -> None:
    """Compare the embeddings, every layer and the pooled output, where there is no padding."""
    with torch.no_grad():
        encoded = model.uniter(**case.batch(part), output_hidden_states=True)
    names = ("embedding_output", "layer_0", "layer_1")
    for name, state in zip(names, encoded.hidden_states, strict=True):
        expected = case.official(case.expected[part + name], part)
        torch.testing.assert_close(case.packed(state, part), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded.pooler_output, case.expected[f"{part}pooled"], atol=1e-5, rtol=0)


def check_gradients(case: UniterCase, model: nn.Module, loss: Tensor, name: str = "train_loss") -> None:
    """Compare the norm of every parameter's gradient."""
    loss.backward()
    official = case.meta["grad_norms_dropout_off"][name]
    norms = {key: float(value.grad.norm()) for key, value in model.named_parameters() if value.grad is not None}
    assert {key for key, norm in norms.items() if norm > 0} == {key for key, norm in official.items() if norm > 0}
    for key, norm in norms.items():  # a key's bias moves no softmax: its gradient is rounding alone
        assert norm == pytest.approx(official[key], rel=1e-4, abs=1e-5), key


@pytest.mark.evidence("parity", "uniter-vqa", "uniter-gqa", "uniter-snli_ve")  # one head, one model
def test_hidden_states_and_answers(uniter_vqa: UniterCase) -> None:
    model = uniter_vqa.model(ANSWERS)
    check_hidden(uniter_vqa, model)
    with torch.no_grad():
        logits = FAMILY.logits(model, uniter_vqa.batch())
    torch.testing.assert_close(logits, uniter_vqa.expected["logits"], atol=1e-5, rtol=0)
    assert torch.equal(logits.argmax(1), uniter_vqa.expected["pred"])


def test_answer_loss_and_gradients(uniter_vqa: UniterCase) -> None:
    model = uniter_vqa.model(ANSWERS)
    logits, targets = FAMILY.logits(model, uniter_vqa.batch()), uniter_vqa.inputs["targets"]
    losses = binary_cross_entropy_with_logits(logits, targets, reduction="none")
    torch.testing.assert_close(losses, uniter_vqa.expected["loss_elementwise"], atol=1e-5, rtol=0)
    loss = losses.mean() * targets.shape[1]
    torch.testing.assert_close(loss, uniter_vqa.expected["train_loss"], atol=1e-5, rtol=0)
    check_gradients(uniter_vqa, model, loss)


@pytest.mark.evidence("parity", "uniter-retrieval")
def test_rank_scores_loss_and_gradients(uniter_rank: UniterCase) -> None:
    model = uniter_rank.model(Head("match"))
    check_hidden(uniter_rank, model)
    scores = FAMILY.logits(model, uniter_rank.batch())
    torch.testing.assert_close(scores, uniter_rank.expected["rank_scores"][:, 0], atol=1e-5, rtol=0)
    pooled = model.pooled(**uniter_rank.batch())
    torch.testing.assert_close(model.itm_output(pooled), uniter_rank.expected["itm_scores_2way"], atol=1e-5, rtol=0)
    positive, negatives = scores.sigmoid().view(-1, 3).split([1, 2], dim=1)
    losses = (0.2 + negatives - positive).clamp(min=0)
    torch.testing.assert_close(losses, uniter_rank.expected["rank_loss"], atol=1e-5, rtol=0)
    check_gradients(uniter_rank, model, losses.mean())


@pytest.mark.parametrize("part", ["mlm/", "mrfr/"])
def test_pretraining_hidden_states(uniter_pretrain: UniterCase, part: str) -> None:
    check_hidden(uniter_pretrain, uniter_pretrain.model(Head("pretraining")), part)


def _pretraining_batch(case: UniterCase, part: str) -> Batch:
    """Return a part's inputs and targets as the objective makes them."""
    inputs = case.batch(part)
    if part == "mlm/":
        words = case.inputs["mlm/txt_labels"]
        return Batch(inputs, {"words": words, "asked": places(words != -1)})
    if part == "itm/":
        return Batch(inputs, {"matched": case.inputs["itm/targets"]})
    features = torch.zeros_like(inputs["visual_feats"])
    features[inputs["visual_masked"]] = case.inputs["mrfr/feat_targets"]
    return Batch(inputs, {"features": features, "asked": places(inputs["visual_masked"])})


@pytest.mark.evidence("parity", "uniter-pretraining")
@pytest.mark.parametrize("part", ["mlm/", "mrfr/", "itm/"])
def test_pretraining_losses_and_gradients(uniter_pretrain: UniterCase, part: str) -> None:
    model = uniter_pretrain.model(Head("pretraining"))
    objective: Any = UniterPretrainingObjective((), None, transport_weight=0.0)
    loss = objective.loss(model, _pretraining_batch(uniter_pretrain, part))
    torch.testing.assert_close(loss, uniter_pretrain.expected[f"{part}train_loss"], atol=1e-5, rtol=0)
    check_gradients(uniter_pretrain, model, loss, f"{part}train_loss")


def test_pretraining_scores(uniter_pretrain: UniterCase) -> None:
    model, expected = uniter_pretrain.model(Head("pretraining")), uniter_pretrain.expected
    with torch.no_grad():
        words = model.hidden(**uniter_pretrain.batch("mlm/"))[:, : uniter_pretrain.inputs["mlm/txt_labels"].shape[1]]
        asked = uniter_pretrain.inputs["mlm/txt_labels"] != -1
        torch.testing.assert_close(model.cls.predictions(words[asked]), expected["mlm/scores"], atol=1e-5, rtol=0)
        batch = uniter_pretrain.batch("mrfr/")
        regions = model.hidden(**batch)[:, batch["input_ids"].shape[1] :]
        features = model.feat_regress(regions[batch["visual_masked"]])
        torch.testing.assert_close(features, expected["mrfr/pred"], atol=1e-5, rtol=0)
        pooled = model.pooled(**uniter_pretrain.batch("itm/"))
        torch.testing.assert_close(model.itm_output(pooled), expected["itm/scores_2way"], atol=1e-5, rtol=0)


def test_rank_head_after_surgery(uniter_rank: UniterCase, tmp_path: Path) -> None:
    tensors = {name: value for name, value in load_file(uniter_rank.weights).items() if "rank_output" not in name}
    save_file(tensors, tmp_path / "x.safetensors")
    model = FAMILY.build(uniter_rank.config, Head("match"), seed=0)
    FAMILY.load(model, str(tmp_path / "x.safetensors"))
    assert torch.equal(model.rank_output.weight, uniter_rank.expected["surgery/rank_after_w"])
    assert torch.equal(model.rank_output.bias, uniter_rank.expected["surgery/rank_after_b"])


def _head_case(name: str, head: Head) -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]:
    """Return the loaded model, its inputs and what the official code made of them."""
    tensors = load_file(HEADS / f"{name}.safetensors")
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "inputs": {}, "expected": {}}
    for key, value in tensors.items():
        part, _, rest = key.partition("/")
        parts[part][rest] = value
    model = FAMILY.build(HEADS_CONFIG, head, seed=0).eval()
    load_strictly(model, parts["weights"], source=name, heads=())
    return model, parts["inputs"], parts["expected"]


@pytest.mark.evidence("parity", "uniter-nlvr2", "uniter-vcr", "uniter-refcoco")
@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("paired-attn", Head("pair")),
        ("paired", Head("pair", variant="paired")),
        ("triplet", Head("pair", variant="triplet")),
        ("choice", Head("choice")),
        ("region", Head("region")),
        ("region-mlp", Head("region", variant="mlp")),
    ],
)
def test_logits_of_every_other_head(name: str, head: Head) -> None:
    model, inputs, expected = _head_case(name, head)
    with torch.no_grad():
        torch.testing.assert_close(FAMILY.logits(model, inputs), expected["logits"], atol=1e-5, rtol=0)


def test_class_divergence_and_optimal_transport() -> None:
    model, inputs, expected = _head_case("pretraining", Head("pretraining"))
    soft, matched, masked = (inputs.pop(name) for name in ("soft_labels", "matched", "visual_masked"))
    hidden = {"visual_feats": inputs["visual_feats"].masked_fill(masked[..., None], 0.0), "visual_masked": masked}
    objective: Any = UniterPretrainingObjective((), None)
    with torch.no_grad():
        loss = objective.loss(model, Batch(inputs | hidden, {"classes": soft, "asked": places(masked)}))
        torch.testing.assert_close(loss, expected["mrc_loss"], atol=1e-5, rtol=0)
        loss = objective.loss(model, Batch(inputs, {"matched": matched}))
        torch.testing.assert_close(loss, expected["itm_transport_loss"], atol=1e-5, rtol=0)
        states, words = model.hidden(**inputs), inputs["input_ids"].shape[1]
        masks = (inputs["attention_mask"].bool(), inputs["visual_attention_mask"].bool())
        distance = transport_distance(states[:, :words], states[:, words:], *masks)
    torch.testing.assert_close(distance[matched == 1], expected["positive"], atol=1e-5, rtol=0)
    torch.testing.assert_close(distance[matched == 0], expected["negative"], atol=1e-5, rtol=0)
