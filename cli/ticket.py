"""vlcompress ticket: masks from elsewhere made tickets, and a ticket's masks for elsewhere."""

from pathlib import Path
from typing import Any

import click

from vlcompress.cli import options


@click.group()
def command() -> None:
    """Import masks that others have found, and export a ticket's masks to them."""


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--model", default="lxmert", show_default=True, help="Family, or an encoder's folder or hub name.")
@click.option("--task", default="vqa", show_default=True, help="What to train under the masks.")
@click.option("--size", help="Model size: tiny, small (built-in), base (published).  [small]")
@click.option("--checkpoint", help="Pre-trained weights: built-in, none, a folder, a file or a hub name.")
@click.option("--data", help="scenes:SIZE for built-in data, or a folder in the published layout.")
@click.option("--vocabulary", help="A vocab.txt, where the data folder has none.")
@click.option("--pattern", default="unstructured", show_default=True, help="What compile may pack the masks in.")
@click.option("--inverted", is_flag=True, help="In FILE 1 means that a weight is pruned.")
@click.option("--control", "controls", multiple=True, help="random, shuffle, reinit or language; may be repeated.")
@click.option("--seeds", type=options.WHOLE_NUMBERS, help="Seeds with commas between them, for example 0,1,2.")
@click.option("--steps", type=int, help="Steps of each training.")
@click.option("--batch", type=options.COUNT, help="Examples a step.")
@click.option("--learning-rate", type=float, help="Peak learning rate.")
@options.computing(training=True)
@options.track
@options.home
@options.as_json
def import_(file: Path, home: Path, track: str | None, as_json: bool, compute: Any, **said: Any) -> None:
    """Train under the masks of FILE, a run for compile, export and bench.

    FILE: a state dict of torch.nn.utils.prune, masks alone (.pt), a checkpoint with them, .npz or .safetensors. No code
    in it is run.
    """
    from vlcompress.models.registry import FAMILIES
    from vlcompress.recipe import recipe_of
    from vlcompress.report.text import run_text
    from vlcompress.results import to_json
    from vlcompress.tickets.imported import import_ticket

    base = recipe_of(said["model"], said["task"], said["size"])
    recipe = base.override(
        model={"family": said["model"] if said["model"] in FAMILIES else None, "checkpoint": said["checkpoint"]},
        data={"source": said["data"], "vocabulary": said["vocabulary"]},
        pruning={
            **{"pattern": said["pattern"], "criterion": "magnitude", "schedule": "oneshot"},
            **{
                "controls": list(said["controls"]),
                "seeds": said["seeds"],
                "growth": "",
                "permutation": "",
                "target": "",
            },
        },
        training={name: said[name] for name in ("steps", "batch", "learning_rate")},
    )
    watching = options.watching(track, home)
    inverted = said["inverted"]
    run = import_ticket(recipe, file, home, inverted=inverted, compute=compute, say=options.say, progress=watching)
    options.show({"run": str(run.folder), **to_json(run.result())}, run_text(run), as_json)


@command.command()
@options.run_path
@click.option("--as", "form", default="torch-prune", show_default=True, help="torch-prune, npz or safetensors.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The file.  [masks.* in the run]")
@options.home
@options.as_json
def export(run: Path | None, form: str, out: Path | None, home: Path, as_json: bool) -> None:
    """Write the masks of a ticket, by the names that transformers' files have.

    RUN is a run's folder; the newest finished one is taken without it.
    """
    from vlcompress.tickets.imported import export_masks

    path = export_masks(options.chosen_run(run, home), form, out)
    options.show({"file": str(path), "as": form}, f"masks written to {path}", as_json)
