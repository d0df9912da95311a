"""Options that several commands share, and how commands talk: results on stdout, progress on stderr."""

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from vlcompress.devices import DTYPES, check_device, check_dtype, parse_micro_batch
from vlcompress.errors import VlcompressError, unknown

_CLEAR = "\r\033[K"
"""Puts what a terminal shows next in the place of the progress line, which comes back below it."""

F = TypeVar("F", bound=Callable[..., Any])

home = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    envvar="VLCOMPRESS_HOME",
    show_default=True,
    help="Folder for runs, trainings and built-in data.",
)
as_json = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document on stdout; everything else on stderr."
)


COUNT = click.IntRange(1, 1 << 16)
"""Examples of a batch, and other numbers of things that are held at once."""
THREADS = click.IntRange(1, 1024)
SEED = click.IntRange(0, (1 << 32) - 1)


def checked(check: Callable[[str], None]) -> Callable[[str], str]:
    """Make an option's type of a function that checks a word, so that a wrong one is told as every mistake is."""

    def read(word: str) -> str:
        check(word)
        return word

    return read


class Listed(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2
    """Values with commas between them, as a tuple; a wrong one is told in one line as every mistake is."""

    def __init__(self, read: Callable[[str], Any], many: str, example: str) -> None:
        """`read` raises ValueError at what is no value; `many` names several of them."""
        self.name, self._read, self._example = many, read, example

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Show an example."""
        return self._example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Read the values."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self._read(part) for part in value.split(","))
        except ValueError:
            option = param.opts[0] if param else self.name
            raise VlcompressError(
                f"{option} '{value}' is not a list of {self.name}: separate them by commas, as {self._example}"
            ) from None


def _sparsity(text: str) -> float:
    if not 0 < float(text) < 1:
        raise ValueError
    return float(text)


WORDS = Listed(str, "words", "head,neuron")
NUMBERS = Listed(float, "numbers", "0.5,0.7")
WHOLE_NUMBERS = Listed(int, "whole numbers", "0,1,2")
SPARSITIES = Listed(_sparsity, "fractions above 0 and below 1", "0.5,0.7")


def where(device: str | None = "auto", dtype: str | None = "fp32") -> Callable[[F], F]:
    """Add --device and --dtype to a command; a default of None leaves them to the recipe."""
    said = "" if device else "  [the recipe's]"
    first = click.option(
        "--device",
        type=checked(check_device),
        metavar="auto|cpu|cuda[:N]",
        default=device,
        show_default=True,
        help="Where PyTorch computes; auto takes a GPU if there is one." + said,
    )
    second = click.option(
        "--dtype",
        type=checked(check_dtype),
        metavar="|".join(DTYPES),
        default=dtype,
        show_default=True,
        help="What PyTorch computes in; scores, and weights in training, stay float32." + said,
    )
    return lambda command: first(second(command))


def fitting(default: str | None = "0") -> Callable[[F], F]:
    """Add what fits a training to a machine to a command; a default of None leaves it to the recipe."""
    said = "" if default else "  [the recipe's]"
    first = click.option(
        "--micro-batch",
        type=parse_micro_batch,
        metavar="N|auto",
        default=default,
        help="Compute so many of a step's examples at once; auto: as many as the GPU has memory for." + said,
    )
    second = click.option(
        "--activation-checkpointing",
        is_flag=True,
        default=None if default is None else False,
        help="Compute the insides of blocks twice: the same bits in less memory, more time." + said,
    )
    third = click.option(
        "--readers",
        type=click.IntRange(1, 64),
        default=None if default is None else 1,
        show_default=default is not None,
        help="Threads that read and make batches ahead: the same bits, sooner where reading is slow." + said,
    )
    return lambda command: first(second(third(command)))


def sharing(default: int | None = 1) -> Callable[[F], F]:
    """Add --devices to a command; a default of None leaves it to the recipe."""
    said = "" if default else "  [the recipe's]"
    return click.option(
        "--devices",
        type=click.IntRange(1, 1024),
        default=default,
        show_default=True,
        help="GPUs that share each training; with --device cpu, processes." + said,
    )


def computing(*, training: bool = False, shared: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add --device and --dtype to a command, which takes what they say as `compute`, checked against this machine.

    One that trains gets the options of `fitting` too, and one whose trainings are shared that of `sharing`.
    """
    more = ("micro_batch", "activation_checkpointing", "readers") * training + ("devices",) * shared

    def add(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(*, device: str, dtype: str, **given: Any) -> None:
            from vlcompress.devices import parse_compute

            fits = {name: given.pop(name) for name in more}
            command(compute=parse_compute(device, dtype, training=training, **fits), **given)

        shares: Callable[..., None] = sharing()(run) if shared else run
        return where()(fitting()(shares) if training else shares)

    return add


def _pair(text: str) -> tuple[str, str]:
    from vlcompress.export.providers import read_option

    return read_option(text)


def providing(
    default: str | None = None,
    said: str = "[the one that the file was exported for]",
    names: tuple[str, ...] = ("cpu", "cuda", "tensorrt"),
) -> Callable[[F], F]:
    """Add --provider and --provider-option to a command; `said` tells what stands in for None as default."""

    def check(name: str) -> None:
        if name not in names:
            raise unknown("provider", name, names)

    name_option = click.option(
        "--provider",
        type=checked(check),
        metavar="|".join(names),
        default=default,
        show_default=True,
        help="ONNX Runtime's execution provider." + ("" if default else f"  {said}"),
    )
    settings = click.option(
        "--provider-option",
        "provider_options",
        type=_pair,
        multiple=True,
        metavar="KEY=VALUE",
        help="An option of that provider, such as use_tf32=1 or trt_engine_cache_path=DIR; repeatable.",
    )
    return lambda command: name_option(settings(command))


def provider_word(name: str | None, given: tuple[tuple[str, str], ...], **more: Any) -> str | None:
    """Spell out a provider that must be there; None where none was named.

    Raises:
        VlcompressError: not there, or options of a provider that was not named.
    """
    from vlcompress.export.providers import spell_provider
    from vlcompress.export.runtime import require_provider

    if name is None:
        if given:
            raise VlcompressError(f"provider option '{given[0][0]}' is of no provider: name it with --provider")
        return None
    require_provider(name)
    return spell_provider(name, given, say=say, **more)


run_path = click.argument("run", required=False, type=click.Path(path_type=Path, file_okay=False))


def say(line: str) -> None:
    """Report progress, on stderr."""
    click.echo(f"{_CLEAR}{line}" if sys.stderr.isatty() else line, err=True)


def show(result: Any, text: str, as_json: bool) -> None:
    """Print a result on stdout: as JSON, or the text for people."""
    from vlcompress.results import to_json

    shown = json.dumps(to_json(result), indent=2, allow_nan=False) if as_json else text
    click.echo(f"{_CLEAR}{shown}" if sys.stdout.isatty() else shown)


track = click.option(
    "--track",
    type=checked(lambda name: _trackers().check_tracker(name)),
    metavar="tensorboard|wandb|trackio|mlflow",
    help="Log every step to a tracker too, whose package must be installed.",
)


def _trackers() -> Any:
    from vlcompress.training import trackers

    return trackers


def watching(tracker: str | None, home: Path) -> Any:
    """Make what watches a command's trainings: progress, and the tracker that was asked for."""
    from vlcompress.cli.progress import training_progress
    from vlcompress.training.watching import Watchers

    tracked: list[Any] = [_trackers().tracker_named(tracker, home)] if tracker else []
    return Watchers([training_progress(say), *tracked])


def engine(command: F) -> F:
    """Add --engine and --share to a command that trains."""
    who = click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Who trains: this process, or a Ray cluster (that of $RAY_ADDRESS, or one started here).",
    )
    place = click.option(
        "--share",
        default="",
        metavar="URL",
        help="Copy finished trainings to and from a folder or URL (s3://...), for machines that share no --home.",
    )
    return who(place(command))


def engine_named(name: str, share: str, tracker: str | None, compute: Any) -> Any:
    """Make who does a command's trainings.

    Raises:
        VlcompressError: a place that cannot be used, Ray is not installed, several devices with Ray.
    """
    from vlcompress.tickets.engine import Local
    from vlcompress.tickets.shared import check_shared

    if share:
        check_shared(share)
    if name == "local":
        return Local(share)
    if compute.devices > 1:
        raise VlcompressError(
            f"devices {compute.devices} with engine ray: a task there trains on one device; leave one of them out"
        )
    from vlcompress.tickets.ray_engine import RayEngine

    return RayEngine(share, tracker)


def chosen_run(path: Path | None, home: Path) -> Any:
    """Open the run at `path` (its folder or its ticket), or the newest finished one."""
    from vlcompress.tickets.run import Run, newest_run

    if path is None:
        run = newest_run(home)
        say(f"newest run: {run.folder}")
        return run
    if not path.is_dir():
        raise VlcompressError(f"no run at '{path}': give a run's folder, or nothing for the newest run of --home")
    return Run(path.parent if path.name in ("ticket", "compiled", "onnx") else path)
