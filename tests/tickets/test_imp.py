"""IMP as Algorithm 1 of Gan et al. has it, checked on the trainings that it leaves on the disk."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from tests.training.test_watching import Seen
from vlcompress.artefacts import read_json, save_tensors
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Head
from vlcompress.models.registry import family_named
from vlcompress.pruning.allocation import Global
from vlcompress.pruning.criterion import Magnitude
from vlcompress.pruning.mask import prune
from vlcompress.pruning.pattern import Unstructured
from vlcompress.recipe import Recipe
from vlcompress.tasks.base import Scores
from vlcompress.tickets.experiment import Experiment, build_model
from vlcompress.tickets.imp import TrainedArm, ticket_of, train_arms
from vlcompress.tickets.open_experiment import open_experiment
from vlcompress.tickets.run import find_ticket, newest_run
from vlcompress.tickets.spec import Trial
from vlcompress.tickets.store import DOCUMENT, LOG, TrainingResult
from vlcompress.tickets.ticket import load_ticket
from vlcompress.training.checkpoint import distinct


def opened(recipe: Recipe, home: Path) -> Experiment:
    return open_experiment(recipe, home, say=lambda line: None)


def by_arm(cells: list[TrainedArm]) -> dict[str, list[TrainedArm]]:
    return {arm: [cell for cell in cells if cell.arm == arm] for arm in {cell.arm for cell in cells}}


def test_rounds_prune_trained_weights_and_rewind_to_theta0(recipe: Recipe, tmp_path: Path) -> None:
    experiment = opened(recipe, tmp_path)
    cells = train_arms(experiment)
    assert [(cell.arm, cell.round, cell.sparsity) for cell in cells] == [
        ("dense", 0, 0.0),
        ("ticket", 1, pytest.approx(0.25, abs=1e-4)),
        ("ticket", 2, pytest.approx(0.5, abs=1e-4)),
    ]
    dense, first, second = (cell.trained[0] for cell in cells)
    expected = experiment.keep_all()
    for trained, level in ((dense, 0.25), (first, 0.5)):
        expected = prune(
            trained.weights(), expected, level, pattern=Unstructured(), criterion=Magnitude(), allocation=Global()
        )
    assert second.masks().sha256() == expected.sha256()
    start = build_model(experiment, Trial(0, second.masks())).state_dict()
    assert all(torch.equal(start[name], value) for name, value in experiment.theta0.items())


def test_every_round_has_the_same_fresh_head_and_another_seed_another(recipe: Recipe, tmp_path: Path) -> None:
    experiment = opened(recipe, tmp_path)
    heads = [
        build_model(experiment, Trial(seed, masks)).state_dict()
        for seed, masks in ((0, None), (0, experiment.keep_all()), (1, None))
    ]
    name = next(name for name in heads[0] if name.startswith("answer_head.") and name.endswith("0.weight"))
    assert torch.equal(heads[0][name], heads[1][name])
    assert not torch.equal(heads[0][name], heads[2][name])


def test_pruned_weights_are_bit_zero_in_every_saved_file(recipe: Recipe, tmp_path: Path) -> None:
    ticket = ticket_of(train_arms(opened(recipe, tmp_path))).trained[0]
    weights = ticket.weights()
    for name, mask in ticket.masks().items():
        assert (weights[name][~mask].view(torch.int32) == 0).all()
        assert (weights[name][mask] != 0).any()


def test_what_is_said_of_trainings_are_their_scores_and_sparsity(recipe: Recipe, tmp_path: Path) -> None:
    lines: list[str] = []
    experiment = open_experiment(recipe.override(pruning={"controls": ["random"]}), tmp_path, say=lines.append)
    cells = train_arms(experiment)
    said = [line for line in lines if line.startswith("seed 0")]
    scores = [f"{100 * cell.trained[0].scores.mean:.2f} (" for cell in cells]
    assert all(f": {score}" in line for line, score in zip(said, scores, strict=True))
    assert said[-1].startswith("seed 0 control random at 50.0 %: ")


def test_controls_change_one_thing_each(recipe: Recipe, tmp_path: Path) -> None:
    recipe = recipe.override(
        pruning={"pattern": "block:8x4", "controls": ["random", "shuffle", "reinit", "unstructured"]}
    )
    experiment = opened(recipe, tmp_path)
    arms = by_arm(train_arms(experiment))
    ticket = arms["ticket"][-1].trained[0].masks()
    assert arms["shuffle"][0].trained[0].masks().sha256() == ticket.sha256()
    assert arms["reinit"][0].trained[0].masks().sha256() == ticket.sha256()
    random = arms["random"][0].trained[0].masks()
    assert random.sha256() != ticket.sha256()
    assert random.kept == ticket.kept
    assert [cell.round for cell in arms["unstructured"]] == [1, 2]
    starts = {read_json(arms[arm][0].trained[0].folder / "training.json")["start"] for arm in ("shuffle", "reinit")}
    assert starts == {"shuffled", "fresh"}


def test_shuffled_start_permutes_within_each_weight(recipe: Recipe, tmp_path: Path) -> None:
    experiment = opened(recipe, tmp_path)
    name = experiment.prunable.names[0]
    start = build_model(experiment, Trial(0, experiment.keep_all(), "shuffled")).state_dict()
    assert not torch.equal(start[name], experiment.theta0[name])
    assert torch.equal(start[name].flatten().sort().values, experiment.theta0[name].flatten().sort().values)
    untouched = next(name for name in experiment.theta0 if name not in experiment.prunable.names)
    assert torch.equal(start[untouched], experiment.theta0[untouched])


def test_rewinding_starts_from_the_dense_training_at_that_step(recipe: Recipe, tmp_path: Path) -> None:
    experiment = opened(recipe.override(pruning={"rewind_step": 2}), tmp_path)
    cells = train_arms(experiment)
    rewound = build_model(experiment, Trial(0, cells[-1].trained[0].masks(), "rewound")).state_dict()
    dense = cells[0].trained[0].weights()
    name = experiment.prunable.names[0]
    assert not torch.equal(rewound[name], experiment.theta0[name])
    assert not torch.equal(rewound[name], dense[name])
    experiment.progress = seen = Seen()
    again = experiment.train(Trial(0, experiment.keep_all(), "rewound"), "again")
    steps = [json.loads(line)["step"] for line in (again.folder / LOG).read_text().splitlines()]
    assert [entry.step for entry in seen.entries] == steps == [3, 4]  # the schedule goes on at the rewinding point


def test_several_seeds_are_whole_chains_and_give_one_verdict(recipe: Recipe, tmp_path: Path) -> None:
    cells = train_arms(opened(recipe.override(pruning={"seeds": (0, 1), "controls": ["random"]}), tmp_path))
    for cell in (ticket_of(cells), by_arm(cells)["random"][0]):
        first, second = cell.trained
        assert first.masks().sha256() != second.masks().sha256()
    verdict = ticket_of(cells).verdict
    assert verdict is not None
    assert verdict.seeds == 2


def test_a_dense_model_that_scores_0_ends_the_run_before_its_rounds(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingResult, "scores", Scores(torch.zeros(4), torch.zeros(4, dtype=torch.int64)))
    with pytest.raises(VlcompressError, match="the dense model scores 0: train it longer"):
        train_arms(opened(recipe, tmp_path))
    assert len(list((tmp_path / "trainings").glob(f"*/{DOCUMENT}"))) == 1


def test_nothing_is_trained_twice(recipe: Recipe, tmp_path: Path) -> None:
    lines: list[str] = []
    experiment = opened(recipe, tmp_path)
    experiment.say = lines.append
    train_arms(experiment)
    assert not any("done before" in line for line in lines)
    lines.clear()
    longer = opened(recipe.override(pruning={"sparsity": 0.75}), tmp_path)
    longer.say = lines.append
    train_arms(longer)
    assert ["done before" in line for line in lines if line.startswith("seed ")] == [True, True, True, False]


def test_ticket_is_written_and_loads_and_the_run_is_found(recipe: Recipe, tmp_path: Path) -> None:
    run = find_ticket(recipe, tmp_path, say=lambda line: None)
    ticket = load_ticket(run.ticket)
    assert ticket.masks.sparsity == pytest.approx(0.5, abs=1e-4)
    assert ticket.document["recipe_sha256"] == recipe.sha256()
    family = family_named(ticket.family)
    model = family.build(ticket.config, ticket.head, seed=0)
    model.load_state_dict(dict(ticket.weights))
    opened = AutoModelForQuestionAnswering.from_pretrained(run.ticket).state_dict()
    assert all(torch.equal(opened[name], tensor) for name, tensor in ticket.weights.items())
    assert AutoTokenizer.from_pretrained(run.ticket).vocab_size == ticket.config["vocab_size"]
    assert "LxmertForQuestionAnswering.from_pretrained" in (run.ticket / "README.md").read_text()
    assert newest_run(tmp_path).folder == run.folder
    assert "a single seed" in (run.ticket / "README.md").read_text()
    lines: list[str] = []
    find_ticket(recipe, tmp_path, say=lines.append)
    assert lines == [f"this recipe has been run: {run.folder}"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"pruning": {"pattern": "block:5x5"}}, "pattern 'block:5x5' does not divide weight"),
        ({"pruning": {"pattern": "round"}}, "unknown pattern 'round'"),
        ({"pruning": {"schedule": "cosine"}}, "unknown schedule 'cosine'"),
        ({"pruning": {"sparsity": 0.0}}, "sparsity 0 prunes nothing"),
        ({"pruning": {"prunable": "all"}}, "unknown pruning policy 'all'"),
        ({"pruning": {"controls": ["unstructured"]}}, "control 'unstructured' is the ticket itself"),
        ({"model": {"checkpoint": "built-in"}}, "no built-in weights for lxmert tiny"),
        ({"model": {"checkpoint": "/nowhere/model.pth"}}, "/nowhere/model.pth"),
        ({"model": {"family": "vilbert"}}, "unknown model 'vilbert'"),
        ({"data": {"task": "vga"}}, "unknown task 'vga'"),
        ({"data": {"task": "vcr"}}, "lxmert has no task vcr: it has vqa, gqa, nlvr2"),
        ({"data": {"source": "/nowhere"}}, "no data folder at '/nowhere'"),
        ({"data": {"source": "scenes:huge"}}, "unknown size of scenes 'huge'"),
        ({"data": {"score": "train"}}, "split 'train' is trained on"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(
    recipe: Recipe, tmp_path: Path, change: dict, text: str
) -> None:
    with pytest.raises(VlcompressError, match=text):
        find_ticket(recipe.override(**change), tmp_path, say=lambda line: None)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_head_may_start_from_the_rows_of_the_same_answers(recipe: Recipe, tmp_path: Path) -> None:
    """LXMERT's --loadLXMERTQA: known answers take the checkpoint's rows, the others start at zero, in every round."""
    data = shutil.copytree(recipe.data.source, tmp_path / "data")
    labels = opened(recipe, tmp_path).train_task.head.labels
    answers = [*labels[5:], "something else"]
    (data / "lxmert").mkdir(exist_ok=True)
    (data / "lxmert" / "all_ans.json").write_text(json.dumps([{"ans": answer, "dsets": []} for answer in answers]))
    config = opened(recipe, tmp_path).config
    checkpoint = tmp_path / "model_LXRT.safetensors"
    pretrained = family_named("lxmert").build(config, Head("pretraining", tuple(answers)), seed=3).state_dict()
    save_tensors(checkpoint, distinct(pretrained))
    asked = recipe.override(data={"source": str(data)}, model={"checkpoint": str(checkpoint), "head": "answers"})
    experiment = opened(asked, tmp_path)
    rows = build_model(experiment, Trial(1, experiment.keep_all())).state_dict()["answer_head.logit_fc.3.weight"]
    assert torch.equal(rows[5:], pretrained["answer_head.logit_fc.3.weight"][: len(labels) - 5])
    assert not rows[:5].any()
    fresh = opened(asked.override(model={"head": "fresh"}), tmp_path)
    assert "answers" not in fresh.spec(Trial(0)).document()
    with pytest.raises(VlcompressError, match="it needs lxmert, vqa or gqa, and a checkpoint"):
        opened(recipe.override(model={"head": "answers"}), tmp_path)
