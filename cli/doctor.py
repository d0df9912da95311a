"""vlcompress doctor: check that this machine has what the commands need."""

from pathlib import Path

import click

from vlcompress.cli import options


@click.command()
@options.home
@options.as_json
@click.pass_context
def command(context: click.Context, home: Path, as_json: bool) -> None:
    """Check versions, devices, ONNX Runtime, built-in weights, disk and permissions; each problem names its fix.

    Exit code 0 unless a check fails (then 3); warnings do not count.
    """
    from vlcompress.bench.doctor import checkup, checkup_text

    checks = checkup(home)
    failed = any(check.status == "fail" for check in checks)
    options.show({"ok": not failed, "checks": [vars(check) for check in checks]}, checkup_text(checks), as_json)
    context.exit(3 if failed else 0)
