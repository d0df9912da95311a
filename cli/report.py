"""vlcompress report: one page about a run."""

from pathlib import Path
from typing import Any

import click

from vlcompress.cli import options

FORMATS = ("png", "pdf", "svg")


@click.command()
@options.run_path
@click.option("--studies", is_flag=True, help="A page about the studies alone.")
@click.option(
    "--plots", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER", help="Write the plots as files, too."
)
@click.option(
    "--format", "formats", multiple=True, type=click.Choice(FORMATS), help="Of --plots; repeatable.  [png and pdf]"
)
@options.home
@options.as_json
def command(
    run: Path | None, studies: bool, plots: Path | None, formats: tuple[str, ...], home: Path, as_json: bool
) -> None:
    """Write report.html and report.json: what was found, whether it is faster, and what is not measured.

    RUN is a run's folder; without it the newest finished run is taken. Studies in the same home have a section each.
    The page opens offline.
    """
    from vlcompress.artefacts import read_json
    from vlcompress.report.page import report_plots, write_report
    from vlcompress.report.plots import save_all
    from vlcompress.report.report_data import report_data
    from vlcompress.studies.page import report_sections, study_plots, write_studies

    if formats and plots is None:
        options.say("--format has no effect without --plots")
    chosen = None if studies else options.chosen_run(run, home)
    page = write_report(chosen, report_sections(chosen.home)) if chosen else write_studies(home)
    document: dict[str, Any] = {"report": str(page)}
    headline = ""
    if chosen:
        document |= read_json(page.with_suffix(".json"))
        headline = f"{document['headline']}\n"
    if plots is not None:
        drawn = report_plots(report_data(chosen)) if chosen else study_plots(home)
        document["plots"] = [str(path) for path in save_all(drawn, plots, formats or ("png", "pdf"))]
        for path in document["plots"]:
            options.say(f"plot: {path}")
    options.show(document, f"{headline}report: {page}", as_json)
