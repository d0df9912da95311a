"""vlcompress speed: what sparsity is worth on this machine, before anything is trained."""

from typing import Any

import click

from vlcompress.cli import options


@click.command()
@click.option("--model", default="lxmert", show_default=True, help="Model family.")
@click.option("--size", default="base", show_default=True, help="Size of the model.")
@click.option(
    "--block",
    "patterns",
    default="192x16,neuron+head",
    show_default=True,
    help="Patterns: RxC (a block), n:m (as 2:4), head, neuron, neuron+head, unstructured; several with commas.",
)
@click.option("--sparsity", "sparsities", default="0.5,0.7,0.9", show_default=True, help="Shares that go.")
@click.option("--batch", "batches", default="1,8", show_default=True, help="Batch sizes; the last one is tuned for.")
@click.option("--threads", type=options.THREADS, default=1, show_default=True, help="Threads of ONNX Runtime.")
@options.computing
@options.providing("cpu")
@options.as_json
def command(
    model: str, size: str, patterns: str, sparsities: str, batches: str, threads: int, as_json: bool, **where: Any
) -> None:
    """Prune a model of real size at random, and measure every form of it in ONNX Runtime against dense.

    On a GPU, or in another --dtype, the PyTorch forms are measured too; --provider says where ONNX Runtime runs.
    It says what each pattern would gain here, and from which sparsity on. Accuracy takes training: see prune.
    """
    from vlcompress.bench.forecast import Inquiry, forecast
    from vlcompress.bench.random_masks import read_pattern
    from vlcompress.devices import parse_compute
    from vlcompress.report.forecast import forecast_text

    compute = parse_compute(where["device"], where["dtype"])
    asked = Inquiry(
        model=model,
        size=size,
        patterns=tuple(read_pattern(text) for text in patterns.split(",")),
        sparsities=options.numbers(sparsities, "--sparsity"),
        batches=options.whole_numbers(batches, "--batch"),
        threads=threads,
        compute=compute,
        provider=options.provider_word(where["provider"], where["provider_options"], compute=compute) or "cpu",
    )
    record = forecast(asked, options.say)
    options.show(record, forecast_text(record), as_json)
