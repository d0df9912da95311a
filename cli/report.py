"""vlcompress report: one page about a run."""

from pathlib import Path

import click

from vlcompress.cli import options


@click.command()
@options.run_path
@options.home
@options.as_json
def command(run: Path | None, home: Path, as_json: bool) -> None:
    """Write report.html and report.json: what was found, whether it is faster, and what is not measured.

    RUN is a run's folder; without it the newest finished run is taken. The page opens offline.
    """
    from vlcompress.artefacts import read_json
    from vlcompress.report.page import write_report

    page = write_report(options.chosen_run(run, home))
    document = read_json(page.with_suffix(".json"))
    options.show({"report": str(page), **document}, f"{document['headline']}\nreport: {page}", as_json)
