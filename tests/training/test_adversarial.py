"""Adversarial training against a reference written out for two steps of δ, in float64."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from vlcompress.errors import VlcompressError
from vlcompress.models.base import Head
from vlcompress.models.objective import Batch
from vlcompress.models.registry import family_named
from vlcompress.recipe import default_recipe
from vlcompress.tasks.base import LogitLoss
from vlcompress.tickets.experiment import Experiment, build_model, objective_of
from vlcompress.tickets.open_experiment import open_experiment
from vlcompress.tickets.spec import Trial
from vlcompress.training import adversarial
from vlcompress.training.adversarial import Adversarial, attacked_score, parse_perturbation, symmetric_divergence
from vlcompress.training.loop import train

ANSWERS = 5
LABELS = tuple(f"answer {i}" for i in range(ANSWERS))


class Answering(LogitLoss):
    """Five answers with soft scores."""

    head = Head("answers", LABELS)
    hidden = False

    def __len__(self) -> int:
        return 3

    def batch(self, indices: Any, rng: torch.Generator) -> Batch:
        raise NotImplementedError

    def loss(self, model: torch.nn.Module, batch: Batch) -> Tensor:
        raise NotImplementedError

    def loss_of(self, logits: Tensor, targets: Any) -> Tensor:
        return binary_cross_entropy_with_logits(logits, targets["answers"]) * ANSWERS


def model_and_batch(name: str) -> tuple[Any, Any, Batch]:
    family = family_named(name)
    config = family.config("tiny", vocab_size=50, feature_dim=16)
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model: Any = family.build(config, Answering.head, seed=0).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # fresh weights are so small that no perturbation would matter
    inputs = family.example_inputs(config, batch=3, text=6, regions=4, seed=1)
    inputs = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    answers = torch.rand(3, ANSWERS, generator=torch.Generator().manual_seed(2)).double()
    return family, model.train(), Batch(inputs, {"answers": answers})


def reference(
    forward: Callable[[Tensor | None], Tensor], shape: tuple[int, ...], answers: Tensor, rate: float
) -> tuple[list[Tensor], Tensor]:
    """Three passes with a backward each, as the official code runs them; gives the deltas and the summed losses."""
    clean = forward(None).softmax(1)
    delta, deltas, total = torch.zeros(shape, dtype=torch.float64), [], torch.zeros(())
    for _ in range(3):
        delta = delta.detach().requires_grad_()
        deltas.append(delta.detach().clone())
        logits = forward(delta)
        p = logits.softmax(1)
        kl = (clean * (clean.log() - p.log()) + p * (p.log() - clean.log())).sum(1).mean()
        bce = -(answers * logits.sigmoid().log() + (1 - answers) * (1 - logits.sigmoid()).log()).sum(1).mean()
        loss = (bce + 1.5 * kl) / 3
        loss.backward(retain_graph=True)
        total = total + loss.detach()
        step = [rate * g / max(float((g**2).sum().sqrt()), 1e-8) for g in delta.grad]
        delta = delta.detach() + torch.stack(step)
    return deltas, total


@pytest.mark.parametrize("modality", ["text", "image"])
@pytest.mark.parametrize("name", ["lxmert", "uniter"])
def test_deltas_and_gradients_are_those_of_three_passes_with_a_backward_each(
    name: str, modality: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, model, batch = model_and_batch(name)
    inputs, words = batch.inputs, getattr(model, name).embeddings.word_embeddings

    def forward(delta: Tensor | None) -> Tensor:
        if delta is None:
            return family.logits(model, inputs)
        if modality == "image":
            return family.logits(model, inputs | {"visual_feats": inputs["visual_feats"] + delta})
        with monkeypatch.context() as patch:
            plain = type(words).forward
            patch.setattr(
                type(words),
                "forward",
                lambda self, ids: plain(self, ids) + delta if self is words else plain(self, ids),
            )
            return family.logits(model, inputs)

    shape = tuple(inputs["visual_feats"].shape) if modality == "image" else (*inputs["input_ids"].shape, 32)
    deltas, loss = reference(forward, shape, batch.targets["answers"], rate=0.5)
    wanted = {key: one.grad.clone() for key, one in model.named_parameters() if one.grad is not None}
    model.zero_grad(set_to_none=True)

    seen: list[Tensor] = []
    plain_shift = adversarial.shifted_logits

    def spy(model: Any, family: Any, inputs: Any, deltas: Any) -> Tensor:
        seen.append(deltas[modality].detach().clone())
        return plain_shift(model, family, inputs, deltas)

    monkeypatch.setattr(adversarial, "shifted_logits", spy)
    found = Adversarial(Answering(), family, parse_perturbation(f"{modality}:0.5")).loss(model, batch)
    found.backward()
    assert not seen[0].any()
    for mine, theirs in zip(seen, deltas, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.detach(), loss, rtol=1e-9, atol=1e-12, check_dtype=False)
    own = {key: one.grad for key, one in model.named_parameters() if one.grad is not None}
    assert own.keys() == wanted.keys()
    for key, gradient in own.items():
        torch.testing.assert_close(gradient, wanted[key], rtol=1e-7, atol=1e-10)


def test_both_modalities_are_the_mean_of_each_alone() -> None:
    family, model, batch = model_and_batch("uniter")
    losses = [
        Adversarial(Answering(), family, parse_perturbation(text)).loss(model, batch).item()
        for text in ("text:0.5", "image:0.5", "text+image:0.5")
    ]
    assert losses[2] == pytest.approx((losses[0] + losses[1]) / 2, rel=1e-12)
    assert losses[0] != losses[1]


def test_divergence_is_reduced_as_in_the_official_code() -> None:
    p, q = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0)).double().unbind(0)
    targets = {"right": torch.zeros(4)}
    each = sum((a.softmax(1) * (a.log_softmax(1) - b.log_softmax(1))).sum() for a, b in ((p, q), (q, p)))
    assert float(symmetric_divergence("pair", p, q, targets)) == pytest.approx(float(each) / 4)
    assert float(symmetric_divergence("choice", p, q, targets)) == pytest.approx(float(each) / 8)


@pytest.mark.parametrize("text", ["sound", "text+text", "text:0", "text:fast", ":0.1", "text:-1", "text:nan"])
def test_a_perturbation_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(VlcompressError, match="give text, image or text\\+image"):
        parse_perturbation(text)


@pytest.mark.parametrize("text", ["", "text", "image:0.01", "text+image:0.1"])
def test_a_perturbation_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_perturbation(text)) == text
    assert bool(parse_perturbation(text)) == bool(text)


def opened(home: Path, data: Path, perturbed: str, family: str = "lxmert", task: str = "vqa") -> Experiment:
    recipe = default_recipe(family, task, "tiny").override(
        data={"source": str(data)}, training={"steps": 12, "adversarial": perturbed}
    )
    return open_experiment(recipe, home, say=[].append)


def test_a_plain_trainings_identity_is_what_it_was(tiny_scenes: Path, tmp_path: Path) -> None:
    plain, hard = (opened(tmp_path, tiny_scenes, one) for one in ("", "text:0.01"))
    assert "adversarial" not in plain.spec(Trial(0)).document() | plain.spec(Trial(0)).document()["hyper"]
    assert hard.spec(Trial(0)).document() == plain.spec(Trial(0)).document() | {"adversarial": "text:0.01"}


def test_an_attack_lowers_the_score_the_more_the_stronger_it_is(tiny_scenes: Path, tmp_path: Path) -> None:
    experiment = opened(tmp_path, tiny_scenes, "")
    trained = experiment.train(Trial(0), "dense")
    model, task = experiment.model_of(trained), experiment.score_task
    scores = [
        attacked_score(model, experiment.family, task, parse_perturbation(f"text+image:{rate}"))
        for rate in ("1e-12", "50")
    ]
    assert scores[0] == pytest.approx(trained.scores.mean, abs=1e-6)
    assert scores[1] < scores[0]


@pytest.mark.parametrize(("family", "task"), [("vilt", "vqa"), ("uniter", "retrieval")])
def test_cells_without_it_are_refused(family: str, task: str) -> None:
    class Ranking(Answering):
        head = Head("match") if task == "retrieval" else Answering.head

    with pytest.raises(VlcompressError, match=f"adversarial training of {family}.*there for lxmert, uniter"):
        Adversarial(Ranking(), family_named(family), parse_perturbation("text"))


def test_training_learns_under_perturbation(tiny_scenes: Path, tmp_path: Path) -> None:
    experiment = opened(tmp_path, tiny_scenes, "text+image:0.1")
    losses: list[float] = []
    model = build_model(experiment, Trial(0))
    train(
        model,
        objective_of(experiment, Trial(0)),
        experiment.hyper,
        seed=0,
        journal=lambda entry: losses.append(entry.loss),
    )
    assert sum(losses[-3:]) < sum(losses[:3])
