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
    type=options.WORDS,
    default="192x16,neuron+head",
    show_default=True,
    help="Patterns: RxC (a block), n:m (as 2:4), head, neuron, neuron+head, layer, unstructured; several with commas.",
)
@click.option(
    "--sparsity", "sparsities", type=options.NUMBERS, default="0.5,0.7,0.9", show_default=True, help="Shares that go."
)
@click.option(
    "--batch",
    "batches",
    type=options.WHOLE_NUMBERS,
    default="1,8",
    show_default=True,
    help="Batch sizes; the last one is tuned for.",
)
@click.option("--threads", type=options.THREADS, default=1, show_default=True, help="Threads of ONNX Runtime.")
@options.computing()
@options.providing("cpu")
@options.as_json
def command(
    as_json: bool, patterns: tuple[str, ...], provider: str | None, provider_options: Any, **asked: Any
) -> None:
    """Prune a model of real size at random, and measure every form of it in ONNX Runtime against dense.

    On a GPU, or in another --dtype, the PyTorch forms are measured too; --provider says where ONNX Runtime runs.
    It says what each pattern would gain here, and from which sparsity on. Accuracy takes training: see prune.
    """
    from vlcompress.bench.profile import ProfileConfig, profile
    from vlcompress.bench.random_masks import read_pattern
    from vlcompress.report.profile import profile_text

    named = tuple(read_pattern(text) for text in patterns)
    runtime = options.provider_word(provider, provider_options, compute=asked["compute"]) or "cpu"
    record = profile(ProfileConfig(patterns=named, provider=runtime, **asked), options.say)
    options.show(record, profile_text(record), as_json)
