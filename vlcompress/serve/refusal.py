"""The one way in which a request is refused: a status, a sentence, and for Retry-After the seconds."""

import json
from collections.abc import Mapping


class Refusal(Exception):
    """A request that is not answered; its text becomes ``{"error": text}``.

    Attributes:
        status: HTTP status: 400 the request is wrong, 401, 404, 408, 413, 415, 500 the model failed, 503 try again.
        reason: one word for metrics and logs ("invalid", "queue_full", "deadline", ...).
        headers: to send with it.
    """

    def __init__(
        self, status: int, text: str, reason: str = "invalid", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(text)
        self.status, self.reason, self.headers = status, reason, dict(headers or {})

    def body(self) -> bytes:
        """Write the JSON body."""
        return error_body(str(self))


def error_body(text: str) -> bytes:
    """Write the protocol's JSON for an error; lone surrogates from the request are kept escaped."""
    return json.dumps({"error": text}).encode()


def invalid(text: str) -> Refusal:
    """Build the refusal of a request that is wrong."""
    return Refusal(400, text)


def busy(text: str, reason: str, retry_after_s: int = 1) -> Refusal:
    """Build the refusal of a request that may be sent again later."""
    return Refusal(503, text, reason, {"Retry-After": str(retry_after_s)})


def shown(value: object, limit: int = 60) -> str:
    """Cut a value from a request to a length that is safe to send back in an error message."""
    text = str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
