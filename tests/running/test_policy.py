"""What becomes of tiles that kill their detector, and of batches that memory does not hold in the middle of a run."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import geosod
from geosod.detectors.contract import RawBoxes
from geosod.detectors.detector import Detector
from geosod.output.failures import failures_of
from geosod.results import Execution
from geosod.running.events import Note
from geosod.scene import Window
from geosod.testing import BrightSpots, fake_card
from tests.rasters import noise, write_tif
from tests.running.helpers import RAY

PLAIN: dict[str, Any] = {"trust": True, "device": "cpu", "precision": "fp32", "backend": "eager"}
POISON = 255
#: A directory in which deaths are counted, for processes that inherit the environment.
DEATHS = "GEOSOD_TEST_DEATHS"


class Poisoned(BrightSpots):
    """Kills its process where a pixel has the highest value."""

    def predict(self, images: torch.Tensor) -> RawBoxes:
        if (images == POISON / 255).any():
            Path(os.environ[DEATHS], str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().predict(images)


class Swelling(BrightSpots):
    """Has no memory for more than `most` tiles, once the tiles of the top left corner are done."""

    def __init__(self, most: int) -> None:
        self.calls, self.most = 0, most

    def predict(self, images: torch.Tensor) -> RawBoxes:
        self.calls += 1
        if self.calls > 1 and len(images) > self.most:
            torch.empty(1 << 52)
        return super().predict(images)


def poisoned(execution: Execution) -> Detector:
    return Detector(fake_card(), Poisoned(), execution)


def swelling(execution: Execution) -> Detector:
    return Detector(fake_card(), Swelling(2), execution)


def starving(execution: Execution) -> Detector:
    return Detector(fake_card(), Swelling(0), execution)


def spots(path: Path, *, side: int = 1024, poison: bool = False) -> Path:
    """A scene of 5 x 5 tiles, or of 3 x 3 with 640 pixels, with bright spots, and one pixel that kills."""
    pixels = noise(1, side, side) // 4
    for row in range(60, side - 24, 150):
        for col in range(60, side - 24, 150):
            pixels[0, row : row + 12, col : col + 15] = 250
    if poison:
        pixels[0, 500, 120] = POISON
    return write_tif(path, pixels)


@pytest.mark.slow
def test_a_tile_that_kills_its_detector_is_found_and_left_out(cluster, tmp_path, monkeypatch) -> None:
    """The batch is halved until only the tile with the pixel is left; the others are those of a good scene.

    Those that wait behind it in the detector's queue fail with it, and are not to blame. Every death costs seconds, in
    which a detector is loaded again, so there are few tiles, and Ray itself repeats a call only once.
    """
    import ray

    from geosod.running.ray_engine import tasks

    ray.shutdown()  # workers have the environment that Ray was started in
    monkeypatch.setenv(DEATHS, str(tmp_path))
    monkeypatch.setattr(tasks, "DETECT_RETRIES", 1)
    ray.init(**RAY)
    scene, good = spots(tmp_path / "a.tif", side=640, poison=True), spots(tmp_path / "b.tif", side=640)
    try:
        call: dict[str, Any] = PLAIN | {"engine": "ray", "workers": 1, "batch": 8}
        result = geosod.detect(scene, model="tests.running.test_policy:poisoned", out=tmp_path / "out", **call)
    finally:
        ray.shutdown()
    assert result.exit_code == 3 and result.scenes[0].status == "partial"
    failures = failures_of(tmp_path / "out/failures.parquet")
    windows = {failure.window for failure in failures}
    assert {(w.col, w.row) for w in windows if w} == {(0, 384)}
    assert all("the detector failed" in f.message and f.stage == "detect" for f in failures)
    # What is left out is the ground of this tile; everything else is found as if the pixel were not there.
    fine = geosod.detect(good, model=geosod.testing.fake_detector()).outputs["b"].detections
    lost = Window(0, 384, 256, 256)
    outside = [i for i, (x, y) in enumerate(centres(fine)) if not (x < lost.right and lost.row <= y < lost.bottom)]
    rows = pq.read_table(tmp_path / "out/detections").to_pylist()
    found = {(row["px_xmin"], row["px_ymin"], row["px_xmax"], row["px_ymax"]) for row in rows}
    assert {tuple(box) for box in fine.boxes[outside].tolist()} <= found
    deaths = len(list(tmp_path.glob("[0-9]*")))
    assert 4 <= deaths < 20, f"{deaths} deaths of detectors"


def centres(detections: geosod.Detections) -> list[tuple[float, float]]:
    boxes = detections.boxes
    return [((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in boxes.tolist()]


@pytest.mark.parametrize("engine", ["serial", "local"])
def test_a_batch_too_large_in_the_middle_of_a_run_is_halved(engine, tmp_path) -> None:
    scene, notes = spots(tmp_path / "a.tif"), []
    call: dict[str, Any] = PLAIN | {"batch": 8, "on_event": notes.append, "engine": engine}
    result = geosod.detect(scene, model="tests.running.test_policy:swelling", out=tmp_path / "out", **call)
    assert result.exit_code == 0 and result.scenes[0].counts.reduced > 8
    assert any("memory does not hold a batch" in e.text for e in notes if isinstance(e, Note))
    whole = geosod.detect(scene, model="geosod.testing:fake_detector", out=tmp_path / "whole", **call)
    assert whole.detections == result.detections > 20 and whole.scenes[0].counts.reduced == 0
    item = json.loads((tmp_path / "out/items/a.json").read_text())
    assert item["properties"]["geosod:reduced_tiles"] == result.scenes[0].counts.reduced


def test_tiles_that_memory_never_holds_fail(tmp_path) -> None:
    scene = spots(tmp_path / "a.tif")
    model = "tests.running.test_policy:starving"
    result = geosod.detect(scene, model=model, out=tmp_path / "out", batch=4, engine="serial", **PLAIN)
    assert result.exit_code == 3 and {f.error for f in result.failures} == {"MemoryError"}
    assert "memory does not hold a batch of 1 tiles" in result.failures[0].message
