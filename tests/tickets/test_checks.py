"""The options of a recipe on whole runs: what they change, and that at their defaults they change nothing."""

import dataclasses
from pathlib import Path

import pytest
import torch

from vlcompress.artefacts import distinguishing, load_tensors, read_json
from vlcompress.data.scenes.benchmarks import make_benchmark
from vlcompress.errors import VlcompressError
from vlcompress.pruning.allocation import Global
from vlcompress.pruning.criterion import parse_criterion
from vlcompress.pruning.mask import prune
from vlcompress.pruning.pattern import Block
from vlcompress.pruning.permutation import Permutation
from vlcompress.recipe import Recipe, default_recipe
from vlcompress.tickets.checks import check_run
from vlcompress.tickets.experiment import Experiment, build_model
from vlcompress.tickets.imp import train_arms
from vlcompress.tickets.models import samples, score_task, ticket_model
from vlcompress.tickets.open_experiment import open_experiment
from vlcompress.tickets.run import find_ticket
from vlcompress.tickets.spec import Trial
from vlcompress.tickets.store import TrainingResult
from vlcompress.tickets.ticket import load_ticket


def opened(recipe: Recipe, home: Path) -> Experiment:
    return open_experiment(recipe, home, say=lambda line: None)


def weights(trained: TrainingResult) -> dict[str, torch.Tensor]:
    return load_tensors(trained.folder / "weights.safetensors")


def test_at_their_defaults_no_identity_changes(recipe: Recipe, tmp_path: Path) -> None:
    """Names of runs and trainings that exist: the options may add to a document only where they are used."""
    block = {"pattern": "block:128x1", "criterion": "magnitude", "schedule": "linear:10", "sparsity": 0.5, "target": ""}
    plain = default_recipe("lxmert", "vqa", "small").override(pruning=block)
    assert plain.sha256().startswith("a65e69895b907cc5")
    experiment = opened(recipe, tmp_path)
    for trial in (Trial(0), Trial(0, experiment.keep_all())):
        assert list(experiment.spec(trial).document()) == [
            *("generation", "family", "config", "theta0", "task", "data", "vocabulary", "hyper", "seed", "mask"),
            *("start", "rewind_step"),
        ]
    assert list(distinguishing(experiment.hyper)) == [
        *("steps", "batch", "learning_rate", "warmup", "clip", "weight_decay", "head_rate"),
    ]


@pytest.mark.parametrize("criterion", ["gradient", "movement"])
def test_saliency_is_summed_for_its_criterion_alone_and_ranks(recipe: Recipe, tmp_path: Path, criterion: str) -> None:
    plain = opened(recipe, tmp_path).train(Trial(0), "dense")
    experiment = opened(recipe.override(pruning={"criterion": criterion, "pattern": "block:8x4"}), tmp_path)
    dense, first, _ = (cell.trained[0] for cell in train_arms(experiment))
    assert plain.saliency() == {}
    assert dense.folder != plain.folder
    assert all(torch.equal(value, weights(plain)[name]) for name, value in weights(dense).items())
    assert read_json(dense.folder / "training.json")["saliency"] == criterion
    assert set(dense.saliency()) == set(experiment.prunable.names)
    expected = prune(
        dense.weights(),
        experiment.keep_all(),
        0.25,
        pattern=Block(8, 4),
        criterion=parse_criterion(criterion).of(0, dense.saliency()),
        allocation=Global(),
    )
    assert first.masks().sha256() == expected.sha256()
    control = experiment.spec(Trial(0, first.masks(), "shuffled")).document()
    assert "saliency" not in control


def test_the_dense_model_teaches_every_sparse_one_and_is_shared(recipe: Recipe, tmp_path: Path) -> None:
    plain = [cell.trained[0] for cell in train_arms(opened(recipe, tmp_path))]
    taught = [cell.trained[0] for cell in train_arms(opened(recipe.override(training={"distill": 1.0}), tmp_path))]
    assert taught[0].folder == plain[0].folder
    assert taught[1].masks().sha256() == plain[1].masks().sha256()
    for one, other in zip(taught[1:], plain[1:], strict=True):
        assert one.folder != other.folder
        assert any(not torch.equal(value, weights(other)[name]) for name, value in weights(one).items())
    teacher = read_json(taught[0].folder / "training.json")["identity"]
    assert read_json(taught[1].folder / "training.json")["distill"] == {"weight": 1.0, "teacher": teacher}


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan")])
def test_a_weight_of_the_teacher_that_is_none(recipe: Recipe, weight: float) -> None:
    with pytest.raises(
        VlcompressError, match=r"training.distill .* is outside \[0, inf\): give 0 \(off\), or a weight above 0"
    ):
        recipe.override(training={"distill": weight})


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in data of retrieval."""
    return make_benchmark(tmp_path_factory.mktemp("data") / "captions", "retrieval", size="tiny", processes=1)


def test_a_task_without_logits_cannot_be_taught(captions: Path, tmp_path: Path) -> None:
    recipe = default_recipe("lxmert", "pretraining", "tiny").override(
        data={"source": str(captions)}, training={"distill": 0.5}
    )
    with pytest.raises(VlcompressError, match="distillation compares logits, which this task has none of"):
        find_ticket(recipe, tmp_path, say=lambda line: None)
    assert not list(tmp_path.rglob("trainings"))


def test_a_task_that_cannot_be_perturbed_is_refused_before_training(captions: Path, tmp_path: Path) -> None:
    recipe = default_recipe("uniter", "retrieval", "tiny").override(
        data={"source": str(captions)}, training={"adversarial": "text"}
    )
    with pytest.raises(VlcompressError, match="adversarial training of uniter on this task is not defined"):
        check_run(opened(recipe, tmp_path))
    assert not list(tmp_path.rglob("trainings"))


def test_a_language_model_of_this_machine_is_read_before_training_and_one_of_the_hub_is_not(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is asked when the control's own training begins."""
    built: list[str] = []
    monkeypatch.setattr("vlcompress.tickets.checks.build_model", lambda _, trial: built.append(trial.start))
    for name, starts in ((str(tmp_path / "bert.pt"), ["language"]), ("google/bert", [])):
        built.clear()
        check_run(opened(recipe.override(model={"language": name}, pruning={"controls": ["language"]}), tmp_path))
        assert built == starts


BLOCKS = {"pattern": "block:4x4", "permutation": "neurons+channels"}


@pytest.mark.parametrize("rewind_step", [0, 2])
def test_reordered_rounds_prune_and_rewind_in_one_order(recipe: Recipe, tmp_path: Path, rewind_step: int) -> None:
    experiment = opened(recipe.override(pruning={**BLOCKS, "rewind_step": rewind_step}), tmp_path)
    dense, first, second = (cell.trained[0] for cell in train_arms(experiment))
    order = second.permutation()
    assert dense.permutation() is None
    assert order is not None
    in_order = order.apply(dense.weights())
    expected = prune(
        {name: in_order[name] for name in experiment.prunable.names},
        experiment.keep_all(),
        0.25,
        pattern=Block(4, 4),
        criterion=parse_criterion("magnitude").of(0),
        allocation=Global(),
    )
    assert first.masks().sha256() == expected.sha256()
    start = build_model(
        experiment, Trial(0, second.masks(), "rewound" if rewind_step else "theta0", order)
    ).state_dict()
    plain = build_model(experiment, Trial(0, second.masks(), "rewound" if rewind_step else "theta0")).state_dict()
    assert all(torch.equal(start[name], value) for name, value in order.apply(plain).items())
    moved = [name for name in experiment.prunable.names if not torch.equal(start[name], plain[name])]
    assert any(".query." in name for name in moved)


def test_kept_blocks_hold_more_of_the_dense_model_once_it_is_reordered(recipe: Recipe, tmp_path: Path) -> None:
    def kept(permutation: str) -> float:
        experiment = opened(recipe.override(pruning={**BLOCKS, "rounds": 1, "permutation": permutation}), tmp_path)
        cells = train_arms(experiment)
        dense = dataclasses.replace(cells[0].trained[0], reading=cells[1].trained[0].permutation()).weights()
        return float(sum(dense[name][mask].square().sum() for name, mask in cells[1].trained[0].masks().items()))

    assert kept("neurons+channels") > kept("neurons") > kept("")


def test_a_reordered_ticket_is_a_plain_model_and_keeps_the_order(recipe: Recipe, tmp_path: Path) -> None:
    asked = recipe.override(pruning={**BLOCKS, "controls": ["random", "shuffle"], "criterion": "gradient"})
    run = find_ticket(asked, tmp_path, say=lambda line: None)
    ticket = load_ticket(run.ticket)
    assert ticket.permutation is not None
    assert (
        "`permutation.safetensors` says for each row or column where it stood" in (run.ticket / "README.md").read_text()
    )
    shuffled = run.training("shuffle", 2)
    assert Permutation.load(shuffled / "permutation.safetensors").sha256() == ticket.permutation.sha256()
    assert not (run.training("random", 2) / "permutation.safetensors").exists()
    family, model = ticket_model(ticket)
    scores = family.logits(model, samples(score_task(run, ticket), 8)[0]).argmax(dim=1)
    assert scores.tolist() == TrainingResult(run.training("ticket", 2)).scores.predictions[:8].tolist()


def test_rounds_grow_their_blocks(recipe: Recipe, tmp_path: Path) -> None:
    experiment = opened(recipe.override(pruning={"pattern": "block:8x8", "growth": "4x1"}), tmp_path)
    fine, coarse = (cell.trained[0].masks() for cell in train_arms(experiment)[1:])
    assert (fine.sparsity, coarse.sparsity) == (pytest.approx(0.25, abs=2e-3), pytest.approx(0.5, abs=2e-3))
    whole = [Block(8, 8).unit_means(mask.float()) for mask in coarse.values()]
    assert all(((one == 0) | (one == 1)).all() for one in whole)
    assert any(((one > 0) & (one < 1)).any() for one in (Block(8, 8).unit_means(m.float()) for m in fine.values()))


@pytest.mark.parametrize(
    ("pruning", "text"),
    [
        ({"permutation": "rows"}, "unknown permutation 'rows': allowed are neurons, neurons"),
        ({"criterion": "movment"}, r"unknown criterion 'movment': .*did you mean 'movement'"),
        ({"pattern": "block:8x8", "growth": "3x1"}, "block:8x8 is not made of whole block:3x1"),
        ({"pattern": "block:8x8", "growth": "2x1,4x1"}, "has 3 sizes and the schedule 2 round"),
        ({"pattern": "neuron+head", "growth": "16x1"}, "only blocks grow"),
        ({"pattern": "block:8x8", "allocation": "modal"}, r"unknown allocation 'modal': .*did you mean 'modality'"),
    ],
)
def test_options_that_cannot_be(recipe: Recipe, tmp_path: Path, pruning: dict, text: str) -> None:
    with pytest.raises(VlcompressError, match=text):
        find_ticket(recipe.override(pruning=pruning), tmp_path, say=lambda line: None)
    assert not list(tmp_path.rglob("trainings"))


def test_options_without_effect_are_told(recipe: Recipe, tmp_path: Path) -> None:
    lines: list[str] = []
    idle = recipe.override(pruning={"permutation": "neurons", "growth": "16x1"})
    experiment = opened(idle, tmp_path)
    experiment.say = lines.append
    check_run(experiment)
    assert lines == [
        "warning: pruning.growth '16x1' has no effect with pattern 'unstructured': it has no blocks",
        "warning: pruning.permutation 'neurons' has no effect with pattern 'unstructured': it cuts no blocks from what "
        "could be reordered",
    ]
    folders = [cell.trained[0].folder.name for cell in train_arms(experiment)]
    assert folders == [cell.trained[0].folder.name for cell in train_arms(opened(recipe, tmp_path))]


@pytest.mark.parametrize(
    ("pattern", "rounds", "told"), [("2:4", 1, 1), ("2:4", 0, 0), ("attention=head,ffn=2:4", 1, 1)]
)
def test_rounds_that_end_before_a_pattern_holds_are_told(
    recipe: Recipe, tmp_path: Path, pattern: str, rounds: int, told: int
) -> None:
    lines: list[str] = []
    sparsity = 0.5 if pattern == "2:4" else 0.4
    experiment = opened(recipe.override(pruning={"pattern": pattern, "rounds": rounds, "sparsity": sparsity}), tmp_path)
    experiment.say = lines.append
    check_run(experiment)
    assert [
        line.startswith("warning: at sparsity 0.25 some groups of 4 weights keep more than 2") for line in lines
    ] == [True] * told
    if told and pattern == "2:4":
        assert lines[0].endswith("where 50 % of a weight is pruned, and here it is 25 %")


@pytest.mark.parametrize(
    "changes",
    [
        {"pruning": {"pattern": "2:4", "controls": ["random", "shuffle", "reinit", "unstructured"]}},
        {
            "pruning": {"pattern": "2:4", "criterion": "movement", "allocation": "modality"},
            "training": {"distill": 1.0},
        },
        {"pruning": {"pattern": "attention=head,ffn=2:4", "sparsity": 0.486486, "controls": ["random"]}},
        {
            "pruning": {
                "pattern": "attention=block:4x4,ffn=2:4",
                "sparsity": 0.486486,
                "permutation": "neurons+channels",
            }
        },
    ],
)
def test_n_of_m_goes_with_controls_options_and_mixtures(recipe: Recipe, tmp_path: Path, changes: dict) -> None:
    experiment = opened(recipe.override(**changes), tmp_path)
    check_run(experiment)
    cells = {(cell.arm, cell.round): cell.trained[0].masks() for cell in train_arms(experiment)[1:]}
    for (arm, number), masks in cells.items():
        if number == 2 and arm != "unstructured":
            for coupling in experiment.couplings:
                if coupling.kind == "neuron":
                    assert (masks[coupling.consumer].view(-1, 4).sum(dim=1) == 2).all(), arm


def test_a_ticket_in_the_checkpoints_order_speaks_of_none(recipe: Recipe, tmp_path: Path) -> None:
    run = find_ticket(recipe.override(pruning={"permutation": "neurons"}), tmp_path, say=lambda line: None)
    assert not (run.ticket / "permutation.safetensors").exists()
    assert "permutation" not in (run.ticket / "README.md").read_text()
