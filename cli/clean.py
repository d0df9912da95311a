"""vlcompress clean: remove trainings that nothing refers to."""

from pathlib import Path

import click

from vlcompress.cli import options


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@options.home
@options.as_json
def command(dry_run: bool, home: Path, as_json: bool) -> None:
    """Remove the trainings of --home that no finished run or study refers to.

    Those of a run or study that was stopped are among them: finish it first, or they are done anew. What was changed
    within the last hour is left alone. Runs, tickets, data and pre-trained weights stay.
    """
    from vlcompress.tickets.disk import spelt, unused

    found = unused(home)
    if not dry_run:
        found.remove()
    verb = "would remove" if dry_run else "removed"
    lines = [*(f"  {path}" for path in found.paths), f"{verb} {len(found.paths)}, {spelt(found.bytes)}"]
    if found.young:
        lines.append(f"left alone: {found.young} of the last hour")
    document = {"removed": not dry_run, "paths": [str(path) for path in found.paths], "bytes": found.bytes}
    options.show({**document, "young": found.young}, "\n".join(lines), as_json)
