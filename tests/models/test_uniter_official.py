"""UNITER against reference outputs of the official code, loaded from the official names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from vlcompress.models.base import Head
from vlcompress.models.uniter import UniterFamily

if TYPE_CHECKING:
    from tests.models.conftest import UniterCase

FAMILY = UniterFamily()
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
