"""Pickles are parsed, never executed: what is read, and what is refused."""

import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlcompress.data import pickles
from vlcompress.data.pickles import read_pickle
from vlcompress.errors import VlcompressError

PLAIN = {
    "text": "caf\u00e9 \u4e2d",
    "numbers": [0, -1, 255, 65536, 2**40, -(2**70), 1.5, float("inf")],
    "nested": {"a": (1,), "b": (1, 2), "c": (1, 2, 3), "d": (1, 2, 3, 4), "e": (), 7: None},
    "flags": [True, False],
    "bytes": b"\x00\xff",
}


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.path}",))


def written(path: Path, value: object, protocol: int) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_plain_data_comes_back(tmp_path: Path, protocol: int) -> None:
    assert read_pickle(written(tmp_path / "plain.p", PLAIN, protocol)) == PLAIN


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_plain_data_of_python_2s_protocols_comes_back(tmp_path: Path, protocol: int) -> None:
    plain = {name: value for name, value in PLAIN.items() if name != "bytes"}
    assert read_pickle(written(tmp_path / "plain.p", plain, protocol)) == plain


def test_python_2s_byte_strings_become_text_by_latin_1(tmp_path: Path) -> None:
    path = tmp_path / "two.p"
    path.write_bytes(b"(dp0\nS'caf\\xe9'\np1\nS\"it's\"\np2\ns.")
    assert read_pickle(path) == {"café": "it's"}


def test_what_is_shared_stays_shared(tmp_path: Path) -> None:
    row = {"a": 1}
    read = read_pickle(written(tmp_path / "shared.p", [row, row], 2))
    assert read[0] is read[1]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_a_planted_call_is_refused_and_does_not_run(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "trace"
    path = written(tmp_path / "planted.p", {"refs": [Planted(trace)]}, protocol)
    with pytest.raises(VlcompressError, match=r"planted.p' is refused: it names \w+.system"):
        read_pickle(path)
    assert not trace.exists()
    pickle.loads(path.read_bytes())  # the file is one that would have done it
    assert trace.exists()


@pytest.mark.parametrize(
    "code", [b"cos\nsystem\n.", b"(ios\nsystem\n.", b"Ppersistent\n.", b"\x82\x01.", b"]b.", b")R."]
)
def test_every_way_to_reach_code_is_refused(tmp_path: Path, code: bytes) -> None:
    path = tmp_path / "bad.p"
    path.write_bytes(b"\x80\x02" + code)
    with pytest.raises(VlcompressError, match=r"is refused|is damaged"):
        read_pickle(path)


def test_an_array_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "array.p", {"data": np.arange(3)}, 2)
    with pytest.raises(VlcompressError, match="is refused: it names numpy"):
        read_pickle(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"]",
        b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"ja.",
        b"0.",
        b"(.",
        b"K\x01K\x02.",
        b"(K\x01.",
    ],
)
def test_a_cut_file_or_a_claimed_length_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "cut.p"
    path.write_bytes(data)
    with pytest.raises(VlcompressError, match=r"cut.p' is not a whole pickle"):
        read_pickle(path)


def test_a_claimed_index_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "index.p"
    path.write_bytes(b"\x80\x02K\x01r\xff\xff\xff\xff.")
    tracemalloc.start()
    assert read_pickle(path) == 1
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "large.p", PLAIN, 4)
    monkeypatch.setattr(pickles, "MOST_BYTES", path.stat().st_size)
    assert read_pickle(path) == PLAIN
    monkeypatch.setattr(pickles, "MOST_BYTES", path.stat().st_size - 1)
    with pytest.raises(VlcompressError, match=r"large.p' has \d+ bytes, \d+ are allowed"):
        read_pickle(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match=r"no pickle at '.*none.p'"):
        read_pickle(tmp_path / "none.p")
