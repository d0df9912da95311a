"""Pictures of a folder: one name is one picture, and every PNG and JPEG becomes 8 bits of RGB."""

import io
import zlib
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

from vlcompress.data.pictures import FilePictures, decode, encode
from vlcompress.errors import VlcompressError

RED, BLUE = (np.full((2, 3, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))


def test_two_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder, pixels in (("train", RED), ("test", BLUE), ("copy", BLUE)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.png").write_bytes(encode(pixels))
    with pytest.raises(VlcompressError, match=r"image '0' is two pictures, '.*0.png' and '.*0.png'"):
        FilePictures([tmp_path]).pixels("0")
    (tmp_path / "train/0.png").unlink()
    pictures = FilePictures([tmp_path])
    assert np.array_equal(pictures.pixels("0"), BLUE)  # two copies of one picture do no harm
    assert pictures.names == ("0",)


def test_a_picture_may_be_in_a_zip_file_and_beside_it(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(encode(RED))
    with ZipFile(tmp_path / "train.zip", "w") as archive:
        archive.write(tmp_path / "0.png", "train/0.png")
    assert np.array_equal(FilePictures([tmp_path]).pixels("0"), RED)
    (tmp_path / "0.png").write_bytes(encode(BLUE))
    with pytest.raises(VlcompressError, match="image '0' is two pictures"):
        FilePictures([tmp_path]).pixels("0")


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def test_sixteen_bits_of_grey_are_cut_to_the_upper_eight() -> None:
    """As Pillow does with 16 bits of colour; it would take 255 for all that is above."""
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    pixels = decode(png(ramp), "ramp")
    assert np.array_equal(pixels, np.repeat((ramp // 256).astype(np.uint8)[:, :, None], 3, axis=2))
    assert np.array_equal(decode(png((ramp // 257).astype(np.uint8)), "of 8 bits"), pixels)


def test_a_picture_too_large_for_pillow_is_refused() -> None:
    """Its header says so: nothing is decoded."""
    content = bytearray(png(np.zeros((1, 1), np.uint8)))
    content[16:24] = (20000).to_bytes(4, "big") + (10000).to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    with pytest.raises(VlcompressError, match=r"'huge.png': .*100000000 pixels are allowed"):
        decode(bytes(content), "'huge.png'")
