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
@click.option(
    "--dtype",
    type=click.Choice(["bf16", "fp16", "tf32"]),
    default="bf16",
    show_default=True,
    help="What the table is measured in; it serves every dtype.",
)
def command(out: Path, rows: tuple[int, ...], dtype: str) -> None:
    """Measure which kernel configuration is fastest on this GPU, beside the dense product.

    The table is written after each key: a run that is stopped keeps what it measured.
    """
    import importlib.util

    import torch

    if not torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
        raise click.UsageError(
            "tuning needs a CUDA device and the package triton; without a table a rule of thumb chooses"
        )
    from vlcompress.devices import parse_compute, precision
    from vlcompress.kernels import tune

    device, kept = torch.device("cuda", torch.cuda.current_device()), tune.DTYPES[dtype]
    wanted = tune.keys(rows=rows or tune.ROWS)
    with precision(parse_compute(str(device), dtype)):
        entries = tune.tune(device, wanted, kept, progress=lambda line: click.echo(line, err=True))
        click.echo(tune.save(entries, device, kept, out))
