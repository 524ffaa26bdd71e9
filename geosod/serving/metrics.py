"""What the service measures of itself, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one service; several in a process do not share them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self._registry}
        self._requests = Counter("geosod_requests", "Requests answered.", ("operation", "status"), **own)
        self._seconds = Histogram(
            "geosod_request_seconds",
            "From a request's first byte to its answer.",
            ("operation",),
            buckets=_SECONDS,
            **own,
        )
        self._batches = Histogram("geosod_batch_images", "Images of a batch.", buckets=_BATCH, **own)
        self._batch_seconds = Histogram("geosod_batch_seconds", "Seconds of a batch.", buckets=_SECONDS, **own)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A value that is looked up when it is asked for."""
        Gauge(f"geosod_{name}", text, registry=self._registry).set_function(value)

    def answered(self, operation: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(operation, str(status)).inc()
        self._seconds.labels(operation).observe(seconds)

    def batch(self, images: int, seconds: float) -> None:
        """A batch went through the network."""
        self._batches.observe(images)
        self._batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)
