"""What data is, as one hash: other content, other identity."""

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vlcompress.artefacts import file_sha256, identity

SETTLED_S = 2.0
"""A file that changed less than this ago may change again within the same tick of its clock: its hash is not kept."""
_TABLE = (
    "CREATE TABLE IF NOT EXISTS hashes "
    "(path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, inode INTEGER, device INTEGER, sha256 TEXT)"
)


def files_identity(folder: Path, files: Iterable[Path]) -> str:
    """Hash names (relative to `folder`) and contents of files: sha256, 64 hex digits.

    Every byte counts. A file's hash is kept by size, time, inode and device (see `kept_hashes`), so that gigabytes of
    features or pictures are read for it once.
    """
    with kept_hashes() as kept:
        return identity({os.path.relpath(path, folder): _sha256(path, kept) for path in dict.fromkeys(files)})


@contextmanager
def kept_hashes() -> Iterator[sqlite3.Connection | None]:
    """Open the hashes of files read before; None where none can be kept (no home, a read-only or a full disk)."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlcompress"
        folder.mkdir(parents=True, exist_ok=True)
        kept = sqlite3.connect(folder / "hashes.sqlite")
    except (OSError, RuntimeError, sqlite3.Error):
        yield None
        return
    try:
        try:
            kept.execute(_TABLE)
        except sqlite3.Error:
            yield None
            return
        yield kept
        try:
            kept.commit()
        except sqlite3.Error:  # what is not kept is read again
            kept.rollback()
    finally:
        kept.close()


def _sha256(path: Path, kept: sqlite3.Connection | None) -> str:
    if kept is None:
        return file_sha256(path)
    facts = path.stat()
    seen = (facts.st_size, facts.st_mtime_ns, facts.st_ino, facts.st_dev)
    place = os.fsencode(path.absolute()).decode("utf-8", "backslashreplace")
    try:
        row = kept.execute("SELECT * FROM hashes WHERE path = ?", (place,)).fetchone()
        if row is not None and row[1:5] == seen:
            return str(row[5])
        digest = file_sha256(path)
        if time.time() - facts.st_mtime > SETTLED_S:
            kept.execute("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?, ?, ?)", (place, *seen, digest))
        return digest
    except (sqlite3.Error, OverflowError):
        return file_sha256(path)
