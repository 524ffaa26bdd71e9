"""geosod: small-object detection in scenes far larger than memory.

    import geosod

    result = geosod.detect("scenes/*.tif", model="demo-harbour", out="out")     # a map layer in out/
    result = geosod.detect("scene.tif", model="demo-harbour")                   # in memory
    result["scene"].to_geopandas()

Names are loaded when they are first used, so that importing geosod is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geosod.api import load_model as load_model
    from geosod.array_scene import ArrayScene as ArrayScene
    from geosod.config import RunConfig as RunConfig
    from geosod.deduplication.run import deduplicate as deduplicate
    from geosod.detections import Detections as Detections
    from geosod.detections import fragment_flags as fragment_flags
    from geosod.detectors.adapters.callback import from_callback as from_callback
    from geosod.detectors.adapters.sahi import from_sahi as from_sahi
    from geosod.detectors.card import ModelCard as ModelCard
    from geosod.detectors.contract import RawBoxes as RawBoxes
    from geosod.detectors.detector import Detector as Detector
    from geosod.errors import GeosodError as GeosodError
    from geosod.exporting.run import export as export
    from geosod.map_page.run import view as view
    from geosod.merging.merge import merge as merge
    from geosod.merging.polygons import merge_polygons as merge_polygons
    from geosod.mining.mine import mine as mine
    from geosod.predict.pipeline import create_pipeline as create_pipeline
    from geosod.progress_display import progress as progress
    from geosod.results import Execution as Execution
    from geosod.running.detect import detect as detect
    from geosod.running.result import Result as Result
    from geosod.summarizing.change import changes as changes
    from geosod.summarizing.run import summarize as summarize
    from geosod.training.train import train as train

from geosod.version import __version__ as __version__

#: Public name → the module it is in.
_HOMES = {
    "ArrayScene": "geosod.array_scene",
    "Detections": "geosod.detections",
    "Detector": "geosod.detectors.detector",
    "Execution": "geosod.results",
    "GeosodError": "geosod.errors",
    "ModelCard": "geosod.detectors.card",
    "RawBoxes": "geosod.detectors.contract",
    "Result": "geosod.running.result",
    "RunConfig": "geosod.config",
    "changes": "geosod.summarizing.change",
    "create_pipeline": "geosod.predict.pipeline",
    "deduplicate": "geosod.deduplication.run",
    "detect": "geosod.running.detect",
    "export": "geosod.exporting.run",
    "fragment_flags": "geosod.detections",
    "from_callback": "geosod.detectors.adapters.callback",
    "from_sahi": "geosod.detectors.adapters.sahi",
    "load_model": "geosod.api",
    "merge": "geosod.merging.merge",
    "merge_polygons": "geosod.merging.polygons",
    "mine": "geosod.mining.mine",
    "progress": "geosod.progress_display",
    "summarize": "geosod.summarizing.run",
    "train": "geosod.training.train",
    "view": "geosod.map_page.run",
}

__all__ = [
    "ArrayScene",
    "Detections",
    "Detector",
    "Execution",
    "GeosodError",
    "ModelCard",
    "RawBoxes",
    "Result",
    "RunConfig",
    "__version__",
    "changes",
    "create_pipeline",
    "deduplicate",
    "detect",
    "export",
    "fragment_flags",
    "from_callback",
    "from_sahi",
    "load_model",
    "merge",
    "merge_polygons",
    "mine",
    "progress",
    "summarize",
    "train",
    "view",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'geosod' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
