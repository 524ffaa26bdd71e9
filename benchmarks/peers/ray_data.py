"""Ray Data: windows as rows, tasks that read them, a pool of actors that hold the network, NMS at the end."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import rasterio
import ray

from benchmarks.peers.network import load, predict, report
from benchmarks.peers.plain_loop import nms
from geosod.machine import usable_cpus
from geosod.running.detect import make_job
from geosod.tiling.grid import make_grid

#: Tiles that a task reads at once.
READ = 8


def read(batch: dict[str, np.ndarray], scene: str) -> dict[str, np.ndarray]:
    """The pixels of some windows."""
    with rasterio.open(scene) as dataset:
        windows = zip(batch["col"], batch["row"], batch["width"], batch["height"], strict=True)
        tiles = [dataset.read([1, 2, 3], window=((r, r + h), (c, c + w))).transpose(1, 2, 0) for c, r, w, h in windows]
    return {"tile": np.stack(tiles), "col": batch["col"], "row": batch["row"]}


class Detect:
    """Holds the network."""

    def __init__(self, model: str, settings: dict[str, Any]) -> None:
        _, self.detector = load(model, settings, threads=1)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = predict(self.detector, list(batch["tile"]))
        offsets = np.column_stack([batch["col"], batch["row"]])
        boxes = [each.boxes + np.tile(offset, 2) for each, offset in zip(found, offsets, strict=True)]
        return {
            "box": np.concatenate(boxes),
            "score": np.concatenate([each.scores for each in found]),
            "label": np.concatenate([each.labels for each in found]),
        }


def run(scene: str, model: str, out: str, settings: dict[str, Any]) -> dict[str, float]:
    """Half of the CPUs are reserved for actors and half for reading, or no task could be started beside the actors."""
    job, cores = make_job(model, **settings), usable_cpus()
    ray.init(address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False)
    loaded = time.monotonic()
    with rasterio.open(scene) as dataset:
        grid = make_grid(dataset.width, dataset.height, tile=job.tile, overlap=job.overlap)
    names = ("col", "row", "width", "height")
    windows = [dict(zip(names, window, strict=True)) for window in grid.windows_array().tolist()]
    tiles = ray.data.from_items(windows).map_batches(read, fn_kwargs={"scene": scene}, batch_size=READ, num_cpus=0.5)
    rows = tiles.map_batches(
        Detect,
        fn_constructor_kwargs={"model": model, "settings": settings},
        batch_size=READ,
        num_cpus=0.5,
        compute=ray.data.ActorPoolStrategy(size=cores),
    ).take_all()
    boxes, scores, labels = (np.array([row[name] for row in rows]) for name in ("box", "score", "label"))
    kept = nms(boxes.astype(np.float64), scores, labels)
    found = report(out, loaded, boxes[kept], scores[kept], labels[kept])
    ray.shutdown()
    return found
