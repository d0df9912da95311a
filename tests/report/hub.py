"""A stand-in for the hub's HTTP interface, as far as publishing asks for it: repositories, large files, one commit."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub(ThreadingHTTPServer):
    """Keeps what is sent to it.

    Attributes:
        files: of the one repository, by path, once they are committed.
        calls: the paths that were asked for.
        refuses: a message to answer the commit with, of status 403; "" takes it.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.large: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.repo: dict[str, Any] = {}
        self.refuses = ""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_PUT(self) -> None:
        content = self._body()
        self.server.large[hashlib.sha256(content).hexdigest()] = content
        self._answer({})

    def do_POST(self) -> None:
        hub, body = self.server, self._body()
        hub.calls.append(self.path)
        if self.headers["Authorization"] != "Bearer hf_write":
            self._answer({"error": "Invalid username or password."}, 401)
        elif self.path.endswith("/repos/create"):
            hub.repo = json.loads(body)
            self._answer({"url": f"{hub.address}/ours/ticket"})
        elif "/preupload/" in self.path:
            self._answer({"files": [_mode(one) for one in json.loads(body)["files"]]})
        elif self.path.endswith("/objects/batch"):
            objects = json.loads(body)["objects"]
            self._answer({"transfer": "basic", "objects": [self._place(one) for one in objects]})
        elif "/commit/" in self.path:
            self._commit([json.loads(line) for line in body.splitlines()])
        elif self.path.endswith("/validate-yaml"):
            self._answer({"errors": [], "warnings": []})
        else:
            self._answer({"error": f"the stand-in knows no {self.path}"}, 404)

    def _place(self, one: dict[str, Any]) -> dict[str, Any]:
        return {**one, "actions": {"upload": {"href": f"{self.server.address}/large/{one['oid']}"}}}

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        hub = self.server
        if hub.refuses:
            return self._answer({"error": hub.refuses}, 403)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                hub.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                hub.files[value["path"]] = hub.large[value["oid"]]
        self._answer({"commitUrl": f"{hub.address}/ours/ticket/commit/1a2b", "commitOid": "1a2b"})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, document: dict[str, Any], status: int = 200) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _mode(one: dict[str, Any]) -> dict[str, Any]:
    large = one["path"].endswith((".safetensors", ".onnx"))
    return {"path": one["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
