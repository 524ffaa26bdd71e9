"""`geosod.detect` in a process of its own, with the times at which things happened."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.processes import Ended, call

GEOSOD = [sys.executable, "-m", "geosod"]


def detect(scene: str, model: str, out: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Run `geosod.detect`; what was found, and when, on the clock of `time.monotonic`."""
    import geosod
    from geosod.running.events import Ready, TilesDetected

    loaded: list[float] = []
    first: list[float] = []

    def on_event(event: object) -> None:
        if isinstance(event, Ready):
            loaded.append(time.monotonic())
        if isinstance(event, TilesDetected) and not first:
            first.append(time.monotonic())

    called = time.monotonic()
    result = geosod.detect(scene, model=loaded_model(model), out=out, overwrite=True, on_event=on_event, **settings)
    end = time.monotonic()
    if result.exit_code:
        raise RuntimeError(f"{scene}: {result.failures}")
    counts = [each.counts for each in result.scenes]
    return {
        "called": called, "loaded": loaded[0], "first": first[0], "end": end, "megapixels": result.megapixels,
        "detections": result.detections, "tiles": sum(c.tiles - c.empty for c in counts),
        "files": [str(path) for each in result.scenes for path in each.paths],
    }  # fmt: skip


def loaded_model(model: str) -> Any:
    """A model's name as it is; for ``object module:function`` what the function returns."""
    if not model.startswith("object "):
        return model
    module, function = model.removeprefix("object ").split(":")
    return getattr(import_module(module), function)()


def run_detect(
    scene: Path, model: str, out: Path, *, python: str | Path = sys.executable, watch: bool = False, **settings: Any
) -> Ended:
    """Call `detect` in a new process."""
    target = "benchmarks.detect_run:detect"
    return call(target, python=python, watch=watch, scene=scene, model=model, out=out, settings=settings)


def durations(runs: Sequence[Ended]) -> dict[str, float]:
    """Median seconds of runs: of the process in all, of the call, to and from the first tile that is detected."""

    def median(values: list[float]) -> float:
        return statistics.median(values)

    return {
        "in all": median([run.seconds for run in runs]),
        "call": median([run.value["end"] - run.value["called"] for run in runs]),
        "to first": median([run.value["first"] - run.began for run in runs]),
        "from first": median([run.value["end"] - run.value["first"] for run in runs]),
    }
