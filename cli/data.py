"""vlcompress data: look through a data folder, and import it into the store."""

from pathlib import Path

import click

from vlcompress.cli import options

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group()
def command() -> None:
    """Check data folders, and import them into the store that reads fastest."""


@command.command()
@click.argument("folder", type=_FOLDER)
@options.as_json
def check(folder: Path, as_json: bool) -> None:
    """Say what FOLDER holds: counts, label lists, features and pictures of each task and split, and three samples."""
    from vlcompress.data.checking import check_folder
    from vlcompress.errors import VlcompressError

    report = check_folder(folder)
    options.show(report.document(), "\n".join(report.lines()), as_json)
    if report.errors:
        raise VlcompressError(f"{len(report.errors)} of {len(report.splits)} splits cannot be read: {report.errors[0]}")


@command.command("import")
@click.argument("source", type=_FOLDER)
@click.argument("out", type=_FOLDER)
@click.option(
    "--task", required=True, help="Whose data to import (vqa, gqa, nlvr2, ...); one that is not known lists all."
)
@click.option("--split", "splits", multiple=True, help="A split to import; all that SOURCE has without it.")
@click.option("--vocab", type=click.Path(path_type=Path), help="A vocab.txt to tokenise with; SOURCE's own without it.")
@click.option("--allow-missing", is_flag=True, help="Leave out examples whose image is missing instead of refusing.")
@options.as_json
def import_(
    source: Path, out: Path, task: str, splits: tuple[str, ...], vocab: Path | None, allow_missing: bool, as_json: bool
) -> None:
    """Import a task's data from SOURCE, whatever its layout, into the folder OUT; on an error nothing is written."""
    from vlcompress.data.importing import import_task

    done = import_task(source, out, task, splits, vocabulary=vocab, allow_missing=allow_missing, say=options.say)
    counts = ", ".join(f"{name} {count}" for name, count in done.examples.items())
    text = f"imported {task} ({counts}) from {done.layout} into {out}: {done.bytes / 1e6:.1f} MB, {done.seconds:.1f} s"
    options.show(done.document(), text, as_json)
