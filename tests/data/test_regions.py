"""The region reader: what is written comes back, and every kind of damage is named with its row."""

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vlcompress.data.regions import FIELDS, RegionFile, Regions, format_row, write_regions
from vlcompress.errors import VlcompressError


def regions(name: str, *, boxes: int = 3, width: int = 5, seed: int = 0) -> Regions:
    rng = np.random.default_rng(seed)
    return Regions(
        name,
        48,
        64,
        np.sort(rng.uniform(0, 48, (boxes, 2, 2)).astype(np.float32), axis=1).reshape(boxes, 4),
        rng.standard_normal((boxes, width)).astype(np.float32),
        rng.integers(0, 9, boxes),
        rng.random(boxes, dtype=np.float32),
        rng.integers(0, 9, boxes),
        rng.random(boxes, dtype=np.float32),
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "regions.tsv"
    write_regions(path, [regions("a"), regions("b", boxes=2, seed=1)])
    return path


def test_what_is_written_is_read(file: Path) -> None:
    found = RegionFile(file)
    assert found.ids == ("a", "b")
    assert (len(found), found.feature_dim) == (2, 5)
    assert "a" in found
    assert "c" not in found
    for expected in (regions("b", boxes=2, seed=1), regions("a")):
        read = found.read(expected.img_id)
        for name, value in vars(expected).items():
            np.testing.assert_array_equal(getattr(read, name), value, strict=isinstance(value, np.ndarray))


def test_boxes_are_normalized_by_width_and_height() -> None:
    image = replace(regions("a", boxes=1), boxes=np.array([[16, 12, 64, 48]], dtype=np.float32))
    assert image.normalized_boxes.tolist() == [[0.25, 0.25, 1.0, 1.0]]
    assert image.normalized_boxes.dtype == np.float32


def test_windows_line_ends_are_accepted(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert RegionFile(file).read("b").features.shape == (2, 5)


def _cut(content: bytes) -> bytes:
    return content[:-30]


def _drop_field(content: bytes) -> bytes:
    return content.rsplit(b"\t", 1)[0]


def _repeat(content: bytes) -> bytes:
    return content + format_row(regions("a"))


def _other_width(content: bytes) -> bytes:
    return content + format_row(regions("c", width=6))


def _wrong_count(content: bytes) -> bytes:
    return content.replace(b"\t3\t", b"\t2\t")


def _no_count(content: bytes) -> bytes:
    return content.replace(b"\t3\t", b"\tmany\t")


def _endless_count(content: bytes) -> bytes:
    return content.replace(b"\t3\t", b"\t" + b"3" * 5000 + b"\t")


ARRAYS = ("objects_id", "objects_conf", "attrs_id", "attrs_conf", "boxes", "features")


def _empty(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, "row 2: features hold"),
        (_drop_field, "row 2: 9 fields where 10"),
        (_repeat, "row 3: image 'a' is already in row 1"),
        (_other_width, "row 3: feature size 6 where 5"),
        (_wrong_count, "row 1: objects_id holds 24 bytes where 16"),
        (_no_count, "row 1: num_boxes is 'many'"),
        (_endless_count, "row 1: num_boxes is '33333333333333333333'"),
        (_empty, "holds no rows"),
    ],
)
def test_damage_is_found_when_the_file_is_opened(file: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(VlcompressError, match=message):
        RegionFile(file)


def test_another_feature_size_than_wanted_is_refused(file: Path) -> None:
    with pytest.raises(VlcompressError, match="feature size 5 where 2048"):
        RegionFile(file, 2048)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match="no region features at"):
        RegionFile(tmp_path / "none.tsv")


def test_broken_base64_is_found_when_read(file: Path) -> None:
    lines = file.read_bytes().splitlines()
    fields = lines[1].split(b"\t")
    text = fields[FIELDS.index("features")]
    fields[FIELDS.index("features")] = b"!" + text[1:]
    file.write_bytes(b"\n".join([lines[0], b"\t".join(fields)]))
    found = RegionFile(file)
    found.read("a")
    with pytest.raises(VlcompressError, match="row 2: features is broken base64"):
        found.read("b")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_feature_that_is_no_number_is_refused(tmp_path: Path, value: float) -> None:
    image = regions("a")
    image.features[1, 2] = value
    write_regions(tmp_path / "bad.tsv", [image])
    with pytest.raises(VlcompressError, match="row 1: features hold NaN or infinity"):
        RegionFile(tmp_path / "bad.tsv").read("a")


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (
            [[4, 4, 20, 20], [30, 20, 9, 12]],
            r"box 1 ends before it begins, \[30.0, 20.0, 9.0, 12.0\]: boxes are",
        ),
        ([[0.1, 0.2, 0.5, 0.6], [0, 0, 1, 1]], "all boxes lie within one pixel: boxes are corners"),
        ([[4, 4, 20, 20], [60, 40, 65, 48]], "box 1 is outside the image of 64x48 pixels"),
        ([[4, 4, 20, 20], [60, np.nan, 63, 48]], "boxes hold NaN or infinity"),
    ],
)
def test_boxes_in_another_form_are_refused_when_the_file_is_opened(
    tmp_path: Path, boxes: list[list[float]], message: str
) -> None:
    image = replace(regions("a", boxes=2), boxes=np.array(boxes, dtype=np.float32))
    write_regions(tmp_path / "a.tsv", [regions("b", boxes=2), image])
    with pytest.raises(VlcompressError, match=f"row 2: {message}"):
        RegionFile(tmp_path / "a.tsv")


def test_a_flat_box_and_a_picture_of_one_pixel_are_accepted(tmp_path: Path) -> None:
    flat = replace(regions("a", boxes=1), boxes=np.array([[5, 9, 20, 9]], dtype=np.float32))
    whole = replace(regions("b", boxes=1), boxes=np.array([[0, 0, 1, 1]], dtype=np.float32), height=1, width=1)
    write_regions(tmp_path / "a.tsv", [flat, whole])
    assert RegionFile(tmp_path / "a.tsv").ids == ("a", "b")


FEATURES = {
    "of both signs": lambda rng, size: rng.standard_normal(size),
    "after a ReLU": lambda rng, size: np.maximum(rng.standard_normal(size), 0),
    "shares": lambda rng, size: rng.random(size),
    "of float32": lambda rng, size: rng.standard_normal(size).astype(np.float32).astype(np.float64),
    "of float16": lambda rng, size: rng.standard_normal(size).astype(np.float16).astype(np.float64),
}


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
@pytest.mark.parametrize("values", FEATURES)
def test_features_of_another_type_are_refused(tmp_path: Path, values: str, kind: str) -> None:
    """They are read as so many bytes: float64 would be twice as many numbers, float16 half as many."""
    features = FEATURES[values](np.random.default_rng(0), (10, 64)).astype(kind)
    write_regions(tmp_path / "a.tsv", [replace(regions("a", boxes=10), features=features)])
    if kind == "float32":
        assert RegionFile(tmp_path / "a.tsv").feature_dim == 64
        return
    with pytest.raises(VlcompressError, match=f"row 1: features are {kind} by their bits, where float32 is read"):
        RegionFile(tmp_path / "a.tsv")


@pytest.mark.parametrize("values", [np.ones((20, 64)), np.eye(20, 64), np.geomspace(1e-12, 1, 1280).reshape(20, 64)])
def test_odd_features_of_float32_are_read(tmp_path: Path, values: NDArray[np.float64]) -> None:
    features = values.astype(np.float32)
    write_regions(tmp_path / "a.tsv", [replace(regions("a", boxes=20), features=features)])
    assert RegionFile(tmp_path / "a.tsv").feature_dim == 64


def test_a_name_that_is_not_utf8_is_refused(file: Path) -> None:
    file.write_bytes(b"\xe9" + file.read_bytes())
    with pytest.raises(VlcompressError, match="row 1: its img_id is not UTF-8"):
        RegionFile(file)


def test_an_image_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(VlcompressError, match="image 'z' is not among the 2 images"):
        RegionFile(file).read("z")


def test_fields_are_plain_base64_of_the_arrays() -> None:
    image = regions("a")
    fields = dict(zip(FIELDS, format_row(image).rstrip(b"\n").split(b"\t"), strict=True))
    assert base64.b64decode(fields["objects_id"]) == image.objects_id.tobytes()
    assert fields["num_boxes"] == b"3"


def test_an_image_without_boxes_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    write_regions(path, [regions("a"), regions("b"), regions("c", seed=1)])
    first, second, third = path.read_bytes().splitlines(keepends=True)
    fields = dict(zip(FIELDS, second.rstrip(b"\n").split(b"\t"), strict=True))
    empty = b"\t".join(b"" if name in ARRAYS else {"num_boxes": b"0"}.get(name, fields[name]) for name in FIELDS)
    path.write_bytes(first + empty + b"\n\n" + third + b"\r\n")
    file = RegionFile(path)
    assert file.ids == ("a", "c")
    np.testing.assert_array_equal(file.read("c").features, regions("c", seed=1).features)
