"""Models on disk: which versions a path holds, and what changes when one is written anew."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlcompress.artefacts import read_entry, read_json
from vlcompress.errors import VlcompressError
from vlcompress.serve.settings import Backend, ModelSpec

ARTEFACT = {"onnx": ("onnx", "model.onnx", "manifest.json"), "torch": ("compiled", "weights.safetensors", "plan.json")}
"""For each backend the artefact's folder in a run, its model file, and its document."""


@dataclass(frozen=True)
class StoredVersion:
    """One version of a model on disk.

    Attributes:
        version: its number.
        model: the .onnx file, or the folder ``compiled/``.
        folder: where labels and document are looked for first.
        fingerprint: of the files; other files, other fingerprint.
        numbered: whether the folder's name is the version.
    """

    version: int
    model: Path
    folder: Path
    fingerprint: tuple[int, ...]
    numbered: bool

    def find(self, name: str) -> Path | None:
        """Find a file that belongs to the model: beside it, above it, or in the run's ticket."""
        places = (self.folder, self.folder.parent, self.folder.parent / "ticket")
        return next((place / name for place in places if (place / name).is_file()), None)

    @property
    def documented(self) -> bool:
        """Whether an artefact's document, which seals its files, lies beside the model."""
        return any((self.folder / document).is_file() for _, _, document in ARTEFACT.values())

    def document(self, name: str) -> dict[str, Any]:
        """Read a JSON document that belongs to the model; {} where there is none."""
        path = self.find(name)
        return {} if path is None else read_json(path)


def stored_versions(spec: ModelSpec, backend: Backend) -> dict[int, StoredVersion]:
    """List the versions of a model, by number.

    Raises:
        VlcompressError: nothing there that the backend can serve; the command that makes it is named.
    """
    path = spec.path
    if not path.exists():
        raise VlcompressError(f"no model at '{path}': give a run, an exported folder or a .onnx file")
    if path.is_file():
        return _one(path, path.parent, spec.version)
    name, file, _ = ARTEFACT[backend]
    for folder in (path, path / name, path.parent / name if path.name in ("ticket", "onnx", "compiled") else path):
        if (folder / file).is_file():
            return _one(folder / file if backend == "onnx" else folder, folder, spec.version)
    numbered = {source.version: source for source in _numbered(path, backend)}
    if not numbered:
        raise VlcompressError(_missing(path, backend))
    return numbered


def default_name(path: Path) -> str:
    """Name a model: family and task of its run ("lxmert_vqa"), else the folder or file."""
    run = next((one / "run.json" for one in (path, path.parent) if (one / "run.json").is_file()), None)
    if run is not None and (origin := origin_of(run)):
        return "_".join(origin.values())
    name = path.absolute().parent.name if path.name in ("onnx", "compiled", "model.onnx") else path.absolute().stem
    return "".join(letter if (letter.isascii() and letter.isalnum()) or letter in "._-" else "_" for letter in name)


def origin_of(run: Path) -> dict[str, str]:
    """Read family and task from a ``run.json``; {} where it has no recipe, and so is of another program.

    Raises:
        VlcompressError: its recipe lacks one of them, or it is no JSON.
    """
    if "recipe" not in read_json(run):
        return {}
    entries = {"family": ("recipe", "model", "family"), "task": ("recipe", "data", "task")}
    return {name: read_entry(run, *keys, kind=str) for name, keys in entries.items()}


def _one(model: Path, folder: Path, version: int | None) -> dict[int, StoredVersion]:
    number = version or 1
    return {number: StoredVersion(number, model, folder, _fingerprint(model), numbered=False)}


def _numbered(path: Path, backend: Backend) -> Iterator[StoredVersion]:
    _, file, _ = ARTEFACT[backend]
    for folder in sorted(path.iterdir()):
        if not (folder.name.isdecimal() and folder.name.isascii() and folder.is_dir()):
            continue
        model = folder / file
        if model.is_dir():  # with weights in files of their own, Triton wants a folder of the model's name
            model = model / file
        if model.is_file():
            chosen = model if backend == "onnx" else folder
            yield StoredVersion(int(folder.name), chosen, folder, _fingerprint(chosen), numbered=True)


def _fingerprint(model: Path) -> tuple[int, ...]:
    """Sum up what the file system says of the model's files, which changes with each new export or late arrival.

    A folder of its own counts whole, whatever an export seals in it; of a file among others, what belongs to it.
    """
    if model.is_dir() or model.name == ARTEFACT["onnx"][1]:
        inside = model if model.is_dir() else model.parent
        files = sorted(path for path in inside.rglob("*") if path.is_file())
    else:
        names = ("manifest.json", "config.json", "labels.txt", "vocab.txt", "preprocessing.json", "verification.npz")
        beside = [model.with_name(name) for name in (model.name, f"{model.name}.data", *names)]
        files = [file for file in beside if file.is_file()]
    stats = [file.stat() for file in files]
    return tuple(value for stat in stats for value in (stat.st_ino, stat.st_size, stat.st_mtime_ns))


def _missing(path: Path, backend: Backend) -> str:
    if backend == "torch":
        return f"'{path}' holds no compiled model: run `vlcompress compile` first, or use --backend onnx"
    if (path / "run.json").is_file():
        return f"run '{path}' has no ONNX model: run `vlcompress export --format onnx` first"
    return f"'{path}' holds no model.onnx and no numbered versions of one: give a run, or run `vlcompress export`"
