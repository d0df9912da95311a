"""Prometheus metrics: base units, an own prefix, and labels of which there are few (never an id or free text)."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)

INFO_LABELS = ("model", "version", "sparsity", "block", "backend", "provider")


class ModelMetrics:
    """The metrics of one version of a model, with their labels looked up once."""

    def __init__(self, metrics: "Metrics", model: str, version: int) -> None:
        labels = (model, str(version))
        self.rows = metrics.rows.labels(*labels)
        self.duration = metrics.duration.labels(*labels)
        self.queue = metrics.queue.labels(*labels)
        self.inference = metrics.inference.labels(*labels)
        self.batch = metrics.batch.labels(*labels)
        self._parts = (metrics.rows, metrics.duration, metrics.queue, metrics.inference, metrics.batch)
        self._requests = metrics.requests
        self._labels = labels
        self._codes: dict[int, Counter] = {}

    def answered(self, status: int, seconds: float) -> None:
        """Count a request by its HTTP status."""
        counter = self._codes.get(status)
        if counter is None:
            counter = self._codes[status] = self._requests.labels(*self._labels, str(status))
        counter.inc()
        self.duration.observe(seconds)

    def forget(self) -> None:
        """Report the version no longer."""
        for part in self._parts:
            part.remove(*self._labels)
        for status in self._codes:
            self._requests.remove(*self._labels, str(status))


class Metrics:
    """The metrics of one server."""

    def __init__(self, replica: str = "") -> None:
        """Make them.

        Args:
            replica: which of several servers behind one address this is; "" where there is one.
        """
        self.registry = CollectorRegistry()
        self._replica = replica
        model = ("model", "version")
        self.requests = self._counter("requests", "Requests answered, by HTTP status.", (*model, "code"))
        self.rejected = self._counter("requests_rejected", "Requests refused, by reason.", ("reason",))
        self.rows = self._counter("rows", "Rows that were run.", model)
        self.duration = self._histogram("request_duration_seconds", "From arrival to answer.", model)
        self.queue = self._histogram("queue_duration_seconds", "Waiting for a session.", model)
        self.inference = self._histogram("inference_duration_seconds", "One execution of a model.", model)
        self.batch = Histogram(
            "vlcompress_batch_size", "Rows of one execution.", model, buckets=ROWS, registry=self.registry
        )

    def watch_models(
        self, depths: Callable[[], Mapping[tuple[str, str], int]], infos: Callable[[], list[tuple[str, ...]]]
    ) -> None:
        """Report queue depths and what is loaded as they are when they are asked for.

        Args:
            depths: rows that wait, by model and version.
            infos: for each loaded version the values of `INFO_LABELS`.
        """
        self.registry.register(_Loaded(depths, infos))

    def text(self) -> bytes:
        """Write all metrics in Prometheus's text form."""
        return generate_latest(_Labelled(self.registry, self._replica) if self._replica else self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"vlcompress_{name}_total", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...]) -> Histogram:
        return Histogram(f"vlcompress_{name}", text, labels, buckets=SECONDS, registry=self.registry)


class _Labelled(Collector):
    """The metrics with one more label: of replicas that take turns to answer, each keeps series of its own."""

    def __init__(self, registry: CollectorRegistry, replica: str) -> None:
        self._registry, self._replica = registry, replica

    def collect(self) -> Iterator[Metric]:
        """Read the metrics."""
        for metric in self._registry.collect():
            metric.samples = [one._replace(labels={**one.labels, "replica": self._replica}) for one in metric.samples]
            yield metric


class _Loaded(Collector):
    """Gauges that follow what is loaded: a version that is gone leaves no stale line behind."""

    def __init__(
        self, depths: Callable[[], Mapping[tuple[str, str], int]], infos: Callable[[], list[tuple[str, ...]]]
    ) -> None:
        self._depths, self._infos = depths, infos

    def collect(self) -> list[GaugeMetricFamily]:
        """Read the gauges."""
        depth = GaugeMetricFamily("vlcompress_queue_depth", "Rows that wait for a session.", labels=INFO_LABELS[:2])
        for labels, rows in self._depths().items():
            depth.add_metric(labels, rows)
        info = GaugeMetricFamily("vlcompress_model_info", "What is loaded.", labels=INFO_LABELS)
        for values in self._infos():
            info.add_metric(values, 1)
        return [depth, info]
