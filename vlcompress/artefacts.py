"""Artefacts on disk: folders that are whole or absent, with the sha256 of every tensor file in the JSON beside it.

An artefact is a folder with one JSON document (``ticket.json``, ``plan.json``, ...) and the files that it seals. It is
written under a temporary name, flushed to the disk and renamed, so a reader never sees half of one and a crash
leaves the previous one as it was.
"""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcompress.errors import VlcompressError

if TYPE_CHECKING:  # a server has no torch
    import torch

Json = dict[str, Any]

_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again, it continues where it stopped",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EACCES: "no permission to write there; choose another folder or change its permissions",
    errno.EPERM: "writing there is not permitted; choose another folder or change its permissions",
    errno.EROFS: "that file system is read-only; choose another folder",
    errno.ENOTDIR: "a part of that path is a file, not a folder; choose another folder",
    errno.EEXIST: "a part of that path is a file, not a folder; choose another folder",
}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's write failures under `path` into errors that say what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise VlcompressError(f"cannot write '{path}': {_DISK_ERRORS[error.errno]}") from error
    except Exception as error:  # safetensors reports a full disk as its own error type, with the code in the text
        if type(error).__name__ == "SafetensorError" and "No space left" in str(error):
            raise VlcompressError(f"cannot write '{path}': {_DISK_ERRORS[errno.ENOSPC]}") from error
        raise


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """Return a temporary folder that becomes `folder` when the block ends well, and vanishes when it does not.

    Every file is flushed to the disk before the rename. An existing `folder` is replaced. What a process that was
    killed here has left of the same folder is removed.

    Raises:
        VlcompressError: disk full, no permission, read-only file system.
    """
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(folder)
        temporary = Path(tempfile.mkdtemp(prefix=f"{_prefix(folder)}{os.getpid()}.", dir=folder.parent))
        try:
            yield temporary
            _flush_tree(temporary)
            _swap(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _prefix(folder: Path) -> str:
    """Start of the names of this machine's temporary folders for `folder`; the process's number and a "." follow."""
    machine = hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:8]
    return f".{folder.name}.{machine}-"


def _remove_left_over(folder: Path) -> None:
    """Remove temporary folders of processes of this machine that are gone (a disk may be shared with others)."""
    for left in folder.parent.glob(f"{_prefix(folder)}*"):
        process = left.name.removeprefix(_prefix(folder)).partition(".")[0]
        if process.isdecimal() and not Path(f"/proc/{process}").exists():
            shutil.rmtree(left, ignore_errors=True)


def write_file(path: Path, content: bytes | str) -> None:
    """Write one file whole or not at all (temporary name, flush, rename)."""
    data = content.encode() if isinstance(content, str) else content
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _flush(path.parent)


def keep_once(path: Path, other: Path) -> None:
    """Make `path` a hard link to `other` where both hold the same bytes on one file system; leave it alone elsewhere.

    Files of artefacts are replaced as a whole and never written into, so neither name can change the other's content.
    """
    if not other.is_file() or other.stat().st_size != path.stat().st_size or file_sha256(other) != file_sha256(path):
        return
    link = path.with_name(f".{path.name}.link")
    try:
        os.link(other, link)
    except OSError:  # another file system, or one without links
        return
    os.replace(link, path)


def dumps(document: Mapping[str, Any]) -> str:
    """Return the JSON text that every artefact uses: sorted keys, two spaces, no NaN, final newline."""
    return json.dumps(document, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def identity(document: Mapping[str, Any]) -> str:
    """Return the sha256 (64 hex digits) of a JSON document in canonical form: equal content, equal hash."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def distinguishing(value: Any) -> Json:
    """Return a dataclass as the JSON document that `identity` hashes: without fields at their declared default.

    So a field can be added, with a default that changes nothing, and what had a name keeps it. A field without a
    default is always there. Dataclasses in it are treated alike.
    """
    document = {}
    for field in dataclasses.fields(value):
        held, default = getattr(value, field.name), field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if held != default:  # nothing equals the mark of a missing default
            document[field.name] = distinguishing(held) if dataclasses.is_dataclass(held) else held
    return document


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, "torch.Tensor"]) -> None:
    """Write tensors (any shape and dtype, moved to the CPU) as one safetensors file, keys in sorted order."""
    from safetensors.torch import save_file

    ready = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(ready, path)


def load_tensors(path: Path) -> dict[str, "torch.Tensor"]:
    """Read a safetensors file onto the CPU.

    Raises:
        VlcompressError: the file is missing or is not a safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise VlcompressError(f"no tensor file at '{path}': give a file that exists")
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise VlcompressError(f"'{path}' is not a readable safetensors file ({error}): it is damaged or cut") from error


def seal(folder: Path, name: str, document: Mapping[str, Any]) -> None:
    """Write `document` as `folder/name` with the sha256 and size of every other file in the folder under "files"."""
    files = {
        str(path.relative_to(folder)): {"sha256": file_sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / name
    }
    write_file(folder / name, dumps({**document, "files": files}))


def unseal(folder: Path, name: str, *, check: bool = True) -> Json:
    """Read an artefact's document and check that every file it seals is unchanged.

    Args:
        folder: the artefact.
        name: its document ("ticket.json").
        check: compare sizes and hashes; False reads the document alone.

    Raises:
        VlcompressError: no such artefact, unreadable document, a missing or altered file.
    """
    path = folder / name
    if not path.is_file():
        raise VlcompressError(f"'{folder}' is not such an artefact: it has no {name}")
    document = read_json(path)
    if check:
        for relative, facts in document.get("files", {}).items():
            _check_file(folder / relative, facts)
    return document


def read_json(path: Path) -> Json:
    """Read a JSON object from a file; anything else is an error that names the file."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise VlcompressError(f"no file at '{path}': give a file that exists") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, numbers or nesting beyond reason
        raise VlcompressError(f"'{path}' is not valid JSON ({error}): it is damaged or cut") from error
    if not isinstance(document, dict):
        raise VlcompressError(f"'{path}' holds a JSON {type(document).__name__}: an object was expected")
    return document


def _check_file(path: Path, facts: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise VlcompressError(f"'{path}' is missing from its artefact: make the artefact again")
    if path.stat().st_size != facts["bytes"] or file_sha256(path) != facts["sha256"]:
        raise VlcompressError(
            f"'{path}' is corrupted: its sha256 is not the recorded {facts['sha256'][:12]}…; make the artefact again"
        )


def _swap(temporary: Path, folder: Path) -> None:
    os.chmod(temporary, 0o777 & ~_umask())
    if folder.exists():  # rename cannot replace a folder that is not empty: step the old one aside first
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
        os.replace(folder, old / "old")
        os.replace(temporary, folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(temporary, folder)
    _flush(folder.parent)


def _flush_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        _flush(path)
    _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
