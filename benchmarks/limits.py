"""What bounds a run: decoding every block once, and the network on tiles that are in memory already."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
from rasterio.enums import MaskFlags

from geosod.detectors.card import ModelCard
from geosod.detectors.models import Model
from geosod.machine import keep_freed_memory, usable_cpus
from geosod.results import Execution
from geosod.running.job import Job
from geosod.running.planning import ScenePlan
from geosod.running.stages import read_spec, read_tiles
from geosod.scene import SceneRef, TileBatch, Unit
from geosod.scenes.open import opened


def decode_once(scene: Path, *, threads: int | None = None) -> float:
    """Seconds to read every block of a scene and of its mask once and do nothing with it.

    One handle, for which GDAL decodes a row of blocks in as many threads as there are cores: faster, on all codecs,
    than a handle for each thread.
    """
    start = time.perf_counter()
    with opened(SceneRef(str(scene), "scene"), threads=threads or usable_cpus(), cache_mb=256) as dataset:
        step, masked = dataset.block_shapes[0][0], MaskFlags.per_dataset in dataset.mask_flag_enums[0]
        # One array for all rows: the system clears the pages of a new one.
        pixels = np.empty((dataset.count, step, dataset.width), dataset.dtypes[0])
        for row in range(0, dataset.height, step):
            rows = min(step, dataset.height - row)
            window = ((row, row + rows), (0, dataset.width))
            dataset.read(out=pixels[:, :rows], window=window)
            if masked:
                dataset.read_masks(1, window=window)
    return time.perf_counter() - start


def read_alone(job: Job, plan: ScenePlan, *, threads: int | None = None, chunk: int = 16) -> float:
    """Seconds to read and cut all tiles of a scene and do nothing with them, in as many threads as there are cores.

    Threads go down columns of units, as the readers of the local engine do.
    """
    spec = read_spec(job, plan, plan.scene, "eager", chunk)
    start = time.perf_counter()

    def read(column: list[Unit]) -> None:
        for _ in read_tiles(plan.scene, column, spec):
            pass

    with ThreadPoolExecutor(threads or usable_cpus()) as pool:
        list(pool.map(read, columns_of(plan.units)))
    return time.perf_counter() - start


def columns_of(units: Sequence[Unit]) -> list[list[Unit]]:
    """Units below one another, from top to bottom, column by column."""
    columns: dict[int, list[Unit]] = defaultdict(list)
    for unit in units:
        columns[unit.index[1]].append(unit)
    return list(columns.values())


def sample_tiles(scene: Path, card: ModelCard, count: int) -> TileBatch:
    """Tiles of a model's size from the middle of a scene, where all pixels are valid; bands repeat where it has few."""
    width, height = card.tile_size
    with opened(SceneRef(str(scene), "scene"), cache_mb=256) as dataset:
        bands = [1 + i % dataset.count for i in range(len(card.bands))]
        across = max(1, dataset.width // (2 * width))
        left, top, pixels, windows = dataset.width // 4, dataset.height // 4, [], []
        for i in range(count):
            col, row = left + i % across * width, top + i // across * height
            col, row = col % (dataset.width - width + 1), row % (dataset.height - height + 1)
            pixels.append(dataset.read(bands, window=((row, row + height), (col, col + width))))
            windows.append([col, row, width, height])
        size = np.tile([[dataset.width, dataset.height]], (count, 1)).astype(np.int64)
    return TileBatch(np.stack(pixels), np.array(windows, np.int64), None, size)


def model_alone(
    model: Model, ways: Sequence[Execution], tiles: TileBatch, *, rounds: int, processes: int | None = None
) -> list[dict[str, float]]:
    """Seconds a tile of a model on tiles in memory, with a process for each core, for several ways of running it.

    Returns:
        For each way medians of alternating rounds: of the "network" alone, and of the "detector", which also scales
        pixels and postprocesses boxes.
    """
    processes = processes or usable_cpus()
    context = multiprocessing.get_context("spawn")
    gate, queue = context.Barrier(processes), context.Queue()
    args = (model, list(ways), tiles, rounds, gate, queue)
    workers = [context.Process(target=_work, args=args, daemon=True) for _ in range(processes)]
    for worker in workers:
        worker.start()
    times: dict[tuple[int, str], dict[int, float]] = defaultdict(dict)
    for _ in range(processes * rounds * len(ways) * 2):
        lap, way, part, seconds = _next(queue, workers)
        # All start together; the slowest counts.
        times[way, part][lap] = max(seconds, times[way, part].get(lap, 0.0))
    for worker in workers:
        worker.join()
    each = len(tiles) * processes
    return [
        {part: statistics.median(times[way, part].values()) / each for part in ("network", "detector")}
        for way in range(len(ways))
    ]


def _next(queue: Any, workers: Sequence[Any]) -> Any:
    """What a worker reports next.

    Raises:
        RuntimeError: one of them has failed; the others would wait for it.
    """
    while True:
        try:
            return queue.get(timeout=2.0)
        except Empty:
            failed = [worker for worker in workers if worker.exitcode]
            if failed:
                for worker in workers:
                    worker.terminate()
                raise RuntimeError(f"a process that runs the model ended with {failed[0].exitcode}") from None


def _work(model: Model, ways: list[Execution], tiles: TileBatch, rounds: int, gate: Any, queue: Any) -> None:
    """What each process does: load all ways, then time each in every round, when the other processes do."""
    import torch

    from geosod.detectors.detector import torch_settings
    from geosod.detectors.radiometry import scaled_tiles

    keep_freed_memory()
    torch.set_num_threads(1)
    detectors = [model.load(way, rules=model.rules) for way in ways]
    for detector in detectors:
        detector.detect_batch(tiles[: detector.execution.batch])
    for lap in range(rounds):
        for k, detector in enumerate(detectors):
            size = detector.execution.batch
            images = scaled_tiles(tiles[:size], detector.card, size=size, device=torch.device("cpu"))
            gate.wait()
            start = time.perf_counter()
            with torch_settings(detector.execution), torch.inference_mode():
                for _ in range(0, len(tiles), size):
                    detector.adapter.predict(images)
            queue.put((lap, k, "network", time.perf_counter() - start))
            gate.wait()
            start = time.perf_counter()
            detector.detect_batch(tiles)
            queue.put((lap, k, "detector", time.perf_counter() - start))
