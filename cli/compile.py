"""vlcompress compile: turn a ticket into the form that runs faster."""

from pathlib import Path
from typing import Any

import click

from vlcompress.cli import options


@click.command()
@options.run_path
@click.option("--batch", type=options.COUNT, default=32, show_default=True, help="Batch size to be fast at.")
@click.option("--threads", type=options.THREADS, default=1, show_default=True, help="Threads while measuring.")
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="dense, grouped, triton or semi-structured for every packed layer; auto measures.",
)
@click.option("--explain", is_flag=True, help="Say for each layer what was measured and why it runs so.")
@options.computing()
@options.home
@options.as_json
def command(
    run: Path | None, batch: int, threads: int, backend: str, explain: bool, home: Path, as_json: bool, compute: Any
) -> None:
    """Shrink, pack and choose: sparse where it is measured to be faster, dense elsewhere.

    RUN is a run's folder; the newest finished one is taken without it.
    """
    from vlcompress.report.text import plan_text
    from vlcompress.sparse.compile_run import compile_run

    chosen = options.chosen_run(run, home)
    plan = compile_run(chosen, batch=batch, threads=threads, compute=compute, backend=backend)
    options.show(plan, plan_text(chosen.folder / "compiled", plan, explain=explain), as_json)
