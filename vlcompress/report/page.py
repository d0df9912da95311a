"""The report: one HTML page that opens offline, and the same numbers as JSON."""

from html import escape
from pathlib import Path

from vlcompress.artefacts import Json, dumps, write_file
from vlcompress.report.accuracy import accuracy_section
from vlcompress.report.facts import report_facts, toml_text
from vlcompress.report.markup import code, facts_table, listing, paragraph, section, whole_page
from vlcompress.report.speed import NOT_MEASURED, curve_section, plan_section, speed_section
from vlcompress.report.words import caveats, headline
from vlcompress.tickets.run import Run


def write_report(run: Run, more: str = "") -> Path:
    """Write ``report.html`` and ``report.json`` into a run's folder; earlier ones are replaced.

    Args:
        run: a finished run. What `compile`, `export` and `bench` have added is shown; the rest is said to be missing.
        more: ready-made sections about other things in the run's home (its studies).

    Returns:
        The path of the page.

    Raises:
        VlcompressError: not a finished run, a damaged file, or a folder that cannot be written.
    """
    facts = report_facts(run)
    write_file(run.folder / "report.json", dumps({"headline": headline(facts), "caveats": caveats(facts), **facts}))
    page = run.folder / "report.html"
    write_file(page, render(facts, more))
    return page


def render(facts: Json, more: str = "") -> str:
    """Return the page: a whole HTML document that refers to nothing outside itself; `more` goes before the recipe."""
    model, data = facts["recipe"]["model"], facts["recipe"]["data"]
    title = f"{model['family']} {model['size']} on {data['task']}: a lottery ticket"
    parts = (
        f"<h1>{escape(title)}</h1>",
        paragraph(headline(facts), "headline"),
        accuracy_section(facts),
        speed_section(facts),
        curve_section(facts),
        plan_section(facts),
        section("What is slower, and what is not measured", listing(caveats(facts))),
        _export_section(facts),
        more,
        section("Recipe", code(toml_text(facts))),
        _environment_section(facts),
        section("How to repeat this", code(repeat_commands(facts))),
    )
    return whole_page(title, parts)


def repeat_commands(facts: Json) -> str:
    """Return the commands that make this report again, from the recipe that it shows."""
    versions = facts["versions"] or {}
    packages = " ".join(f"'{name}=={version}'" for name, version in sorted(versions.items()) if name != "vlcompress")
    return "\n".join(
        [
            f"# vlcompress {versions.get('vlcompress', '')} and {packages}; recipe.toml is the recipe above",
            "vlcompress prune recipe.toml",
            "vlcompress compile",
            "vlcompress export --format onnx",
            "vlcompress bench",
            "vlcompress report",
        ]
    )


def _export_section(facts: Json) -> str:
    onnx = facts["onnx"]
    if onnx is None:
        return section("ONNX file", paragraph("not exported yet: run `vlcompress export --format onnx`", "missing"))
    speed, sizes = onnx["speed"] or {}, onnx["bytes"] or {}
    graphs = {
        "opset": onnx["opset"],
        "graph": speed.get("picked"),
        "median µs of each graph when exported": {name: row["us"] for name, row in speed.get("timings", {}).items()},
        "bytes": sizes,
        "optimizers to switch off": speed.get("disabled_optimizers") or None,
        **{f"parity on {name}": values for name, values in (onnx["parity"] or {}).items()},
    }
    return section("ONNX file", facts_table(graphs))


def _environment_section(facts: Json) -> str:
    measured = facts["environment"]
    speed = facts_table(measured) if measured else paragraph(f"The machine of the speeds: {NOT_MEASURED}", "missing")
    return section("Environment", paragraph("Speeds were measured with:") if measured else "", speed, _identity(facts))


def _identity(facts: Json) -> str:
    trained = {**(facts["versions"] or {}), "run": facts["run"], "data": facts["data"]}
    return paragraph("The ticket was trained with:") + facts_table(trained)
