"""The command line: parse, call one public function, print. Commands import what they need when they run."""

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import click

from vlcompress import __version__
from vlcompress.errors import VerificationError, VlcompressError, missing
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
    "push",
    "clean",
    "serve",
    "tasks",
    "check-family",
    "doctor",
    "tune",
    "speed",
    "ticket",
    "native",
)


INTERRUPTED = 130


class Commands(click.Group):
    """Commands found by name in this folder, and whatever a user can mend told in one line on stderr.

    Exit codes: 0 done; 2 a mistake in what was given; 3 a result that failed its own check; 130 interrupted, by Ctrl-C
    or by a reader of the output that has gone.
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

    def main(self, args: Sequence[str] | None = None, **more: Any) -> Any:  # type: ignore[override]
        """Run a command and end the process with its exit code (or return it, if not ``standalone_mode``)."""
        if not more.pop("standalone_mode", True):
            return super().main(args, standalone_mode=False, **more)
        try:
            sys.exit(self._code(args, **more))
        except BrokenPipeError:
            _hush()
            sys.exit(INTERRUPTED)

    def _code(self, args: Sequence[str] | None, **more: Any) -> int:
        stopped = threading.Event()
        try:
            with _watching(stopped):
                code = super().main(args, standalone_mode=False, **more)
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            return 2
        except click.exceptions.Abort:
            return _told("interrupted", INTERRUPTED)
        except click.UsageError as error:
            where = f" (see `{error.ctx.command_path} --help`)" if error.ctx else ""
            return _told(f"{error.format_message().rstrip('.')}{where}", 2)
        except click.ClickException as error:
            return _told(error.format_message(), 2)
        except VerificationError as error:
            return _told(str(error), 3)
        except (VlcompressError, KernelInputError) as error:
            return _told(str(error), 2)
        except ModuleNotFoundError as error:
            lacking = missing(error)
            if lacking is None:
                raise
            return _told(str(lacking), 2)
        except BrokenPipeError:
            raise
        except OSError as error:  # a path that cannot be read or written, whoever found it
            about = f"'{error.filename}': " if error.filename else ""
            return _told(f"{about}{error.strerror or error}", 2)
        except Exception:
            if stopped.is_set():  # a library made an error of its own of the interruption
                return _told("interrupted", INTERRUPTED)
            raise

    def invoke(self, context: click.Context) -> Any:
        """Run a command; by itself, click prints an empty line on Ctrl-C and ends a closed pipe with exit code 1."""
        try:
            return super().invoke(context)
        except BrokenPipeError:
            _hush()
            context.exit(INTERRUPTED)
        except KeyboardInterrupt as error:
            raise click.exceptions.Abort from error


@contextlib.contextmanager
def _watching(stopped: threading.Event) -> Iterator[None]:
    """Note when Ctrl-C interrupts the block, where nothing else handles that."""

    def stop(*_: object) -> None:
        stopped.set()
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or not _main_thread():
        yield
        return
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _told(problem: str, code: int) -> int:
    """Say in one line what is wrong; give the exit code."""
    click.echo(f"error: {' '.join(problem.split())}", err=True)
    return code


def _hush() -> None:
    """Let nothing more be written: Python would complain about a closed pipe once more at its end."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Find lottery tickets in vision-language transformers, and make them pay."""
