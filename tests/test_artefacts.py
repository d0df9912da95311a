import errno
import json
import os
from pathlib import Path

import pytest
import torch

from vlcompress import artefacts
from vlcompress.artefacts import identity, load_tensors, read_entry, save_tensors, seal, unseal, write_file, writing
from vlcompress.errors import VlcompressError


def make(folder: Path, value: float = 1.0) -> None:
    with writing(folder) as temporary:
        save_tensors(temporary / "weights.safetensors", {"w": torch.full((3,), value)})
        seal(temporary, "thing.json", {"value": value})


def test_sealed_artefact_reads_back(tmp_path: Path) -> None:
    make(tmp_path / "thing")
    assert unseal(tmp_path / "thing", "thing.json")["value"] == 1.0
    assert load_tensors(tmp_path / "thing" / "weights.safetensors")["w"].tolist() == [1, 1, 1]


def test_replacing_leaves_nothing_behind(tmp_path: Path) -> None:
    make(tmp_path / "thing", 1.0)
    make(tmp_path / "thing", 2.0)
    assert unseal(tmp_path / "thing", "thing.json")["value"] == 2.0
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_failure_inside_leaves_the_old_one_whole(tmp_path: Path) -> None:
    make(tmp_path / "thing")

    def die_midway() -> None:
        with writing(tmp_path / "thing") as temporary:
            (temporary / "half").write_text("…")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        die_midway()
    assert unseal(tmp_path / "thing", "thing.json")["value"] == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_every_file_is_on_the_disk_before_the_artefact_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    rename = os.replace
    monkeypatch.setattr(os, "fsync", lambda file: events.append(os.path.basename(os.readlink(f"/proc/self/fd/{file}"))))
    monkeypatch.setattr(
        os, "replace", lambda old, new: (events.append(f"rename to {Path(new).name}"), rename(old, new))
    )
    with writing(tmp_path / "thing") as temporary:
        (temporary / "folder").mkdir()
        (temporary / "folder" / "file").write_text("…")
    assert sorted(events[:3]) == sorted([temporary.name, "folder", "file"])
    assert events[3:] == ["rename to thing", tmp_path.name]


def test_one_changed_bit_is_found(tmp_path: Path) -> None:
    make(tmp_path / "thing")
    path = tmp_path / "thing" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(VlcompressError, match=r"weights.safetensors' is corrupted: its sha256 is not the recorded"):
        unseal(tmp_path / "thing", "thing.json")


def test_missing_file_and_missing_artefact(tmp_path: Path) -> None:
    make(tmp_path / "thing")
    (tmp_path / "thing" / "weights.safetensors").unlink()
    with pytest.raises(VlcompressError, match="is missing from its artefact"):
        unseal(tmp_path / "thing", "thing.json")
    with pytest.raises(VlcompressError, match=r"it has no thing.json"):
        unseal(tmp_path, "thing.json")


@pytest.mark.parametrize(
    ("code", "text"), [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "no permission"), (errno.EROFS, "read-only")]
)
def test_disk_trouble_says_what_to_do_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, text: str
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(artefacts.os, "fsync", fail)
    with pytest.raises(VlcompressError, match=f"cannot write '.*': .*{text}"):
        make(tmp_path / "thing")
    with pytest.raises(VlcompressError, match=text):
        write_file(tmp_path / "file.json", "{}")
    assert list(tmp_path.iterdir()) == []


def test_writing_below_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VlcompressError, match="is a file, not a folder"):
        make(tmp_path / "file" / "thing")


def test_identity_ignores_order_and_sees_values() -> None:
    assert identity({"a": 1, "b": 2}) == identity({"b": 2, "a": 1}) != identity({"a": 1, "b": 3})


def test_an_entry_that_is_not_there_or_of_another_type_names_the_file_and_the_entry(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"recipe": {"steps": 4, "name": "x", "seeds": []}}')
    assert read_entry(path, "recipe", "name", kind=str) == "x"
    assert read_entry(path, "recipe", "steps", kind=float) == 4.0
    for keys in (("other",), ("recipe", "seeds"), ("recipe", "name", "more"), ("recipe", "seeds", "more")):
        with pytest.raises(VlcompressError, match=f"a.json' has no str '{'.'.join(keys)}': it is damaged"):
            read_entry(path, *keys, kind=str)


def test_damaged_json_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "thing.json").write_text(json.dumps({"a": 1})[:-2])
    with pytest.raises(VlcompressError, match=r"thing.json' is not valid JSON"):
        unseal(tmp_path, "thing.json")


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    with writing(tmp_path / "made") as own:
        dead = tmp_path / own.name.replace(f"-{os.getpid()}.", "-999999999.")
        other_machine = tmp_path / f".made.00000000-999999999.{own.name[-4:]}"
        for folder in (dead, other_machine):
            folder.mkdir()
        with writing(tmp_path / "made"):
            assert own.is_dir()
            assert not dead.exists()
            assert other_machine.is_dir()
