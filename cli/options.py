"""Options that several commands share, and how commands talk: results on stdout, progress on stderr."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

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
device = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute; auto takes a GPU if there is one.",
)
run_path = click.argument("run", required=False, type=click.Path(path_type=Path, file_okay=False))


def say(line: str) -> None:
    """Tell progress, on stderr."""
    click.echo(f"\r\033[K{line}" if sys.stderr.isatty() else line, err=True)


def show(document: dict[str, Any], text: str, as_json: bool) -> None:
    """Give the result on stdout: the document as JSON, or the text for people."""
    click.echo(json.dumps(document, indent=2, allow_nan=False) if as_json else text)


def step_line() -> Callable[[int, float], None] | None:
    """Give a progress callback that rewrites one line on a terminal; None elsewhere."""
    if not sys.stderr.isatty():
        return None
    last = [0.0]

    def progress(step: int, loss: float) -> None:
        if time.monotonic() - last[0] > 0.2:
            last[0] = time.monotonic()
            click.echo(f"\r\033[K  step {step}, loss {loss:.3f}", err=True, nl=False)

    return progress


def torch_device(name: str) -> Any:
    """Turn the --device option into a torch device.

    Raises:
        VlcompressError: cuda asked for and not there.
    """
    import torch

    from vlcompress.errors import VlcompressError

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise VlcompressError("device 'cuda' was asked for, but torch sees no GPU: use --device cpu or auto")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def chosen_run(path: Path | None, home: Path) -> Any:
    """Give the run at `path` (its folder or its ticket), or the newest finished one."""
    from vlcompress.tickets.run import Run, newest_run

    if path is None:
        run = newest_run(home)
        say(f"newest run: {run.folder}")
        return run
    return Run(path.parent if path.name in ("ticket", "compiled", "onnx") else path)


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Read numbers that are separated by commas.

    Raises:
        VlcompressError: something else.
    """
    from vlcompress.errors import VlcompressError

    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise VlcompressError(
            f"{option} '{text}' is not a list of numbers: separate them by commas, as 0.5,0.7"
        ) from None


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """Read whole numbers that are separated by commas.

    Raises:
        VlcompressError: something else.
    """
    from vlcompress.errors import VlcompressError

    found = numbers(text, option)
    if any(number != int(number) for number in found):
        raise VlcompressError(f"{option} '{text}' holds a fraction: give whole numbers, as 1,8")
    return tuple(int(number) for number in found)
