"""Functions of the public API that belong to no single room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geosod.config import make_config
from geosod.detectors import Detector, open_bundle
from geosod.running.job import Job, load_fitting, validate


def load_model(name_or_path: str | Path, **settings: Any) -> Detector:
    """Load a detector into this process.

    Args:
        name_or_path: a shipped model's name or a bundle's folder.
        **settings: `device`, `backend`, `precision`, `batch`, `threads`, `threshold` as in `RunConfig`.

    Returns:
        A detector; its `detect(batch)` takes a `TileBatch` and returns one `Detections` a tile.

    Raises:
        UsageError: the model or a setting is unusable.
    """
    job = Job(open_bundle(name_or_path), make_config(**settings))
    validate(job)
    detector, _ = load_fitting(job)
    return detector
