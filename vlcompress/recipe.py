"""The typed recipe: everything that decides a run, as TOML in, TOML out, and a hash that names the run.

A recipe is what `vlcompress prune recipe.toml` reads and what `--save-recipe` writes. Published ones are files,
``vlcompress/recipes/FAMILY/TASK-SIZE.toml``.
"""

import dataclasses
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from vlcompress.artefacts import identity, write_file
from vlcompress.errors import VlcompressError, unknown
from vlcompress.pruning.allocation import Allocation, Global, parse_allocation
from vlcompress.pruning.criterion import Ranking, parse_criterion
from vlcompress.pruning.growth import Growth, parse_growth
from vlcompress.pruning.pattern import Pattern, Unstructured
from vlcompress.pruning.patterns import parse_pattern
from vlcompress.pruning.permutation import Reordering, parse_reordering
from vlcompress.pruning.schedule import Linear, Schedule, parse_schedule
from vlcompress.training.adversarial import Perturbation, parse_perturbation

RECIPES = Path(__file__).parent / "recipes"
OPTIMIZERS = ("bertadam", "adamw", "sgd")
HEADS = ("fresh", "answers")
LOSSES = ("", "best-answer")
CONTROLS = ("random", "shuffle", "reinit", "language", "unstructured")

PARSERS: dict[Any, Callable[[str], Any]] = {
    Pattern: parse_pattern,
    Ranking: parse_criterion,
    Schedule: parse_schedule,
    Allocation: parse_allocation,
    Growth: parse_growth,
    Reordering: parse_reordering,
    Perturbation: parse_perturbation,
}
"""Values that are strings in a file, and what reads them; `str` of a value writes it back."""

S = TypeVar("S")


@dataclass(frozen=True)
class ModelRecipe:
    """Which weights to start from.

    Attributes:
        family: "lxmert", "uniter", "vilt" or "resnet".
        size: a size of the family; built-in weights exist for "small".
        checkpoint: θ0: "built-in", "none" (random weights), a folder, a file in the official layout, or a hub name.
        head: φ0: "fresh", or "answers", the rows of the same answers in the checkpoint's answer head (LXMERT's
            ``--loadLXMERTQA``; needs the checkpoint's answer list, ``lxmert/all_ans.json`` in the data folder).
        language: what control "language" starts from: a BERT's folder, file or hub name; "" is the BERT of a published
            size, and for the others a language model that is made of the words of the training splits.
    """

    family: str = "lxmert"
    size: str = "small"
    checkpoint: str = "built-in"
    head: str = "fresh"
    language: str = ""


@dataclass(frozen=True)
class DataRecipe:
    """Which examples to train and to score on.

    Attributes:
        task: "vqa", "gqa", "nlvr2", "snli_ve", "vcr", "refcoco", "retrieval", "classification", "pretraining".
        source: "scenes:SIZE" for built-in data, or a folder in the task's published layout.
        train: splits to train on.
        score: the split that scores are computed on; never trained on, and never used to pick a checkpoint.
        vocabulary: a vocab.txt; "" takes the data folder's own.
    """

    task: str = "vqa"
    source: str = "scenes:small"
    train: tuple[str, ...] = ("train",)
    score: str = "minival"
    vocabulary: str = ""


@dataclass(frozen=True)
class PruningRecipe:
    """Pattern × Criterion × Schedule × Allocation, and what the ticket is compared with.

    Attributes:
        pattern: "unstructured", "block:RxC", "n:m" (n of every m weights along a weight's inputs are kept, as 2:4; its
            sparsity is 1 - n/m, and no more), "head", "neuron", "neuron+head", or one for each kind of layer:
            "attention=head,ffn=block:192x16".
        criterion: "magnitude", "gradient" (|w dL/dw|) or "movement" (-w dL/dw); "high-magnitude" and "random" are there
            to compare with.
        schedule: "linear:P", "geometric:F", "levels:P,P,..." or "oneshot".
        allocation: "global", "uniform" (each weight matrix by itself), or "modality" (each part of the model by itself:
            language, vision, cross, pooler).
        sparsity: target fraction of the prunable weights, in [0, 1).
        rounds: stop after so many rounds; 0 goes to the target.
        prunable: the policy that names the prunable weights.
        rewind_step: rewind to the weights after this many steps of dense training; 0 rewinds to θ0.
        growth: "", or block sizes that the rounds before have, from fine to coarse: "16x1,64x16" (see
            `vlcompress.pruning.growth`).
        permutation: "", "neurons" or "neurons+channels": reorder feed-forward neurons (and channels within attention
            heads) before blocks are cut, so that they gather what is important (see `vlcompress.pruning.permutation`).
        controls: trained at the ticket's sparsity (and "unstructured" at every level) for comparison.
        seeds: each is a whole chain of its own: head, data order and dropout.
    """

    pattern: Pattern = field(default_factory=Unstructured)
    criterion: Ranking = field(default_factory=lambda: Ranking("magnitude"))
    schedule: Schedule = field(default_factory=lambda: Linear(0.1))
    allocation: Allocation = field(default_factory=Global)
    sparsity: float = 0.7
    rounds: int = 0
    prunable: str = "bert-tickets"
    rewind_step: int = 0
    growth: Growth = field(default_factory=Growth)
    permutation: Reordering = field(default_factory=Reordering)
    controls: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class TrainingRecipe:
    """How each training runs; give steps or epochs, not both.

    Attributes:
        steps: optimizer steps; 0 takes `epochs`.
        epochs: passes over the training splits; 0 takes `steps`.
        batch: examples a step.
        learning_rate: the peak.
        warmup: share of the steps before the peak, in (0, 1).
        clip: norm that the gradient is clipped to.
        weight_decay: on every parameter ("bertadam"), or on matrices alone ("adamw").
        head_rate: factor on the task head's learning rate (1 in LXMERT; 10 in UNITER and ViLT).
        optimizer: "bertadam" (LXMERT), "adamw" (UNITER, ViLT) or "sgd" (ResNet).
        distill: weight of what the dense model of the same seed says against the task's loss, in every training but the
            dense one; 0 learns from the task alone.
        adversarial: "text", "image" or "text+image" trains under perturbation of word embeddings or region features as
            VILLA does, with ":RATE" for another step than 1e-3; "" trains plainly.
        loss: "" is the task's; "best-answer" learns the best answer of each question alone, by cross entropy, as
            LXMERT's --mceLoss does (VQA, GQA and SNLI-VE).
    """

    steps: int = 0
    epochs: float = 0.0
    batch: int = 32
    learning_rate: float = 5e-5
    warmup: float = 0.1
    clip: float = 5.0
    weight_decay: float = 0.01
    head_rate: float = 1.0
    optimizer: str = "bertadam"
    distill: float = 0.0
    adversarial: Perturbation = field(default_factory=Perturbation)
    loss: str = ""


@dataclass(frozen=True)
class Recipe:
    """All that decides a run's result; nothing that does not (device, number of threads, folders for output)."""

    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    pruning: PruningRecipe = field(default_factory=PruningRecipe)
    training: TrainingRecipe = field(default_factory=TrainingRecipe)

    def document(self) -> dict[str, dict[str, Any]]:
        """Return the recipe as plain JSON, a table for each section."""
        return {
            section.name: {name: _plain(value) for name, value in vars(getattr(self, section.name)).items()}
            for section in dataclasses.fields(self)
        }

    def sha256(self) -> str:
        """Return the hash that names the run. A field at its default counts like one that is not there.

        So a later version can add a field (whose default changes nothing) without orphaning the runs made before it.
        """
        default = Recipe().document()
        said = {
            section: {name: value for name, value in table.items() if value != default[section][name]}
            for section, table in self.document().items()
        }
        return identity(said)

    def name(self) -> str:
        """Return the name of the run's folder: what it is, and the start of the hash."""
        return f"{self.model.family}-{self.data.task}-{self.model.size}-{self.sha256()[:10]}"

    def override(self, **sections: dict[str, Any]) -> "Recipe":
        """Return the recipe with some values replaced, checked as those of a file are; None keeps what is there."""
        document = self.document()
        for section, values in sections.items():
            document[section] |= {name: value for name, value in values.items() if value is not None}
        return parse_recipe(document)

    def save(self, path: Path) -> None:
        """Write the recipe as TOML, every field spelt out."""
        import tomli_w

        write_file(path, tomli_w.dumps(self.document()))


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file.

    Raises:
        VlcompressError: no such file, not TOML, or a value that does not fit.
    """
    if not path.is_file():
        raise VlcompressError(
            f"no recipe at '{path}': give a TOML file, or take a published one by --model, --task and --size"
        )
    try:
        return parse_recipe(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise VlcompressError(f"'{path}' is not valid TOML: {error}") from error
    except VlcompressError as error:
        raise VlcompressError(f"in recipe '{path}': {error}") from error


def default_recipe(family: str, task: str, size: str) -> Recipe:
    """Load the published recipe of a family, task and size: TASK-SIZE.toml in the family's folder of recipes.

    Raises:
        VlcompressError: no such family, task or size, a task that the family's official code does not have, or no file.
    """
    from vlcompress.models.registry import family_named
    from vlcompress.tasks.registry import task_of

    adapter = family_named(family)
    task_of(family, task)
    if size not in adapter.sizes:
        raise unknown(f"size of {family}", size, adapter.sizes)
    path = (adapter.recipes or RECIPES / family) / f"{task}-{size}.toml"
    if not path.is_file():
        raise VlcompressError(
            f"{family} has no recipe for {task}, {size}: add {path}, or give a recipe file of your own"
        )
    return load_recipe(path)


def parse_recipe(document: dict[str, Any]) -> Recipe:
    """Check a recipe given as plain tables.

    Raises:
        VlcompressError: an unknown section or field, a value of the wrong type, or values that contradict each other.
    """
    sections = {section.name: section for section in dataclasses.fields(Recipe)}
    for name in document:
        if name not in sections:
            raise unknown("section", name, sections)
    types = get_type_hints(Recipe)
    recipe = Recipe(**{name: _section(types[name], name, document.get(name, {})) for name in sections})
    _check(recipe)
    return recipe


def _section(kind: type[S], section: str, table: Any) -> S:
    if not isinstance(table, dict):
        raise VlcompressError(f"section '{section}' is {table!r}: give a table of fields")
    types = get_type_hints(kind)
    for name in table:
        if name not in types:
            raise unknown(f"field of section '{section}'", name, types)
    return kind(**{name: _value(f"{section}.{name}", types[name], value) for name, value in table.items()})


def _value(name: str, kind: Any, value: Any) -> Any:
    if kind in PARSERS and type(value) is str:
        return PARSERS[kind](value)
    if kind is float and type(value) is int:
        return float(value)
    if kind in (tuple[str, ...], tuple[int, ...]):
        item = str if kind == tuple[str, ...] else int
        if isinstance(value, list | tuple) and all(type(entry) is item for entry in value):
            return tuple(value)
    elif type(value) is kind:
        return value
    expected = {tuple[str, ...]: "a list of strings", tuple[int, ...]: "a list of whole numbers"}.get(kind)
    named = "str" if kind in PARSERS else kind.__name__ if not expected else ""
    raise VlcompressError(f"{name} is {value!r}: {expected or f'a value of type {named}'} is expected")


def _plain(value: Any) -> Any:
    """Make a field's value what TOML and JSON hold: lists for tuples, names for what has one."""
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, str | int | float) else str(value)


def _check(recipe: Recipe) -> None:
    pruning, training = recipe.pruning, recipe.training
    for control in pruning.controls:
        if control not in CONTROLS:
            raise unknown("control", control, CONTROLS)
    if recipe.model.head not in HEADS:
        raise unknown("head", recipe.model.head, HEADS)
    if training.loss not in LOSSES:
        raise unknown("loss", training.loss, LOSSES)
    if training.optimizer not in OPTIMIZERS:
        raise unknown("optimizer", training.optimizer, OPTIMIZERS)
    if not pruning.seeds or len(set(pruning.seeds)) < len(pruning.seeds):
        raise VlcompressError(f"seeds {list(pruning.seeds)}: give at least one, each once, for example 0,1,2")
    if (training.steps > 0) == (training.epochs > 0):
        raise VlcompressError(
            f"training.steps is {training.steps} and training.epochs {training.epochs:g}: set exactly one above 0"
        )
    if training.batch < 1 or training.learning_rate <= 0 or not 0 < training.warmup < 1:
        raise VlcompressError(
            f"training.batch {training.batch}, learning_rate {training.learning_rate:g}, warmup {training.warmup:g}: "
            "the batch must be at least 1, the rate above 0, the warm-up between 0 and 1"
        )
    if training.adversarial and training.distill:
        raise VlcompressError(
            f"training.adversarial '{training.adversarial}' and training.distill {training.distill:g}: set one of them"
        )
    if not 0 <= training.distill < float("inf"):
        raise VlcompressError(
            f"training.distill is {training.distill:g}: give 0 (off), or a weight above 0, for example 1"
        )
    if not 0 <= pruning.sparsity < 1:
        raise VlcompressError(
            f"sparsity {pruning.sparsity:g} is outside [0, 1): give the fraction to prune, for example 0.7"
        )
    if pruning.rewind_step < 0 or (training.steps and pruning.rewind_step >= training.steps):
        raise VlcompressError(
            f"rewind_step {pruning.rewind_step} is outside the training of {training.steps} steps: "
            f"give 0 to {training.steps - 1}"
        )
