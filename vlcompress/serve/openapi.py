"""Endpoints as data, from which come the app's routes and the OpenAPI 3.1 document."""

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import vlcompress
from vlcompress.serve.auth import OPEN_PATHS
from vlcompress.serve.schemas import Error, Json

STATUSES = {
    200: "The answer.",
    400: "The request is wrong; the error says what.",
    401: "No valid token.",
    404: "No such model, version, task or picture.",
    408: "The body took too long to arrive.",
    413: "The body is too large, as sent or decompressed.",
    415: "A Content-Encoding other than gzip, deflate and identity.",
    500: "The model failed on this request.",
    503: "Too much to do, not in time, or not ready; Retry-After says when to try again.",
}
BODY_ERRORS = (400, 408, 413, 415, 503)
"""What any endpoint that reads a body may answer with."""

_BYTES: Json = {"type": "string", "format": "binary"}
_HEADER_LENGTH: Json = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "Bytes of JSON at the start of the body, if raw tensors follow it.",
    "schema": {"type": "integer", "minimum": 0},
}


@dataclass(frozen=True)
class Endpoint:
    """One path: who answers it, what it takes, and everything that it may answer with.

    Attributes:
        path: with its parameters in braces.
        handler: answers it.
        summary: one line for the document; "" leaves the endpoint out of it.
        answer: types of `vlcompress.serve.schemas`, one of which the answer has; or a media type in place of JSON.
        request: types, one of which the JSON body has; () takes no body.
        errors: statuses of `STATUSES` with the body `Error`.
        also: statuses but 200 with the body `answer`.
        optional: whether the body may be left out.
        raw: whether bytes may follow the JSON, in the body and in the answer.
        method: of HTTP.
    """

    path: str
    handler: Callable[[Request], Awaitable[Response]]
    summary: str = ""
    answer: tuple[Any, ...] | str = ()
    request: tuple[Any, ...] = ()
    errors: tuple[int, ...] = ()
    also: tuple[int, ...] = ()
    optional: bool = False
    raw: bool = False
    method: str = "GET"

    def route(self) -> Route:
        """Make the app's route."""
        return Route(self.path, self.handler, methods=[self.method])

    def operation(self, schemas: dict[Any, Json], *, token: bool) -> Json:
        """Describe it.

        Args:
            schemas: of every type of the document.
            token: whether the server wants one.
        """
        secured = token and self.path not in OPEN_PATHS
        errors = {*self.errors, *((401,) if secured else ())}
        bodies = {status: list(self.answer) for status in (200, *self.also) if not isinstance(self.answer, str)}
        for status in errors:
            bodies.setdefault(status, []).append(Error)
        responses = {status: self._content(schemas, kinds) for status, kinds in bodies.items()}
        if isinstance(self.answer, str):
            responses[200] = {self.answer: {"schema": {"type": "string"}}}
        found: Json = {
            "summary": self.summary,
            "responses": {
                str(status): {"description": STATUSES[status], "content": content}
                for status, content in sorted(responses.items())
            },
        }
        if self.request:
            found["requestBody"] = {"required": not self.optional, "content": self._content(schemas, self.request)}
        if self.raw:
            found["parameters"] = [_HEADER_LENGTH]
        if token or self.path in OPEN_PATHS:
            found["security"] = [{"token": []}] if secured else []
        return found

    def _content(self, schemas: dict[Any, Json], kinds: Sequence[Any]) -> Json:
        several: Json = {"anyOf": [schemas[kind] for kind in kinds]}
        content: Json = {"application/json": {"schema": schemas[kinds[0]] if len(kinds) == 1 else several}}
        return (
            {**content, "application/octet-stream": {"schema": _BYTES}} if self.raw and Error not in kinds else content
        )


def openapi_document(
    endpoints: Iterable[Endpoint], models: Sequence[str], tasks: Sequence[str], *, authenticated: bool
) -> Json:
    """Write the document.

    Args:
        endpoints: of the server.
        models: names of the models that are served.
        tasks: that can be asked for in words.
        authenticated: whether a token is needed.
    """
    listed = [endpoint for endpoint in endpoints if endpoint.summary]
    kinds = {kind for one in listed for kind in (*(one.answer if one.answer else ()), *one.request)} | {Error}
    schemas, shared = _schemas([kind for kind in kinds if not isinstance(kind, str)])
    parameters = {
        "model": {"type": "string", "enum": list(models)},
        "version": {"type": "string", "pattern": "^[1-9][0-9]{0,8}$"},
        "task": {"type": "string", "enum": list(tasks)},
    }
    paths: Json = {}
    for one in listed:
        names = re.findall(r"{(\w+)}", one.path)
        item = paths.setdefault(one.path, {"parameters": [_parameter(name, parameters) for name in names]})
        item[one.method.lower()] = one.operation(schemas, token=authenticated)
    security = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}} if authenticated else {}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "vlcompress",
            "version": vlcompress.__version__,
            "description": "Open Inference Protocol v2 with binary tensors, and questions in words.",
        },
        "paths": paths,
        "components": {"schemas": shared, **security},
    }


def _parameter(name: str, schemas: Json) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": schemas.get(name, {"type": "string"})}


def _schemas(kinds: Iterable[Any]) -> tuple[dict[Any, Json], Json]:
    """Write the schema of each type, which may be a reference, and those that are referred to."""
    adapters: list[Any] = [(kind, "validation", TypeAdapter(kind)) for kind in kinds]
    found, shared = TypeAdapter.json_schemas(adapters, ref_template="#/components/schemas/{model}")
    return {kind: schema for (kind, _), schema in found.items()}, shared.get("$defs", {})
