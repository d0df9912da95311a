"""vlcompress tune: measure the kernel table on this GPU."""

from pathlib import Path

import click


@click.command("tune")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("kernel_tables"),
    show_default=True,
    help="Folder for the table; set VLCOMPRESS_KERNEL_TABLES to it to use it.",
)
@click.option("--rows", type=int, multiple=True, help="Rows M to measure (repeatable); all of the table's by default.")
def command(out: Path, rows: tuple[int, ...]) -> None:
    """Measure which kernel configuration is fastest on this GPU, and from which sparsity it beats the dense product."""
    import importlib.util

    import torch

    if not torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
        raise click.UsageError("tuning needs a CUDA device and the package triton; the shipped tables stay in use")
    from vlcompress.kernels import cost_model, tune

    device = torch.device("cuda", torch.cuda.current_device())
    wanted = tune.keys(rows=rows or cost_model.ROWS)
    entries = tune.tune(device, wanted, progress=lambda line: click.echo(line, err=True))
    click.echo(tune.save(entries, device, out))
