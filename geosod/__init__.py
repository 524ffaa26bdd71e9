"""geosod: small-object detection in scenes far larger than memory.

    import geosod

    result = geosod.detect("scenes/*.tif", model="demo-harbour", out="out")
    kept = geosod.merge(geosod.Detections(boxes=boxes, scores=scores, labels=labels))

Names are loaded when they are first used, so that importing geosod is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geosod.api import load_model as load_model
    from geosod.config import RunConfig as RunConfig
    from geosod.deduplication.run import deduplicate as deduplicate
    from geosod.detections import Detections as Detections
    from geosod.detectors.base import Detector as Detector
    from geosod.errors import GeosodError as GeosodError
    from geosod.merging import merge as merge
    from geosod.running.run import Result as Result
    from geosod.running.run import detect as detect

__version__ = "0.1.0.dev0"

_HOMES = {
    "Detections": "geosod.detections",
    "Detector": "geosod.detectors.base",
    "GeosodError": "geosod.errors",
    "Result": "geosod.running.run",
    "RunConfig": "geosod.config",
    "detect": "geosod.running.run",
    "load_model": "geosod.api",
    "merge": "geosod.merging",
    "deduplicate": "geosod.deduplication.run",
}

__all__ = [
    "Detections",
    "Detector",
    "GeosodError",
    "Result",
    "RunConfig",
    "__version__",
    "deduplicate",
    "detect",
    "load_model",
    "merge",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'geosod' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
