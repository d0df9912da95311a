"""LXMERT's region features: one TSV row an image, arrays in base64 (field order of the official ``load_obj_tsv``).

Shape legend: N boxes of an image, D feature width.
"""

import base64
import binascii
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vlcompress.errors import VlcompressError

FIELDS = (
    "img_id",
    "img_h",
    "img_w",
    "objects_id",
    "objects_conf",
    "attrs_id",
    "attrs_conf",
    "num_boxes",
    "boxes",
    "features",
)
_BYTES_PER_BOX = {"objects_id": 8, "objects_conf": 4, "attrs_id": 8, "attrs_conf": 4, "boxes": 16}
_MAKE_AGAIN = "the file is damaged or cut; extract or download it again"
_CORNERS = "boxes are corners x1, y1, x2, y2 in pixels, no sizes and no shares of the image; write them so"
_ALIKE = 5.0
"""Octaves, a standard deviation: sizes of features spread over 1 to 4, bits read as another type over 6 to 70."""

N = TypeVar("N", bound=np.generic)


@dataclass(frozen=True)
class Regions:
    """What the detector found in one image.

    Attributes:
        img_id: the image's name.
        height, width: of the image, in pixels.
        boxes: float32 [N, 4], (x1, y1, x2, y2) in pixels.
        features: float32 [N, D], all finite.
        objects_id, attrs_id: int64 [N], the detector's class and attribute; -1 where the format does not say.
        objects_conf, attrs_conf: float32 [N], its confidence in them.
        soft_labels: float32 [N, C], the detector's class probabilities, where the format has them (UNITER's MRC-kl).
        sizes: float32 [N, 2], normalised width and height where the format stores them; they are rounded on their own
            there (float16), so that they are not quite the boxes' differences.
    """

    img_id: str
    height: int
    width: int
    boxes: NDArray[np.float32]
    features: NDArray[np.float32]
    objects_id: NDArray[np.int64]
    objects_conf: NDArray[np.float32]
    attrs_id: NDArray[np.int64]
    attrs_conf: NDArray[np.float32]
    soft_labels: NDArray[np.float32] | None = None
    sizes: NDArray[np.float32] | None = None

    @property
    def normalized_boxes(self) -> NDArray[np.float32]:
        """Boxes float32 [N, 4] divided by (w, h, w, h), which is what LXMERT is given: 0 to 1."""
        scale = np.array([self.width, self.height, self.width, self.height], dtype=np.float32)
        return np.divide(self.boxes, scale, dtype=np.float32)

    @property
    def position_features(self) -> NDArray[np.float32]:
        """What UNITER is given of the boxes, float32 [N, 7]: normalised (x1, y1, x2, y2, w, h, w * h)."""
        boxes_N4 = self.normalized_boxes
        sizes_N2 = boxes_N4[:, 2:] - boxes_N4[:, :2] if self.sizes is None else self.sizes
        return np.hstack([boxes_N4, sizes_N2, sizes_N2[:, :1] * sizes_N2[:, 1:]])

    @property
    def pixel_boxes(self) -> NDArray[np.float32]:
        """Boxes float32 [N, 4] as (x, y, width, height) in pixels, which is how RefCOCO compares them."""
        corners_N2 = self.boxes[:, :2]
        if self.sizes is None:
            return np.hstack([corners_N2, self.boxes[:, 2:] - corners_N2])
        return np.hstack([corners_N2, self.sizes * np.array([self.width, self.height], dtype=np.float32)])

    def scaled(self, height: int, width: int) -> "Regions":
        """Give the boxes in pixels of an image of this size; they are normalised (height and width 1).

        Stored in float16, they come back from pixels (float32) to the bit.
        """
        scale_4 = np.array([width, height, width, height], dtype=np.float32)
        return replace(self, height=height, width=width, boxes=self.boxes * scale_4)


@dataclass(frozen=True)
class _Row:
    """Where an image's row is in the file."""

    offset: int
    number: int


class RegionFile:
    """A TSV of region features, indexed once and read one image at a time (official files hold tens of gigabytes)."""

    def __init__(self, path: Path | str, feature_dim: int | None = None) -> None:
        """Index the file, checking every row's field count and the lengths of its arrays.

        Args:
            path: the TSV file.
            feature_dim: the feature width D that is wanted; None takes that of the first row.

        Raises:
            VlcompressError: no such file, no rows, a cut row, a wrong feature width, an image listed twice.
        """
        self.path = Path(path)
        self._feature_dim = feature_dim
        self._rows: dict[str, _Row] = {}
        if not self.path.is_file():
            raise VlcompressError(f"no region features at '{self.path}': give a TSV file that exists")
        for row, fields in _scan(self.path):
            if _field(fields, "num_boxes") != b"0":  # the detector found nothing: an image without features
                self._index(row, fields)
        if not self._rows:
            raise VlcompressError(f"'{self.path}' holds no rows: {_MAKE_AGAIN}")

    @property
    def ids(self) -> tuple[str, ...]:
        """The images' names, in the order of the file."""
        return tuple(self._rows)

    @property
    def feature_dim(self) -> int:
        """Feature width D, the same in every row."""
        assert self._feature_dim is not None  # a file without rows is refused
        return self._feature_dim

    def __contains__(self, img_id: object) -> bool:
        """Say whether the file has this image."""
        return img_id in self._rows

    def __len__(self) -> int:
        """Count the images."""
        return len(self._rows)

    def read(self, img_id: str) -> Regions:
        """Read one image's regions.

        Raises:
            VlcompressError: the image is not in the file, broken base64, a feature that is NaN or infinite.
        """
        if img_id not in self._rows:
            raise VlcompressError(
                f"image '{img_id}' is not among the {len(self)} images of '{self.path}': extract its features"
            )
        row = self._rows[img_id]
        with self.path.open("rb") as file:
            file.seek(row.offset)
            fields = _split(self.path, row.number, file.readline())
        return self._decode(row, fields)

    def _index(self, row: _Row, fields: Sequence[bytes]) -> None:
        try:
            img_id = fields[0].decode()
        except UnicodeDecodeError as error:
            raise _bad_row(
                self.path, row.number, f"its img_id is not UTF-8 ({error})", "name images in UTF-8"
            ) from error
        if img_id in self._rows:
            first = self._rows[img_id].number
            raise _bad_row(
                self.path, row.number, f"image '{img_id}' is already in row {first}", "keep one of the two rows"
            )
        boxes = _whole_number(self.path, row.number, fields, "num_boxes")
        width, height = (_whole_number(self.path, row.number, fields, name) for name in ("img_w", "img_h"))
        for name, size in _BYTES_PER_BOX.items():
            _check_length(self.path, row.number, name, _field(fields, name), boxes * size)
        self._check_boxes(row, self._array(row, fields, "boxes", np.float32).reshape(-1, 4), (width, height))
        self._check_features(row, fields, boxes)
        self._rows[img_id] = row

    def _check_features(self, row: _Row, fields: Sequence[bytes], boxes: int) -> None:
        text = _field(fields, "features")
        size = _decoded_length(text)
        if len(text) % 4 or size % (4 * boxes):
            raise _bad_row(
                self.path,
                row.number,
                f"features hold {size} bytes, no whole number of floats for each of {boxes} boxes",
                _MAKE_AGAIN,
            )
        if not self._rows:
            kind = _kind_of(self._array(row, fields, "features", np.float32))
            if kind != "float32":
                what = f"features are {kind} by their bits, where float32 is read"
                raise _bad_row(self.path, row.number, what, "write them with .astype(numpy.float32)")
        width = size // (4 * boxes)
        if width != (self._feature_dim or width):
            raise _bad_row(
                self.path,
                row.number,
                f"feature size {width} where {self._feature_dim} was expected",
                "use features of one size, the one that the model was made for",
            )
        self._feature_dim = width

    def _check_boxes(self, row: _Row, boxes_N4: NDArray[np.float32], size: tuple[int, int]) -> None:
        """Refuse boxes outside the image, with the tolerance of the official loaders, and boxes in another form."""
        if not np.isfinite(boxes_N4).all():
            raise _bad_row(self.path, row.number, "boxes hold NaN or infinity", _MAKE_AGAIN)
        if (turned_N := (boxes_N4[:, 2:] < boxes_N4[:, :2]).any(axis=1)).any():
            number = int(turned_N.argmax())
            what = f"box {number} ends before it begins, {boxes_N4[number].tolist()}"
            raise _bad_row(self.path, row.number, what, _CORNERS)
        if boxes_N4.max() <= 1 < min(size):
            raise _bad_row(self.path, row.number, "all boxes lie within one pixel", _CORNERS)
        normalized_N4 = boxes_N4 / np.array([*size, *size], dtype=np.float32)
        if normalized_N4.min() < -1e-5 or normalized_N4.max() > 1 + 1e-5:
            number = int(((normalized_N4 < -1e-5) | (normalized_N4 > 1 + 1e-5)).any(axis=1).argmax())
            what = f"box {number} is outside the image of {size[0]}x{size[1]} pixels"
            raise _bad_row(self.path, row.number, what, _MAKE_AGAIN)

    def _decode(self, row: _Row, fields: Sequence[bytes]) -> Regions:
        features = self._array(row, fields, "features", np.float32).reshape(-1, self.feature_dim)
        if not np.isfinite(features).all():
            raise _bad_row(self.path, row.number, "features hold NaN or infinity", _MAKE_AGAIN)
        height, width = int(_field(fields, "img_h")), int(_field(fields, "img_w"))
        return Regions(
            img_id=fields[0].decode(),
            height=height,
            width=width,
            boxes=self._array(row, fields, "boxes", np.float32).reshape(-1, 4),
            features=features,
            objects_id=self._array(row, fields, "objects_id", np.int64),
            objects_conf=self._array(row, fields, "objects_conf", np.float32),
            attrs_id=self._array(row, fields, "attrs_id", np.int64),
            attrs_conf=self._array(row, fields, "attrs_conf", np.float32),
        )

    def _array(self, row: _Row, fields: Sequence[bytes], name: str, kind: type[N]) -> NDArray[N]:
        """Decode a field; 1-D."""
        return np.frombuffer(_unbase64(self.path, row.number, name, _field(fields, name)), kind)


def region_file(path: Path, feature_dim: int | None = None) -> RegionFile:
    """Open the region file at `path`, indexed once in a process as long as it does not change.

    Raises:
        VlcompressError: as of `RegionFile`.
    """
    changed = path.stat().st_mtime_ns if path.is_file() else 0
    return _region_file(path, feature_dim, changed)


@lru_cache(maxsize=32)
def _region_file(path: Path, feature_dim: int | None, changed: int) -> RegionFile:
    return RegionFile(path, feature_dim)


def format_row(regions: Regions) -> bytes:
    """Write an image as its TSV row, line end included."""
    arrays = {
        "objects_id": regions.objects_id,
        "objects_conf": regions.objects_conf,
        "attrs_id": regions.attrs_id,
        "attrs_conf": regions.attrs_conf,
        "boxes": regions.boxes,
        "features": regions.features,
    }
    values = {name: base64.b64encode(np.ascontiguousarray(array).tobytes()) for name, array in arrays.items()}
    values["img_id"] = regions.img_id.encode()
    values["img_h"] = str(regions.height).encode()
    values["img_w"] = str(regions.width).encode()
    values["num_boxes"] = str(len(regions.boxes)).encode()
    return b"\t".join(values[name] for name in FIELDS) + b"\n"


def write_regions(path: Path, regions: Iterable[Regions]) -> None:
    """Write a TSV that `RegionFile` and the official loader read, one row an image, in the order given."""
    from vlcompress.artefacts import disk_errors  # brings torch along, which readers do without

    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.writelines(format_row(image) for image in regions)


def _scan(path: Path) -> Iterator[tuple[_Row, list[bytes]]]:
    with path.open("rb") as file:
        offset = 0
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _Row(offset, number), _split(path, number, line)
            offset += len(line)


def _split(path: Path, number: int, line: bytes) -> list[bytes]:
    fields = line.rstrip(b"\r\n").split(b"\t")
    if len(fields) != len(FIELDS):
        raise _bad_row(path, number, f"{len(fields)} fields where {len(FIELDS)} were expected", _MAKE_AGAIN)
    return fields


def _field(fields: Sequence[bytes], name: str) -> bytes:
    return fields[FIELDS.index(name)]


def _whole_number(path: Path, number: int, fields: Sequence[bytes], name: str) -> int:
    text = _field(fields, name)
    if not text.isdigit() or len(text) > 9 or int(text) == 0:
        raise _bad_row(
            path, number, f"{name} is '{text[:20].decode(errors='replace')}', not a positive number", _MAKE_AGAIN
        )
    return int(text)


def _decoded_length(text: bytes) -> int:
    """Bytes that base64 text stands for, without decoding it."""
    return len(text) // 4 * 3 - text[-2:].count(b"=")


def _check_length(path: Path, number: int, name: str, text: bytes, size: int) -> None:
    if len(text) != math.ceil(size / 3) * 4 or _decoded_length(text) != size:
        raise _bad_row(
            path, number, f"{name} holds {_decoded_length(text)} bytes where {size} were expected", _MAKE_AGAIN
        )


def _kind_of(values: NDArray[np.float32]) -> str:
    """Tell the type that features were written in, by their bits: "float32", "float64" or "float16".

    A file does not say. Read as the type that they are, numbers are of like size; read as another one, bits of the
    fraction become exponents, and sizes are of all kinds.
    """
    spread = _spread(values)
    found = {"float16": _spread(values.view(np.float16)), "float64": math.inf}
    if len(values) % 2 == 0:
        found["float64"] = _spread(values.view(np.float64))
    narrow = min(found, key=lambda name: found[name])
    if found[narrow] < _ALIKE < spread and 3 * found[narrow] < spread:
        return narrow
    upper_half = values[1::2]  # of float64 numbers whose fraction is short, all other words are zero
    only_upper = len(values) % 2 == 0 and not values[::2].any() and np.count_nonzero(upper_half) > len(upper_half) / 4
    return "float64" if only_upper else "float32"


def _spread(values: NDArray[Any]) -> float:
    """Measure the standard deviation of log2 of the numbers' sizes but zeros; infinite where one is no number."""
    with np.errstate(invalid="ignore", over="ignore"):
        sizes = np.abs(values[values != 0].astype(np.longdouble))
    if not np.isfinite(sizes).all():
        return math.inf
    return float(np.log2(sizes).std()) if sizes.size else 0.0


def _unbase64(path: Path, number: int, name: str, text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise _bad_row(path, number, f"{name} is broken base64 ({error})", _MAKE_AGAIN) from error


def _bad_row(path: Path, number: int, what: str, fix: str) -> VlcompressError:
    return VlcompressError(f"'{path}', row {number}: {what}: {fix}")
