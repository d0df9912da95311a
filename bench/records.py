"""How the scripts write their records."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlcompress.artefacts import write_file
from vlcompress.bench.environment import environment


def write_record(command: str, found: Mapping[str, Any], out: Path | None) -> None:
    """Print what a command measured, with the machine that it was measured on, and write it where asked."""
    text = json.dumps({"command": command, "environment": environment(), **found}, indent=2)
    print(text)
    if out:
        write_file(out, text + "\n")
