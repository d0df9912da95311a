"""Finished trainings in a place that several machines reach: a folder, or anything that fsspec has a name for.

Its document is copied last, so a training without one is not there yet; what is fetched is checked by its hashes as
what was written here is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlcompress.artefacts import writing
from vlcompress.errors import VlcompressError


def fetch(folder: Path, document: str, shared: str) -> bool:
    """Copy a folder from the shared place, whole or not at all; False where it is not there."""
    with _opened(shared) as (files, place):
        there = f"{place}/{folder.name}"
        if not files.exists(f"{there}/{document}"):
            return False
        with writing(folder) as temporary:
            for path in files.find(there):
                files.get_file(path, str(temporary / Path(path).name))
    return True


def publish(folder: Path, document: str, shared: str) -> None:
    """Copy a folder to the shared place, its document last."""
    with _opened(shared) as (files, place):
        files.makedirs(f"{place}/{folder.name}", exist_ok=True)
        for path in sorted(folder.iterdir(), key=lambda path: path.name == document):
            files.put_file(str(path), f"{place}/{folder.name}/{path.name}")


def check_shared(shared: str) -> None:
    """Look for the shared place, and make it.

    Raises:
        VlcompressError: of a kind that is not known or whose package is not installed, or out of reach.
    """
    with _opened(shared) as (files, place):
        files.makedirs(place, exist_ok=True)


@contextmanager
def _opened(shared: str) -> Iterator[tuple[Any, str]]:
    from fsspec.core import url_to_fs  # a part of torch's dependencies

    try:
        yield url_to_fs(shared)
    except VlcompressError:
        raise
    except Exception as error:  # each kind of place has errors of its own
        why = str(error).partition("\n")[0] or type(error).__name__
        raise VlcompressError(
            f"cannot use the shared place '{shared}' ({why}): give a folder that is there, or a URL that fsspec reads, "
            "with its package (s3fs for s3://)"
        ) from error
