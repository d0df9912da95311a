"""vlcompress export: write a compiled model for a runtime."""

from pathlib import Path
from typing import Any

import click

from vlcompress.cli import options


@click.command()
@options.run_path
@click.option("--format", "format_", type=click.Choice(["onnx", "triton", "docker"]), default="onnx", show_default=True)
@click.option("--batch", type=options.COUNT, default=32, show_default=True, help="Batch size to be fast at.")
@click.option(
    "--threads", type=options.THREADS, default=1, show_default=True, help="Threads of ONNX Runtime while measuring."
)
@options.providing(said="[cpu; triton: the one that the file was exported for]")
@click.option("--expand", is_flag=True, help="Plain standard operators in place of packed nodes with functions.")
@click.option("--quantize", type=click.Choice(["int8"]), help="Dynamic int8 products, scored on the task.")
@click.option("--fp16", is_flag=True, help="float16 for GPU providers, scored on the task.")
@click.option("--opset", type=int, help="Operator set to write.  [20]")
@click.option("--target-ort", help="Oldest onnxruntime that must read the file, for example 1.20.")
@click.option("--explain", is_flag=True, help="Say for each layer what was measured and why it is written so.")
@options.home
@options.as_json
def command(
    run: Path | None,
    format_: str,
    batch: int,
    threads: int,
    provider: str | None,
    provider_options: tuple[tuple[str, str], ...],
    expand: bool,
    quantize: str | None,
    fp16: bool,
    opset: int | None,
    target_ort: str | None,
    explain: bool,
    home: Path,
    as_json: bool,
) -> None:
    """Write standard ONNX, checked on real samples before the file appears (exit code 3 if the check fails).

    RUN is a run's folder; the newest finished one is taken without it. The other formats pack what `--format onnx`
    wrote: triton makes a model repository for NVIDIA Triton Inference Server, docker the build folder of an image that
    serves the model, with a manifest for KServe.
    """
    where = options.provider_word(provider, provider_options, half=fp16)
    if format_ != "onnx":
        return _pack(format_, options.chosen_run(run, home), batch, threads, target_ort, where, as_json)
    from vlcompress.export.export_run import artefact_folder, export_run
    from vlcompress.export.onnx import style
    from vlcompress.report.text import export_text

    wanted = style(
        quantize=quantize, fp16=fp16, expand=expand, provider=where or "cpu", opset=opset, runtime=target_ort
    )
    chosen = options.chosen_run(run, home)
    manifest = export_run(chosen, batch=batch, threads=threads, style=wanted, say=options.say)
    folder = artefact_folder(chosen, wanted)
    options.show(manifest, export_text(folder, manifest, explain=explain), as_json)


def _pack(
    format_: str, run: Any, batch: int, threads: int, target_ort: str | None, provider: str | None, as_json: bool
) -> None:
    from vlcompress.export.container import export_container
    from vlcompress.export.model_repository import TARGET_ORT, export_triton
    from vlcompress.report.text import container_text, triton_text

    if format_ == "docker":
        if provider not in (None, "cpu"):
            options.say(f"warning: provider {provider} has no effect on --format docker: its server runs on the CPU")
        folder, container = export_container(run)
        options.show(container, container_text(folder, container), as_json)
    else:
        oldest = target_ort or TARGET_ORT
        folder, manifest = export_triton(
            run, batch=batch, threads=threads, target_ort=oldest, provider=provider, say=options.say
        )
        options.show(manifest, triton_text(folder, manifest), as_json)
