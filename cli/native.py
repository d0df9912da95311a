"""vlcompress native: the plug-in that runs packed layers faster in ONNX Runtime on a CPU."""

from pathlib import Path

import click

from vlcompress.cli import options


@click.group()
def command() -> None:
    """Compile the native CPU kernel of packed layers for ONNX Runtime, or say whether that was done.

    Exported files run without it, with standard operators; sessions of this project take it when it is there.
    """


@command.command()
@click.option(
    "--ort-include",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="VLCOMPRESS_ORT_INCLUDE",
    help="Folder of ONNX Runtime's C header, or of a package unpacked there.  [the usual places]",
)
@click.option("--compiler", default="c++", show_default=True, help="C++17 compiler that takes GCC's options.")
@options.as_json
def build(ort_include: Path | None, compiler: str, as_json: bool) -> None:
    """Compile the library into this user's cache, and check it against NumPy."""
    from vlcompress.export.native import build as native
    from vlcompress.report.text import native_text

    built = native.build(ort_include=ort_include, compiler=compiler)
    options.show(native.describe(built), native_text(native.describe(built)), as_json)


@command.command()
@options.as_json
def status(as_json: bool) -> None:
    """Say whether the library is there, and which instructions it uses on this processor."""
    from vlcompress.export.native import build as native
    from vlcompress.report.text import native_text

    found = native.describe(native.built())
    options.show(found, native_text(found), as_json)
