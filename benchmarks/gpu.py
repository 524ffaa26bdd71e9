"""A detector on a GPU: what the network alone could do there, what geosod makes of it, and where the time goes.

On one demo scene, all in one run:

network       the network's forward pass on a batch that is already in the GPU's memory, for every way it could run
detector      `Detector.detect_batch` on tiles in the host's memory, and each of its steps by itself
run           `geosod.detect`, compared with reading alone and with the detector alone
codecs        what a core decodes of the scene in other compressions, and how many cores keep this GPU busy

Speeds are megapixels of tiles per second for the first two, and of the scene for the last; because tiles overlap, the
network processes more.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import rasterio
import torch
from rasterio.windows import Window

from benchmarks.end_to_end import decode_once, geosod_detect, tiles_in_memory
from geosod.demo.scene import write_scene
from geosod.detectors.detector import Detector, torch_settings
from geosod.detectors.postprocess import postprocess
from geosod.detectors.radiometry import network_input
from geosod.machine import usable_cpus
from geosod.results import Execution
from geosod.running.detect import make_job
from geosod.running.job import Job, resolve_execution
from geosod.running.planning import ScenePlan, plan_scene
from geosod.running.stages import read_spec, read_tiles
from geosod.scene import SceneRef, TileBatch

GPU = torch.device("cuda")
CODECS: dict[str, dict[str, object]] = {
    "deflate": {"compress": "deflate", "predictor": 2},
    "jpeg": {"compress": "jpeg", "photometric": "ycbcr"},
    "zstd": {"compress": "zstd", "predictor": 2},
    "lzw": {"compress": "lzw", "predictor": 2},
}


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


def network_alone(job: Job, chosen: Execution, *, compiled: bool) -> float:
    """Print the speed of the forward pass for every way of running it; seconds per tile as `chosen`."""
    (width, height), bands = job.tile, len(job.model.card.bands)
    size = chosen.batch
    eager = replace(chosen, backend="eager")
    ways: list[tuple[Execution, bool, bool]] = []
    ways += [(replace(eager, precision="fp32"), tf32, last) for tf32 in (False, True) for last in (False, True)]
    ways += [(replace(eager, precision="bf16"), False, last) for last in (False, True)]
    sizes = sorted({1, 2, 4, 8, 16, 32, 64} - {size})
    ways += [(replace(eager, precision="bf16", batch=n), False, True) for n in sizes]
    if compiled:
        whole = replace(chosen, backend="compile")
        ways += [(replace(whole, precision="bf16", batch=n), False, True) for n in (size, 4 * size)]
    print(f"{'network alone':<44} {'ms a tile':>10} {'tiles/s':>9} {'Mpx/s':>9} {'of chosen':>10}")
    results: list[tuple[str, float]] = []
    reference = 0.0
    for execution, tf32, last in ways:
        layout = torch.channels_last if last else torch.contiguous_format
        network = network_of(job.model.load(execution, threshold=job.threshold))
        if not last:
            network = network.to(memory_format=layout)
        dtype = torch.bfloat16 if execution.precision == "bf16" else torch.float32
        shape = (execution.batch, bands, height, width)
        images = torch.rand(shape, device=GPU).to(dtype, memory_format=layout)
        with torch_settings(execution), torch.inference_mode():
            torch.backends.cudnn.allow_tf32 = tf32
            start = time.perf_counter()
            network(images)
            torch.cuda.synchronize()
            first = time.perf_counter() - start
            each = seconds(lambda network=network, images=images: network(images)) / execution.batch
            torch.backends.cudnn.allow_tf32 = True
        name = f"{execution.precision}{' as TF32' if tf32 else ''}, {execution.backend}, "
        name += f"{'channels last' if last else 'channels first'}, {execution.batch}"
        name += f" (first {first:.0f} s)" if first > 2 else ""
        results.append((name, each))
        if execution == chosen and last:
            reference = each
        del network, images
        torch.cuda.empty_cache()
    for name, each in results:
        mark = f"{each / reference:>9.2f} x" if reference else ""
        print(f"{name:<44} {1e3 * each:>10.3f} {1 / each:>9.0f} {width * height / 1e6 / each:>9.0f} {mark}", flush=True)
    return reference


def detector_steps(detector: Detector, tiles: TileBatch, network: float, *, profile: bool) -> float:
    """Print what a detector needs for a tile in the host's memory, step by step; returns the seconds in all."""
    card, size = detector.card, detector.execution.batch
    batch = tiles[:size]
    host = torch.from_numpy(batch.pixels)
    pinned = host.pin_memory()
    with torch_settings(detector.execution), torch.inference_mode():
        images = network_input(batch, card, size=size, device=GPU)
        raw = detector.adapter.predict(images)
        few = raw.wanted(len(batch), detector.threshold).on_cpu()
        steps = {
            "pixels to the GPU": lambda: host.to(GPU),
            "the same from pinned memory": lambda: pinned.to(GPU, non_blocking=True),
            "network input, pixels to the GPU included": lambda: network_input(batch, card, size=size, device=GPU),
            "network and decoding": lambda: detector.adapter.predict(images),
            "boxes to the CPU": lambda: raw.wanted(len(batch), detector.threshold).on_cpu(),
            "checks of the answer": lambda: detector._check(few, len(batch)),
            "postprocessing": lambda: postprocess(few, batch, card, threshold=detector.threshold),
            "postprocessing on the GPU": lambda: postprocess(raw, batch, card, threshold=detector.threshold),
        }
        times = {name: seconds(step) / len(batch) for name, step in steps.items()}
    times["detector, in all"] = whole = seconds(lambda: detector.detect_batch(batch)) / len(batch)
    pixels = job_pixels(batch) / 1e6
    print(f"\n{'detector':<44} {'ms a tile':>10} {'tiles/s':>9} {'Mpx/s':>9} {'of network':>10}")
    for name, each in times.items():
        print(f"{name:<44} {1e3 * each:>10.3f} {1 / each:>9.0f} {pixels / each:>9.0f} {each / network:>9.2f} x")
    if profile:
        with torch.profiler.profile() as found:
            detector.detect_batch(batch)
            torch.cuda.synchronize()
        print(found.key_averages().table(sort_by="cuda_time_total", row_limit=14, max_name_column_width=50))
    return whole


def job_pixels(batch: TileBatch) -> int:
    return int(batch.pixels.shape[-1] * batch.pixels.shape[-2])


def read_alone(job: Job, plan: ScenePlan, chunk: int) -> float:
    """Seconds to read and cut all tiles in one thread, which all cores decode for."""
    start = time.perf_counter()
    spec = replace(read_spec(job, plan, plan.scene, "eager", chunk), threads=usable_cpus())
    for unit in plan.units:
        for _ in read_tiles(plan.scene, unit, spec):
            pass
    return time.perf_counter() - start


def cores_by_codec(scene: Path, folder: Path, wanted: float) -> None:
    """Print what one core decodes of a part of the scene, and how many cores decode `wanted` Mpx/s."""
    print(f"\n{'codec':<44} {'Mpx/s a core':>12} {'cores for this GPU':>20}")
    for codec, options in CODECS.items():
        path = folder / f"{codec}.tif"
        with rasterio.open(scene) as whole:
            side = min(4096, whole.width)
            window = Window((whole.width - side) // 2, (whole.height - side) // 2, side, side)
            profile = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "tiled": True}
            with rasterio.open(
                path, "w", **profile, blockxsize=512, blockysize=512, interleave="pixel", **options
            ) as to:
                to.write(whole.read(window=window))
        each = side * side / 1e6 / min(decode_once(path, threads=1) for _ in range(3))
        print(f"{codec:<44} {each:>12.0f} {wanted / each:>20.1f}", flush=True)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=16384, help="side of the scene in pixels")
    parser.add_argument("--model", default="demo-harbour")
    parser.add_argument("--engines", nargs="*", default=["local", "ray"])
    parser.add_argument("--no-compile", action="store_true", help="leave out what torch.compile makes")
    parser.add_argument("--network-only", action="store_true", help="measure no scene; for models of other bands")
    parser.add_argument("--profile", action="store_true", help="print the slowest operations of the detector")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("torch sees no CUDA GPU on this machine, so there is nothing to measure")
        return
    backend = "eager" if args.no_compile else None
    job = make_job(args.model, device="cuda", backend=backend)
    chosen, line = resolve_execution(job)
    print(f"{torch.cuda.get_device_name()}, {usable_cpus()} cores, torch {torch.__version__}; chosen: {line}\n")
    network = network_alone(job, chosen, compiled=not args.no_compile)
    if args.network_only:
        return
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder) / "scene.tif"
        write_scene(scene, size=args.size, seed=7, threads=usable_cpus())
        plan = plan_scene(job, SceneRef(str(scene), "scene"))
        mpx = plan.scene.megapixels
        detector = job.model.load(chosen, threshold=job.threshold)
        # From the middle of the scene: tiles at its edges show nodata, which takes longer.
        middle = replace(plan, units=plan.units[len(plan.units) // 2 :])
        alone = detector_steps(detector, tiles_in_memory(job, middle, chosen.batch), network, profile=args.profile)
        del detector
        print(f"\n{args.size} x {args.size}, {plan.tiles} tiles of {job.tile[0]} x {job.tile[1]}")
        decode = min(decode_once(scene) for _ in range(3))
        limit = max(decode, network * plan.tiles)

        def row(name: str, duration: float) -> None:
            speed = f"{duration:>8.2f} s {mpx / duration:>8.0f} Mpx/s"
            print(f"{name:<44} {speed} {duration / limit:>8.2f} x the slower of decoding and network", flush=True)

        row("decode once, all cores", decode)
        row("network alone", network * plan.tiles)
        row("detector alone", alone * plan.tiles)
        row("read and cut tiles", read_alone(job, plan, chosen.batch))
        for engine in args.engines:
            settings = {"engine": engine, "device": "cuda", "backend": backend, "overwrite": True}
            shares: list[float] = []
            # Twice, since the first run loads compiled code, and a machine may have none yet.
            for name in ("first run", "second run"):
                with utilisation(shares):
                    whole, steady = geosod_detect(scene, args.model, Path(folder) / engine, settings)
                row(f"geosod, {engine}, {name}, in total", whole)
                row(f"geosod, {engine}, {name}, after loading", steady)
            if shares:
                print(f"{'GPU busy':<44} {100 * statistics.fmean(shares):>8.0f} %")
        cores_by_codec(scene, Path(folder), mpx / (network * plan.tiles))


if __name__ == "__main__":
    main()
