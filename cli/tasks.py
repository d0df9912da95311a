"""vlcompress tasks: which families do which tasks, and how well."""

import click

from vlcompress.cli import options


@click.command("tasks")
@click.option("--markdown", is_flag=True, help="The table as README has it.")
@options.as_json
def command(markdown: bool, as_json: bool) -> None:
    """Print the table of families and tasks: built-in-data scores of the dense models, and what was checked."""
    from vlcompress.report.text import tasks_text
    from vlcompress.tasks.support_matrix import cells, read_record

    record = read_record()
    options.show({**record, "cells": cells(record)}, tasks_text(record, markdown=markdown), as_json)
