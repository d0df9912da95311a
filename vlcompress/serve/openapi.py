"""The OpenAPI 3.1 document: every path, what it takes, and every status that it may answer with."""

from collections.abc import Sequence
from typing import Any

import vlcompress
from vlcompress.serve.openapi_schemas import SCHEMAS, reference
from vlcompress.serve.routes_v1 import TASKS

Json = dict[str, Any]

STATUSES = {
    400: "The request is wrong; the error says what.",
    401: "No valid token.",
    404: "No such model, version, task or picture.",
    408: "The body took too long to arrive.",
    413: "The body is too large, as sent or decompressed.",
    415: "A Content-Encoding other than gzip, deflate and identity.",
    500: "The model failed on this request.",
    503: "Too much to do, not in time, or not ready; Retry-After says when to try again.",
}
_BODY_STATUSES = (400, 408, 413, 415, 503)


def openapi_document(models: Sequence[str], *, authenticated: bool, page: bool) -> Json:
    """Return the document.

    Args:
        models: names of the models that are served.
        authenticated: whether a token is needed.
        page: whether the interactive page is served.
    """
    document: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "vlcompress",
            "version": vlcompress.__version__,
            "description": "Open Inference Protocol v2 with binary tensors, and questions in words.",
        },
        "paths": {**_server_paths(), **_model_paths(models), **_task_paths(), **(_page() if page else {})},
        "components": {"schemas": SCHEMAS},
    }
    if authenticated:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        _secure(document)
    return document


def _server_paths() -> Json:
    metadata = _get("Name, version and extensions of the server.", "ServerMetadata", 200)
    return {
        "/v2": metadata,
        "/v2/": metadata,
        "/v2/health/live": _get("Whether the process is alive.", "Live", 200, open_=True),
        "/v2/health/ready": _get("Whether requests are welcome.", "Ready", 200, same=(503,), open_=True),
        "/v2/models/stats": _get("Statistics of every model.", "Statistics", 200, 503),
        "/v2/repository/index": {
            "post": {
                "summary": "Every version on disk and its state.",
                "requestBody": {"content": _json("IndexRequest")},
                "responses": {"200": _answer("Index"), **_errors(*_BODY_STATUSES)},
            }
        },
        "/metrics": {
            "get": {
                "summary": "Metrics in Prometheus's text form.",
                "responses": {"200": {"description": "Metrics.", "content": {"text/plain": {"schema": _STRING}}}},
            }
        },
    }


def _model_paths(models: Sequence[str]) -> Json:
    name = _parameter("model", {"type": "string", "enum": list(models)})
    version = _parameter("version", {"type": "string", "pattern": "^[1-9][0-9]{0,8}$"})
    paths: Json = {}
    for prefix, parameters in (
        ("/v2/models/{model}", [name]),
        ("/v2/models/{model}/versions/{version}", [name, version]),
    ):
        paths[prefix] = _get("Inputs, outputs and versions.", "ModelMetadata", 200, 404, 503)
        paths[f"{prefix}/ready"] = _get("Whether the model can be asked.", "ModelReady", 200, 404, 503)
        paths[f"{prefix}/config"] = _get("Configuration, in Triton's words.", "ModelConfig", 200, 404, 503)
        paths[f"{prefix}/stats"] = _get("Statistics.", "Statistics", 200, 404, 503)
        paths[f"{prefix}/infer"] = {"post": _infer()}
        for suffix in ("", "/ready", "/config", "/stats", "/infer"):
            paths[prefix + suffix]["parameters"] = parameters
    for path in [path for path in paths if path.endswith("/ready")]:
        paths[path]["get"]["responses"]["503"] = _either("ModelReady", STATUSES[503])
    return paths


def _infer() -> Json:
    length = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "description": "Bytes of JSON at the start of the body, if raw tensors follow it.",
        "schema": {"type": "integer", "minimum": 0},
    }
    return {
        "summary": "Run the model.",
        "parameters": [length],
        "requestBody": {
            "required": True,
            "content": {**_json("InferRequest"), "application/octet-stream": {"schema": _BINARY}},
        },
        "responses": {
            "200": {
                "description": "The outputs; with raw tensors behind the JSON if they were asked for so.",
                "content": {**_json("InferResponse"), "application/octet-stream": {"schema": _BINARY}},
            },
            **_errors(*_BODY_STATUSES, 404, 500),
        },
    }


def _task_paths() -> Json:
    return {
        "/v1": _get("Tasks, the models that do them, and built-in pictures.", "Overview", 200, 503),
        "/v1/pictures/{name}": {
            "parameters": [_parameter("name", _STRING)],
            "get": {
                "summary": "A built-in picture.",
                "responses": {
                    "200": {"description": "A JPEG.", "content": {"image/jpeg": {"schema": _BINARY}}},
                    **_errors(404),
                },
            },
        },
        "/v1/{task}": {
            "parameters": [_parameter("task", {"type": "string", "enum": list(TASKS)})],
            "post": {
                "summary": "Ask about a picture or about region features.",
                "requestBody": {"required": True, "content": _json("VqaRequest")},
                "responses": {"200": _answer("VqaResponse"), **_errors(*_BODY_STATUSES, 404, 500)},
            },
        },
    }


def _page() -> Json:
    answer = {"description": "HTML.", "content": {"text/html": {"schema": _STRING}}}
    return {"/": {"get": {"summary": "The interactive page.", "security": [], "responses": {"200": answer}}}}


def _get(summary: str, schema: str, ok: int, *errors: int, same: tuple[int, ...] = (), open_: bool = False) -> Json:
    """Describe a GET that answers with a schema; `same` are other statuses with that same schema."""
    responses = {str(ok): _answer(schema), **{str(status): _answer(schema) for status in same}, **_errors(*errors)}
    return {"get": {"summary": summary, "responses": responses, **({"security": []} if open_ else {})}}


def _answer(schema: str) -> Json:
    return {"description": "The answer.", "content": _json(schema)}


def _either(schema: str, text: str) -> Json:
    choice = {"anyOf": [reference(schema), reference("Error")]}
    return {"description": text, "content": {"application/json": {"schema": choice}}}


def _errors(*statuses: int) -> Json:
    return {str(status): {"description": STATUSES[status], "content": _json("Error")} for status in sorted(statuses)}


def _json(schema: str) -> Json:
    return {"application/json": {"schema": reference(schema)}}


def _parameter(name: str, schema: Json) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _secure(document: Json) -> None:
    """Ask for the token wherever it is not left out on purpose."""
    for path in document["paths"].values():
        for operation in (path[method] for method in ("get", "post") if method in path):
            if "security" not in operation:
                operation["security"] = [{"token": []}]
                operation["responses"].update(_errors(401))


_STRING: Json = {"type": "string"}
_BINARY: Json = {"type": "string", "format": "binary"}
