"""What the routes share: settings, models, metrics, and whether the server is ready or on its way out."""

import time

from vlcompress.serve.body import BodyLimits, Budget
from vlcompress.serve.metrics import Metrics
from vlcompress.serve.repository import Repository
from vlcompress.serve.settings import Settings
from vlcompress.serve.tracing import Tracer


class Server:
    """One server's state. It belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        """Make it, without loading anything yet.

        Raises:
            VlcompressError: tracing asked for and not installed.
        """
        self.settings = settings
        self.metrics = Metrics(settings.replica)
        self.repository = Repository(settings, self.metrics)
        self.budget = Budget(settings.max_inflight_bytes)
        self.body_limits = BodyLimits(settings.max_body_bytes, settings.max_inflated_bytes, settings.body_seconds)
        self.tracer = Tracer() if settings.otel else None
        self.loaded = False
        self.draining = False
        self.started = time.time()

    @property
    def ready(self) -> bool:
        """Whether new requests are welcome."""
        return self.loaded and not self.draining

    def load(self) -> None:
        """Load and warm up every model, unless that was done.

        Raises:
            VlcompressError: one of them cannot be served.
        """
        if not self.loaded:
            self.repository.load_all()
            self.loaded = True
