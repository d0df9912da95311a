"""Requests to a server by NVIDIA Triton's own clients, over HTTP and gRPC, prepared once."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vlcompress.bench.load import OK, Send
from vlcompress.errors import VlcompressError

Arrays = Mapping[str, npt.NDArray[Any]]

_TYPES = {"int64": "INT64", "int32": "INT32", "float32": "FP32", "float16": "FP16", "bool": "BOOL"}
_STATUSES = {"NOT_FOUND": "404", "INVALID_ARGUMENT": "400", "UNAUTHENTICATED": "401", "DEADLINE_EXCEEDED": "timeout"}
"""Outcomes for gRPC's statuses, in the words of HTTP; UNAVAILABLE is 503, or nobody there."""
_OPTIONS = {"http": {"conn_limit": 4096, "conn_timeout": 30.0}, "grpc": {}}


def client_module(protocol: str) -> Any:
    """Import the asynchronous client of a protocol, "http" or "grpc".

    Raises:
        VlcompressError: it is not installed.
    """
    try:
        return importlib.import_module(f"tritonclient.{protocol}.aio")
    except (ImportError, RuntimeError) as error:
        package = {"http": "'tritonclient[http]'", "grpc": "tritonclient grpcio protobuf"}[protocol]
        raise VlcompressError(
            f"the load is made with NVIDIA's client, which is missing for {protocol}: pip install {package}"
        ) from error


def open_client(protocol: str, url: str) -> Any:
    """Open a client of "host:port"; close it at the end."""
    return client_module(protocol).InferenceServerClient(url, **_OPTIONS[protocol])


def tensors(protocol: str, arrays: Arrays) -> list[Any]:
    """Make a request's inputs of arrays."""
    module, found = client_module(protocol), []
    for name, array in arrays.items():
        tensor = module.InferInput(name, list(array.shape), _TYPES[str(array.dtype)])
        found.append(tensor.set_data_from_numpy(np.ascontiguousarray(array)))
    return found


def triton_send(protocol: str, client: Any, model: str, payloads: Sequence[Arrays], token: str | None = None) -> Send:
    """Make the function that sends request i to a model, binary both ways.

    Args:
        protocol: "http" or "grpc".
        client: of `open_client`.
        model: its name.
        payloads: inputs of the requests, which take turns; each is serialised once.
        token: bearer token.
    """
    module = client_module(protocol)
    prepared = [tensors(protocol, arrays) for arrays in payloads]
    outputs = [module.InferRequestedOutput("logits")]
    name = "Authorization" if protocol == "http" else "authorization"
    headers = {name: f"Bearer {token}"} if token else {}

    async def send(index: int) -> str:
        inputs = prepared[index % len(prepared)]
        try:
            await client.infer(model, inputs, outputs=outputs, headers=dict(headers))
        except module.InferenceServerException as error:
            return _outcome(error)
        except TimeoutError:
            return "timeout"
        except OSError:  # aiohttp's connection errors are OSErrors, or say that the server hung up
            return "disconnected"
        except Exception as error:
            if type(error).__module__.startswith("aiohttp"):
                return "disconnected"
            raise
        return OK

    return send


def _outcome(error: Any) -> str:
    status = str(error.status() or "error").removeprefix("StatusCode.")
    if status == "UNAVAILABLE":
        return "disconnected" if "connect" in str(error).lower() else "503"
    return _STATUSES.get(status, status)
