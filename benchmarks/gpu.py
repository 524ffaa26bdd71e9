"""A detector on a GPU: what the network alone could do there, what geosod makes of it, and where the time goes.

On one demo scene, all in one run:

network       the network's forward pass on a batch that is already in the GPU's memory, for every way it could run
detector      `Detector.detect_batch` on tiles in the host's memory, and each of its steps by itself
run           `geosod.detect`, compared with reading alone and with the detector alone
codecs        what a core decodes of the scene in other compressions, and how many cores keep this GPU busy

Speeds are megapixels of tiles per second for the first two, and of the scene for the others; because tiles overlap, the
network processes more.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.detect_run import detect
from benchmarks.limits import decode_once, read_alone, sample_tiles
from benchmarks.options import Options, UnavailableError, say
from benchmarks.scenes import CODECS, demo_scene, recoded
from benchmarks.table import Row, Table
from geosod.detectors.bundle import shipped_models
from geosod.detectors.detector import Detector, torch_settings
from geosod.detectors.postprocess import postprocess
from geosod.detectors.radiometry import scaled_tiles
from geosod.results import Execution
from geosod.running.detect import make_job
from geosod.running.job import Job, resolve_execution
from geosod.running.planning import plan_scene
from geosod.scene import SceneRef, TileBatch

GPU = torch.device("cuda")
ENGINES = ("local", "ray")


def seconds(work: Callable[[], object], *, at_least: float = 0.4) -> float:
    """Median time of a call, the GPU's work included, after two that are not counted."""
    times: list[float] = []
    for i in range(10_000):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        if i >= 2:
            times.append(time.perf_counter() - start)
        if len(times) >= 5 and sum(times) > at_least:
            break
    return statistics.median(times)


def network_of(detector: Detector) -> Any:
    """The torch module of a detector of the zoo, as it runs."""
    return detector.adapter._model  # type: ignore[attr-defined]


def ways_of(chosen: Execution, *, compiled: bool) -> list[tuple[Execution, bool, bool]]:
    """Every way to run a network: the execution, whether fp32 is computed as TF32, and whether channels come last."""
    eager = replace(chosen, backend="eager")
    ways = [(replace(eager, precision="fp32"), tf32, last) for tf32 in (False, True) for last in (False, True)]
    ways += [(replace(eager, precision="bf16"), False, last) for last in (False, True)]
    sizes = sorted({1, 2, 4, 8, 16, 32, 64} - {chosen.batch})
    ways += [(replace(eager, precision="bf16", batch=n), False, True) for n in sizes]
    if compiled:
        whole = replace(chosen, backend="compile", precision="bf16")
        ways += [(replace(whole, batch=n), False, True) for n in (chosen.batch, 4 * chosen.batch)]
    return ways


def network_alone(job: Job, chosen: Execution, *, compiled: bool) -> tuple[list[Row], float]:
    """The speed of the forward pass for every way of running it; and the seconds a tile as `chosen`."""
    (width, height), bands = job.tile, len(job.model.card.bands)
    found: list[tuple[dict[str, Any], float]] = []
    reference = 0.0
    for execution, tf32, last in ways_of(chosen, compiled=compiled):
        layout = torch.channels_last if last else torch.contiguous_format
        network = network_of(job.model.load(execution, rules=job.class_rules))
        if not last:
            network = network.to(memory_format=layout)
        dtype = torch.bfloat16 if execution.precision == "bf16" else torch.float32
        shape = (execution.batch, bands, height, width)
        images = torch.rand(shape, device=GPU).to(dtype, memory_format=layout)
        with torch_settings(execution), torch.inference_mode():
            torch.backends.cudnn.allow_tf32 = tf32
            each = seconds(partial(network, images)) / execution.batch
            torch.backends.cudnn.allow_tf32 = True
        if execution == chosen and last:
            reference = each
        way = {
            "model": job.model.card.name, "precision": "TF32" if tf32 else execution.precision,
            "backend": execution.backend, "channels": "last" if last else "first", "batch": execution.batch,
            "chosen": execution == chosen and last,
        }  # fmt: skip
        found.append((way, each))
        del network, images
        torch.cuda.empty_cache()
    pixels = width * height / 1e6
    return [
        {**way, **speeds(each, pixels), "time relative to the chosen one": each / reference if reference else None}
        for way, each in found
    ], reference


def speeds(each: float, pixels: float) -> Row:
    """The speed of something that takes so many seconds a tile, which has so many megapixels."""
    return {"ms a tile": 1e3 * each, "tiles/s": 1 / each, "Mpx/s": pixels / each}


def detector_steps(detector: Detector, tiles: TileBatch) -> dict[str, float]:
    """Seconds a tile of a detector on tiles in the host's memory, step by step, and in all."""
    card, size = detector.card, detector.execution.batch
    batch = tiles[:size]
    host = torch.from_numpy(batch.pixels)
    pinned = host.pin_memory()
    with torch_settings(detector.execution), torch.inference_mode():
        images = scaled_tiles(batch, card, size=size, device=GPU)
        raw = detector.adapter.predict(images)
        few = raw.wanted(len(batch), detector.threshold).on_cpu()
        steps: dict[str, Callable[[], object]] = {
            "pixels to the GPU": lambda: host.to(GPU),
            "the same from pinned memory": lambda: pinned.to(GPU, non_blocking=True),
            "network input, pixels to the GPU included": lambda: scaled_tiles(batch, card, size=size, device=GPU),
            "network and decoding": lambda: detector.adapter.predict(images),
            "boxes to the CPU": lambda: raw.wanted(len(batch), detector.threshold).on_cpu(),
            "checks of the answer": lambda: detector._check(few, len(batch)),
            "postprocessing": lambda: postprocess(few, batch, card, threshold=detector.threshold),
            "postprocessing on the GPU": lambda: postprocess(raw, batch, card, threshold=detector.threshold),
        }
        times = {name: seconds(step) / len(batch) for name, step in steps.items()}
    times["detector, in all"] = seconds(lambda: detector.detect_batch(batch)) / len(batch)
    return times


def cores_by_codec(scene: Path, options: Options, wanted: float) -> list[Row]:
    """What one core decodes of a part of the scene, and how many cores decode `wanted` Mpx/s."""
    rows: list[Row] = []
    for codec in CODECS:
        path = recoded(scene, options.folder / f"{codec}.tif", codec, side=4096)
        with_one = min(decode_once(path, threads=1) for _ in range(3))
        speed = plan_scene(make_job(options.model), SceneRef(str(path), "part")).scene.megapixels / with_one
        rows.append({"codec": codec, "Mpx/s a core": speed, "cores for this GPU": wanted / speed})
    return rows


@contextmanager
def utilisation(shares: list[float]) -> Iterator[None]:
    """Sample the share of time in which the GPU computes, every 50 ms."""
    over = threading.Event()

    def sample() -> None:
        with suppress(ModuleNotFoundError):  # torch asks for nvidia-ml-py
            while not over.wait(0.05):
                shares.append(torch.cuda.utilization() / 100)

    thread = threading.Thread(target=sample)
    thread.start()
    yield
    over.set()
    thread.join()


def run(options: Options) -> list[Table]:
    if not torch.cuda.is_available():
        raise UnavailableError("gpu: torch sees no CUDA GPU on this machine, so there is nothing to measure")
    networks: list[Row] = []
    reference = 0.0
    for name in shipped_models():
        job = make_job(name, device="cuda")
        chosen, line = resolve_execution(job)
        say(f"{torch.cuda.get_device_name()}: {name}: {line}")
        rows, each = network_alone(job, chosen, compiled=not options.quick)
        networks += rows
        reference = each if name == options.model else reference
    job = make_job(options.model, device="cuda")
    chosen, _ = resolve_execution(job)
    reference = reference or network_alone(job, chosen, compiled=False)[1]
    scene = demo_scene(options, options.pick(16384, 2048))
    detector = job.model.load(chosen, rules=job.class_rules)
    steps = detector_steps(detector, sample_tiles(scene, job.model.card, chosen.batch))
    del detector
    pixels, device = job.tile[0] * job.tile[1] / 1e6, torch.cuda.get_device_name()
    detector_rows: list[Row] = [
        {"step": name, **speeds(each, pixels), "time relative to the network": each / reference}
        for name, each in steps.items()
    ]
    runs, mpx, tiles = whole_runs(scene, job, chosen, reference, steps["detector, in all"], options)
    codecs = cores_by_codec(scene, options, mpx / reference / tiles)
    return [
        Table.of("gpu-network", f"Networks alone, tiles in the memory of the {device}", networks),
        Table.of("gpu-detector", f"{options.model}, tiles in the host's memory", detector_rows),
        Table.of("gpu", f"Whole runs on a scene of {mpx:,.0f} Mpx", runs),
        Table.of("gpu-codecs", "Cores that keep this GPU busy", codecs),
    ]


def whole_runs(
    scene: Path, job: Job, chosen: Execution, network: float, detector: float, options: Options
) -> tuple[list[Row], float, int]:
    """Rows for the limits and for runs of every engine in this process; megapixels and tiles of the scene."""
    plan = plan_scene(job, SceneRef(str(scene), "scene"))
    mpx, tiles = plan.scene.megapixels, plan.tiles
    times: dict[str, float] = {
        "every block once, all cores": min(decode_once(scene) for _ in range(3)),
        "network alone": network * tiles,
        "detector alone": detector * tiles,
        "read and cut tiles": read_alone(job, plan, chunk=chosen.batch),
    }
    limit = max(times["every block once, all cores"], times["network alone"])
    busy: dict[str, float] = {}
    for engine in ENGINES:
        shares: list[float] = []
        # Twice, since the first run loads compiled code, and a machine may have none yet.
        for name in ("first run", "second run"):
            with utilisation(shares):
                out = str(options.folder / engine)
                marks = detect(str(scene), options.model, out, {"engine": engine, "device": "cuda"})
            times[f"{engine} engine, {name}, call of detect"] = marks["end"] - marks["called"]
            times[f"{engine} engine, {name}, after loading"] = marks["end"] - marks["loaded"]
            if shares:
                busy[f"{engine} engine, {name}, call of detect"] = 100 * statistics.fmean(shares)
    return [
        {
            "step": name, "seconds": each, "Mpx/s": mpx / each,
            "time relative to the slower of decoding and network": each / limit, "GPU busy, %": busy.get(name),
        }
        for name, each in times.items()
    ], mpx, tiles  # fmt: skip
