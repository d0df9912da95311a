"""vlcompress export: write a compiled model for a runtime."""

from pathlib import Path

import click

from vlcompress.cli import options


@click.command()
@options.run_path
@click.option("--format", "format_", type=click.Choice(["onnx"]), default="onnx", show_default=True)
@click.option("--batch", default=32, show_default=True, help="Batch size to be fast at.")
@click.option("--threads", default=1, show_default=True, help="Threads of ONNX Runtime while measuring.")
@options.home
@options.as_json
def command(run: Path | None, format_: str, batch: int, threads: int, home: Path, as_json: bool) -> None:
    """Write standard ONNX, checked on real samples before the file appears (exit code 3 if the check fails).

    RUN is a run's folder; the newest finished one is taken without it.
    """
    from vlcompress.export.export_run import export_run
    from vlcompress.report.text import export_text

    chosen = options.chosen_run(run, home)
    manifest = export_run(chosen, batch=batch, threads=threads)
    options.show(manifest, export_text(chosen.folder / "onnx", manifest), as_json)
