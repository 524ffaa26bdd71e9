"""What all requests of the service share: its options, its counters, its bounds, and who works on them."""

from __future__ import annotations

import math
from typing import Any

from geosod.machine import usable_cpus
from geosod.running.detect import make_job
from geosod.serving.budget import Budget
from geosod.serving.metrics import Metrics
from geosod.serving.options import ServeOptions
from geosod.serving.worker import LocalWorker, Worker


class Service:
    """One model behind HTTP.

    Args:
        options: how it runs.
    """

    worker: Worker

    def __init__(self, options: ServeOptions) -> None:
        self.options, self.metrics, self.budget = options, Metrics(), Budget(options.limits)
        settings: dict[str, Any] = {name: value for name, value in options.settings.items() if value is not None}
        if options.replicas is None:
            job = make_job(options.model, **({"threads": usable_cpus()} | settings))
            self.worker = LocalWorker(job, options, on_batch=self._on_batch)
        else:
            from geosod.serving.ray_serve.replicas import Replicas

            self.worker = Replicas(options, settings, on_batch=self._on_batch)
        self.metrics.gauge("waiting_images", "Images that wait for a batch, or at replicas.", self._waiting)
        self.metrics.gauge("requests_in_progress", "Requests in progress.", lambda: self.budget.requests)
        self.metrics.gauge("bytes_in_progress", "Bytes of requests in progress.", lambda: self.budget.bytes)

    def close(self) -> None:
        """Finish what has begun, and end."""
        self.worker.close()

    def _waiting(self) -> float:
        return self.worker.waiting

    def _on_batch(self, images: int, seconds: float) -> None:
        self.metrics.batch(images, seconds)
        self.budget.wait_seconds = max(1.0, math.ceil(self.worker.waiting / images / self.worker.replicas * seconds))
