"""What the measurements of the server share: a run's model, its requests, and a client."""

import asyncio
import http.client
import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from vlcompress.artefacts import read_json
from vlcompress.export.runtime import open_session
from vlcompress.serve.messages import message_class

TYPES = {"tensor(int64)": "INT64", "tensor(float)": "FP32"}
Arrays = dict[str, npt.NDArray[Any]]


class RunModel:
    """The exported model of a run, and random requests of its smallest padded size."""

    def __init__(self, run: Path, threads: int = 1) -> None:
        """Open it.

        Args:
            run: a run's folder, or an exported folder.
            threads: threads of ONNX Runtime.
        """
        self.folder = run / "onnx" if (run / "onnx").is_dir() else run
        self.manifest = read_json(self.folder / "manifest.json")
        self.threads = threads

    @cached_property
    def session(self) -> Any:
        """The file in ONNX Runtime, with the settings that its manifest advises."""
        return open_session(self.folder / "model.onnx", threads=self.threads)

    def arrays(self, seed: int, rows: int = 1) -> Arrays:
        """Draw a request; ids stay below 30, the words that every vocabulary has."""
        rng = np.random.default_rng(seed)
        sizes = {"batch": rows} | {axis: min(lengths) for axis, lengths in self.manifest["padding"].items()}
        found: Arrays = {}
        for value in self.manifest["inputs"]:
            shape = [sizes.get(size, size) for size in value["shape"]]
            if value["name"] == "attention_mask":
                found[value["name"]] = np.ones(shape, np.int64)
            elif value["type"] == "tensor(int64)":
                found[value["name"]] = rng.integers(5, 30, shape)
            else:
                found[value["name"]] = rng.random(shape, dtype=np.float32)
        return found

    def document(self, seed: int, rows: int = 1) -> dict[str, Any]:
        """Write a request as JSON."""
        types = {value["name"]: TYPES[value["type"]] for value in self.manifest["inputs"]}
        inputs = [
            {"name": name, "shape": list(value.shape), "datatype": types[name], "data": value.ravel().tolist()}
            for name, value in self.arrays(seed, rows).items()
        ]
        return {"inputs": inputs}

    def expected(self, seed: int, rows: int = 1) -> npt.NDArray[np.float32]:
        """Run the file on a request."""
        scores: npt.NDArray[np.float32] = self.session.run(["logits"], self.arrays(seed, rows))[0]
        return scores


def ask_json(url: str, model: str, document: dict[str, Any]) -> npt.NDArray[np.float64]:
    """Ask a server ("host:port") and give the scores; any status but 200 is an error."""
    connection = http.client.HTTPConnection(url, timeout=30)
    connection.request("POST", f"/v2/models/{model}/infer", json.dumps(document))
    response = connection.getresponse()
    body = response.read()
    connection.close()
    if response.status != 200:
        raise SystemExit(f"a valid request was answered {response.status}: {body[:300]!r}")
    output = json.loads(body)["outputs"][0]
    return np.array(output["data"]).reshape(output["shape"])


def resident_mb(pid: int) -> float:
    """Read the resident size of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


class RawClient:
    """A client that costs next to nothing: prepared bytes over kept connections, so the server is what is timed."""

    def __init__(self, url: str) -> None:
        """Aim at "host:port"; connections are opened as they are needed."""
        self.host, self.port = url.split(":")
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, request: bytes) -> str:
        """Send a request and read the whole answer; give its status, or "closed"."""
        while True:
            kept = bool(self._idle)
            connection = self._idle.pop() if kept else await asyncio.open_connection(self.host, int(self.port))
            try:
                return await self._ask(connection, request)
            except (OSError, asyncio.IncompleteReadError):
                connection[1].close()
                if not kept:  # a kept connection may have been closed meanwhile: then ask on a fresh one
                    return "closed"

    async def _ask(self, connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], request: bytes) -> str:
        reader, writer = connection
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        if b"\r\nconnection: close" in head.lower():
            writer.close()
        else:
            self._idle.append(connection)
        return head.split(b" ", 2)[1].decode()

    async def close(self) -> None:
        """Hang up."""
        for _, writer in self._idle:
            writer.close()


class GrpcClient:
    """The same over gRPC: prepared messages on one channel, statuses in HTTP's numbers."""

    STATUSES = {"OK": "200", "INVALID_ARGUMENT": "400", "UNAVAILABLE": "503"}  # noqa: RUF012

    def __init__(self, url: str) -> None:
        """Aim at "host:port"."""
        self._channel = grpc.aio.insecure_channel(url)
        self._method = self._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    async def ask(self, request: bytes) -> str:
        """Send a message and read the whole answer; give its status."""
        try:
            await self._method(request, timeout=30)
        except grpc.aio.AioRpcError as error:
            return self.STATUSES.get(error.code().name, error.code().name)
        return "200"

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()


def grpc_request(model: RunModel, name: str, seed: int, rows: int) -> bytes:
    """Write a message with raw tensors."""
    request = message_class("inference", "ModelInferRequest")(model_name=name)
    arrays = model.arrays(seed, rows)
    for value in model.manifest["inputs"]:
        array = arrays[value["name"]]
        request.inputs.add(name=value["name"], datatype=TYPES[value["type"]], shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    message: bytes = request.SerializeToString()
    return message


def binary_request(model: RunModel, name: str, seed: int, rows: int) -> bytes:
    """Write a whole HTTP request with binary tensors both ways."""
    arrays = model.arrays(seed, rows)
    document = {"inputs": [], "parameters": {"binary_data_output": True}}
    for value in model.manifest["inputs"]:
        array = arrays[value["name"]]
        document["inputs"].append(
            {
                "name": value["name"],
                "shape": list(array.shape),
                "datatype": TYPES[value["type"]],
                "parameters": {"binary_data_size": array.nbytes},
            }
        )
    head = json.dumps(document).encode()
    body = head + b"".join(array.tobytes() for array in arrays.values())
    return _http(name, body, f"Inference-Header-Content-Length: {len(head)}\r\n")


def json_request(model: RunModel, name: str, seed: int, rows: int) -> bytes:
    """Write a whole HTTP request with JSON tensors both ways."""
    return _http(name, json.dumps(model.document(seed, rows)).encode(), "")


def _http(name: str, body: bytes, headers: str) -> bytes:
    lines = f"POST /v2/models/{name}/infer HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n"
    return (lines + "Content-Type: application/json\r\n" + headers + "\r\n").encode() + body
