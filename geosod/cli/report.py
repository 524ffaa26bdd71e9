"""The result of `geosod detect` as JSON, for scripts."""

from __future__ import annotations

import json
from dataclasses import asdict

from geosod.running.result import Result


def as_json(result: Result) -> str:
    """One JSON object: totals, scenes and failures."""
    totals = {"out": result.out, "detections": result.detections, "megapixels": result.megapixels}
    totals |= {"seconds": result.seconds, "exit_code": result.exit_code}
    scenes = [asdict(scene) for scene in result.scenes]
    failures = [failure for scene in scenes for failure in scene.pop("failures")]
    return json.dumps(totals | {"scenes": scenes, "failures": failures}, indent=2)
