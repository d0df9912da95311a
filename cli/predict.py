"""vlcompress predict: a benchmark's submission file."""

from pathlib import Path
from typing import Any

import click

from vlcompress.cli import options


@click.command()
@options.run_path
@click.option("--split", required=True, help="Split to answer, by its published name; its answers may be hidden.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="File to write.")
@click.option("--batch", type=options.COUNT, default=256, show_default=True, help="Examples at a time.")
@click.option(
    "--form",
    type=click.Choice(["masked", "compiled", "onnx"]),
    default="masked",
    show_default=True,
    help="What answers: the ticket as trained, the compiled model, or the exported file.",
)
@options.computing()
@options.home
@options.as_json
def command(
    run: Path | None, split: str, out: Path, batch: int, form: Any, compute: Any, home: Path, as_json: bool
) -> None:
    """Answer a split with a run's ticket, in the file that the benchmark's server takes.

    RUN is a run's folder; the newest finished one is taken without it. VQA, GQA, RefCOCO: JSON; NLVR2, VCR: CSV;
    retrieval: the score matrix.
    """
    from vlcompress.export.predict import predict
    from vlcompress.report.text import prediction_text

    chosen = options.chosen_run(run, home)
    document = predict(chosen, split, out, form=form, compute=compute, batch=batch, say=options.say)
    options.show(document, prediction_text(document), as_json)
