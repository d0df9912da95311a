"""vlcompress report: one page about a run."""

from pathlib import Path

import click

from vlcompress.cli import options


@click.command()
@options.run_path
@click.option("--studies", is_flag=True, help="A page about the studies alone.")
@options.home
@options.as_json
def command(run: Path | None, studies: bool, home: Path, as_json: bool) -> None:
    """Write report.html and report.json: what was found, whether it is faster, and what is not measured.

    RUN is a run's folder; without it the newest finished run is taken. Studies in the same home have a section each.
    The page opens offline.
    """
    from vlcompress.artefacts import read_json
    from vlcompress.report.page import write_report
    from vlcompress.studies.page import report_sections, write_studies

    if studies:
        page = write_studies(home)
        options.show({"report": str(page)}, f"report: {page}", as_json)
        return
    chosen = options.chosen_run(run, home)
    page = write_report(chosen, report_sections(chosen.home))
    document = read_json(page.with_suffix(".json"))
    options.show({"report": str(page), **document}, f"{document['headline']}\nreport: {page}", as_json)
