"""The Grafana dashboard shows the metrics that a run has, by the names that Prometheus gets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import ray
from ray.util.metrics import Counter

from geosod.errors import redacted
from geosod.results import Counts, Failure, SceneResult
from geosod.running.events import BatchEnded, DetectorsStarted, Failed, Queued, Retried, SceneFinished, TilesDetected
from geosod.running.events import TilesRead as Read
from geosod.running.ray_engine.flow import QUEUES
from geosod.running.ray_engine.metrics import METRICS, RunMetrics

DASHBOARD = Path(__file__).parents[2] / "cluster" / "grafana" / "geosod.json"


def exported(name: str) -> str:
    return f"ray_{name}_total" if METRICS[name].kind is Counter else f"ray_{name}"


def test_every_metric_is_shown_and_no_other() -> None:
    text = DASHBOARD.read_text()
    assert set(re.findall(r"ray_geosod_\w+", text)) == {exported(name) for name in METRICS}


def test_labels_are_those_of_the_metrics() -> None:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            names = {name for name in METRICS if exported(name) in target["expr"]}
            for label in re.findall(r"by \((\w+)\)", target["expr"]):
                assert label == "instance" or {METRICS[name].label for name in names} == {label}
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert shown == set(re.findall(r"by \((\w+)\)", target["expr"]))


def test_rays_own_metrics_exist() -> None:
    """By the dashboards that Ray brings with it."""
    theirs = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    known = "".join(path.read_text() for path in theirs.glob("*.py"))
    for name in set(re.findall(r"ray_(?!geosod_)\w+", DASHBOARD.read_text())):
        assert name in known, name


def test_panels_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    taken = [
        (p["gridPos"]["x"] + x, p["gridPos"]["y"] + y)
        for p in panels
        for x in range(p["gridPos"]["w"])
        for y in range(p["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken)) and len({p["id"] for p in panels}) == len(panels)


def test_events_are_counted_until_ray_is_there() -> None:
    """What happens before Ray is connected is not lost: planning fails first."""
    metrics = RunMetrics()
    failure = Failure("s", redacted("s.tif"), None, "open", "ReadError", "no such file")
    for event in (
        Failed(failure),
        TilesDetected({"a": 3, "b": 2}, 40),
        TilesDetected({"a": 1}, 2),
        BatchEnded(6, 8, 0.5),
        Read(6, 6 * 128 * 128 * 3),
        Retried("detect"),
        DetectorsStarted(1, 3),
        DetectorsStarted(2, 3),
        Queued(dict.fromkeys(QUEUES, 4)),
        SceneFinished(SceneResult("a", "a.tif", "done", 7, counts=Counts(), megapixels=12.5)),
    ):
        metrics.add(event)
    assert metrics._sums == {
        ("geosod_failures", "open"): 1,
        ("geosod_tiles", ""): 6,
        ("geosod_boxes", ""): 42,
        ("geosod_batch_room", ""): 8,
        ("geosod_detector_seconds", ""): 0.5,
        ("geosod_pixel_bytes", ""): 294912,
        ("geosod_retries", "detect"): 1,
        ("geosod_scenes", "done"): 1,
        ("geosod_megapixels", ""): 12.5,
    }
    assert metrics._levels["geosod_detectors", "starting"] == 1
    assert {name for name, _ in (*metrics._sums, *metrics._levels)} == METRICS.keys()
