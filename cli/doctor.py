"""vlcompress doctor: check that this machine has what the commands need."""

from pathlib import Path

import click

from vlcompress.cli import options


@click.command()
@options.home
@options.as_json
def command(home: Path, as_json: bool) -> None:
    """Check versions, devices, ONNX Runtime, built-in weights, disk and permissions; each problem names its fix.

    Exit code 0 unless a check fails (then 3); warnings do not count.
    """
    from vlcompress.bench.doctor import checkup, checkup_text
    from vlcompress.errors import VerificationError

    checks = checkup(home)
    failed = [check.name for check in checks if check.status == "fail"]
    options.show({"ok": not failed, "checks": [vars(check) for check in checks]}, checkup_text(checks), as_json)
    if failed:
        raise VerificationError(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}")
