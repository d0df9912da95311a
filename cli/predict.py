"""vlcompress predict: a benchmark's submission file."""

from pathlib import Path

import click

from vlcompress.cli import options


@click.command()
@options.run_path
@click.option("--split", required=True, help="Split to answer, by its published name; its answers may be hidden.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="File to write.")
@click.option("--batch", default=256, show_default=True, help="Examples at a time.")
@options.device
@options.home
@options.as_json
def command(run: Path | None, split: str, out: Path, batch: int, device: str, home: Path, as_json: bool) -> None:
    """Answer a split with a run's ticket, in the file that the benchmark's server takes.

    RUN is a run's folder; the newest finished one is taken without it. VQA, GQA, RefCOCO: JSON; NLVR2, VCR: CSV;
    retrieval: the score matrix.
    """
    from vlcompress.report.text import prediction_text
    from vlcompress.tickets.predict import predict

    document = predict(options.chosen_run(run, home), split, out, device=options.torch_device(device), batch=batch)
    options.show(document, prediction_text(document), as_json)
