"""vlcompress bench: what it is worth, measured. `bench serve` is the same for a server under load."""

from pathlib import Path
from typing import Any

import click

from vlcompress.cli import options


class Bench(click.Group):
    """A group whose first argument may also be a run: `bench RUN` stands for `bench models RUN`."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Put the default command in front of what names none."""
        named = args[:1] in ([name] for name in (*self.commands, "--help", "-h"))
        return super().parse_args(context, args if named else ["models", *args])

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Tell the default command's options, then the commands."""
        models.format_options(context, formatter)
        self.format_commands(context, formatter)


@click.group(cls=Bench, subcommand_metavar="[RUN] | COMMAND")
def command() -> None:
    """Measure dense, masked, compiled and ONNX models side by side: latency, memory, size, accuracy.

    RUN is a run's folder; the newest finished one is taken without it. The speed of a variant is shown only if it
    computes what it should, on the very inputs that are timed.
    """


@command.command()
@options.run_path
@click.option("--batch", "batches", multiple=True, type=options.COUNT, help="Batch size; may be repeated.  [1 and 32]")
@click.option(
    "--threads", type=options.THREADS, default=1, show_default=True, help="Threads of PyTorch and ONNX Runtime."
)
@options.computing()
@options.providing()
@options.home
@options.as_json
def models(
    run: Path | None, batches: tuple[int, ...], threads: int, home: Path, as_json: bool, compute: Any, **where: Any
) -> None:
    """Compare the forms of a model (what `bench` does without a command)."""
    from vlcompress.bench.bench_run import bench_run
    from vlcompress.report.text import bench_text

    provider = options.provider_word(where["provider"], where["provider_options"], compute=compute)
    chosen = options.chosen_run(run, home)
    record = bench_run(
        chosen, batches=batches or (1, 32), threads=threads, compute=compute, provider=provider, say=options.say
    )
    options.show(record, bench_text(record), as_json)


@command.command()
@options.run_path
@click.option("--url", metavar="HOST:PORT", help="A server that runs already.  [starts one with dense and compiled]")
@click.option("--model", "models_", multiple=True, metavar="NAME", help="Model at --url; repeat it to compare several.")
@click.option("--rate", "rates", multiple=True, type=click.FloatRange(min=0.1), help="Requests a second; repeatable.")
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(min=0.1), help="Length of one load.")
@click.option("--rows", default=1, show_default=True, type=options.COUNT, help="Examples in a request.")
@click.option("--seed", type=options.SEED, default=0, show_default=True, help="Of the arrivals.")
@click.option(
    "--protocol", type=click.Choice(["http", "grpc", "both"]), default="http", show_default=True,
    help="How to ask; both side by side where there is no --url.",
)  # fmt: skip
@click.option("--token", envvar="VLCOMPRESS_TOKEN", help="Bearer token of the server at --url.  [VLCOMPRESS_TOKEN]")
@options.home
@options.as_json
def serve(run: Path | None, url: str | None, models_: tuple[str, ...], home: Path, as_json: bool, **plan: Any) -> None:
    """Load a server with requests of Poisson arrivals: throughput, p50, p95, p99 and errors, models side by side.

    RUN gives the requests: its own examples. Without --rate the rates are shares of the measured capacity. The plots
    are serve-latency.svg and serve-load.svg in RUN.
    """
    from vlcompress.bench.serve_run import LoadPlan, bench_serve
    from vlcompress.report.load import load_text, write_charts

    chosen = options.chosen_run(run, home)
    record = bench_serve(chosen, LoadPlan(**plan), url=url, models=models_, say=options.say)
    for chart in write_charts(record, chosen.folder):
        options.say(f"chart: {chart}")
    options.show(record, load_text(record), as_json)
