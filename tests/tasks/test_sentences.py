"""Sentence classification end to end on an encoder of text, from built-in data."""

import json
from pathlib import Path

import torch

from vlcompress.data.scenes.benchmarks import make_benchmark
from vlcompress.recipe import default_recipe
from vlcompress.tickets.open_experiment import open_experiment

KINDS = 15


def test_a_text_encoder_learns_from_built_in_questions(tmp_path: Path) -> None:
    folder = make_benchmark(tmp_path / "data", "sentences", size="tiny")
    recipe = default_recipe("encoder", "sentences", "tiny").override(data={"source": str(folder)})
    experiment = open_experiment(recipe, tmp_path)
    task = experiment.score_task
    assert experiment.config["reads"] == ["input_ids"]
    assert len(experiment.train_task.head.labels) == KINDS
    model = experiment.family.build(experiment.config, experiment.train_task.head, seed=0)
    batch = experiment.train_task.batch(range(8), torch.Generator())
    assert batch.inputs.keys() == {"input_ids", "attention_mask"}
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    first = experiment.train_task.loss(model, batch)
    for _ in range(20):
        loss = experiment.train_task.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < first / 2
    scores = task.evaluate(model, batch=16)
    assert len(scores.scores) == len(task) == 32
    rows = json.loads(task.submission(lambda inputs: experiment.family.logits(model, inputs).detach(), batch=16))  # type: ignore[attr-defined]
    assert rows[0].keys() == {"class", "id"}
