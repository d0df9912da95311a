"""An experiment: the data, the model and the pre-trained weights of a recipe, opened once, and trainings on them."""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from vlcompress.artefacts import save_tensors
from vlcompress.data.published_tokenizer import read_words
from vlcompress.devices import CPU, Compute
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Config, Coupling, Family, LoadReport, Prunable
from vlcompress.models.checkpoints import read_checkpoint
from vlcompress.models.encoder.zero_shot import NAMED, name_classes
from vlcompress.models.language import language_part, published_language_model
from vlcompress.models.objective import Objective
from vlcompress.pruning.budget import Pricing
from vlcompress.pruning.criterion import Criterion, Ranking
from vlcompress.pruning.mask import Masks
from vlcompress.pruning.pattern import Pattern
from vlcompress.pruning.permutation import Permutation, find_permutation
from vlcompress.pruning.repair import Moments, repair
from vlcompress.recipe import Recipe
from vlcompress.tasks.base import Blind, EvalTask, LogitTask, TrainTask
from vlcompress.tasks.support_matrix import blind_of
from vlcompress.tickets.controls import shuffled
from vlcompress.tickets.engine import Engine, Local
from vlcompress.tickets.spec import GENERATION, Start, Teacher, TrainingSpec, Trial
from vlcompress.tickets.store import TrainingResult, TrainingStore
from vlcompress.training.adversarial import Adversarial
from vlcompress.training.calibration import EXAMPLES, drawn, fisher, moments, wanda_of, watched_inputs
from vlcompress.training.checkpoint import distinct, restore
from vlcompress.training.distillation import Distilled
from vlcompress.training.hyperparameters import Hyperparameters
from vlcompress.training.language import WEIGHTS as LANGUAGE_WEIGHTS
from vlcompress.training.language import words_alone
from vlcompress.training.loop import evaluate, train
from vlcompress.training.ranks import lead
from vlcompress.training.saliency import Saliency
from vlcompress.training.sampling import token_lengths
from vlcompress.training.watching import Journal, Watcher, watched

Say = Callable[[str], None]


@dataclass
class Experiment:
    """Everything a recipe needs, opened once.

    Attributes:
        recipe: what is to be run.
        family: of the model.
        train_task, score_task: examples to learn from, and to be scored on.
        data: identity of the data of each.
        config: of the model.
        vocabulary: text of the vocabulary file.
        checkpoint: where θ0 is loaded from; None for random weights.
        home: folder under which trainings are kept.
        compute: where to train, and in what.
        say: called with a line at each step of the work.
        progress: watches every training.
        reported: score of questions alone, or of chance, in [0, 1], as the data report has it; None where it has none.
        answers: of the checkpoint's answer head, in the order of its rows, where φ0 takes that head; () is a new head.
        pricing: what the model's heads and neurons cost, where the recipe has a target.
        engine: who does trainings that are not there yet.
        follow: what another device's process does for a training that this one leads: called with recipe, home,
            compute, trial and the training's hash; None where it could not open the same.
        load_report: how the weights that were loaded last fitted.
    """

    recipe: Recipe
    family: Family
    train_task: TrainTask
    score_task: EvalTask
    data: tuple[str, str]
    config: Config
    vocabulary: str
    checkpoint: str | None
    home: Path
    compute: Compute = CPU
    say: Say = print
    progress: Watcher | None = None
    reported: float | None = None
    answers: tuple[str, ...] = ()
    pricing: Pricing | None = None
    engine: Engine = field(default_factory=Local)
    follow: Callable[[Recipe, Path, Compute, Trial, str], None] | None = None
    load_report: LoadReport | None = field(default=None, init=False)
    _moments: tuple[tuple[Path, str], Mapping[str, Moments]] | None = field(default=None, init=False)

    @cached_property
    def theta0(self) -> dict[str, Tensor]:
        """The pre-trained backbone: every parameter but the head's, and what the head has of pre-training."""
        model = self.family.build(self.config, self.train_task.head, seed=self.recipe.pruning.seeds[0])
        if self.checkpoint is not None:
            self.load_report = self.family.load(model, self.checkpoint, fresh_head=True)
        prefixes = (self.family.backbone_prefix, *(self.family.inherited if self.checkpoint is not None else ()))
        if self.recipe.model.head == "names" and self.checkpoint is not None:
            name_classes(model, self.checkpoint, self.train_task.head.labels)
            prefixes = (*prefixes, NAMED)
        state = model.state_dict()
        return {name: state[name].detach().cpu().clone() for name in state if name.startswith(prefixes)}

    @cached_property
    def theta0_sha256(self) -> str:
        """Hash over names and bits of θ0."""
        return tensors_sha256(self.theta0)

    @property
    def vocabulary_sha256(self) -> str:
        """Hash of the vocabulary file."""
        return hashlib.sha256(self.vocabulary.encode()).hexdigest()

    @cached_property
    def blind(self) -> Blind:
        """What a model that does not look scores, worked out once it is asked for: it may read the whole split."""
        return blind_of(self.reported, self.score_task, self.config)

    @property
    def start(self) -> Start:
        """Where a round and its random control start: at θ_i if the recipe rewinds to one, else at θ0."""
        return "rewound" if self.recipe.pruning.rewind_step else "theta0"

    @property
    def prunable(self) -> Prunable:
        """Which weights the recipe's policy prunes."""
        return self._anatomy[0]

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """The shape of every parameter, the head's included."""
        return self._anatomy[1]

    @property
    def couplings(self) -> Sequence[Coupling]:
        """The attention heads and feed-forward neurons of the full model."""
        return self._anatomy[2]

    @cached_property
    def _anatomy(self) -> tuple[Prunable, dict[str, torch.Size], Sequence[Coupling]]:
        model = self.family.build(self.config, self.train_task.head, seed=0)
        shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        return self.family.prunable(model, self.recipe.pruning.prunable), shapes, self.family.couplings(model)

    @cached_property
    def hyper(self) -> Hyperparameters:
        """Steps and rates of every training; epochs are turned into steps of the training splits."""
        asked = self.recipe.training
        steps = asked.steps or round(asked.epochs * max(1, len(self.train_task) // asked.batch))
        names = {field.name for field in dataclasses.fields(Hyperparameters)} - {"steps"}
        return Hyperparameters(steps, **{name: getattr(asked, name) for name in names})

    @cached_property
    def lengths(self) -> Sequence[int]:
        """Words and regions of every example to learn from, where the recipe counts them; reads every one, once."""
        if not self.hyper.tokens:
            return ()
        self.say(f"counting words and regions of {len(self.train_task)} examples")
        return token_lengths(self.train_task)

    @property
    def language_model(self) -> str:
        """Where the language model that θ'0 is of is read from; "" where it is made."""
        return self.recipe.model.language or published_language_model(self.family, self.recipe.model.size)

    @cached_property
    def language(self) -> tuple[str, str]:
        """The language model that θ'0 is of, and its identity; made of the words of the training splits if need be."""
        if self.language_model:
            return self.language_model, tensors_sha256(read_checkpoint(self.language_model))
        made = words_alone(
            self.family,
            self.config,
            self.train_task,
            read_words(self.vocabulary),
            self.hyper,
            data=self.data[0],
            home=self.home,
            compute=dataclasses.replace(self.compute, devices=1),
            say=self.say,
        )
        return str(made / LANGUAGE_WEIGHTS), made.name

    @property
    def store(self) -> TrainingStore:
        """Where trainings are found and kept."""
        return TrainingStore(self.home / "trainings", self.engine.shared)

    def keep_all(self) -> Masks:
        """Make the mask that prunes nothing."""
        return Masks.keep_all({name: self.theta0[name] for name in self.prunable.names})

    def spec(self, trial: Trial) -> TrainingSpec:
        """Everything that decides a training's result."""
        recipe = self.recipe
        teacher = (
            Teacher(recipe.training.distill, self.spec(Trial(trial.seed)).sha256) if _taught(self, trial) else None
        )
        return TrainingSpec(
            generation=GENERATION,
            family=self.family.name,
            config=self.config,
            theta0=self.theta0_sha256,
            task=recipe.data.task,
            data=self.data,
            vocabulary=self.vocabulary_sha256,
            hyper=self.hyper,
            seed=trial.seed,
            mask="dense" if trial.masks is None else trial.masks.sha256(),
            start=trial.start,
            rewind_step=recipe.pruning.rewind_step,
            held=trial.held,
            answers=self.answers,
            language=self.language[1] if trial.start == "language" else "",
            permutation="" if trial.permutation is None else trial.permutation.sha256(),
            # of any training that a round may prune, no control's
            saliency=recipe.pruning.criterion.saliency if trial.start in ("theta0", "rewound") else None,
            distill=teacher,
            adversarial=str(recipe.training.adversarial),
            loss=recipe.training.loss,
            repaired=EXAMPLES if trial.repaired else 0,
            computed_on=self.compute.identity(),
        )

    def train(self, trial: Trial, label: str) -> TrainingResult:
        """Do a training, or find it done.

        Args:
            trial: what to train.
            label: how to call it in what is reported.
        """
        done = self.store.find(self.spec(trial), scored=trial.scored)
        if done is not None:
            self.say(f"{label}: {100 * done.scores.mean:.2f} (done before)")
            return done
        started = time.monotonic()
        result = self.engine.train(self, trial, label)
        self.say(f"{label}: {100 * result.scores.mean:.2f} ({time.monotonic() - started:.1f} s)")
        return result

    def train_here(self, trial: Trial, label: str) -> TrainingResult:
        """Do a training in this process; arguments as of `train`."""
        make = _prune_and_save if trial.start == "trained" else _train_and_save
        return make(self, trial, self.spec(trial), label, time.monotonic())

    def dense(self, seed: int) -> TrainingResult:
        """Find the dense training of a seed, or do it."""
        return self.store.find(self.spec(Trial(seed))) or self.train(Trial(seed), f"seed {seed} dense")

    def moments(self, result: TrainingResult) -> Mapping[str, Moments]:
        """Gather what goes into the prunable layers of a trained model, by weight; kept until another is asked for."""
        if self._moments is None or self._moments[0] != _read_from(result):
            found = moments(self.model_of(result), self.family, drawn(self.train_task), self.prunable.names)
            self.keep_moments(result, found)
        assert self._moments is not None
        return self._moments[1]

    def keep_moments(self, result: TrainingResult, found: Mapping[str, Moments]) -> None:
        """Keep the moments of a trained model, which were gathered on the way."""
        self._moments = _read_from(result), {name: one.to(CPU.torch_device) for name, one in found.items()}

    def model_of(self, result: TrainingResult) -> nn.Module:
        """Build a finished training's model on the device, in eval mode."""
        model = self.family.build(self.config, self.train_task.head, seed=0)
        restore(model, result.weights())
        return model.to(self.compute.torch_device).eval()


def _read_from(result: TrainingResult) -> tuple[Path, str]:
    """Name what a result's weights are: its folder, and the order that they are read in."""
    return result.folder, "" if result.reading is None else result.reading.sha256()


def build_model(experiment: Experiment, trial: Trial) -> nn.Module:
    """Build what a training starts from: the seed's head φ0 on the backbone that the trial names.

    Raises:
        VlcompressError: weights that are not there, are damaged or do not fit the model.
    """
    head = experiment.train_task.head
    model = experiment.family.build(experiment.config, head, seed=trial.seed)
    if experiment.answers and experiment.checkpoint and trial.start not in ("fresh", "language"):
        experiment.load_report = experiment.family.load_answers(
            model, experiment.checkpoint, answers=experiment.answers, labels=head.labels
        )
    _load_start(experiment, model, trial.start, trial.seed)
    if trial.permutation is not None:
        model.load_state_dict(trial.permutation.apply(model.state_dict()))
    if trial.masks is not None and not trial.held:
        trial.masks.apply(model)
    return model


def _load_start(experiment: Experiment, model: nn.Module, start: Start, seed: int) -> None:
    match start:
        case "theta0":
            model.load_state_dict(experiment.theta0, strict=False)
        case "shuffled":
            model.load_state_dict(shuffled(experiment.theta0, experiment.prunable.names, seed), strict=False)
        case "rewound":
            restore(model, experiment.dense(seed).rewind())
        case "trained":
            restore(model, experiment.dense(seed).weights())
        case "language":
            part = language_part(experiment.family)
            experiment.load_report = part.load_language(model, experiment.language[0])
        case "fresh":
            pass


def objective_of(experiment: Experiment, trial: Trial) -> Objective:
    """Choose what is learned: the task, the task under perturbation, or the task with the dense model as a teacher.

    Raises:
        VlcompressError: adversarial training or distillation of a family or a task that it is not defined for.
    """
    if experiment.recipe.training.adversarial:
        return Adversarial(experiment.train_task, experiment.family, experiment.recipe.training.adversarial)
    if not _taught(experiment, trial):
        return experiment.train_task
    task = teachable(experiment)
    teacher = experiment.model_of(experiment.dense(trial.seed))
    return Distilled(task, experiment.family, teacher, experiment.recipe.training.distill)


def teachable(experiment: Experiment) -> LogitTask:
    """Check that a dense model can teach the task.

    Raises:
        VlcompressError: it has no logits to compare.
    """
    if not isinstance(experiment.train_task, LogitTask):
        raise VlcompressError(
            f"training.distill {experiment.recipe.training.distill:g} on {experiment.recipe.data.task}: distillation "
            "compares logits, which this task has none of; set it to 0, or choose another task"
        )
    return experiment.train_task


def criterion_of(experiment: Experiment, trained: TrainingResult, ranking: Ranking, seed: int) -> Criterion:
    """Make the criterion that ranks the weights of a trained model."""
    if not ranking.calibrated:
        return ranking.of(seed, trained.saliency())
    model, names = experiment.model_of(trained), experiment.prunable.names
    if ranking.name == "wanda":  # of the moments that a repair takes, too
        return ranking.of(seed, wanda_of(model, experiment.moments(trained)))
    repaired = experiment.recipe.pruning.weights == "repaired"  # in the same pass
    with watched_inputs(model, names if repaired else ()) as sums:
        scores = fisher(model, experiment.family, drawn(experiment.train_task), names)
    if repaired:
        experiment.keep_moments(trained, sums.moments())
    return ranking.of(seed, scores)


def search_permutation(
    experiment: Experiment, dense: TrainingResult, pattern: Pattern, seed: int
) -> Permutation | None:
    """Search the order in which a pattern is cut, as the recipe says; None where that is the checkpoint's.

    Args:
        experiment: whose recipe, couplings and prunable weights.
        dense: the trained model of the seed, whose weights are looked at.
        pattern: whose blocks are to gather what is important.
        seed: of the criterion, where it draws random numbers.
    """
    pruning = experiment.recipe.pruning
    frees = pruning.permutation.free(pattern, experiment.couplings)
    if not frees:
        return None
    criterion, names = criterion_of(experiment, dense, pruning.criterion, seed), set(experiment.prunable.names)
    return find_permutation(frees, pattern, dense.weights(), names, criterion=criterion, sparsity=pruning.sparsity)


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash names, shapes and bits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}{tuple(tensors[name].shape)}{tensors[name].dtype}".encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _taught(experiment: Experiment, trial: Trial) -> bool:
    """Whether the dense model teaches: every training but its own, and what is not trained."""
    return trial.masks is not None and trial.start != "trained" and experiment.recipe.training.distill > 0


def _train_and_save(
    experiment: Experiment, trial: Trial, spec: TrainingSpec, label: str, started: float
) -> TrainingResult:
    compute, store = experiment.compute, experiment.store
    _have_followed(experiment, trial, spec)
    model = build_model(experiment, trial).to(compute.torch_device)
    names = experiment.prunable.names
    saliency = Saliency(spec.saliency, model, names, experiment.hyper.steps) if spec.saliency else None
    with watched(store.log(spec), label, experiment.hyper, experiment.progress) as journal:
        learn(experiment, trial, spec, model, saliency, journal)
    scores = evaluate(model, experiment.score_task, compute=compute)
    sums = saliency.sums if saliency is not None else None
    return store.keep(spec, trial, distinct(model.state_dict()), scores, sums, time.monotonic() - started)


def learn(
    experiment: Experiment,
    trial: Trial,
    spec: TrainingSpec,
    model: nn.Module,
    saliency: Saliency | None = None,
    journal: Journal | None = None,
) -> None:
    """Train a model, in place; with several devices each process does this, and what there is of its own is None.

    Args:
        experiment: whose recipe, data and device.
        trial: what sets the training apart.
        spec: of the training.
        model: as `build_model` has it, on the device.
        saliency, journal: see `vlcompress.training.loop.train`.
    """
    store, snapshot = experiment.store, {}
    if spec.rewind_step and trial.masks is None and journal is not None:
        # on the disk at once: a resumed training does not pass it again
        snapshot = {spec.rewind_step: lambda now: save_tensors(store.rewind(spec), distinct(now.state_dict()))}
    train(
        model,
        objective_of(experiment, trial),
        experiment.hyper,
        seed=trial.seed,
        first_step=spec.rewind_step if trial.start == "rewound" else 0,
        masks=trial.masks if trial.held else None,
        saliency=saliency,
        backbone_prefix=experiment.family.backbone_prefix,
        checkpoint=store.under_way(spec),
        identity=spec.sha256,
        at_step=snapshot,
        compute=experiment.compute,
        lengths=experiment.lengths,
        journal=journal,
    )


def _have_followed(experiment: Experiment, trial: Trial, spec: TrainingSpec) -> None:
    """Have the other devices' processes begin with the same training, where there are any."""
    compute = experiment.compute
    if compute.devices == 1:
        return
    if experiment.follow is None:
        raise VlcompressError(
            f"devices {compute.devices}: the pictures of {experiment.recipe.data.task} are made in one process: "
            "train on one device"
        )
    lead(compute, partial(experiment.follow, experiment.recipe, experiment.home, compute, trial, spec.sha256))


def _prune_and_save(
    experiment: Experiment, trial: Trial, spec: TrainingSpec, label: str, started: float
) -> TrainingResult:
    """Keep what the masks keep of the dense model, mended if asked for, and score it."""
    dense = dataclasses.replace(experiment.dense(trial.seed), reading=trial.permutation)
    model = build_model(experiment, dataclasses.replace(trial, masks=None))
    if trial.repaired and trial.masks is not None:
        repair(model, trial.masks, experiment.moments(dense))
    elif trial.masks is not None:
        trial.masks.apply(model)
    scores = evaluate(model.to(experiment.compute.torch_device), experiment.score_task, compute=experiment.compute)
    weights = distinct(model.state_dict())
    return experiment.store.keep(spec, trial, weights, scores, None, time.monotonic() - started)
