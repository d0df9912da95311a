"""vlcompress check-family: does a model family bring what the toolchain asks for."""

import click

from vlcompress.cli import options


@click.command("check-family")
@click.argument("name")
@options.as_json
@click.pass_context
def command(context: click.Context, name: str, as_json: bool) -> None:
    """Try a model family on tiny models, clause by clause; what is missing is named with its fix.

    For families of one's own (CONTRIBUTING.md, "Add a family"). Exit code 2 if a clause does not hold.
    """
    from vlcompress.bench.check_family import check_family
    from vlcompress.bench.doctor import checkup_text

    checks = check_family(name)
    failed = any(check.status == "fail" for check in checks)
    options.show({"ok": not failed, "checks": [vars(check) for check in checks]}, checkup_text(checks), as_json)
    context.exit(2 if failed else 0)
