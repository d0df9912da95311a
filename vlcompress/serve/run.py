"""Running the app: one process, one listener, and an orderly end."""

import uvicorn

from vlcompress.serve.app import create_app
from vlcompress.serve.settings import Settings


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; then drain and stop."""
    uvicorn.run(create_app(settings), host=settings.host, port=settings.port)
