"""What the measurements of the server share: a run's model, its requests, and a client."""

import asyncio
import http.client
import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlcompress.artefacts import read_json
from vlcompress.export.runtime import open_session
from vlcompress.serve.auth import GRPC
from vlcompress.serve.http2 import PREFACE, block, frame
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


class GrpcClient(RawClient):
    """The same over gRPC: a call at a time on each connection, its frames but for the numbers written beforehand."""

    STATUSES = {b"0": "200", b"3": "400", b"14": "503"}  # noqa: RUF012
    ASKED = {  # noqa: RUF012
        ":method": "POST", ":scheme": "http", ":path": f"/{GRPC}/ModelInfer", ":authority": "h",
        "content-type": "application/grpc", "te": "trailers",
    }  # fmt: skip
    FIRST = b"".join(b"\x40" + block([pair])[1:] for pair in ASKED.items())
    NEXT = bytes(0x80 + 62 + index for index in reversed(range(len(ASKED))))
    """The headers, put into the server's table by the first request and named by their places from then on."""

    STATUS = re.compile(rb"\x0bgrpc-status[\x01\x02](\d+)")

    def __init__(self, url: str) -> None:
        """See `RawClient`."""
        super().__init__(url)
        self._numbers: dict[asyncio.StreamWriter, int] = {}

    async def _ask(self, connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], request: bytes) -> str:
        reader, writer = connection
        number = self._numbers.get(writer, -1) + 2
        self._numbers[writer] = number
        if number == 1:
            writer.write(PREFACE + frame(4, 0, 0, b"\0\x04\x7f\xff\xff\xff") + frame(8, 0, 0, (1 << 30).to_bytes(4)))
        message = b"\0" + len(request).to_bytes(4) + request
        parts = [message[at : at + (1 << 20)] for at in range(0, len(message), 1 << 20)]
        frames = [frame(0, index == len(parts) - 1, number, part) for index, part in enumerate(parts)]
        writer.write(b"".join([frame(1, 4, number, self.FIRST if number == 1 else self.NEXT), *frames]))
        got, at = b"", 0
        while True:
            while len(got) < at + 9 or len(got) < at + 9 + int.from_bytes(got[at : at + 3]):
                part = await reader.read(1 << 16)
                if not part:
                    raise ConnectionError
                got += part
            kind, flags, start = got[at + 3], got[at + 4], at + 9
            at = start + int.from_bytes(got[at : at + 3])
            if kind == 1 and flags & 1 and int.from_bytes(got[start - 4 : start]) == number:
                break
        self._idle.append(connection)
        status = self.STATUS.search(got[start:at])
        return self.STATUSES.get(status[1], status[1].decode()) if status else "closed"


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
