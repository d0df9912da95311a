"""README.md and the pages beside it embed what commands print, show what runs, and hold no dead link."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.studies import LIMIT, RECORDS, page, plots, read_records
from vlcompress.cli.main import main

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [path for found in ("*.md", "docs/*.md", "kernels/*.md", "bench/**/*.md") for path in ROOT.glob(found)]
WORDS = 1500
"""Most words of README.md: details live in docs/."""


def between(name: str) -> str:
    """Return what stands in README.md between the markers of a name."""
    return README.read_text().split(f"<!-- {name}: begin -->\n")[1].split(f"<!-- {name}: end -->")[0]


def test_the_readme_is_short_and_begins_with_the_two_commands() -> None:
    text = README.read_text()
    assert len(text.split()) < WORDS
    assert text.index("<!-- ci: run -->") < text.index("<!-- ci: test -->") < text.index("](bench/")


def test_the_table_of_families_and_tasks_is_what_the_command_prints() -> None:
    printed = CliRunner().invoke(main, ["tasks", "--markdown"])
    assert printed.exit_code == 0
    assert between("tasks").strip() == printed.output.strip(), "run `python -m bench.readme`"


def test_the_page_of_studies_is_what_the_records_say() -> None:
    assert (RECORDS / "README.md").read_text() == page(read_records()), "run `python -m bench.studies`"


def test_the_summary_has_no_figure_that_the_studies_lack() -> None:
    figures = re.findall(r"\d+\.\d+", between("summary"))
    assert len(figures) >= 5
    studies = (RECORDS / "README.md").read_text()
    assert [figure for figure in figures if figure not in studies] == []


def test_the_plots_are_those_of_the_records() -> None:
    drawn = plots(read_records())
    assert {path.name for path in RECORDS.glob("*.svg")} == set(drawn), "run `python -m bench.studies`"
    for name, drawing in drawn.items():
        assert _said((RECORDS / name).read_text()) == _said(drawing), f"run `python -m bench.studies`: {name} differs"


def _said(drawing: str) -> list[str]:
    """Take what a plot says, every point's values included; where it is put varies with the version of matplotlib."""
    return re.findall(r">([^<>]*\w[^<>]*)<", drawing)


def test_records_are_small_and_name_no_machine() -> None:
    for path in RECORDS.glob("*.json"):
        assert path.stat().st_size <= LIMIT
        assert '"/' not in path.read_text(), "a record holds a path"


def test_the_example_finds_a_ticket_and_compiles_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = between("example").removeprefix("```python\n").removesuffix("```\n")
    names: dict[str, object] = {}
    exec(compile(code, str(README), "exec"), names)
    ran = {line.split()[0]: line.split()[2] for line in capsys.readouterr().out.splitlines() if ".weight " in line}
    assert ran == {layer.name: layer.choice.picked for layer in names["plan"].layers}  # type: ignore[attr-defined]
    assert len(ran) > 20
    assert (names["run"].folder / "compiled/plan.json").is_file()  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_into_the_tree_lead_somewhere(path: Path) -> None:
    targets = re.findall(r'\]\(([^)#]+)|<img src="([^"]+)"', path.read_text())
    links = {link or image for link, image in targets}
    assert [link for link in links if not link.startswith("https://") and not (path.parent / link).exists()] == []
