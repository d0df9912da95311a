"""README.md embeds what a command prints; it is made again with ``python -m bench.readme``."""

from pathlib import Path

from click.testing import CliRunner

from vlcompress.cli.main import main

README = Path(__file__).parents[1] / "README.md"


def test_the_table_of_families_and_tasks_is_what_the_command_prints() -> None:
    table = README.read_text().split("<!-- tasks: begin -->\n")[1].split("<!-- tasks: end -->")[0]
    printed = CliRunner().invoke(main, ["tasks", "--markdown"])
    assert printed.exit_code == 0
    assert table.strip() == printed.output.strip(), "run `python -m bench.readme`"
