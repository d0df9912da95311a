"""The typed recipe: everything that decides a run, as TOML in, TOML out, and a hash that names the run.

A recipe is what `vlcompress prune recipe.toml` reads and what `--save-recipe` writes. Published ones are files,
``vlcompress/recipes/FAMILY/TASK-SIZE.toml``.
"""

import tomllib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from vlcompress.artefacts import identity, write_file
from vlcompress.devices import MicroBatch, check_device, check_dtype, parse_micro_batch
from vlcompress.errors import VlcompressError, unknown
from vlcompress.pruning.allocation import Allocation, Global, parse_allocation
from vlcompress.pruning.criterion import Ranking, parse_criterion
from vlcompress.pruning.growth import Growth, parse_growth
from vlcompress.pruning.mixture import check_layers
from vlcompress.pruning.pattern import Pattern, Unstructured
from vlcompress.pruning.patterns import parse_pattern
from vlcompress.pruning.permutation import Reordering, parse_reordering
from vlcompress.pruning.schedule import Linear, Schedule, parse_schedule
from vlcompress.pruning.target import Target, parse_target
from vlcompress.training.adversarial import Perturbation, parse_perturbation
from vlcompress.training.optimizers import OPTIMIZERS

RECIPES = Path(__file__).parent / "recipes"
HEADS = ("fresh", "answers", "names")
LOSSES = ("task", "best-answer")
CONTROLS = ("random", "shuffle", "reinit", "language", "unstructured", "oneshot", "magnitude", "wanda", "calibrated")
WEIGHTS = ("rewound", "kept", "repaired")

METHODS: dict[str, dict[str, Any]] = {
    "imp": {"weights": "rewound"},
    "oneshot": {"weights": "rewound", "schedule": "oneshot"},
    "calibrated": {"weights": "repaired", "schedule": "oneshot", "criterion": "fisher", "controls": []},
}
"""What `--method` sets of "pruning": rounds of training, pruning and rewinding; a single round; or pruning by a few
examples without labels, and no training afterwards."""

PAPER: dict[str, Any] = {
    "pattern": "unstructured",
    "criterion": "magnitude",
    "schedule": "linear:10",
    "allocation": "global",
    "controls": ["random"],
    "target": "",
}
"""How Gan et al. (AAAI 2022) prune: `--recipe paper`. Published sizes have whole heads and neurons instead."""


ROUNDS: dict[str, Any] = {"target": "", "criterion": "gradient", "schedule": "levels:30,50,70"}
"""What takes the place of a recipe's own target where a sparsity or a pattern of weights is asked for: rounds, ranked
by gradients, by which blocks survive too (`vlcompress study granularity`)."""


@dataclass(frozen=True)
class Parsed:
    """What reads a field that is a string in a file (`str` writes it back), and which types a file may give it as."""

    read: Callable[[str], Any]
    types: tuple[type, ...] = (str,)


def within(interval: str, wanted: str) -> Callable[[str, float], None]:
    """Make the check of a number: an interval open above, as "(0, 1)" (NaN lies in none), and what to give."""
    low, high = map(float, interval[1:-1].split(","))

    def check(name: str, number: float) -> None:
        if not ((number >= low if interval[0] == "[" else number > low) and number < high):
            raise VlcompressError(f"{name} {number:g} is outside {interval}: give {wanted}")

    return check


def one_of(allowed: Collection[str]) -> Callable[[str, str | tuple[str, ...]], None]:
    """Make the check of a name, or of each of several, that is of a fixed set."""

    def check(name: str, value: str | tuple[str, ...]) -> None:
        what = name.partition(".")[2]
        for one in (value,) if isinstance(value, str) else value:
            if one not in allowed:
                raise unknown(what if isinstance(value, str) else what.removesuffix("s"), one, allowed)

    return check


@dataclass(frozen=True)
class ModelRecipe:
    """Which weights to start from.

    Attributes:
        family: "lxmert", "uniter", "vilt", "resnet", or "encoder" for what transformers has.
        size: a size of the family; built-in weights exist for LXMERT's and UNITER's "small". "checkpoint" is what the
            config.json of an encoder's checkpoint says.
        checkpoint: θ0: "built-in", "none" (random weights), a folder, a file in the official layout, or a hub name.
        head: φ0: "fresh", a new head, or "answers", the rows of the same answers in the checkpoint's answer head
            (LXMERT's ``--loadLXMERTQA``; needs the checkpoint's answer list, ``lxmert/all_ans.json`` in the data), or
            "names", the classes' names as the checkpoint's text tower embeds them (CLIP's zero-shot head).
        language: what control "language" starts from: a BERT's folder, file or hub name; "" is the BERT of a published
            size, and for the others a language model that is made of the words of the training splits.
    """

    family: str = "lxmert"
    size: str = "small"
    checkpoint: str = "built-in"
    head: Annotated[str, one_of(HEADS)] = "fresh"
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
            sparsity is 1 - n/m, and no more), "head", "neuron", "neuron+head", "layer" (whole attention and
            feed-forward layers), with a target "neuron+head+layer", or one for each kind of layer:
            "attention=head,ffn=block:192x16".
        criterion: "magnitude", "gradient" (|w dL/dw|), "movement" (-w dL/dw), or by a few examples
            without labels "wanda" (|w| |x|) and "fisher" (w² g², g of the logits); "high-magnitude" and "random" are
            there to compare with.
        schedule: "linear:P", "geometric:F", "levels:P,P,..." or "oneshot".
        allocation: "global", "uniform" (each weight matrix by itself), or "modality" (language, vision, cross and
            pooler, each by itself).
        sparsity: target fraction of the prunable weights, in [0, 1).
        rounds: stop after so many rounds; 0 goes to the target.
        prunable: the scope: the family's policy that says which weights may be pruned (`Family.policies`).
        rewind_step: rewind to the weights after this many steps of dense training; 0 rewinds to θ0.
        growth: "", or block sizes that the rounds before have, from fine to coarse: "16x1,64x16" (see
            `vlcompress.pruning.growth`).
        permutation: "", "neurons" or "neurons+channels": reorder feed-forward neurons (and channels within attention
            heads) before blocks are cut, so that they gather what is important (see `vlcompress.pruning.permutation`).
        weights: what becomes of those that a round keeps: "rewound" and trained again (IMP); or, after a single round
            and without any further training, "kept" as the dense training left them, or "repaired": fitted to what the
            dense layers gave on a few examples without labels (see `vlcompress.pruning.repair`).
        controls: trained at the ticket's sparsity (and "unstructured" at every level) for comparison.
        seeds: each is a whole chain of its own: head, data order and dropout.
        target: "", or what the exported ticket is to reach in place of a sparsity: "speedup:2", "latency-ms:20",
            "size-mb:60" or "flops:0.4" (see `vlcompress.pruning.target`). The schedule then says how far each round
            goes towards it.
    """

    pattern: Annotated[Pattern, Parsed(parse_pattern)] = field(default_factory=Unstructured)
    criterion: Annotated[Ranking, Parsed(parse_criterion)] = field(default_factory=lambda: Ranking("magnitude"))
    schedule: Annotated[Schedule, Parsed(parse_schedule)] = field(default_factory=lambda: Linear(0.1))
    allocation: Annotated[Allocation, Parsed(parse_allocation)] = field(default_factory=Global)
    sparsity: Annotated[float, within("[0, 1)", "the fraction to prune, for example 0.7")] = 0.7
    rounds: Annotated[int, within("[0, inf)", "a number of rounds, or 0 to go to the target")] = 0
    prunable: str = "bert-tickets"
    rewind_step: Annotated[int, within("[0, inf)", "a step of the dense training, or 0 for its start")] = 0
    growth: Annotated[Growth, Parsed(parse_growth)] = field(default_factory=Growth)
    permutation: Annotated[Reordering, Parsed(parse_reordering)] = field(default_factory=Reordering)
    weights: Annotated[str, one_of(WEIGHTS)] = "rewound"
    controls: Annotated[tuple[str, ...], one_of(CONTROLS)] = ()
    seeds: tuple[int, ...] = (0,)
    target: Annotated[Target, Parsed(parse_target)] = field(default_factory=Target)


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
        loss: the "task"'s own; "best-answer" learns the best answer of each question alone, by cross entropy, as
            LXMERT's --mceLoss does (VQA, GQA and SNLI-VE).
        tokens: 0 counts a step's examples. Otherwise a step has `batch` groups of examples of like length, each of at
            most so many words and regions with padding, as UNITER's official configurations have them (a group for
            each GPU and accumulated step); its loss is the mean over groups. Give `steps` with it.
    """

    steps: Annotated[int, within("[0, inf)", "a number of steps, or 0 to train for `epochs`")] = 0
    epochs: Annotated[float, within("[0, inf)", "a number of epochs, or 0 to train for `steps`")] = 0.0
    batch: Annotated[int, within("[1, inf)", "the examples of a step, for example 32")] = 32
    learning_rate: Annotated[float, within("(0, inf)", "the peak, for example 5e-5")] = 5e-5
    warmup: Annotated[float, within("(0, 1)", "the share of the steps before the peak, for example 0.1")] = 0.1
    clip: Annotated[float, within("(0, inf)", "the gradient's largest norm, for example 5, or 1e6 to clip none")] = 5.0
    weight_decay: Annotated[float, within("[0, inf)", "a factor, for example 0.01, or 0 for none")] = 0.01
    head_rate: Annotated[float, within("[0, inf)", "a factor on the head's learning rate, for example 10")] = 1.0
    optimizer: Annotated[str, one_of(OPTIMIZERS)] = "bertadam"
    distill: Annotated[float, within("[0, inf)", "0 (off), or a weight above 0, for example 1")] = 0.0
    adversarial: Annotated[Perturbation, Parsed(parse_perturbation)] = field(default_factory=Perturbation)
    loss: Annotated[str, one_of(LOSSES)] = "task"
    tokens: Annotated[
        int, within("[0, inf)", "words and regions of a group, for example 5120, or 0 to count examples")
    ] = 0

    @property
    def most_examples(self) -> float:
        """Most examples that one forward pass may have: no bound is known where tokens are counted."""
        return float("inf") if self.tokens else self.batch


@dataclass(frozen=True)
class RuntimeRecipe:
    """Where to train; ``--device`` and ``--dtype`` override it, and the recipe's hash does not count it.

    The bits of a result still depend on it, so any but float32 on the CPU is part of a training's name
    (`vlcompress.devices.Compute.identity`).

    Attributes:
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        dtype: one of `vlcompress.devices.DTYPES`; weights, their gradients' sums and scores stay float32.
        micro_batch: examples that are computed at once, a step's batch in parts; 0 is the whole batch, "auto" the most
            that fit into the GPU's memory.
        activation_checkpointing: compute the insides of blocks again in the backward pass: the same bits in less
            memory and more time.
        devices: GPUs (or processes on the CPU) that share each training's batches.
        readers: threads that make a training's batches ahead of it: the same bits.
    """

    device: Annotated[str, lambda _, value: check_device(value)] = "auto"
    dtype: Annotated[str, lambda _, value: check_dtype(value)] = "fp32"
    micro_batch: Annotated[MicroBatch, Parsed(parse_micro_batch, (str, int, MicroBatch))] = MicroBatch(0)  # noqa: RUF009 (an int)
    activation_checkpointing: bool = False
    devices: Annotated[int, within("[1, 1025)", "how many share a training, for example 4")] = 1
    readers: Annotated[int, within("[1, 65)", "threads that make batches, for example 4")] = 1


@dataclass(frozen=True)
class Recipe:
    """All that decides a run's result; and in `runtime`, apart from the rest, where it runs."""

    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    pruning: PruningRecipe = field(default_factory=PruningRecipe)
    training: TrainingRecipe = field(default_factory=TrainingRecipe)
    runtime: RuntimeRecipe = field(default_factory=RuntimeRecipe)

    def tables(self) -> dict[str, dict[str, Any]]:
        """Spell the recipe out as a file does: plain values, a table for each section."""
        return {
            section: {name: _plain(value) for name, value in vars(values).items()}
            for section, values in vars(self).items()
        }

    def document(self) -> dict[str, dict[str, Any]]:
        """Spell out what decides the result: `tables` without "runtime"."""
        return {section: table for section, table in self.tables().items() if section != "runtime"}

    def sha256(self) -> str:
        """Hash what names the run. A field at its default counts like one that is not there.

        So a later version can add a field (whose default changes nothing) without orphaning the runs made before it.
        """
        default = Recipe().document()
        differing = {
            section: {name: value for name, value in table.items() if value != default[section][name]}
            for section, table in self.document().items()
        }
        return identity(differing)

    def name(self) -> str:
        """Name the run's folder: what it is, and the start of the hash."""
        return f"{self.model.family}-{self.data.task}-{self.model.size}-{self.sha256()[:10]}"

    def override(self, **sections: dict[str, Any]) -> "Recipe":
        """Replace some values, checked as those of a file are; None keeps what is there."""
        changed = {}
        for section, values in sections.items():
            current = getattr(self, section)
            given = {name: value for name, value in values.items() if value is not None}
            changed[section] = replace(current, **_values(type(current), section, given))
        return _check_together(replace(self, **changed))

    def save(self, path: Path) -> None:
        """Write the recipe as TOML, every field spelt out."""
        import tomli_w

        write_file(path, tomli_w.dumps(self.tables()))


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
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is no TOMLDecodeError
        raise VlcompressError(f"'{path}' is not valid TOML: {error}") from error
    except VlcompressError as error:
        raise VlcompressError(f"in recipe '{path}': {error}") from error


def recipe_of(model: str, task: str, size: str | None = None) -> Recipe:
    """Load the published recipe for a family, or for the encoder in a Hugging Face folder or on the hub.

    Args:
        model: name of a family, a folder, or a hub name (owner/model).
        task: name of the task.
        size: of the family, "small" by default; a folder or hub name has its own.

    Raises:
        VlcompressError: see `default_recipe`; a size beside a folder or a hub name.
    """
    from vlcompress.models.registry import FAMILIES

    if model in FAMILIES or not (Path(model).is_dir() or "/" in model):
        return default_recipe(model, task, size or "small")
    if size is not None:
        raise VlcompressError(f"size '{size}' beside model '{model}': its config.json says its size, leave --size out")
    return default_recipe("encoder", task, "checkpoint").override(model={"checkpoint": model})


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
    """Check a recipe that is given as plain tables, and parse it into values.

    Raises:
        VlcompressError: an unknown section or field, a value of the wrong type, or values that contradict each other.
    """
    types = get_type_hints(Recipe)
    for name in document:
        if name not in types:
            raise unknown("section", name, types)
    sections = {name: kind(**_values(kind, name, document.get(name, {}))) for name, kind in types.items()}
    return _check_together(Recipe(**sections))


def _values(kind: type, section: str, table: Any) -> dict[str, Any]:
    """Parse the values of a section's table."""
    if not isinstance(table, dict):
        raise VlcompressError(f"section '{section}' is {table!r}: give a table of fields")
    types = get_type_hints(kind, include_extras=True)
    for name in table:
        if name not in types:
            raise unknown(f"field of section '{section}'", name, types)
    return {name: _value(f"{section}.{name}", types[name], value) for name, value in table.items()}


def _value(name: str, kind: Any, value: Any) -> Any:
    """Read a field's value and check it, by what its type says and is annotated with."""
    kind, *rules = (kind.__origin__, *kind.__metadata__) if get_origin(kind) is Annotated else (kind,)
    for rule in rules:
        if isinstance(rule, Parsed):
            return rule.read(str(_typed(name, str, value, rule.types)))
    held = _typed(name, kind, value, (kind,))
    for check in rules:
        check(name, held)
    return held


def _typed(name: str, kind: Any, value: Any, types: tuple[type, ...]) -> Any:
    """Check a value's type; lists become tuples, and whole numbers stand for numbers."""
    if kind is float and type(value) is int:
        return float(value)
    if type(value) in types:
        return value
    items = get_args(kind)[:1]
    if items and isinstance(value, list | tuple) and all(type(entry) in items for entry in value):
        return tuple(value)
    expected = f"a value of type {kind.__name__}"
    if items:
        expected = f"a list of {'strings' if items == (str,) else 'whole numbers'}"
    raise VlcompressError(f"{name} is {value!r}: {expected} is expected")


def _plain(value: Any) -> Any:
    """Make a field's value what TOML and JSON hold: lists for tuples, names for what has one."""
    if isinstance(value, tuple):
        return list(value)
    return value if type(value) in (str, bool, int, float) else str(value)


def _check_together(recipe: Recipe) -> Recipe:
    """Check what values say together, and pass the recipe on."""
    pruning, training = recipe.pruning, recipe.training
    if not pruning.seeds or len(set(pruning.seeds)) < len(pruning.seeds):
        raise VlcompressError(f"seeds {list(pruning.seeds)}: give at least one, each once, for example 0,1,2")
    if not all(0 <= seed < 2**32 for seed in pruning.seeds):
        raise VlcompressError(f"seeds {list(pruning.seeds)}: give whole numbers of 0 to 2^32 - 1, for example 0,1,2")
    if len(set(pruning.controls)) < len(pruning.controls):
        raise VlcompressError(f"controls {', '.join(pruning.controls)}: give each once")
    if (training.steps > 0) == (training.epochs > 0):
        raise VlcompressError(
            f"training.steps is {training.steps} and training.epochs {training.epochs:g}: set exactly one above 0"
        )
    if training.tokens and not training.steps:
        raise VlcompressError(f"training.tokens {training.tokens} makes no epochs of equal length: set training.steps")
    if training.steps and pruning.rewind_step >= training.steps:
        raise VlcompressError(
            f"rewind_step {pruning.rewind_step} is outside the training of {training.steps} steps: "
            f"give 0 to {training.steps - 1}"
        )
    _check_target(pruning)
    check_layers(pruning.pattern, str(pruning.allocation), targeted=bool(pruning.target))
    if pruning.weights != "rewound" and pruning.schedule.rounds_to(pruning.sparsity) > 1:
        raise VlcompressError(
            f"pruning.weights '{pruning.weights}' prunes once, and schedule '{pruning.schedule}' goes in rounds: set "
            "the schedule to 'oneshot', or the weights to 'rewound'"
        )
    if training.adversarial and training.distill:
        raise VlcompressError(
            f"training.adversarial '{training.adversarial}' and training.distill {training.distill:g}: set one of them"
        )
    return recipe


def _check_target(pruning: PruningRecipe) -> None:
    """Refuse what has no effect beside a target, which shares the cost out by itself."""
    idle = {
        "allocation": str(pruning.allocation) != "global",
        "growth": bool(str(pruning.growth)),
        "rounds": pruning.rounds > 0,
    }
    for name, given in idle.items():
        if pruning.target and given:
            value = getattr(pruning, name)
            raise VlcompressError(
                f"pruning.{name} '{value}' has no effect with target '{pruning.target}': give one of them"
            )
