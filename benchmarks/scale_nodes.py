"""A cluster of several nodes in one machine, whose detectors wait instead of computing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from torch import Tensor

import geosod
from benchmarks.near_free import CARD
from geosod import Detector, RawBoxes
from geosod.detectors.detector import IN_PROCESS
from geosod.results import Execution
from geosod.running.events import DetectorsStarted, TilesDetected

#: Seconds that a tile takes; the environment variable reaches every node.
SECONDS = "GEOSOD_BENCH_SECONDS_A_TILE"
MODEL = "benchmarks.scale_nodes:detector"


class Waiting:
    """An adapter that finds the same box in every tile, after as long as a network would take."""

    any_size = True

    def predict(self, images: Tensor) -> RawBoxes:
        """One box in each of the images (B, C, H, W)."""
        count = len(images)
        time.sleep(float(os.environ.get(SECONDS, "0")) * count)
        boxes = torch.tensor([[100.0, 100.0, 112.0, 112.0]]).repeat(count, 1)
        return RawBoxes(boxes, torch.ones(count), torch.zeros(count), torch.arange(count), tiles=count)


def detector(execution: Execution = IN_PROCESS) -> Detector:
    """The detector by name, as nodes make it."""
    return Detector(CARD, Waiting(), execution)


def run_nodes(scene: str, out: str, nodes: int, seconds: float, tile: int | None = None) -> dict[str, float]:
    """Run on so many nodes of one detector each; what `Watch` counts."""
    os.environ[SECONDS] = str(seconds)
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 300 << 20})
    for _ in range(nodes):
        cluster.add_node(num_cpus=1, object_store_memory=300 << 20)
    ray.init(address=cluster.address, log_to_driver=False)
    watch = Watch()
    result = geosod.detect(
        scene, model=MODEL, trust=True, out=out, overwrite=True, engine="ray", device="cpu", workers=nodes, batch=1,
        unit=(2, 0), tile=tile, on_event=watch.add,
    )  # fmt: skip
    found = watch.since_ready()
    if result.exit_code:
        raise RuntimeError(f"{scene}: {result.failures}")
    ray.shutdown()
    cluster.shutdown()
    return found


class Watch:
    """Counts what happens from when all detectors are loaded and the first has detected something."""

    def __init__(self) -> None:
        self._ready = False
        self._began: tuple[float, float] | None = None
        self._tiles = self._groups = 0

    def add(self, event: object) -> None:
        """Take an event of the run."""
        if isinstance(event, DetectorsStarted):
            self._ready = event.ready == event.workers
        if not isinstance(event, TilesDetected):
            return
        if self._began is not None:
            self._tiles += event.tiles
            self._groups += 1
        elif self._ready:
            self._began = time.perf_counter(), time.process_time()

    def since_ready(self) -> dict[str, float]:
        """Seconds, core-seconds of the driver, tiles and batch groups since then."""
        if self._began is None:
            raise RuntimeError("the run ended before all detectors were loaded; use a larger scene")
        wall, own = self._began
        seconds, driver = time.perf_counter() - wall, time.process_time() - own
        return {"seconds": seconds, "driver": driver, "tiles": self._tiles, "groups": self._groups}
