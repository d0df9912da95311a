"""Masks from elsewhere become tickets: matched with a model by name and shape, trained under as any ticket, judged.

A mask says which weights stay and not what they are. So it is put on θ0 and trained once; the dense model is trained
beside it, as in every run.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vlcompress.artefacts import file_sha256
from vlcompress.devices import CPU, Compute
from vlcompress.errors import VlcompressError
from vlcompress.models.checkpoints import listing, renamed
from vlcompress.models.registry import family_named
from vlcompress.pruning.mask import Masks
from vlcompress.pruning.mask_files import FORMATS, read_masks, write_masks
from vlcompress.pruning.pattern import Block, NofM, Pattern
from vlcompress.recipe import Recipe
from vlcompress.tickets.disk import Asked, tell_size
from vlcompress.tickets.experiment import Experiment, Say
from vlcompress.tickets.imp import Row, control, judged
from vlcompress.tickets.open_experiment import checked_experiment
from vlcompress.tickets.run import Run, keep_run, run_name
from vlcompress.tickets.spec import Trial
from vlcompress.tickets.ticket import form_of, load_ticket
from vlcompress.training.checkpoint import distinct
from vlcompress.training.watching import Watcher


def import_ticket(
    recipe: Recipe,
    file: Path,
    home: Path,
    *,
    inverted: bool = False,
    compute: Compute = CPU,
    say: Say = print,
    progress: Watcher | None = None,
) -> Run:
    """Train a model under masks from a file, or find it done.

    Args:
        recipe: of model, data, training, seeds and controls; its pattern says in what blocks `compile` may pack the
            masks, the rest of how it prunes is not used.
        file: see `vlcompress.pruning.mask_files.read_masks`.
        home: folder for runs, trainings and built-in data.
        inverted: whether 1 means pruned in the file.
        compute: where to train, and in what.
        say: called with a line at each step.
        progress: watches every training.

    Raises:
        VlcompressError: a file or a mask that does not fit, or anything in the recipe, before anything is trained.
    """
    given = read_masks(file, inverted=inverted)
    own = recipe.pruning.pattern.own_sparsity
    recipe = recipe if own is None else recipe.override(pruning={"sparsity": own})  # until that of the masks is known
    experiment = checked_experiment(recipe, home, compute=compute, say=say, progress=progress)
    masks = fitted_masks(given, experiment, file)
    _tell_meaning(given, file, inverted, say)
    _tell_pattern(masks, recipe.pruning.pattern, file, say)
    pruned = recipe.override(pruning={"sparsity": round(masks.sparsity, 6)})
    experiment = dataclasses.replace(experiment, recipe=pruned)
    run = Run(home / f"{run_name(pruned, experiment.compute)}-{masks.sha256()[:6]}")
    if run.is_finished:
        say(f"these masks have been imported: {run.folder}")
        return run
    seeds, controls = recipe.pruning.seeds, recipe.pruning.controls
    trainings = len(seeds) * (2 + len(controls))
    tell_size([Asked(experiment, trainings, len(seeds) * len(controls))])
    if progress is not None:
        progress.plan(trainings)
    cells = judged([_one_seed(experiment, masks, seed) for seed in seeds], experiment.blind)
    source = {"file": file.name, "sha256": file_sha256(file)}
    keep_run(run, experiment, cells, prunable_weights=masks.total, masks_from=source)
    return run


def fitted_masks(given: Mapping[str, Tensor], experiment: Experiment, file: Path) -> Masks:
    """Match masks with a model's weights; what the recipe's policy prunes and the file does not name is kept whole.

    Names are those here, those of transformers, or those of the family's official code (or positions in its state dict,
    where that has the order of ours), in the wrappers that training scripts add. A mask of a head of another task's
    shape is left out, and told.

    Raises:
        VlcompressError: names that match no weight, a weight that is tied to another, masks of other shapes, masks that
            prune nothing or all of a model.
    """
    shapes, names = experiment.shapes, _names(given, experiment)
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise VlcompressError(
            f"'{file}' masks weights that {experiment.family.title} does not have: {listing(unknown)}; give the "
            "--model and --size that the masks were found on"
        )
    found = dict(experiment.keep_all())
    for theirs, ours in names.items():
        for name, mask in zip(ours, given[theirs].chunk(len(ours)), strict=True):
            _check_named(name, theirs, shapes, file)
            if mask.shape == shapes[name]:
                found[name] = mask.clone()
            elif name.startswith(experiment.family.backbone_prefix):
                raise VlcompressError(
                    f"'{file}': mask '{theirs}' is {tuple(mask.shape)}, the weight '{name}' {tuple(shapes[name])}: "
                    "give the --model, --size and data that the masks were found on"
                )
            else:
                experiment.say(f"warning: mask '{theirs}' is of another task's head: it is left out")
    masks = Masks(found)
    if masks.kept in (0, masks.total):
        what = "nothing" if masks.kept else "every weight"
        raise VlcompressError(
            f"'{file}' prunes {what}: 1 means keep, 0 means prune (with --inverted the opposite); give masks that "
            "prune a part"
        )
    return masks


def export_masks(run: Run, form: str, out: Path | None = None) -> Path:
    """Write a ticket's masks for others, by the names that transformers' files have.

    Args:
        run: a finished run.
        form: a key of `FORMATS`.
        out: the file; by default beside the ticket.

    Raises:
        VlcompressError: another format, no such ticket, a file that cannot be written.
    """
    ticket = load_ticket(run.ticket)
    described = form_of(family_named(ticket.family, ticket.config), ticket)
    stacked = {} if described is None else described.tensors
    masks = _stacked(ticket.masks, stacked, ticket.weights)
    path = out or run.folder / f"masks{FORMATS.get(form, '')}"
    write_masks(path, form, masks, _stacked(ticket.weights, stacked, ticket.weights))
    return path


def _tell_meaning(given: Mapping[str, Tensor], file: Path, inverted: bool, say: Say) -> None:
    """Warn where masks keep less than they remove: they may mean the opposite."""
    kept = sum(int(mask.sum()) for mask in given.values()) / sum(mask.numel() for mask in given.values())
    if kept < 0.5:
        fix = "leave --inverted out" if inverted else "give --inverted"
        say(
            f"warning: '{file}' keeps {kept:.0%} and removes {1 - kept:.0%} of the weights that it masks, since "
            f"{'0' if inverted else '1'} is read as keep; {fix} if it means prune there"
        )


def _tell_pattern(masks: Masks, pattern: Pattern, file: Path, say: Say) -> None:
    """Warn where what goes does not go by the units of the pattern that it is to be packed in."""
    outside = sum(_outside(mask, pattern) for mask in masks.values())
    if outside:
        say(
            f"warning: {outside / (masks.total - masks.kept):.0%} of what '{file}' prunes is not in whole units of "
            f"pattern '{pattern}', so compile cannot leave it out: give the pattern that the masks were made in"
        )


def _outside(mask: Tensor, pattern: Pattern) -> int:
    """Count the pruned weights in blocks that keep some, or in groups that keep more than n of m."""
    if isinstance(pattern, Block):
        kept = pattern.spread(pattern.unit_means(mask.float()) > 0, mask.shape)
        return int((kept & ~mask).sum())
    if isinstance(pattern, NofM):
        groups = mask.reshape(-1, pattern.of)
        return int((~groups[groups.sum(dim=1) > pattern.kept]).sum())
    return 0


def _one_seed(experiment: Experiment, masks: Masks, seed: int) -> list[Row]:
    dense = experiment.train(Trial(seed), f"seed {seed} dense")
    label = f"seed {seed} ticket at {100 * masks.sparsity:.1f} % (imported)"
    ticket = Row("ticket", 1, masks.sparsity, experiment.train(Trial(seed, masks, experiment.start), label))
    controls = [control(experiment, seed, name, ticket) for name in experiment.recipe.pruning.controls]
    return [Row("dense", 0, 0.0, dense), ticket, *controls]


def _names(given: Mapping[str, Tensor], experiment: Experiment) -> dict[str, tuple[str, ...]]:
    """Find for each mask the weights here that it is of (several where the file stacks them)."""
    model = experiment.family.build(experiment.config, experiment.train_task.head, seed=0)
    weights = distinct(model.state_dict())
    plain = {name: value for name, value in experiment.config.items() if name != "model_type"}
    form = experiment.family.hub_form(plain, experiment.train_task.head, weights)
    known = {name: (name,) for name in model.state_dict()} | (dict(form.tensors) if form else {})
    if experiment.family.official_order and all(name.isdecimal() for name in given):
        order = list(model.state_dict())
        return {name: (order[int(name)],) for name in given if int(name) < len(order)}
    found = {}
    for name in given:
        ours = _ours(name, experiment)
        if ours and all(one in known for one in ours):
            found[name] = tuple(weight for one in ours for weight in known[one])
        elif matching := _by_ending(name, known):
            found[name] = known[matching]
    return found


def _ours(name: str, experiment: Experiment) -> tuple[str, ...]:
    """Rename as the family's official files are; a fused name becomes several."""
    rows = torch.zeros(3, 1)  # what is fused is cut in three
    return tuple(experiment.family.canonical(renamed({name: rows}, ())))


def _by_ending(name: str, known: Mapping[str, Sequence[str]]) -> str | None:
    """Find the one name that ends as this one does, or that it ends as: one of both has a prefix more."""
    ends = [one for one in known if one.endswith(f".{name}") or name.endswith(f".{one}")]
    weights = {tuple(known[one]) for one in ends}
    return ends[0] if len(weights) == 1 else None


def _check_named(name: str, theirs: str, shapes: Mapping[str, torch.Size], file: Path) -> None:
    if name not in shapes:
        raise VlcompressError(
            f"'{file}': '{theirs}' is tied to another weight, or is none: a mask on it would prune the other too; "
            "leave it out"
        )


def _stacked(
    tensors: Mapping[str, Tensor], stacked: Mapping[str, Sequence[str]], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Put tensors under others' names; of masks, what is stacked with one and has none is kept whole."""
    theirs = {ours: name for name, several in stacked.items() for ours in several}
    named: dict[str, Tensor] = {}
    for name in tensors:
        there = theirs.get(name, name)
        parts = [
            tensors.get(one, torch.ones(weights[one].shape, dtype=torch.bool)) for one in stacked.get(there, (name,))
        ]
        named[there] = parts[0] if len(parts) == 1 else torch.cat(parts)
    return named
