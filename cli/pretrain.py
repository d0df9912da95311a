"""vlcompress pretrain: make the weights that tickets are found in."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from vlcompress.cli import options


@click.command()
@click.option("--model", default="lxmert", show_default=True, help="Model family.")
@click.option("--size", default="small", show_default=True, help="Model size.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder in LXMERT's layout (ViLT: captions); built-in scenes if left out.",
)
@click.option(
    "--pictures",
    type=click.IntRange(1, 10**8),
    default=16000,
    show_default=True,
    help="Pictures of the built-in data (not ViLT's).",
)
@click.option(
    "--split", "splits", multiple=True, help="File of lxmert/ to train on; may be repeated.  [pretrain; vilt train]"
)
@click.option("--steps", type=click.IntRange(1, 10**9), default=4000, show_default=True, help="Optimizer steps.")
@click.option("--batch", type=options.COUNT, default=128, show_default=True, help="Sentences a step.")
@click.option("--learning-rate", default=7e-4, show_default=True, help="Peak learning rate.")
@click.option("--mismatch-rate", type=float, help="Share of mismatched pairs.  [lxmert 0.2, uniter 0.5]")
@click.option("--word-rate", type=float, help="Share of words to be predicted.  [0.15]")
@click.option("--region-rate", type=float, help="Share of regions to be predicted.  [0.15]")
@click.option("--visual-weight", type=float, help="Of LXMERT's region losses.  [6.67]")
@click.option("--transport-weight", type=float, help="Of UNITER's and ViLT's word-region alignment.  [0.1]")
@click.option("--seed", type=options.SEED, default=0, show_default=True)
@click.option("--half", is_flag=True, help="Store the weights as float16.")
@options.computing(training=True, shared=True)
@options.home
@options.as_json
def command(
    model: str,
    size: str,
    data: Path | None,
    pictures: int,
    splits: tuple[str, ...],
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    half: bool,
    compute: Any,
    home: Path,
    as_json: bool,
    **given: float | None,
) -> None:
    """Pre-train on the family's own objectives: words, regions, matching, and LXMERT's answers.

    The defaults make the built-in weights of LXMERT small, vlcompress/weights has the commands. On built-in data
    UNITER's settings are other than on your own. The same command again continues where it was stopped.
    """
    from vlcompress.data.sources import pretraining_folder
    from vlcompress.models.base import pretraining_of
    from vlcompress.models.registry import family_named
    from vlcompress.training.hyperparameters import Hyperparameters
    from vlcompress.training.pretrain import PretrainingRecipe
    from vlcompress.training.ranks import on_devices

    family = family_named(model)
    spec = pretraining_of(family)
    fixed: dict[str, Any] = {"warmup": 0.1, "clip": 5.0, "weight_decay": 0.01, "head_rate": 1.0}
    hyper = Hyperparameters(steps, batch, learning_rate, optimizer=spec.optimizer, **fixed)
    recipe = PretrainingRecipe(size, hyper, spec.settings_with(given, built_in=data is None), seed)
    folder = data or pretraining_folder(pictures, home, options.say, captions=family.reads == "pixels")
    result = on_devices(compute, partial(_pretrain, (model, folder, recipe, splits), home, compute, half))
    options.show({"pretrained": str(result)}, f"pre-trained weights: {result}", as_json)


def _pretrain(named: Any, home: Path, compute: Any, half: bool) -> Path:
    """Pre-train, in this process or in the first of several; `named` is a family's name and what follows it."""
    from vlcompress.models.registry import family_named
    from vlcompress.training.pretrain import Pretraining, pretrain

    family, *rest = named
    with click.Context(command):  # at whose end progress leaves the terminal
        work, watching = Pretraining(family_named(family), *rest), options.watching(None, home)
        return pretrain(work, home, compute=compute, half=half, say=options.say, progress=watching)
