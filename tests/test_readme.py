"""README.md embeds what commands print; it is made again with ``python -m bench.readme`` and ``bench.studies``."""

from pathlib import Path

from click.testing import CliRunner

from bench.studies import LIMIT, RECORDS, plots, read_records, readme_section
from vlcompress.cli.main import main

README = Path(__file__).parents[1] / "README.md"


def test_the_table_of_families_and_tasks_is_what_the_command_prints() -> None:
    table = README.read_text().split("<!-- tasks: begin -->\n")[1].split("<!-- tasks: end -->")[0]
    printed = CliRunner().invoke(main, ["tasks", "--markdown"])
    assert printed.exit_code == 0
    assert table.strip() == printed.output.strip(), "run `python -m bench.readme`"


def test_the_section_of_studies_is_what_the_records_say() -> None:
    section = README.read_text().split("<!-- studies: begin -->\n")[1].split("<!-- studies: end -->")[0]
    assert section.strip() == readme_section(read_records()).strip(), "run `python -m bench.studies`"


def test_the_plots_are_those_of_the_records() -> None:
    drawn = plots(read_records())
    assert {path.name for path in RECORDS.glob("*.svg")} == set(drawn), "run `python -m bench.studies`"
    for name, drawing in drawn.items():
        assert (RECORDS / name).read_text() == drawing, f"run `python -m bench.studies`: {name} differs"


def test_records_are_small_and_name_no_machine() -> None:
    for path in RECORDS.glob("*.json"):
        assert path.stat().st_size <= LIMIT
        assert '"/' not in path.read_text(), "a record holds a path"
