"""vlcompress prune: find a lottery ticket."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from vlcompress.cli import options
from vlcompress.errors import VlcompressError
from vlcompress.pruning.target import KINDS, MEASURED

RUNTIME = ("device", "dtype", "micro_batch", "activation_checkpointing", "devices", "readers")
"""Options that are fields of a recipe's "runtime"."""

PRUNING = ("pattern", "criterion", "sparsity", "schedule", "rounds", "allocation", "rewind_step")
"""Options that are fields of a recipe's "pruning" and given as they are."""

HEADS = ("fresh", "answers", "names")
"""As of `vlcompress.recipe.HEADS`, which is not read for a help text."""

METHODS = ("imp", "oneshot", "calibrated")
"""Names of `vlcompress.recipe.METHODS`, which is not read for a help text."""


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@click.option("--recipe", "named", type=click.Choice(["paper"]), help="Prune as Gan et al. do: unstructured masks.")
@click.option("--model", help="Model family, or an encoder's Hugging Face folder or hub name.  [lxmert]")
@click.option("--task", help="Task.  [vqa]")
@click.option("--size", help="Model size: tiny, small (built-in), base (published).  [small]")
@click.option("--checkpoint", help="Pre-trained weights: built-in, none, a folder, a file or a hub name.")
@click.option("--head", type=click.Choice(HEADS), help="Start from a new head, LXMERT's answers or the classes' names.")
@click.option("--data", help="scenes:SIZE for built-in data, or a folder in the published layout.")
@click.option("--vocabulary", help="A vocab.txt, where the data folder has none.")
@click.option(
    "--pattern", help="unstructured, block:RxC, n:m, head, neuron, layer, neuron+head, or attention=...,ffn=..."
)
@click.option("--sparsity", type=float, help="Fraction of the prunable weights to prune, in [0, 1).  [1-n/m for n:m]")
@click.option("--speedup", type=float, help="In place of --sparsity: times as fast as dense, measured here, as 2.")
@click.option("--latency-ms", type=float, help="In place of --sparsity: milliseconds a batch, measured here.")
@click.option("--size-mb", type=float, help="In place of --sparsity: 10^6 bytes of float32 weights.")
@click.option("--flops", type=float, help="In place of --sparsity: the share of the operations that may stay, as 0.4.")
@click.option("--for-batch", type=options.COUNT, help="Batch size that --speedup or --latency-ms is for.  [32]")
@click.option("--for-threads", type=options.THREADS, help="Threads of ONNX Runtime that they are for.  [1]")
@click.option("--method", type=click.Choice(METHODS), help="IMP, one round, or no training after pruning.  [imp]")
@click.option("--criterion", help="What ranks weights: magnitude, gradient, movement, wanda or fisher.")
@click.option("--schedule", help="linear:P (points a round), geometric:F (of the rest), levels:P,P,... or oneshot.")
@click.option("--rounds", type=options.COUNT, help="Stop after so many rounds.")
@click.option("--allocation", help="global, uniform, or modality (language, vision, cross and pooler each by itself).")
@click.option("--rewind-step", type=int, help="Rewind to the weights after this step of dense training.")
@click.option(
    "--control",
    "controls",
    multiple=True,
    help="random, shuffle, reinit, language, unstructured or none; may be repeated.",
)
@click.option("--seeds", type=options.WHOLE_NUMBERS, help="Seeds with commas between them, for example 0,1,2.")
@click.option("--steps", type=int, help="Steps of each training.")
@click.option("--batch", type=options.COUNT, help="Examples a step.")
@click.option("--learning-rate", type=float, help="Peak learning rate.")
@click.option("--save-recipe", type=click.Path(path_type=Path, dir_okay=False), help="Write the whole recipe here.")
@click.option("--dry-run", is_flag=True, help="Refuse what a run would, say what would be trained, and stop.")
@options.where(device=None, dtype=None)
@options.fitting(default=None)
@options.sharing(default=None)
@options.track
@options.engine
@options.home
@options.as_json
def command(recipe: Path | None, **said: Any) -> None:
    """Find a lottery ticket by iterative magnitude pruning.

    RECIPE is a TOML file; without one the published recipe of --model, --task and --size is taken. Options override it.
    The same command again continues where it was stopped, or returns at once.
    """
    from vlcompress.bench.pricing import pricing_of
    from vlcompress.bench.reached import reach
    from vlcompress.devices import parse_compute
    from vlcompress.export.trial import try_export
    from vlcompress.report.text import dry_run_text, run_text
    from vlcompress.results import to_json
    from vlcompress.tickets.run import rehearse, run_name
    from vlcompress.training.ranks import on_devices

    chosen = _recipe(recipe, said)
    compute = parse_compute(**vars(chosen.runtime), training=True)
    if said["dry_run"] or said["save_recipe"]:
        pricing = pricing_of if said["dry_run"] else None
        compute = rehearse(chosen, said["home"], compute=compute, say=options.say, trial=try_export, pricing=pricing)
    if said["save_recipe"]:
        chosen.save(said["save_recipe"])
        options.say(f"recipe written to {said['save_recipe']}")
    if said["dry_run"]:
        options.show(chosen.document(), dry_run_text(chosen, run_name(chosen, compute)), said["as_json"])
        return
    engine = (said["engine"], said["share"])
    run = on_devices(compute, partial(_find, chosen, said["home"], compute, said["track"], engine))
    document = {"run": str(run.folder), **to_json(run.result())}
    reached = reach(run, options.say) if chosen.pruning.target else None
    if reached is not None:
        document["reached"] = to_json(reached)
    options.show(document, run_text(run, reached), said["as_json"])


def _find(chosen: Any, home: Path, compute: Any, track: str | None, engine: tuple[str, str]) -> Any:
    """Run a recipe to its ticket, in this process or in the first of several."""
    from vlcompress.bench.pricing import pricing_of
    from vlcompress.export.trial import try_checkpoint
    from vlcompress.tickets.run import find_ticket

    with click.Context(command):  # at whose end progress leaves the terminal
        return find_ticket(
            chosen,
            home,
            compute=compute,
            say=options.say,
            progress=options.watching(track, home),
            pricing=pricing_of,
            trial=try_checkpoint,
            engine=options.engine_named(*engine, track, compute),
        )


def _target(said: dict[str, Any]) -> str | None:
    """Spell out the one target that was asked for; None if none was."""
    asked = {f"--{kind}": f"{kind}:{said[name]}" for kind in KINDS if said[name := kind.replace("-", "_")] is not None}
    where = {"batch": said["for_batch"], "threads": said["for_threads"]}
    for at, number in where.items():
        if number is not None and not asked.keys() & {f"--{kind}" for kind in MEASURED}:
            raise VlcompressError(f"--for-{at} {number} has no effect without --speedup or --latency-ms: give one too")
    if asked and said["sparsity"] is not None:
        asked["--sparsity"] = ""
    if len(asked) > 1:
        raise VlcompressError(f"{' and '.join(asked)} exclude each other: give one")
    return "".join([*asked.values(), *(f",{at}:{number}" for at, number in where.items() if number)]) or None


def _without_target(base: Any, said: dict[str, Any]) -> Any:
    """Put a recipe's own target aside where a sparsity, or what no target prices, is asked for in place of it."""
    from vlcompress.recipe import ROUNDS

    own = base.pruning.target
    unpriced = said["pattern"] and base.override(pruning={"pattern": said["pattern"]}).pruning.pattern.by_kind
    if not own or (not unpriced and all(said[name] is None for name in ("sparsity", "rounds", "allocation"))):
        return base
    rounds = {**ROUNDS, **_of_method(said)} if said["method"] else ROUNDS
    options.say(f"the recipe's target '{own}' is put aside: schedule {rounds['schedule']}")
    return base.override(pruning=rounds)


def _of_method(said: dict[str, Any]) -> dict[str, Any]:
    """Look up what a method sets; it prunes in rounds or at once, whatever else is asked for."""
    from vlcompress.recipe import METHODS as found

    method = found[said["method"]]
    for name in ("schedule", "rounds"):
        if "schedule" in method and said[name] is not None:
            raise VlcompressError(f"--{name} {said[name]} has no effect with --method {said['method']}: leave it out")
    return method


def _recipe(path: Path | None, said: dict[str, Any]) -> Any:
    from vlcompress.models.registry import FAMILIES
    from vlcompress.recipe import PAPER, load_recipe, recipe_of

    if path is not None:
        base = load_recipe(path)
    else:
        base = recipe_of(said["model"] or "lxmert", said["task"] or "vqa", said["size"])
    family = said["model"] if path is not None or said["model"] in FAMILIES else None
    if said["named"]:
        base = base.override(pruning=PAPER)
    if said["method"] is not None:
        base = base.override(pruning=_of_method(said))
    target = _target(said)
    base = base if target else _without_target(base, said)
    controls = [control for control in said["controls"] if control != "none"]
    chosen = base.override(
        model={"family": family, "size": said["size"], "checkpoint": said["checkpoint"], "head": said["head"]},
        data={"task": said["task"], "source": said["data"], "vocabulary": said["vocabulary"]},
        pruning={
            **{name: said[name] for name in PRUNING},
            "controls": controls if said["controls"] else None,
            "seeds": said["seeds"],
            "target": target,
        },
        training={
            **{name: said[name] for name in ("steps", "batch", "learning_rate")},
            "epochs": 0.0 if said["steps"] else None,  # a recipe counts in one or the other
        },
        runtime={name: said[name] for name in RUNTIME},
    )
    pattern = chosen.pruning.pattern
    if chosen.pruning.target and said["pattern"] is None and pattern.by_kind:
        options.say(
            f"target '{chosen.pruning.target}': pattern neuron+head ranked by gradients, since '{pattern}' has no price"
        )
        criterion = None if said["criterion"] or said["method"] == "calibrated" else "gradient"
        return chosen.override(pruning={"pattern": "neuron+head", "criterion": criterion})
    if said["pattern"] is None or said["sparsity"] is not None or pattern.own_sparsity is None:
        return chosen
    options.say(f"sparsity {pattern.own_sparsity:.6g}: pattern '{pattern}' sets it, as no --sparsity was given")
    return chosen.override(pruning={"sparsity": pattern.own_sparsity})
