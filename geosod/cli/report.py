"""The result of `geosod detect` as JSON, for scripts."""

from __future__ import annotations

import json
from dataclasses import asdict

from geosod.running.result import Result


def as_json(result: Result) -> str:
    """One JSON object: totals, scenes and failures."""
    names = ("out", "detections", "total", "megapixels", "seconds", "exit_code")
    totals = {name: getattr(result, name) for name in names}
    scenes = [asdict(scene) for scene in result.scenes]
    failures = [failure for scene in scenes for failure in scene.pop("failures")]
    return json.dumps(totals | {"scenes": scenes, "failures": failures}, indent=2)
