"""vlcompress verify: check an exported file again."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from vlcompress.cli import options


@click.command()
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--run", type=click.Path(path_type=Path, file_okay=False), help="Its run, if it lies elsewhere.")
@click.option("--batch", type=options.COUNT, default=32, show_default=True, help="Examples at a time.")
@click.option("--threads", type=options.THREADS, default=1, show_default=True, help="Threads of ONNX Runtime.")
@options.where()
@options.providing()
@options.home
@options.as_json
def command(
    model: Path | None,
    run: Path | None,
    batch: int,
    threads: int,
    device: str,
    dtype: str,
    home: Path,
    as_json: bool,
    **where: Any,
) -> None:
    """Repeat the check that MODEL passed when it was exported (exit code 3 if it fails).

    MODEL is a model.onnx that `vlcompress export` wrote, with its manifest beside it, or its folder; without it the
    newest finished run's is taken. A folder that was copied away from its run is checked by the samples that lie in
    it, which takes no torch.
    """
    from vlcompress.devices import parse_compute
    from vlcompress.export.verification import has_truth, verify_folder
    from vlcompress.report.verification import verify_text

    if model is None:
        model = options.chosen_run(None, home).folder / "onnx"
    if model.is_dir():
        model /= "model.onnx"
    if has_truth(model, run, options.say):
        found = _with_torch(model, run, device, dtype, where, batch=batch, threads=threads)
    else:
        if (device, dtype) != ("auto", "fp32"):
            if find_spec("torch"):  # which knows what is there
                parse_compute(device, dtype)
            options.say(f"warning: device {device} and dtype {dtype} have no effect without the PyTorch model")
        provider = options.provider_word(where["provider"], where["provider_options"])
        found = verify_folder(model, threads=threads, provider=provider, say=options.say)
    options.show(found, verify_text(found), as_json)


def _with_torch(model: Path, run: Path | None, device: str, dtype: str, where: dict[str, Any], **given: Any) -> Any:
    """Compare with the PyTorch model, computed where and in what was asked for."""
    from vlcompress.devices import parse_compute
    from vlcompress.export.export_run import verify_file

    compute = parse_compute(device, dtype)
    provider = options.provider_word(where["provider"], where["provider_options"], compute=compute)
    chosen = None if run is None else options.chosen_run(run, Path())
    return verify_file(model, chosen, compute=compute, provider=provider, say=options.say, **given)
