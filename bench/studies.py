"""Collect the studies of a home into records and plots, and say what came out in the README.md beside them.

    python -m bench.studies [HOME] [--out bench/results/studies]

Records of studies that HOME does not have stay as they are, so that studies may come from several machines. Without
HOME the plots and that page are made anew from the records. A study that another one of the same choices with more
seeds covers is left out.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from vlcompress.artefacts import Json, read_json, write_file
from vlcompress.errors import VlcompressError
from vlcompress.report.plots import Chart, standalone
from vlcompress.studies.base import Choices
from vlcompress.studies.page import outdated, read_report, read_studies
from vlcompress.studies.registry import STUDIES

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "bench" / "results" / "studies"
LIMIT = 150_000
"""Most bytes of a record."""

PLOTTED = ("tickets", "transfer", "granularity")
"""Studies whose plots stand in the page; the others' plots lie beside their records."""

_HEADING = """\
# What the tickets show

Made by `python -m bench.studies`, which draws the plots too. Scores are means over seeds on the built-in data; brackets
hold 95 % intervals of a paired bootstrap."""
_DROPPED = ("trainings", "figures", "results_sha256")


def collect(home: Path, out: Path) -> list[str]:
    """Write a record for every current study of a home.

    Args:
        home: folder of runs, with ``studies/``.
        out: folder of records, ``NAME.json``.

    Returns:
        What was left out, each with the reason.

    Raises:
        VlcompressError: no study, a damaged one, or a record that is too large to keep.
    """
    studies = read_studies(home)
    if not studies:
        raise VlcompressError(f"there is no study in '{home}': run `vlcompress study` first")
    left_out = {name: why for name, document in studies.items() if (why := _unfit(name, document, studies))}
    out.mkdir(parents=True, exist_ok=True)
    for name in studies.keys() - left_out:
        text = json.dumps(record(studies[name]), separators=(",", ":"), ensure_ascii=False, allow_nan=False) + "\n"
        if len(text.encode()) > LIMIT:
            raise VlcompressError(
                f"study '{name}' makes a record of {len(text.encode())} bytes: at most {LIMIT} are kept"
            )
        write_file(out / f"{name}.json", text)
    return [f"{name}: {why}" for name, why in sorted(left_out.items())]


def record(document: Json) -> Json:
    """Trim a study to what a reader needs: no names of trainings, numbers to five digits behind the point."""
    trimmed: Json = _trimmed({name: value for name, value in document.items() if name != "trainings"})
    return {**trimmed, "trainings": document["trainings"]}


def read_records(folder: Path = RECORDS) -> dict[str, Json]:
    """Read every record, the studies in the order in which they are listed."""
    order = list(STUDIES)
    found = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    return dict(sorted(found.items(), key=lambda one: (order.index(one[1]["study"]), one[0])))


def plots(records: Mapping[str, Json]) -> dict[str, str]:
    """Draw every chart of every record, as files by name."""
    return {
        f"{name}-{number}.svg": standalone(chart)
        for name, document in records.items()
        for number, chart in enumerate(read_report(document).charts, start=1)
    }


def page(records: Mapping[str, Json]) -> str:
    """Write the page in Markdown: for each study what came out, its cost and its command, and plots."""
    parts = [_HEADING]
    for study in dict.fromkeys(document["study"] for document in records.values()):
        mine = {name: document for name, document in records.items() if document["study"] == study}
        parts.append("\n".join(_item(name, document) for name, document in mine.items()))
        images = [_image(name, number, chart) for name, number, chart in _plotted(mine)]
        parts += ["\n".join(["<p>", *images, "</p>"])] if images else []
    return "\n\n".join(parts) + "\n"


def _unfit(name: str, document: Json, studies: Mapping[str, Json]) -> str:
    """Say why a study is not recorded; "" where it is."""
    if stale := outdated(document):
        return stale
    source = document["choices"]["source"]
    if source and not source.startswith("scenes:"):
        return f"it is on data of one's own ('{Path(source).name}')"
    covering = [other for other, one in studies.items() if other != name and _covers(one, document)]
    return f"{covering[0]} has the same with more seeds" if covering else ""


def _covers(one: Json, other: Json) -> bool:
    if outdated(one) or (one["study"], _but_seeds(one)) != (other["study"], _but_seeds(other)):
        return False
    return set(one["choices"]["seeds"]) > set(other["choices"]["seeds"])


def _but_seeds(document: Json) -> Json:
    return {name: value for name, value in document["choices"].items() if name != "seeds"}


def _trimmed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _trimmed(one) for name, one in value.items() if name not in _DROPPED}
    if isinstance(value, list):
        return [_trimmed(one) for one in value]
    return round(value, 5) if isinstance(value, float) else value


def _item(name: str, document: Json) -> str:
    what = f"{_models(document)}, {_count(len(document['choices']['seeds']), 'seed')}, {_cost(document)}"
    failed = f" Failed: {'; '.join(document['failed'])}." if document["failed"] else ""
    return f"- **[{name}]({name}.json)** ({what}; `{document['command']}`): {document['summary']}{failed}"


def _models(document: Json) -> str:
    """Name the families and sizes of a study's cells."""
    choices = {name: tuple(one) if isinstance(one, list) else one for name, one in document["choices"].items()}
    models = [cell.recipe.model for cell in STUDIES[document["study"]].cells(Choices(**choices))]
    return ", ".join(dict.fromkeys(f"{one.family} {one.size}" for one in models))


def _cost(document: Json) -> str:
    """Say how many trainings, and how long they took; trainings that do not say count as the mean of those that do."""
    trained = document["trainings"]
    if not trained["timed"]:
        return _count(trained["count"], "training")
    minutes = trained["seconds"] / trained["timed"] * trained["count"] / 60
    return f"{_count(trained['count'], 'training')} in {minutes:.0f} min"


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _plotted(records: Mapping[str, Json]) -> Iterator[tuple[str, int, Chart]]:
    for name, document in records.items():
        if document["study"] in PLOTTED:
            for number, chart in enumerate(read_report(document).charts, start=1):
                yield name, number, chart


def _image(name: str, number: int, chart: Chart) -> str:
    return f'<img src="{name}-{number}.svg" alt="{escape(chart.title)}" width="49%">'


def main() -> None:
    """Collect, draw, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path, nargs="?", metavar="HOME")
    parser.add_argument("--out", type=Path, default=RECORDS)
    chosen = parser.parse_args()
    try:
        for reason in collect(chosen.home, chosen.out) if chosen.home else ():
            print(f"left out: {reason}")
    except VlcompressError as error:
        parser.error(str(error))
    records = read_records(chosen.out)
    drawn = plots(records)
    for name, drawing in drawn.items():
        write_file(chosen.out / name, drawing)
    for path in chosen.out.glob("*.svg"):
        if path.name not in drawn:
            path.unlink()
    write_file(chosen.out / "README.md", page(records))


if __name__ == "__main__":
    main()
