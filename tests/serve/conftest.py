"""Tiny ONNX models made here, an app on each, and a real server on a thread where time matters."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from starlette.applications import Starlette

from vlcompress.cli.main import main
from vlcompress.serve.app import create_app
from vlcompress.serve.run import DrainingServer, bound, config
from vlcompress.serve.settings import ModelSpec, Settings

VOCABULARY, LABELS = 50, 7
TABLE = np.random.default_rng(0).standard_normal((VOCABULARY, LABELS)).astype(np.float32)
"""What the model adds up: one row of scores for each word."""

TYPES = {
    "BOOL": TensorProto.BOOL, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16, "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64, "INT8": TensorProto.INT8, "INT16": TensorProto.INT16, "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64, "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}  # fmt: skip


def write_model(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: list[Any]) -> Path:
    graph = helper.make_graph(nodes, "test", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def write_words(path: Path, scale: float = 1.0) -> Path:
    """Write a model of words: logits [batch, labels] = scale * the sum of TABLE's rows of the visible words."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "two"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["visible"]),
        helper.make_node("ReduceSum", ["visible", "one"], ["logits"], keepdims=0),
    ]
    words = ["batch", "text"]
    constants = [
        numpy_helper.from_array(scale * TABLE, "table"),
        numpy_helper.from_array(np.array([2]), "two"),
        numpy_helper.from_array(np.array([1]), "one"),
    ]
    inputs = [value(name, TensorProto.INT64, words) for name in ("input_ids", "attention_mask")]
    return write_model(path, nodes, inputs, [value("logits", TensorProto.FLOAT, ["batch", LABELS])], constants)


def write_types(path: Path) -> Path:
    """Write a model that gives back one tensor of every datatype."""
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in TYPES]
    inputs = [value(f"in_{name}", kind, ["batch", 2]) for name, kind in TYPES.items()]
    outputs = [value(f"out_{name}", kind, ["batch", 2]) for name, kind in TYPES.items()]
    return write_model(path, nodes, inputs, outputs, [])


def write_log(path: Path) -> Path:
    """Write a model whose output is NaN or infinite for some inputs: y = log(x)."""
    value = helper.make_tensor_value_info
    x, y = (value(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", "y"))
    return write_model(path, [helper.make_node("Log", ["x"], ["y"])], [x], [y], [])


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with words/ (two versions and labels), types.onnx and log.onnx; do not change it."""
    folder = tmp_path_factory.mktemp("models")
    write_words(folder / "words" / "1" / "model.onnx")
    write_words(folder / "words" / "2" / "model.onnx", scale=2.0)
    (folder / "words" / "labels.txt").write_text("".join(f"answer {i}\n" for i in range(LABELS)))
    write_types(folder / "types.onnx")
    write_log(folder / "log.onnx")
    return folder


def settings_of(folder: Path, **changes: Any) -> Settings:
    names = {"words": folder / "words", "types": folder / "types.onnx", "log": folder / "log.onnx"}
    specs = tuple(ModelSpec(name, path) for name, path in names.items() if path.exists())
    return Settings(**{"models": specs, "threads": 1, "sessions": 1, "poll_seconds": 0.0, "port": 0, **changes})


@pytest.fixture
def settings(models: Path) -> Callable[..., Settings]:
    """Return the maker of settings for the test models."""
    return lambda **changes: settings_of(models, **changes)


@asynccontextmanager
async def client_of(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    app.state.server.load()
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


class Client:
    """Plain calls of an app, without a network."""

    def __init__(self, app: Starlette) -> None:
        self.app, self.server = app, app.state.server

    def call(self, method: str, path: str, **request: Any) -> httpx.Response:
        async def once() -> httpx.Response:
            async with client_of(self.app) as client:
                return await client.request(method, path, **request)

        return asyncio.run(once())

    def get(self, path: str, **request: Any) -> httpx.Response:
        return self.call("GET", path, **request)

    def post(self, path: str, **request: Any) -> httpx.Response:
        return self.call("POST", path, **request)


@pytest.fixture(scope="session")
def client(models: Path) -> Client:
    """A client of an app with all test models."""
    return Client(create_app(settings_of(models)))


@contextmanager
def running(settings: Settings) -> Iterator[tuple[str, DrainingServer]]:
    """Run a real server on a thread; give its address, "127.0.0.1:PORT"."""
    app = create_app(settings)
    app.state.server.load()
    listening = bound(settings)
    port = listening.getsockname()[1]
    server = DrainingServer(config(app, settings), app.state.server)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"127.0.0.1:{port}", server
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive(), "the server did not stop"


@pytest.fixture(scope="session")
def address(models: Path) -> Iterator[str]:
    """The address of a real server with all test models."""
    with running(settings_of(models)) as (found, _):
        yield found


@pytest.fixture(scope="session")
def home(tiny_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one finished, compiled and exported run of a tiny LXMERT; do not change it."""
    folder = tmp_path_factory.mktemp("home")
    prune = ["prune", "--size", "tiny", "--data", str(tiny_scenes), "--pattern", "block:8x4", "--steps", "2"]
    prune += ["--rounds", "1", "--control", "none"]
    for arguments in (prune, ["compile", "--batch", "4"], ["export", "--batch", "4"]):
        result = CliRunner().invoke(main, [*arguments, "--home", str(folder)])
        assert result.exit_code == 0, result.stderr
    return folder


def words_request(ids: list[list[int]], **more: Any) -> dict[str, Any]:
    """Make an infer request for the model of words."""
    shape = [len(ids), len(ids[0])]
    ones = [[1] * shape[1]] * shape[0]
    rows = {"input_ids": ids, "attention_mask": ones}
    inputs = [{"name": n, "datatype": "INT64", "shape": shape, "data": data} for n, data in rows.items()]
    return {"inputs": inputs, **more}


def expected_words(ids: list[list[int]], scale: float = 2.0) -> np.ndarray[Any, Any]:
    """Return what the model of words should answer (version 2 unless scale says otherwise)."""
    return scale * TABLE[np.array(ids)].sum(axis=1)


@pytest.fixture(scope="session")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Return the maker of served tiny models by family, task and precision, each made once."""
    from tests.serve.cells import make_cell

    @cache
    def made(family: str, task: str, precision: str = "fp32") -> Any:
        return make_cell(family, task, tmp_path_factory.mktemp(f"{family}-{task}") / "onnx", precision)

    return made
