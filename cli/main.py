"""The command line: parse, call one public function, print. Commands import what they need when they run."""

import importlib

import click

from vlcompress import __version__
from vlcompress.errors import VerificationError, VlcompressError
from vlcompress.kernels.errors import KernelInputError

COMMANDS = (
    "data",
    "pretrain",
    "prune",
    "study",
    "compile",
    "export",
    "verify",
    "predict",
    "bench",
    "report",
    "serve",
    "tasks",
    "check-family",
    "doctor",
    "tune",
    "speed",
    "native",
)


class Commands(click.Group):
    """Commands found by name in this folder, and users' errors told in one line.

    Exit codes: 0 done; 2 a mistake in what was given; 3 a result that failed its own check; 130 interrupted.
    """

    def list_commands(self, context: click.Context) -> list[str]:
        """List the commands in the order in which they are used."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import one command."""
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"vlcompress.cli.{name.replace('-', '_')}").command
        return command

    def invoke(self, context: click.Context) -> object:
        """Run a command; tell the errors that users can mend without a traceback."""
        try:
            return super().invoke(context)
        except (VlcompressError, KernelInputError) as error:
            click.echo(f"error: {' '.join(str(error).split())}", err=True)
            context.exit(3 if isinstance(error, VerificationError) else 2)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            context.exit(130)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Find lottery tickets in vision-language transformers, and make them pay."""
