"""vlcompress serve: answer requests over HTTP and gRPC."""

from pathlib import Path
from typing import Any

import click

from vlcompress.cli import options


@click.command()
@click.argument("models", nargs=-1, metavar="[[NAME=]MODEL]...")
@click.option(
    "--backend", type=click.Choice(["onnx", "torch"]), default="onnx", show_default=True, help="What runs it."
)
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Who runs it.")
@click.option("--replicas", type=options.COUNT, help="Processes that hold the models, with --engine ray.  [1]")
@options.providing("cpu", names=("cpu", "cuda", "tensorrt", "openvino"))
@options.where()
@click.option("--threads", default="auto", show_default=True, help="Threads of one execution; auto measures.")
@click.option("--sessions", default="auto", show_default=True, help="Executions at the same time; auto measures.")
@click.option("--max-batch", default=32, show_default=True, help="Rows of one execution, and of one request.")
@click.option("--batch-window", default=0.0, show_default=True, help="ms to wait for others while a session is free.")
@click.option("--queue", default=256, show_default=True, help="Rows that may wait; 503 beyond.")
@click.option("--deadline", default=2000.0, show_default=True, help="ms from a request to its answer; 503 beyond.")
@click.option("--max-body", default=32, show_default=True, help="MiB of one request body; 413 beyond.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port to listen on.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), help="Port to listen on for gRPC as well.  [none]")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with the bearer token that clients must send.  [$VLCOMPRESS_TOKEN]",
)
@click.option("--cors", multiple=True, metavar="ORIGIN", help="Origin of pages whose scripts may ask; repeatable.")
@click.option("--prefix", default="", help="What precedes every path, where a proxy passes it on (/vqa).")
@click.option("--drain", default=5.0, show_default=True, help="Seconds to go on serving, not ready, after SIGTERM.")
@click.option("--poll", default=5.0, show_default=True, help="Seconds between looks for new versions; 0 never looks.")
@click.option(
    "--index", type=click.Path(path_type=Path, file_okay=False), help="Pictures and captions that retrieval searches."
)
@click.option("--page/--no-page", default=True, show_default=True, help="The interactive page at /.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.option("--otel", is_flag=True, help="Trace requests with OpenTelemetry.")
@options.home
@options.as_json
def command(models: tuple[str, ...], home: Path, as_json: bool, **given: Any) -> None:
    """Serve models: Open Inference Protocol v2, tasks in words at /v1/TASK, and a page to try them at /.

    MODEL is a run, an exported folder, a .onnx file, or a folder of numbered versions; the newest exported run is
    taken without it. Logs are JSON lines on stderr. TLS is left to a proxy in front of it.
    """
    from vlcompress.serve.start import serve

    def announce(document: dict[str, Any], text: str) -> None:
        options.show(document, text, as_json)

    serve(models, home=home, announce=announce, say=options.say, **given)
