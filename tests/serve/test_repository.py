"""Models on disk: what is found, what is refused, and versions that come and go while requests are answered."""

import asyncio
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest

from tests.serve.conftest import Client, expected_words, running, settings_of, words_request, write_words
from vlcompress.artefacts import seal
from vlcompress.errors import VlcompressError
from vlcompress.serve.app import create_app
from vlcompress.serve.engines.onnx_engine import OnnxEngine, id_bounds, read_model
from vlcompress.serve.settings import ModelSpec, Settings
from vlcompress.serve.stored import default_name, stored_versions

INFER = "/v2/models/words/infer"


@pytest.fixture
def folder(models: Path, tmp_path: Path) -> Path:
    """A copy of words/ that may be changed."""
    shutil.copytree(models / "words", tmp_path / "words")
    return tmp_path


def refreshed(client: Client) -> None:
    asyncio.run(client.server.repository.refresh())


def scale_of(client: Client, path: str = INFER) -> float:
    """Find out which version answered, by its scale."""
    found = client.post(path, json=words_request([[1]])).json()
    return round(found["outputs"][0]["data"][0] / expected_words([[1]], 1.0)[0][0], 3)


def test_a_new_version_is_found_loaded_and_becomes_the_default(folder: Path) -> None:
    client = Client(create_app(settings_of(folder)))
    assert scale_of(client) == 2.0
    write_words(folder / "words" / "10" / "model.onnx", scale=10.0)
    refreshed(client)
    assert scale_of(client) == 10.0
    assert scale_of(client, "/v2/models/words/versions/2/infer") == 2.0
    assert client.get("/v2/models/words").json()["versions"] == ["1", "2", "10"]


def test_a_version_that_is_gone_is_no_longer_offered_but_the_last_one_stays(folder: Path) -> None:
    client = Client(create_app(settings_of(folder)))
    client.get("/v2")
    shutil.rmtree(folder / "words" / "2")
    refreshed(client)
    assert client.get("/v2/models/words/versions/2").status_code == 404
    assert scale_of(client) == 1.0
    shutil.rmtree(folder / "words" / "1")
    refreshed(client)
    assert scale_of(client) == 1.0


def test_a_version_that_is_gone_leaves_no_metrics(folder: Path) -> None:
    client = Client(create_app(settings_of(folder)))
    for version in (1, 2):
        scale_of(client, f"/v2/models/words/versions/{version}/infer")
    assert 'vlcompress_requests_total{code="200",model="words",version="2"} 1.0' in client.get("/metrics").text
    shutil.rmtree(folder / "words" / "2")
    refreshed(client)
    text = client.get("/metrics").text
    assert 'version="2"' not in text
    assert 'vlcompress_requests_total{code="200",model="words",version="1"} 1.0' in text


def test_a_broken_version_is_reported_and_tried_again_when_its_files_change(folder: Path) -> None:
    client = Client(create_app(settings_of(folder)))
    client.get("/v2")
    broken = folder / "words" / "3" / "model.onnx"
    broken.parent.mkdir()
    broken.write_bytes(b"half a file")
    refreshed(client)
    assert scale_of(client) == 2.0
    (row,) = (row for row in client.post("/v2/repository/index").json() if row["version"] == "3")
    assert row["state"] == "UNAVAILABLE"
    assert row["reason"]
    assert all(row["version"] != "3" for row in client.post("/v2/repository/index", json={"ready": True}).json())
    write_words(broken, scale=3.0)
    refreshed(client)
    assert scale_of(client) == 3.0
    assert all(row["state"] == "READY" for row in client.post("/v2/repository/index").json())


def test_a_version_that_arrives_file_by_file_is_loaded_again_when_the_rest_is_there(folder: Path) -> None:
    client = Client(create_app(settings_of(folder)))
    client.get("/v2")
    write_words(folder / "words" / "3" / "model.onnx", scale=3.0)
    refreshed(client)
    assert client.server.repository.get("words").limits.axes == {}
    (folder / "words" / "3" / "config.json").write_text('{"config": {"max_position_embeddings": 5}}')
    refreshed(client)
    assert scale_of(client) == 3.0
    refused = client.post(INFER, json=words_request([[1] * 6]))
    assert refused.json()["error"] == "size 6 of axis 'text' is too large: at most 5 is accepted"


def test_a_broken_version_is_not_tried_again_while_its_files_stay(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(create_app(settings_of(folder)))
    client.get("/v2")
    broken = folder / "words" / "3" / "model.onnx"
    broken.parent.mkdir()
    broken.write_bytes(b"half a file")
    for _ in range(3):
        refreshed(client)
    assert caplog.text.count("version 3 is not loaded") == 1


def test_the_last_version_stays_where_its_successor_is_broken(folder: Path) -> None:
    shutil.rmtree(folder / "words" / "1")
    client = Client(create_app(settings_of(folder)))
    client.get("/v2")
    (folder / "words" / "2" / "model.onnx").write_bytes(b"half a file")
    os.replace(folder / "words" / "2", folder / "words" / "3")
    refreshed(client)
    assert scale_of(client) == 2.0


def test_an_artefact_that_is_written_anew_is_the_next_version(tmp_path: Path) -> None:
    path = write_words(tmp_path / "onnx" / "model.onnx")
    client = Client(create_app(Settings((ModelSpec("words", tmp_path / "onnx"),), threads=1, sessions=1)))
    assert scale_of(client) == 1.0
    refreshed(client)
    assert client.get("/v2/models/words").json()["versions"] == ["1"]
    fresh = write_words(tmp_path / "fresh.onnx", scale=4.0)
    os.replace(fresh, path)
    refreshed(client)
    assert scale_of(client) == 4.0
    assert client.get("/v2/models/words").json()["versions"] == ["2"]


def test_no_request_is_dropped_while_versions_change(folder: Path) -> None:
    settings = settings_of(folder, poll_seconds=0.05)
    statuses: list[int] = []
    versions: set[str] = set()
    stop = threading.Event()

    def ask(address: str) -> None:
        with httpx.Client(base_url=f"http://{address}") as client:
            while not stop.is_set():
                found = client.post(INFER, json=words_request([[1]]))
                statuses.append(found.status_code)
                versions.add(found.json().get("model_version", ""))

    with running(settings) as (address, _):
        askers = [threading.Thread(target=ask, args=(address,)) for _ in range(3)]
        for asker in askers:
            asker.start()
        while "2" not in versions:
            time.sleep(0.01)
        for number in (3, 4, 5):
            write_words(folder / "new" / "model.onnx", scale=float(number))
            os.replace(folder / "new", folder / "words" / str(number))
            while str(number) not in versions and all(asker.is_alive() for asker in askers):
                time.sleep(0.01)
            shutil.rmtree(folder / "words" / str(number - 1))
        stop.set()
        for asker in askers:
            asker.join()
    assert set(statuses) == {200}
    assert {"2", "3", "4", "5"} <= versions


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: None, "no model at"),
        (lambda folder: folder.mkdir(), "holds no model.onnx and no numbered versions"),
        (
            lambda folder: (folder.mkdir(), (folder / "run.json").write_text("{}")),
            "run `vlcompress export --format onnx` first",
        ),
    ],
    ids=["nothing", "empty", "not exported"],
)
def test_what_cannot_be_served_says_what_to_do(tmp_path: Path, make: Callable[[Path], Any], says: str) -> None:
    folder = tmp_path / "model"
    make(folder)
    with pytest.raises(VlcompressError, match=says):
        stored_versions(ModelSpec("model", folder), "onnx")


def test_a_damaged_artefact_is_refused(tmp_path: Path) -> None:
    path = write_words(tmp_path / "onnx" / "model.onnx")
    files = {"model.onnx": {"bytes": path.stat().st_size, "sha256": "0" * 64}}
    (path.parent / "manifest.json").write_text(json.dumps({"files": files}))
    app = create_app(Settings((ModelSpec("words", path.parent),), threads=1, sessions=1))
    with pytest.raises(VlcompressError, match="is corrupted"):
        app.state.server.load()


def test_a_provider_that_is_not_there_fails_the_start(models: Path) -> None:
    assert "CUDAExecutionProvider" not in onnxruntime.get_available_providers()
    with pytest.raises(VlcompressError, match="provider 'cuda' is not in this onnxruntime"):
        OnnxEngine(models / "words" / "1" / "model.onnx", threads=1, sessions=1, provider="cuda")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_session_on_another_provider_fails_the_start(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime lists a provider and still falls back where its libraries are missing."""
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    with pytest.raises(VlcompressError, match="or use --provider cpu"):
        OnnxEngine(models / "words" / "1" / "model.onnx", threads=1, sessions=1, provider="cuda")


def test_bounds_of_ids_come_from_the_tables_that_they_look_up(models: Path) -> None:
    assert id_bounds(read_model(models / "words" / "1" / "model.onnx").graph) == {"input_ids": 50}


@pytest.mark.parametrize("sessions", [1, 3])
@pytest.mark.parametrize("threads", [1, 2])
def test_sessions_and_threads_do_not_change_the_answer(models: Path, sessions: int, threads: int) -> None:
    engine = OnnxEngine(models / "words" / "1" / "model.onnx", threads=threads, sessions=sessions)
    ids = np.array([[1, 2]])
    for _ in range(sessions + 1):
        got = engine.run({"input_ids": ids, "attention_mask": np.ones_like(ids)})["logits"]
        np.testing.assert_allclose(got, expected_words([[1, 2]], 1.0), rtol=1e-6)


@pytest.mark.parametrize(
    ("path", "name"),
    [("runs/a b/onnx", "a_b"), ("words", "words"), ("some/bert.v1.onnx", "bert.v1"), ("x/model.onnx", "x")],
)
def test_default_names_fit_into_a_url(path: str, name: str) -> None:
    assert default_name(Path(path)) == name


def test_a_run_gives_its_model_a_name_unless_it_is_of_another_program(tmp_path: Path) -> None:
    for recipe, name in (
        ({"recipe": {"model": {"family": "lxmert"}, "data": {"task": "vqa"}}}, "lxmert_vqa"),
        ({}, tmp_path.name),
    ):
        (tmp_path / "run.json").write_text(json.dumps(recipe))
        assert default_name(tmp_path / "onnx") == default_name(tmp_path) == name
    (tmp_path / "run.json").write_text('{"recipe": {"model": {"family": "lxmert"}}}')
    with pytest.raises(VlcompressError, match=r"run.json' has no str 'recipe.data.task': it is damaged"):
        default_name(tmp_path)


@pytest.mark.parametrize("path", ["nope", "words/versions/9", "words/versions/1x", "words/versions/" + "9" * 5000])
def test_what_is_not_there_is_404(client: Client, path: str) -> None:
    assert client.get(f"/v2/models/{path}").status_code == 404


def test_a_version_in_pieces_waits_for_its_manifest_and_for_all_that_it_seals(folder: Path) -> None:
    first = folder / "words" / "2"
    (first / "extra.txt").write_text("sealed")
    seal(first, "manifest.json", {})
    client = Client(create_app(settings_of(folder)))
    assert scale_of(client) == 2.0
    whole = folder / "whole"
    write_words(whole / "model.onnx", scale=3.0)
    (whole / "extra.txt").write_text("sealed too")
    seal(whole, "manifest.json", {})
    for name, says in (("model.onnx", "no manifest.json yet"), ("manifest.json", "extra.txt"), ("extra.txt", "")):
        (folder / "words" / "3").mkdir(exist_ok=True)
        shutil.copy(whole / name, folder / "words" / "3" / name)
        refreshed(client)
        waiting = [row for row in client.server.repository.index() if row["state"] == "UNAVAILABLE"]
        assert [says in row["reason"] for row in waiting] == ([True] if says else [])
        assert scale_of(client) == (2.0 if says else 3.0)
