"""vlcompress check-family: does a model family bring what the toolchain asks for."""

import click

from vlcompress.cli import options


@click.command("check-family")
@click.argument("name")
@options.as_json
def command(name: str, as_json: bool) -> None:
    """Try a model family on tiny models, clause by clause; what is missing is named with its fix.

    For families of one's own (CONTRIBUTING.md, "Add a family"). Exit code 2 if a clause does not hold.
    """
    from vlcompress.bench.check_family import check_family
    from vlcompress.bench.doctor import checkup_text
    from vlcompress.errors import VlcompressError

    checks = check_family(name)
    failed = [check.name for check in checks if check.status == "fail"]
    options.show({"ok": not failed, "checks": [vars(check) for check in checks]}, checkup_text(checks), as_json)
    if failed:
        raise VlcompressError(f"family '{name}' breaks {len(failed)} of {len(checks)} clauses: {', '.join(failed)}")
