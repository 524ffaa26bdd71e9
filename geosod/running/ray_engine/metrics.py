"""The metrics of a run, which Ray's dashboard agent exports to Prometheus; cluster/grafana shows them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.metrics import Counter, Gauge

from geosod.running.events import (
    BatchEnded,
    DetectorsStarted,
    Emit,
    Event,
    Failed,
    Queued,
    Retried,
    SceneFinished,
    TilesDetected,
    TilesRead,
)


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric.

    Attributes:
        kind: `Counter` or `Gauge` of ray.util.metrics.
        text: what it is, with its unit.
        label: the name of its label, or None.
    """

    kind: Any
    text: str
    label: str | None = None


#: Name → metric. Prometheus has them with the prefix ``ray_``, and counters with the suffix ``_total``.
METRICS = {
    "geosod_tiles": Metric(Counter, "Tiles that went through a detector."),
    "geosod_boxes": Metric(Counter, "Boxes that detectors found, before merging."),
    "geosod_batch_room": Metric(Counter, "Tiles for which the batches that were detected on had room."),
    "geosod_detector_seconds": Metric(Counter, "Seconds for which detectors computed."),
    "geosod_pixel_bytes": Metric(Counter, "Bytes of pixels that readers passed on, decoded and cut into tiles."),
    "geosod_megapixels": Metric(Counter, "Megapixels of scenes that are finished."),
    "geosod_scenes": Metric(Counter, "Scenes that have ended.", "status"),
    "geosod_failures": Metric(Counter, "Failures that are recorded.", "stage"),
    "geosod_retries": Metric(Counter, "What was lost and is done again.", "stage"),
    "geosod_detectors": Metric(Gauge, "Detectors of the run.", "state"),
    "geosod_queued": Metric(Gauge, "What is waiting or in progress.", "kind"),
}


def metered(emit: Emit) -> Emit:
    """A callback that also counts events as metrics, as soon as Ray is connected."""
    metrics = RunMetrics()

    def both(event: Event) -> None:
        metrics.add(event)
        emit(event)

    return both


class RunMetrics:
    """The metrics of one run, from its events."""

    def __init__(self) -> None:
        self._metrics: dict[str, Any] = {}
        self._sums: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._levels: dict[tuple[str, str], float] = {}

    def add(self, event: Event) -> None:
        """Count an event."""
        match event:
            case TilesDetected():
                self._sums["geosod_tiles", ""] += event.tiles
                self._sums["geosod_boxes", ""] += event.boxes
            case TilesRead():
                self._sums["geosod_pixel_bytes", ""] += event.bytes
            case BatchEnded():
                self._sums["geosod_batch_room", ""] += event.room
                self._sums["geosod_detector_seconds", ""] += event.seconds
            case SceneFinished():
                self._sums["geosod_scenes", event.result.status] += 1
                self._sums["geosod_megapixels", ""] += event.result.megapixels
            case Failed():
                self._sums["geosod_failures", event.failure.stage] += 1
            case Retried():
                self._sums["geosod_retries", event.stage] += 1
            case DetectorsStarted():
                self._levels["geosod_detectors", "ready"] = event.ready
                self._levels["geosod_detectors", "starting"] = event.workers - event.ready
            case Queued():
                self._levels |= {("geosod_queued", kind): length for kind, length in event.lengths.items()}
            case _:
                return
        if ray.is_initialized():
            self._publish()

    def _publish(self) -> None:
        if not self._metrics:
            self._metrics = {
                name: m.kind(name, description=m.text, tag_keys=(m.label,) if m.label else ())
                for name, m in METRICS.items()
            }
        for (name, label), value in self._sums.items():
            if value > 0:
                self._metrics[name].inc(value, tags=_tags(name, label))
        for (name, label), value in self._levels.items():
            self._metrics[name].set(value, tags=_tags(name, label))
        self._sums.clear()
        self._levels.clear()


def _tags(name: str, label: str) -> dict[str, str]:
    key = METRICS[name].label
    return {key: label} if key else {}
