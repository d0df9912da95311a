"""What data is, as one hash: other content, other identity."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from vlcompress.artefacts import file_sha256, identity

WHOLE = 256 << 20
"""Files up to this many bytes are hashed whole."""
PIECES, PIECE = 64, 1 << 20


def files_identity(folder: Path, files: Iterable[Path]) -> str:
    """Return the sha256 (64 hex digits) over names (relative to `folder`) and contents of files; see `fingerprint`."""
    names = {str(path.relative_to(folder)): fingerprint(path) for path in dict.fromkeys(files)}
    return identity(names)


def fingerprint(path: Path) -> str:
    """Return a file's sha256; of a file above `WHOLE` bytes that of its size and 64 pieces of 1 MiB, evenly spread.

    Official feature files hold tens of gigabytes: hashing them whole would take minutes at every start. A file that was
    replaced, cut or made again is told apart; a few bytes changed by hand between two pieces are not.
    """
    size = path.stat().st_size
    if size <= WHOLE:
        return file_sha256(path)
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for piece in range(PIECES):
            file.seek(piece * (size - PIECE) // (PIECES - 1))
            digest.update(file.read(PIECE))
    return digest.hexdigest()
