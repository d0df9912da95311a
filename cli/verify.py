"""vlcompress verify: check an exported file again."""

from pathlib import Path
from typing import Any

import click

from vlcompress.cli import options


@click.command()
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--run", type=click.Path(path_type=Path, file_okay=False), help="Its run, if it lies elsewhere.")
@click.option("--batch", type=options.COUNT, default=32, show_default=True, help="Examples at a time.")
@click.option("--threads", type=options.THREADS, default=1, show_default=True, help="Threads of ONNX Runtime.")
@options.computing()
@options.providing()
@options.home
@options.as_json
def command(
    model: Path | None,
    run: Path | None,
    batch: int,
    threads: int,
    home: Path,
    as_json: bool,
    compute: Any,
    **where: Any,
) -> None:
    """Repeat the check that MODEL passed when it was exported (exit code 3 if it fails).

    MODEL is a model.onnx that `vlcompress export` wrote, with its manifest beside it, or its folder; without it the
    newest finished run's is taken.
    """
    from vlcompress.export.export_run import verify_file
    from vlcompress.report.text import verify_text

    provider = options.provider_word(where["provider"], where["provider_options"], compute=compute)
    if model is None:
        model = options.chosen_run(None, home).folder / "onnx"
    if model.is_dir():
        model /= "model.onnx"
    chosen = None if run is None else options.chosen_run(run, Path())
    found = verify_file(
        model, chosen, batch=batch, threads=threads, compute=compute, provider=provider, say=options.say
    )
    options.show(found, verify_text(found), as_json)
