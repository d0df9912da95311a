"""The OpenAPI document."""

from typing import Any


def openapi_document(*, authenticated: bool) -> dict[str, Any]:
    """Give the document."""
    return {"openapi": "3.1.0", "info": {"title": "vlcompress", "version": "0"}, "paths": {}}
