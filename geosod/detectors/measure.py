"""How fast this machine runs a model in each way it can: measured once, and kept in the cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geosod.detectors.cache import cache_folder
from geosod.detectors.card import ModelCard
from geosod.detectors.detector import Detector, same_threads
from geosod.detectors.execution import default_batch, gpu_names
from geosod.detectors.models import BundleModel, Model
from geosod.detectors.ways import Measured, Way, abilities_of, cpu_features, this_machine, why_not
from geosod.device import kind_of
from geosod.errors import GeosodError, one_line
from geosod.machine import keep_freed_memory, usable_cpus
from geosod.results import Execution
from geosod.scene import TileBatch
from geosod.tile_size import TileSize, compact
from geosod.version import __version__

#: Batches that each detector is timed on, in as many rounds.
ROUNDS = 3
#: Detectors that work at once while one way is timed, where there are as many cores: what counts is what all cores do
#: together, and these show whether memory is what they wait for.
AT_ONCE = 2
#: Packages whose versions decide how fast a network runs.
_PACKAGES = ("torch", "onnxruntime", "openvino")

Report = Callable[[str], None]
_here: dict[str, tuple[Measured, ...]] = {}


def known(model: Model, tile: TileSize, *, device: str, threads: int) -> tuple[Measured, ...]:
    """What was measured before on a machine like this one; () where nothing was.

    Args:
        model: a bundle; other models have none.
        tile: (width, height) of a tile in pixels.
        device: "cpu" or "cuda".
        threads: CPU threads of one detector.
    """
    if not isinstance(model, BundleModel):
        return ()
    key = _key(model, tile, device, threads)
    if key not in _here:
        found = _read(_file(key))
        if not found:
            return ()
        _here[key] = found
    return _here[key]


def remember(model: Model, tile: TileSize, measured: Iterable[Measured], *, device: str, threads: int) -> None:
    """Keep what was measured for this process, and for later ones where the cache folder can be written to."""
    key = _key(model, tile, device, threads)
    _here[key] = tuple(measured)
    file = _file(key)
    text = json.dumps({
        "model": model.card.name, "tile": compact(tile), "device": device, "threads": threads, "machine": _machine(),
        "ways": [way._asdict() for way in _here[key]],
    }, indent=1)  # fmt: skip
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: several processes may measure at once.
        handle, name = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(handle, "w") as temporary:
            temporary.write(text)
        Path(name).replace(file)


def possible_ways(model: Model, device: str, *, compiled: bool = True) -> tuple[Way, ...]:
    """The ways in which this machine can run a model, and is not known to be slow.

    Args:
        model: the model.
        device: "cpu" or "cuda".
        compiled: include torch.compile, which takes half a minute to start.
    """
    machine = this_machine()
    return tuple(
        way
        for way in abilities_of(model).ways()
        if why_not(way, machine, device) is None
        and machine.fast(way.precision, device)
        and (compiled or way.backend != "compile")
    )


def measure(
    model: Model,
    tile: TileSize,
    *,
    device: str,
    threads: int = 1,
    batch: int | None = None,
    ways: Sequence[Way] | None = None,
    rounds: int = ROUNDS,
    tiles: TileBatch | None = None,
    report: Report | None = None,
) -> tuple[Measured, ...]:
    """Time a model in several ways, in alternating rounds, with detectors on several cores at once.

    Args:
        model: the model.
        tile: (width, height) of a tile in pixels.
        device: "cpu" or "cuda".
        threads: CPU threads of one detector.
        batch: tiles in a forward pass; None for the usual number.
        ways: None for all that are possible here.
        rounds: how often each way is timed; the median counts.
        tiles: what detectors are run on; None for drawn noise.
        report: called with a line where a way cannot be run.

    Returns:
        Seconds for a tile of each way that could be run, in the order of `ways`.
    """
    size = batch or default_batch(device, tile)
    work = noise(model.card, tile, size) if tiles is None else tiles
    count = 1 if kind_of(device) == "cuda" else max(1, min(AT_ONCE, usable_cpus() // threads))
    keep_freed_memory()
    loaded: dict[Way, list[Detector]] = {}
    with same_threads():
        for way in possible_ways(model, device) if ways is None else ways:
            execution = Execution(device, way.backend, way.precision, size, threads)
            try:
                loaded[way] = [_warm(model, execution, tile) for _ in range(count)]
            except (GeosodError, MemoryError, RuntimeError) as error:
                if report is not None:
                    report(f"{way.backend} {way.precision}: {one_line(error)[:200]}")
        times: dict[Way, list[float]] = {way: [] for way in loaded}
        with ThreadPoolExecutor(count) as pool:
            for _ in range(rounds):
                for way, detectors in loaded.items():
                    times[way].append(_timed(pool, detectors, work))
    return tuple(Measured(*way, statistics.median(seconds)) for way, seconds in times.items())


def _warm(model: Model, execution: Execution, tile: TileSize) -> Detector:
    detector = model.load(execution, rules=model.rules)
    detector.warm_up(tile)
    return detector


def _timed(pool: ThreadPoolExecutor, detectors: Sequence[Detector], tiles: TileBatch) -> float:
    """Seconds for a tile, all detectors working at once on all tiles each."""
    start = time.perf_counter()
    list(pool.map(lambda detector: detector.detect_batch(tiles), detectors))
    if kind_of(detectors[0].execution.device) == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / (len(detectors) * len(tiles))


def noise(card: ModelCard, tile: TileSize, count: int) -> TileBatch:
    """Tiles of blocks of noise, of a card's pixel type and between its limits; always the same."""
    width, height = tile
    blocks = np.random.default_rng(0).random((count, len(card.bands), -(-height // 8), -(-width // 8)))
    share = np.repeat(np.repeat(blocks, 8, axis=2), 8, axis=3)[:, :, :height, :width]
    low, high = (np.array(side, np.float64)[:, None, None] for side in (card.minimum, card.maximum))
    values = low + share * (high - low)
    window = np.tile(np.array([[0, 0, width, height]], np.int64), (count, 1))
    return TileBatch(values.astype(card.dtype), window, None, window[:, 2:].copy())


def _key(model: Model, tile: TileSize, device: str, threads: int) -> str:
    values = [model.digest, model.card.parameters.get("views"), list(tile), device, threads, _machine()]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


@cache
def _machine() -> dict[str, Any]:
    """What decides how fast a network runs here. It stays what it was where a process leaves cores to others."""
    versions = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    features = {key: value for key, value in cpu_features().items() if value}
    return {"cpu": features, "cpus": usable_cpus(), "gpus": gpu_names(), "geosod": __version__, "versions": versions}


def _file(key: str) -> Path:
    return cache_folder("measured") / f"{key}.json"


def _read(file: Path) -> tuple[Measured, ...]:
    """What a file of the cache states; () where it does not exist, or is damaged."""
    try:
        ways = json.loads(file.read_text())["ways"]
        found = tuple(Measured(str(w["backend"]), str(w["precision"]), float(w["seconds"])) for w in ways)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ()
    return found if all(way.seconds > 0 for way in found) else ()
