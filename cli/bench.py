"""vlcompress bench: what it is worth, measured."""

from pathlib import Path

import click

from vlcompress.cli import options


@click.command()
@options.run_path
@click.option("--batch", "batches", multiple=True, type=int, help="Batch size; may be repeated.  [1 and 32]")
@click.option("--threads", default=1, show_default=True, help="Threads of PyTorch and ONNX Runtime.")
@options.home
@options.as_json
def command(run: Path | None, batches: tuple[int, ...], threads: int, home: Path, as_json: bool) -> None:
    """Measure dense, masked, compiled and ONNX models side by side: latency, memory, size, accuracy.

    RUN is a run's folder; the newest finished one is taken without it. The speed of a variant is shown only if it
    computes what it should, on the very inputs that are timed.
    """
    from vlcompress.bench.bench_run import bench_run
    from vlcompress.report.text import bench_text

    chosen = options.chosen_run(run, home)
    record = bench_run(chosen, batches=batches or (1, 32), threads=threads, say=options.say)
    options.show(record, bench_text(record), as_json)
