"""Put what commands print into README.md, between its markers.

python -m bench.readme
"""

from pathlib import Path

from vlcompress.artefacts import write_file
from vlcompress.report.text import tasks_text
from vlcompress.tasks.support_matrix import read_record

README = Path(__file__).parents[1] / "README.md"


def main() -> None:
    """Replace the table of families and tasks."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split("<!-- tasks: begin -->\n")
    after = rest.split("<!-- tasks: end -->")[1]
    table = tasks_text(read_record(), markdown=True)
    write_file(README, f"{before}<!-- tasks: begin -->\n{table}\n<!-- tasks: end -->{after}")


if __name__ == "__main__":
    main()
