"""The interactive page."""

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response


async def page(request: Request) -> Response:
    """``GET /``."""
    return HTMLResponse("<!doctype html><title>vlcompress</title>")
