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
from geosod.running.events import TilesDetected

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
    """Run on so many nodes of one detector each; seconds from the first detection on, and of the driver's processor."""
    os.environ[SECONDS] = str(seconds)
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 300 << 20})
    for _ in range(nodes):
        cluster.add_node(num_cpus=1, object_store_memory=300 << 20)
    ray.init(address=cluster.address, log_to_driver=False)
    first: list[tuple[float, float]] = []
    groups: list[int] = []

    def on_event(event: object) -> None:
        if isinstance(event, TilesDetected):
            groups.append(event.tiles)
        if isinstance(event, TilesDetected) and not first:
            first.append((time.perf_counter(), time.process_time()))

    result = geosod.detect(
        scene, model=MODEL, trust=True, out=out, overwrite=True, engine="ray", device="cpu", workers=nodes, batch=1,
        unit=(2, 0), tile=tile, on_event=on_event,
    )  # fmt: skip
    ended = time.perf_counter(), time.process_time()
    if result.exit_code:
        raise RuntimeError(f"{scene}: {result.failures}")
    tiles = sum(each.counts.tiles - each.counts.empty for each in result.scenes)
    ray.shutdown()
    cluster.shutdown()
    return {"seconds": ended[0] - first[0][0], "driver": ended[1] - first[0][1], "tiles": tiles, "groups": len(groups)}
