"""vlcompress push: publish a run on the Hugging Face hub."""

from pathlib import Path

import click

from vlcompress.cli import options


@click.command()
@click.argument("run", type=click.Path(path_type=Path, file_okay=False))
@click.argument("repo")
@click.option("--dry-run", is_flag=True, help="List the files and their sizes, and stop.")
@click.option("--private", is_flag=True, help="Make the repository for its owner alone, where it is new.")
@options.as_json
def command(run: Path, repo: str, dry_run: bool, private: bool, as_json: bool) -> None:
    """Publish RUN as REPO (OWNER/NAME): ticket, compiled model, ONNX files, and a card with verdict and speed.

    The token is the one of `hf auth login`, or HF_TOKEN; HF_ENDPOINT names another hub. A run is published once
    `vlcompress bench` has measured it.
    """
    from vlcompress.report.push import check_name, push, uploads_of
    from vlcompress.report.table import Table, terminal

    chosen = options.chosen_run(run, run.parent)
    if not dry_run:
        url = push(chosen, repo, private=private, say=options.say)
        options.show({"repo": repo, "url": url}, f"published: {url}", as_json)
        return
    check_name(repo)
    files = {one.path: one.size for one in uploads_of(chosen, options.say)}
    rows = tuple((path, f"{size:,}") for path, size in files.items())
    listed = terminal(Table("", (f"file in {repo}", "bytes"), (*rows, ("all", f"{sum(files.values()):,}"))))
    options.show({"repo": repo, "files": files}, listed, as_json)
