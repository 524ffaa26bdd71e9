"""The events of a run, which the progress display follows, are those of both engines."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from geosod.cli.progress import RunProgress
from geosod.running.events import (
    DetectorsStarted,
    Event,
    Ready,
    SceneFinished,
    ScenePlanned,
    ScenesFound,
    TilesDetected,
    UnitSettled,
    Writing,
)
from tests.rasters import noise, write_tif
from tests.running.helpers import detect


@pytest.mark.parametrize("engine", ["serial", "local", "ray"])
def test_events(engine, rgb_bundle, tmp_path, request) -> None:
    if engine == "ray":
        request.getfixturevalue("cluster")
    scenes = [write_tif(tmp_path / f"{i}.tif", noise(3, 300 + 200 * i, 500, seed=i)) for i in range(3)]
    seen: list[Event] = []
    settings = {"unit": (2, 2), "levels": "1,0.5", "engine": engine, "workers": 2}
    detect([*scenes, tmp_path / "missing.tif"], rgb_bundle, tmp_path / "out", on_event=seen.append, **settings)
    every_scene_goes_through_the_same_events(seen)
    detectors_are_counted_while_they_start(seen)
    the_progress_never_falls(seen)


def every_scene_goes_through_the_same_events(events: list[Event]) -> None:
    assert events[0] == ScenesFound(4)
    planned = {e.scene_id: e for e in events if isinstance(e, ScenePlanned)}
    assert sorted(planned) == ["0", "1", "2"]
    detected: Counter[str] = Counter()
    for event in events:
        detected.update(event.by_scene if isinstance(event, TilesDetected) else {})
    assert detected == {name: plan.tiles for name, plan in planned.items()}
    for name, plan in planned.items():
        of_scene = [e for e in events if getattr(e, "scene_id", None) == name or isinstance(e, SceneFinished)]
        units = [i for i, e in enumerate(of_scene) if isinstance(e, UnitSettled)]
        writing = [i for i, e in enumerate(of_scene) if isinstance(e, Writing)]
        ended = [i for i, e in enumerate(of_scene) if isinstance(e, SceneFinished) and e.result.scene_id == name]
        assert len(units) == plan.units > 1 and len(writing) == len(ended) == 1
        assert writing[0] < ended[0]
    assert sum(isinstance(e, SceneFinished) for e in events) == 4


def detectors_are_counted_while_they_start(events: list[Event]) -> None:
    started = [e for e in events if isinstance(e, DetectorsStarted)]
    assert started[0].ready == 0 and started[-1].ready >= 1
    assert all(a.ready <= b.ready <= b.workers for a, b in pairwise(started))
    assert events.index(started[0]) < events.index(next(e for e in events if isinstance(e, Ready)))


def the_progress_never_falls(events: list[Event]) -> None:
    progress, fractions, phases = RunProgress(lambda: 0.0), [0.0], []
    for event in events:
        progress.add(event)
        status = progress.status()
        phases.append(status.phase)
        fractions += [] if status.fraction is None else [status.fraction]
    assert fractions == sorted(fractions) and len(set(fractions)) > 4
    assert phases[-1] == "finishing" and {"starting detectors", "detecting", "writing"} <= set(phases)
