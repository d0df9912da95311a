"""What is noted about a request while it is served, for its log line, its metrics and its trace."""

from dataclasses import dataclass
from typing import Any

from starlette.types import Scope

from vlcompress.serve.metrics import ModelMetrics

_KEY = "vlcompress.record"


@dataclass
class Record:
    """Notes on one request; what is not known stays empty.

    Attributes:
        request_id: the client's X-Request-Id, or a new one.
        client: its address; a proxy's where there is one.
        model, version: of the model that was asked.
        rows: of the request.
        status: of HTTP that it was answered with, on other protocols too; 0 until then.
        reason: why it was refused.
        queue_ms, inference_ms: where its time went.
        metrics: of that model.
    """

    request_id: str
    client: str = ""
    model: str = ""
    version: str = ""
    rows: int = 0
    status: int = 0
    reason: str = ""
    queue_ms: float = 0.0
    inference_ms: float = 0.0
    metrics: ModelMetrics | None = None

    def fields(self) -> dict[str, Any]:
        """List what is known, for a log line."""
        return {name: value for name, value in vars(self).items() if value and name != "metrics"}


def attach(scope: Scope, record: Record) -> None:
    """Put a record on its request."""
    scope[_KEY] = record


def record_of(scope: Scope) -> Record:
    """Take a request's record."""
    record: Record = scope[_KEY]
    return record
