"""``python -m vlcompress``: the same as the command ``vlcompress``."""

from vlcompress.cli.main import main

main(prog_name="vlcompress")
