"""vlcompress prune: find a lottery ticket."""

from pathlib import Path
from typing import Any

import click

from vlcompress.cli import options

RUNTIME = ("device", "dtype", "micro_batch", "activation_checkpointing")
"""Options that are fields of a recipe's "runtime"."""


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@click.option("--model", help="Model family.  [lxmert]")
@click.option("--task", help="Task.  [vqa]")
@click.option("--size", help="Model size: tiny, small (built-in), base (published).  [small]")
@click.option("--checkpoint", help="Pre-trained weights: built-in, none, a folder, a file or a hub name.")
@click.option("--data", help="scenes:SIZE for built-in data, or a folder in the published layout.")
@click.option("--vocabulary", help="A vocab.txt, where the data folder has none.")
@click.option("--pattern", help="unstructured, block:RxC, n:m, head, neuron, neuron+head, or attention=...,ffn=...")
@click.option("--sparsity", type=float, help="Fraction of the prunable weights to prune, in [0, 1).  [1-n/m for n:m]")
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
@options.home
@options.as_json
def command(recipe: Path | None, **said: Any) -> None:
    """Find a lottery ticket by iterative magnitude pruning.

    RECIPE is a TOML file; without one the published recipe of --model, --task and --size is taken. Options override it.
    The same command again continues where it was stopped, or returns at once.
    """
    from vlcompress.devices import parse_compute
    from vlcompress.report.text import dry_run_text, run_text
    from vlcompress.results import to_json
    from vlcompress.tickets.run import find_ticket, rehearse, run_name

    chosen = _recipe(recipe, said)
    compute = parse_compute(**vars(chosen.runtime), training=True)
    if said["dry_run"] or said["save_recipe"]:
        compute = rehearse(chosen, said["home"], compute=compute, say=options.say)
    if said["save_recipe"]:
        chosen.save(said["save_recipe"])
        options.say(f"recipe written to {said['save_recipe']}")
    if said["dry_run"]:
        options.show(chosen.document(), dry_run_text(chosen, run_name(chosen, compute)), said["as_json"])
        return
    run = find_ticket(chosen, said["home"], compute=compute, say=options.say, progress=options.step_line())
    options.show({"run": str(run.folder), **to_json(run.result())}, run_text(run), said["as_json"])


def _recipe(path: Path | None, said: dict[str, Any]) -> Any:
    from vlcompress.recipe import default_recipe, load_recipe

    if path is not None:
        base = load_recipe(path)
    else:
        base = default_recipe(said["model"] or "lxmert", said["task"] or "vqa", said["size"] or "small")
    controls = [control for control in said["controls"] if control != "none"]
    chosen = base.override(
        model={"family": said["model"], "size": said["size"], "checkpoint": said["checkpoint"]},
        data={"task": said["task"], "source": said["data"], "vocabulary": said["vocabulary"]},
        pruning={
            **{name: said[name] for name in ("pattern", "sparsity", "schedule", "rounds", "allocation", "rewind_step")},
            "controls": controls if said["controls"] else None,
            "seeds": said["seeds"],
        },
        training={name: said[name] for name in ("steps", "batch", "learning_rate")},
        runtime={name: said[name] for name in RUNTIME},
    )
    pattern = chosen.pruning.pattern
    if said["pattern"] is None or said["sparsity"] is not None or pattern.own_sparsity is None:
        return chosen
    options.say(f"sparsity {pattern.own_sparsity:.6g}: pattern '{pattern}' sets it, as no --sparsity was given")
    return chosen.override(pruning={"sparsity": pattern.own_sparsity})
