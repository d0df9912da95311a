"""UNITER's databases (github ChenRocks/UNITER): sentences in ``txt_db/*.db``, region features in ``img_db/*/*/``.

Both are LMDB folders. A text database holds an LZ4 frame of msgpack an example, with JSON files beside ``data.mdb``; an
image database holds msgpack (``..._compressed``: npz bytes) an image, keyed by the name of the detector's npz file.
Arrays are stored as float16.

Shape legend: N boxes of an image, D feature width, C detector classes with background.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from vlcompress.data.documents import read_document
from vlcompress.data.extras import extra
from vlcompress.data.packed import MOST_BYTES, Arrays, decompress, read_npz, unpack
from vlcompress.data.regions import Regions
from vlcompress.errors import VlcompressError

MIN_CONFIDENCE, FEWEST, MOST = 0.2, 10, 100
"""How many boxes of an unfiltered image count: those above the confidence, but at least 10 and at most 100 (the
official ``conf_th``, ``min_bb``, ``max_bb``)."""

SLACK = 0.01
"""By how much a normalised box may leave 0 to 1: boxes are rounded to float16."""

LENGTHS = ("id2len.json", "id2len_qar.json")
"""The file of text lengths, which lists the examples; VCR has one for its answers and one with its rationales."""

_ARRAYS = ("norm_bb", "features", "conf", "soft_labels")
_KEYS = b"__keys__"


class Database:
    """An LMDB folder, read without locks (other processes may read it, it may be on read-only media)."""

    def __init__(self, folder: Path) -> None:
        """Open the folder.

        Raises:
            VlcompressError: no database, or one that is cut.
        """
        self.folder = folder
        self._environment = _environment(folder)

    def get(self, key: str) -> bytes | None:
        """Read a value; None where the key is not there."""
        lmdb = extra("lmdb")

        try:
            with self._environment.begin() as transaction:
                value: bytes | None = transaction.get(key.encode())
                return value
        except lmdb.Error as error:
            raise VlcompressError(f"'{self.folder}', record '{key}' cannot be read ({error}): it is damaged") from error

    def keys(self) -> tuple[str, ...]:
        """List the keys: those that the official scripts store, or else by going through the database."""
        lmdb = extra("lmdb")

        listed = self.get(_KEYS.decode())
        try:
            if listed is not None:
                return tuple(json.loads(listed))
            with self._environment.begin() as transaction:
                return tuple(bytes(key).decode() for key in transaction.cursor().iternext(values=False))
        except (ValueError, lmdb.Error) as error:
            raise VlcompressError(f"'{self.folder}': its list of keys cannot be read ({error})") from error


class TextDatabase:
    """A text database: examples by id.

    Attributes:
        folder: the ``.db`` folder.
        lengths: pieces of each example's text without special tokens, by id: ``id2len.json``, or VCR's
            ``id2len_qar.json``, the question with four answers and rationales.
        meta: what its maker recorded: ids of CLS, SEP, MASK, UNK, the vocabulary's range and name.
    """

    def __init__(self, folder: Path) -> None:
        """Open the database and read what lies beside it.

        Raises:
            VlcompressError: a missing side file, a database that is cut.
        """
        self.folder = folder
        self._lengths = next((path for name in LENGTHS if (path := folder / name).is_file()), folder / LENGTHS[0])
        self.lengths: Mapping[str, int] = _mapping(self._lengths)
        self.meta: Mapping[str, Any] = _mapping(folder / "meta.json")
        self._database = Database(folder)

    @property
    def ids(self) -> tuple[str, ...]:
        """The examples' ids, in the official order."""
        return tuple(self.lengths)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the content."""
        return self.folder / "data.mdb", self._lengths, self.folder / "meta.json"

    def __getitem__(self, key: str) -> Mapping[str, Any]:
        """Read an example.

        Raises:
            VlcompressError: no such example, or a damaged value.
        """
        where = f"'{self.folder}', record '{key}'"
        value = self._database.get(key)
        if value is None:
            raise VlcompressError(
                f"{where} is in {self._lengths.name} and not in the database: take both from one source"
            )
        example = unpack(decompress(value, where), where)
        if not isinstance(example, dict):
            raise VlcompressError(f"{where} holds no example: it is not one of UNITER's text databases")
        return example


class _Named:
    """Images that are known by the names of the detector's npz files."""

    _names: frozenset[str]

    def __contains__(self, name: object) -> bool:
        """Say whether the database has this image."""
        return name in self._names

    def __len__(self) -> int:
        """Count the images."""
        return len(self._names)

    @property
    def names(self) -> tuple[str, ...]:
        """The images' names, sorted."""
        return tuple(sorted(self._names))


class ImageDatabase(_Named):
    """Region features of some images, by the name of the detector's npz file.

    Attributes:
        folder: the LMDB folder, ``feat_th0.2_max100_min10``, ``feat_numbb100``, ``all``, each also ``..._compressed``.
        boxes: boxes of each image (``nbb_*.json``); None where the database has no such file.
    """

    def __init__(self, folder: Path) -> None:
        """Open the database.

        Raises:
            VlcompressError: the file of box counts is missing, a database that is cut.
        """
        self.folder = folder
        variant = folder.name.removesuffix("_compressed")
        self._compressed = variant != folder.name
        self._unfiltered = variant == "all"
        number = variant.removeprefix("feat_numbb")
        self._fixed = int(number) if number != variant and number.isdigit() else None
        counts = folder.parent / f"nbb_{variant.removeprefix('feat_')}.json"
        self.boxes: Mapping[str, int] | None = _mapping(counts) if variant.startswith("feat_th") else None
        self.files = (folder / "data.mdb", *((counts,) if self.boxes is not None else ()))
        self._database = Database(folder)
        self._names = frozenset(self._database.keys()) - {_KEYS.decode()}

    def read(self, name: str) -> Regions:
        """Read an image's regions: boxes are normalised (height and width 1), sizes as stored.

        Raises:
            VlcompressError: no such image, a damaged value, a wrong type or shape, NaN, a box outside the image.
        """
        where = f"'{self.folder}', record '{name}'"
        value = self._database.get(name)
        if value is None:
            raise VlcompressError(f"{where} is not among the {len(self)} images: extract its features")
        arrays = read_npz(value, _ARRAYS, where) if self._compressed else unpack(value, where)
        if not isinstance(arrays, dict):
            raise VlcompressError(f"{where} holds no arrays: it is not one of UNITER's image databases")
        return _regions(name, _checked(arrays, where), self._count(name, arrays, where))

    def _count(self, name: str, arrays: Arrays, where: str) -> int | None:
        """Count the boxes that are used; None for all that are stored."""
        if self.boxes is not None:
            count = self.boxes.get(name)
            if not isinstance(count, int) or count < 1:
                raise VlcompressError(f"{where} has no count in nbb_*.json: take both from one source")
            return count
        return _confident(arrays, where) if self._unfiltered else self._fixed


class NpzFolder(_Named):
    """A folder of the detector's npz files, one an image: what the image databases are made of; attributes as there."""

    def __init__(self, folder: Path) -> None:
        """List the folder."""
        self.folder = folder
        self._names = frozenset(path.name for path in folder.glob("*.npz"))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the content."""
        return tuple(self.folder / name for name in self.names)

    def read(self, name: str) -> Regions:
        """Read an image's regions, as many as the detector is confident of; errors as of `ImageDatabase.read`."""
        path = self.folder / name
        where = f"'{path}'"
        if name not in self._names:
            raise VlcompressError(f"{where} is not among the {len(self)} images: extract its features")
        if path.stat().st_size > MOST_BYTES:
            raise VlcompressError(f"{where} has {path.stat().st_size} bytes, {MOST_BYTES} are allowed")
        arrays = _checked(read_npz(path.read_bytes(), _ARRAYS, where), where)
        return _regions(name, arrays, _confident(arrays, where))


ImageSource = ImageDatabase | NpzFolder


_OPEN: WeakValueDictionary[Path, Any] = WeakValueDictionary()


def _environment(folder: Path) -> Any:
    """Open an LMDB environment once in a process, which is all that LMDB allows.

    LMDB maps the file into memory and trusts it: a file that is shorter than its pages would end the process, so that
    is looked at first.
    """
    lmdb = extra("lmdb")

    path = folder.resolve()
    if (known := _OPEN.get(path)) is not None:
        return known
    file = folder / "data.mdb"
    if not file.is_file():
        raise VlcompressError(f"no database at '{folder}': there is no data.mdb in it")
    try:
        environment = lmdb.open(str(path), readonly=True, lock=False, create=False, readahead=False)
    except lmdb.Error as error:
        raise VlcompressError(f"'{file}' is not an LMDB database ({error}): it is damaged or cut") from error
    pages = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if file.stat().st_size < pages:
        environment.close()
        raise VlcompressError(f"'{file}' has {file.stat().st_size} bytes where its pages take {pages}: it is cut")
    _OPEN[path] = environment
    return environment


def _confident(arrays: Arrays, where: str) -> int:
    """Count the boxes of an unfiltered image that are used."""
    if "conf" not in arrays:
        raise VlcompressError(f"{where} has no 'conf': boxes of an unfiltered image are chosen by it")
    return int(np.clip((arrays["conf"] > MIN_CONFIDENCE).sum(), FEWEST, MOST))


def _mapping(path: Path) -> Mapping[str, Any]:
    document = read_document(path)
    if not isinstance(document, dict):
        raise VlcompressError(f"'{path}' does not hold a JSON object: it is not the file that UNITER's scripts write")
    return document


def _checked(arrays: Arrays, where: str) -> Arrays:
    """Refuse arrays of another type or shape, and values that no detector gives."""
    for name, columns in (("norm_bb", 6), ("features", None)):
        array = arrays.get(name)
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.ndim != 2 or not array.size:
            kind = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
            raise VlcompressError(f"{where}: '{name}' is {kind}, not a floating-point array [boxes, width]")
        if columns and array.shape[1] != columns:
            raise VlcompressError(f"{where}: '{name}' is {list(array.shape)}, not [boxes, {columns}]")
        if not np.isfinite(array).all():
            raise VlcompressError(f"{where}: '{name}' holds NaN or infinity: extract the image again")
    if any(len(arrays[name]) != len(arrays["norm_bb"]) for name in _ARRAYS if name in arrays):
        raise VlcompressError(f"{where}: its arrays differ in their number of boxes: extract the image again")
    boxes_N4 = arrays["norm_bb"][:, :4]
    if (boxes_N4[:, 2:] < boxes_N4[:, :2] - SLACK).any():
        raise VlcompressError(f"{where}: a box ends before it begins: 'norm_bb' is x1, y1, x2, y2, width, height")
    if boxes_N4.min() < -SLACK or boxes_N4.max() > 1 + SLACK:
        reach = f"{boxes_N4.min():g} to {boxes_N4.max():g}"
        raise VlcompressError(f"{where}: a box is outside the image: it reaches {reach}, 0 to 1 is all of the image")
    return arrays


def _regions(name: str, arrays: Arrays, count: int | None) -> Regions:
    """Cut the arrays to the boxes that count; class and attribute are -1 where the format does not say."""

    def cut(key: str) -> NDArray[np.float32]:
        return np.asarray(arrays[key][:count], dtype=np.float32)

    boxes_N6 = cut("norm_bb")
    unknown_N = np.full(len(boxes_N6), -1, dtype=np.int64)
    soft_NC = cut("soft_labels") if "soft_labels" in arrays else None
    confidence_N = cut("conf").reshape(-1) if "conf" in arrays else np.ones(len(boxes_N6), np.float32)
    return Regions(
        img_id=name.removesuffix(".npz"),
        height=1,
        width=1,
        boxes=boxes_N6[:, :4],
        features=cut("features"),
        objects_id=unknown_N if soft_NC is None else soft_NC[:, 1:].argmax(axis=1).astype(np.int64),
        objects_conf=confidence_N,
        attrs_id=unknown_N,
        attrs_conf=np.zeros(len(boxes_N6), np.float32),
        soft_labels=soft_NC,
        sizes=boxes_N6[:, 4:],
    )
