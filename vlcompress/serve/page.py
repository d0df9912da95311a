"""The interactive page: one document that asks nobody but its own server, so it works offline.

Its parts lie in ``static``: the document, what it does (plain JavaScript, which talks to ``/v1``) and how it looks.
"""

import base64
import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

STATIC = Path(__file__).parent / "static"


def _read(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


SCRIPT = _read("page.js")
DOCUMENT = _read("page.html").replace("{{ css }}", _read("page.css")).replace("{{ script }}", SCRIPT)

HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_hash(SCRIPT)}; style-src 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""Only this page's own script runs, and it may talk to this server alone."""


async def page(request: Request) -> Response:
    """``GET /``."""
    return HTMLResponse(DOCUMENT, headers=HEADERS)
