"""OpenTelemetry, only if asked for: one span a request, a child of the caller's (``traceparent``)."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vlcompress.errors import VlcompressError
from vlcompress.serve.record import Record

_EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


class Tracer:
    """Makes spans, and sends them where OpenTelemetry's environment variables say (OTEL_EXPORTER_OTLP_ENDPOINT)."""

    def __init__(self, exporter: Any = None) -> None:
        """Set up an own provider, which leaves the process's global one alone.

        Args:
            exporter: where spans go; None takes OTLP over HTTP.

        Raises:
            VlcompressError: OpenTelemetry is not installed.
        """
        try:
            trace = importlib.import_module("opentelemetry.sdk.trace")
            resources = importlib.import_module("opentelemetry.sdk.resources")
            export = importlib.import_module("opentelemetry.sdk.trace.export")
            exporter = exporter or importlib.import_module(_EXPORTER).OTLPSpanExporter()
        except ModuleNotFoundError as error:
            raise VlcompressError(
                f"tracing was asked for, but '{error.name}' is not installed: pip install opentelemetry-sdk "
                "opentelemetry-exporter-otlp-proto-http, or leave out --otel"
            ) from error
        self._provider = trace.TracerProvider(resource=resources.Resource.create({"service.name": "vlcompress"}))
        self._provider.add_span_processor(export.BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("vlcompress.serve")
        self._extract = importlib.import_module("opentelemetry.propagate").extract
        self._kind = importlib.import_module("opentelemetry.trace").SpanKind.SERVER

    @contextmanager
    def span(self, method: str, route: str, headers: Mapping[str, str], record: Record) -> Iterator[Any]:
        """Trace a request; what the record knows at the end becomes the span's attributes."""
        context = self._extract(headers)
        with self._tracer.start_as_current_span(f"{method} {route}", context=context, kind=self._kind) as span:
            yield span
            for name, value in record.fields().items():
                span.set_attribute(f"vlcompress.{name}", value)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()
