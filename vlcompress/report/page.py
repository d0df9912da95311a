"""The report: one HTML page that opens offline, the same numbers as JSON, and its plots."""

from collections.abc import Mapping
from pathlib import Path

from vlcompress.artefacts import dumps, write_file
from vlcompress.report.accuracy import accuracy_caption, accuracy_chart, accuracy_table, block_cost_table, rounds_chart
from vlcompress.report.html import details, render
from vlcompress.report.layer_map import layer_map
from vlcompress.report.losses import loss_chart
from vlcompress.report.plots import Plot
from vlcompress.report.report_data import ExportFacts, ReportData, report_data
from vlcompress.report.sentences import caveats, headline, place, seeds_words
from vlcompress.report.speed import curve_charts, curve_table, latency_table, layer_table, size_table
from vlcompress.report.table import Table
from vlcompress.results import to_json
from vlcompress.tickets.run import Run


def write_report(run: Run, studies: str = "") -> Path:
    """Write ``report.html`` and ``report.json`` into a run's folder; earlier ones are replaced.

    Args:
        run: a finished run. What `compile`, `export` and `bench` have added is shown; the rest is said to be missing.
        studies: the rendered section about the studies in the run's home.

    Returns:
        The path of the page.

    Raises:
        VlcompressError: not a finished run, a damaged file, or a folder that cannot be written.
    """
    data = report_data(run)
    written = {"headline": headline(data), "caveats": caveats(data), **to_json(data)}
    write_file(run.folder / "report.json", dumps(written))
    page = run.folder / "report.html"
    write_file(page, report_html(data, studies))
    return page


def report_plots(data: ReportData) -> dict[str, Plot]:
    """Draw up the plots of a report, by the name for a file."""
    curves = {chart.title.lower().replace(" ", "-"): chart for chart in curve_charts(data)}
    layers = {"layers": layer_map(data.layer_sparsity)} if data.layer_sparsity else {}
    losses = {"loss": loss_chart(data.losses)} if data.losses else {}
    return {"accuracy": accuracy_chart(data), "rounds": rounds_chart(data), **losses, **curves, **layers}


def report_html(data: ReportData, studies: str = "") -> str:
    """Fill in the page: a whole HTML document that refers to nothing outside itself."""
    model, task = data.recipe["model"], data.recipe["data"]["task"]
    accuracy = {"chart": accuracy_chart(data), "caption": accuracy_caption(data), "table": accuracy_table(data)}
    speed, versions = data.speed, data.versions or {}
    return render(
        "report.html.j2",
        title=f"{model['family']} {model['size']} on {task}: a lottery ticket",
        headline=headline(data),
        caveats=caveats(data),
        seeds=seeds_words(data.ticket.seeds),
        accuracy=accuracy | {"block_cost": block_cost_table(data)},
        rounds=rounds_chart(data),
        losses=data.losses and loss_chart(data.losses),
        speed=speed and {"place": place(data), "latency": latency_table(speed), "size": size_table(speed)},
        curve=data.curve and {"charts": list(curve_charts(data)), "table": curve_table(data.curve)},
        layer_map=layer_map(data.layer_sparsity) if data.layer_sparsity else None,
        layers=layer_table(data.plan) if data.plan else None,
        onnx=data.onnx and _onnx(data.onnx),
        studies=studies,
        recipe=data.toml(),
        environment=data.environment and details(data.environment),
        trained=details({**versions, "run": data.run, "data": to_json(data.data)}),
        packages=_packages(versions),
    )


def _packages(versions: Mapping[str, str]) -> str:
    others = " ".join(f"'{name}=={version}'" for name, version in sorted(versions.items()) if name != "vlcompress")
    return f"vlcompress {versions.get('vlcompress', '')} and {others}"


def _onnx(found: ExportFacts) -> Table:
    speed = found.speed
    return details(
        {
            "opset": found.opset,
            "graph": speed.picked,
            "median µs of each graph when exported": {name: one.us for name, one in speed.timings.items()},
            "bytes": to_json(found.bytes),
            "optimizers to switch off": list(speed.disabled_optimizers) or None,
            **{f"parity on {name}": values for name, values in to_json(found.parity).items()},
        }
    )
