"""Scene to map layer: geosod compared with its limits and with other tools, all in one run.

On one demo scene, with the same network, tiles and precision for all:

decode once   every block is read and decoded once, nothing else: the limit set by reading
bare model    the detector on tiles that are already in memory, with one process per core
floor         both one after the other, each on all cores
geosod        `geosod.detect`, with and without the start of Ray and the loading of models
plain loop    rasterio reads one window at a time, one forward pass for each, NMS at the end
SAHI          `sahi.predict.get_sliced_prediction` with the same network, if SAHI is installed

Speeds are megapixels of the scene per second; because tiles overlap, the network processes more.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import geosod
from benchmarks.machine import describe_machine
from geosod.demo.scene import write_scene
from geosod.detectors.detector import Detector
from geosod.detectors.models import Model
from geosod.results import Execution
from geosod.running.detect import make_job
from geosod.running.events import Ready
from geosod.running.job import Job, resolve_execution
from geosod.running.planning import plan_scene
from geosod.running.stages import read_spec, read_tiles
from geosod.scene import SceneRef, TileBatch
from geosod.scenes.open import open_scene, opened


def decode_once(scene: Path, *, threads: int | None = None) -> float:
    """Seconds to read every block of the scene once, in rows of blocks."""
    start = time.perf_counter()
    threads = threads or os.cpu_count() or 1
    with opened(SceneRef(str(scene), "scene"), threads=threads, cache_mb=256) as dataset:
        step = dataset.block_shapes[0][0]
        for row in range(0, dataset.height, step):
            dataset.read(window=((row, min(row + step, dataset.height)), (0, dataset.width)))
    return time.perf_counter() - start


def tiles_in_memory(job: Job, plan: Any, count: int) -> TileBatch:
    parts: list[TileBatch] = []
    for unit in plan.units:
        spec = read_spec(job, plan, plan.scene, "eager", 16)
        parts += [t for t in read_tiles(plan.scene, unit, spec) if isinstance(t, TileBatch)]
        if sum(map(len, parts)) >= count:
            break
    return TileBatch.concat(parts)[:count]


def _model_alone(model: Model, execution: Execution, threshold: float, tiles: TileBatch, gate: Any, queue: Any) -> None:
    detector = model.load(execution, threshold=threshold)
    detector.detect(tiles[: execution.batch])
    gate.wait()
    start = time.perf_counter()
    detector.detect(tiles)
    queue.put(time.perf_counter() - start)


def bare_model(job: Job, execution: Execution, tiles: TileBatch, processes: int) -> float:
    """Seconds per tile with one process per core on tiles in memory."""
    context = multiprocessing.get_context("spawn")
    gate, queue = context.Barrier(processes), context.Queue()
    args = (job.model, execution, job.threshold, tiles, gate, queue)
    workers = [context.Process(target=_model_alone, args=args) for _ in range(processes)]
    for worker in workers:
        worker.start()
    seconds = [queue.get() for _ in workers]
    for worker in workers:
        worker.join()
    return max(seconds) / (len(tiles) * processes)


def geosod_detect(scene: Path, model: str, out: Path, settings: dict[str, Any]) -> tuple[float, float]:
    """Seconds in total, and seconds after the first detector was loaded."""
    ready: list[float] = []

    def on_event(event: object) -> None:
        if isinstance(event, Ready):
            ready.append(time.perf_counter())

    start = time.perf_counter()
    result = geosod.detect(scene, model=model, out=out, on_event=on_event, **settings)
    end = time.perf_counter()
    assert result.exit_code == 0
    return end - start, end - ready[0]


def plain_loop(scene: Path, job: Job, execution: Execution) -> float:
    """One window and one forward pass at a time, with all cores in the forward pass; NMS over all boxes at the end."""
    import torch
    import torchvision

    execution = replace(execution, batch=1, threads=os.cpu_count() or 1)
    detector = job.model.load(execution, threshold=job.threshold)
    size = open_scene(SceneRef(str(scene), "s"))
    frame = np.array([[size.width, size.height]], np.int64)
    detector.warm_up(job.tile)
    start = time.perf_counter()
    found = []
    plan = plan_scene(job, SceneRef(str(scene), "s"))
    with opened(SceneRef(str(scene), "scene"), cache_mb=256) as dataset:
        for unit in plan.units:
            for w in unit.windows:
                pixels = dataset.read([1, 2, 3], window=((w.row, w.bottom), (w.col, w.right)))
                window = np.array([[w.col, w.row, w.width, w.height]], np.int64)
                found += detector.detect(TileBatch(pixels[None], window, None, frame))
    everything = geosod.Detections.concat(found)
    boxes, scores = torch.tensor(everything.boxes), torch.tensor(everything.scores)
    torchvision.ops.batched_nms(boxes, scores.double(), torch.tensor(everything.labels), 0.5)
    return time.perf_counter() - start


def sahi(scene: Path, job: Job, execution: Execution) -> float | None:
    """Seconds with SAHI on the image in memory; None if SAHI is not installed."""
    try:
        from sahi.predict import get_sliced_prediction
    except ImportError:
        return None
    execution = replace(execution, batch=1, threads=os.cpu_count() or 1)
    model = _sahi_model(job, job.model.load(execution, threshold=job.threshold))
    (width, height), (across, down) = job.tile, job.overlap
    with opened(SceneRef(str(scene), "scene")) as dataset:
        warm = dataset.read([1, 2, 3], window=((0, height), (0, width))).transpose(1, 2, 0)
    model.perform_inference(np.ascontiguousarray(warm))
    start = time.perf_counter()
    with opened(SceneRef(str(scene), "scene"), threads=os.cpu_count() or 1) as dataset:
        image = np.ascontiguousarray(dataset.read([1, 2, 3]).transpose(1, 2, 0))
    get_sliced_prediction(
        image, model, slice_height=height, slice_width=width,
        overlap_height_ratio=down / height, overlap_width_ratio=across / width,
        perform_standard_pred=False, postprocess_type="NMS", postprocess_match_metric="IOU",
        postprocess_match_threshold=0.5, verbose=0,
    )  # fmt: skip
    return time.perf_counter() - start


def _sahi_model(job: Job, detector: Detector) -> Any:
    """A detector behind SAHI's interface."""
    from sahi.models.base import DetectionModel
    from sahi.prediction import ObjectPrediction

    names = dict(enumerate(job.model.card.classes))
    width, height = job.tile
    window = np.array([[0, 0, width, height]], np.int64)

    class SahiModel(DetectionModel):  # type: ignore[misc]
        def load_model(self) -> None:
            self.model = detector

        def check_dependencies(self, packages: Any = None) -> None: ...

        @property
        def category_names(self) -> list[str]:
            return list(names.values())

        def perform_inference(self, image: np.ndarray) -> None:
            pixels = np.zeros((1, 3, height, width), np.uint8)
            pixels[0, :, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
            self._original_predictions = detector.detect(TileBatch(pixels, window, None, window[:, 2:]))[0]

        def _create_object_prediction_list_from_original_predictions(
            self, shift_amount_list: Any = ((0, 0),), full_shape_list: Any = None
        ) -> None:
            found, shape, shift = self._original_predictions, full_shape_list, shift_amount_list
            shift = shift[0] if isinstance(shift[0], list | tuple) else shift
            shape = shape[0] if shape and isinstance(shape[0], list | tuple) else shape
            columns = found.boxes.tolist(), found.labels.tolist(), found.scores.tolist()
            predictions = [
                ObjectPrediction(
                    bbox=box, category_id=label, score=score, category_name=names[label],
                    shift_amount=list(shift), full_shape=shape,
                )
                for box, label, score in zip(*columns, strict=True)
            ]  # fmt: skip
            self._object_prediction_list_per_image = [predictions]

    mapping = {str(label): name for label, name in names.items()}
    return SahiModel(confidence_threshold=job.threshold, device="cpu", category_mapping=mapping)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=16384, help="side of the scene in pixels")
    parser.add_argument("--model", default="demo-harbour")
    parser.add_argument("--precision", default=None, help="fp32 or bf16; by default chosen for the machine")
    parser.add_argument("--backend", default=None, help="eager or compile; by default chosen for the machine")
    args = parser.parse_args()
    settings = {"precision": args.precision, "backend": args.backend, "overwrite": True}
    job = make_job(args.model, precision=args.precision, backend=args.backend)
    execution, line = resolve_execution(job)
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder) / "scene.tif"
        write_scene(scene, size=args.size, seed=7)
        plan = plan_scene(job, SceneRef(str(scene), "scene"))
        mpx = plan.scene.megapixels
        print(describe_machine())
        print(
            f"{args.size} x {args.size}, {plan.tiles} tiles of {job.tile[0]} x {job.tile[1]}, {cores} cores, {line}",
            flush=True,
        )
        decode = min(decode_once(scene) for _ in range(3))
        bare = bare_model(job, execution, tiles_in_memory(job, plan, 24), cores) * plan.tiles
        whole, steady = geosod_detect(scene, args.model, Path(folder) / "out", settings)
        rows: dict[str, float | None] = {
            "decode once": decode,
            "bare model": bare,
            "floor": decode + bare,
            "geosod, in total": whole,
            "geosod, after loading": steady,
            "plain rasterio + torch loop": plain_loop(scene, job, execution),
            "SAHI": sahi(scene, job, execution),
        }
        for name, seconds in rows.items():
            if seconds is None:
                print(f"{name:<30} not installed")
                continue
            print(
                f"{name:<30} {seconds:>8.1f} s {mpx / seconds:>8.1f} Mpx/s {seconds / whole:>8.2f} x the time of geosod"
            )


if __name__ == "__main__":
    main()
