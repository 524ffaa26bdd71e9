"""Networks by backend and precision, a detector on every core at once, and what a detector adds to its network.

The networks are those of the zoo, and a ResNet-18 with a feature pyramid and random weights, in the card's tiles. The
threshold is set so that about 300 boxes a tile come out of the network.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.limits import sample_tiles
from benchmarks.options import Options, UnavailableError, say
from benchmarks.resnet_fpn import ResNetFPN
from benchmarks.scenes import demo_scene
from benchmarks.table import Row, Table
from benchmarks.timing import alternate, timed
from geosod.detectors.adapters.zoo import ZooAdapter, read_network
from geosod.detectors.adapters.zoo_onnx import ZooOnnxAdapter
from geosod.detectors.bundle import open_bundle, shipped_models
from geosod.detectors.card import ModelCard
from geosod.detectors.detector import Detector, torch_settings
from geosod.detectors.execution import default_batch, resolve
from geosod.detectors.export import network_images, raw_graph
from geosod.detectors.graph_network import GraphNetwork
from geosod.detectors.quantize import quantized
from geosod.detectors.ways import Abilities, Measured, Way, this_machine, why_not
from geosod.machine import keep_freed_memory, usable_cpus
from geosod.results import Execution
from geosod.scene import TileBatch

#: Boxes of a tile that the network returns above the threshold.
BOXES = 300
ZOO = Abilities(("eager", "compile", "onnxruntime", "openvino"))


@dataclass(frozen=True, slots=True)
class Subject:
    """A network, and what it is run on."""

    name: str
    card: ModelCard
    network: Any
    tiles: TileBatch


def run(options: Options) -> list[Table]:
    if not this_machine().runtimes:
        raise UnavailableError("neither onnxruntime nor openvino is installed")
    keep_freed_memory()
    scene = demo_scene(options, options.pick(8192, 2048))
    rows: list[Row] = []
    for subject in [*_shipped(scene, options), _resnet(scene)]:
        rows += _measured(subject, options)
    return [Table.of("backends", "Networks by backend and precision, a detector on every core at once", rows)]


def _shipped(scene: Path, options: Options) -> list[Subject]:
    found = []
    for name in shipped_models():
        bundle = open_bundle(name)
        # As many as a batch has: a batch that is not full is filled up, and takes as long.
        count = max(options.pick(2, 1), default_batch("cpu", bundle.card.tile_size))
        found.append(_subject(name, bundle.card, read_network(bundle), sample_tiles(scene, bundle.card, count)))
    return found


def _resnet(scene: Path) -> Subject:
    torch.manual_seed(0)
    card = replace(open_bundle("demo-harbour").card, name="resnet18-fpn", tile=512, parameters={}, weights_digest="")
    tiles = sample_tiles(scene, card, 4)
    return _subject(card.name, card, ResNetFPN(bands=3, classes=3).eval(), tiles)


def _subject(name: str, card: ModelCard, network: Any, tiles: TileBatch) -> Subject:
    """With the threshold at which the network returns about `BOXES` boxes for a tile."""
    with torch.inference_mode():
        images = torch.from_numpy(network_images(tiles, card))
        topk = network.candidates_per_box * card.top_k
        _, scores, _ = network.decode(network.fused()(images), size=images.shape[2:], threshold=1e-4, topk=topk)
    usual = float(scores.flatten().sort(descending=True)[0][min(BOXES * len(tiles), scores.numel() - 1)])
    return Subject(name, replace(card, threshold=min(1.0, max(0.0, usual))), network, tiles)


def _measured(subject: Subject, options: Options) -> list[Row]:
    machine, tile = this_machine(), subject.card.tile_size
    base, _ = resolve(machine, tile=tile, device="cpu", abilities=ZOO)
    ways = [w for w in ZOO.ways() if why_not(w, machine, "cpu") is None and machine.fast(w.precision, "cpu")]
    ways += [Way(runtime, "int8") for runtime in machine.runtimes]
    if options.quick:
        ways = [way for way in ways if way.backend != "compile"]
    say(f"{subject.name}: {len(ways)} ways, threshold {subject.card.threshold:.3g}")
    times = _times(subject, [replace(base, backend=w.backend, precision=w.precision) for w in ways], options)
    reference = times["eager fp32", "detector"]
    chosen, _ = resolve(machine, tile=tile, device="cpu", abilities=ZOO, measured=_as_measured(ways, times))
    mpx = tile[0] * tile[1] / 1e6
    rows: list[Row] = []
    for way in ways:
        network, detector = times[" ".join(way), "network"], times[" ".join(way), "detector"]
        rows.append({
            "network": subject.name, "backend": way.backend, "precision": way.precision,
            "chosen": way == (chosen.backend, chosen.precision), "network alone, ms/tile": 1e3 * network,
            "detector, ms/tile": 1e3 * detector, "detector relative to network": detector / network,
            "detector, Mpx/s": mpx / detector, "speed relative to eager fp32": reference / detector,
        })  # fmt: skip
    return rows


def _as_measured(ways: Sequence[Way], times: dict[tuple[str, str], float]) -> list[Measured]:
    """Without int8, which only calibrated bundles have."""
    return [Measured(*way, times[" ".join(way), "detector"]) for way in ways if way.precision != "int8"]


def _times(subject: Subject, executions: Sequence[Execution], options: Options) -> dict[tuple[str, str], float]:
    """Median seconds a tile of each way, of the network alone and of the detector; alternating rounds."""
    graph = _quantized(subject)
    cpus = usable_cpus()
    work: dict[tuple[str, str], Callable[[], float]] = {}
    with ThreadPoolExecutor(cpus) as pool:
        for execution in executions:
            detectors = [_detector(subject, execution, graph) for _ in range(cpus)]
            alone = partial(_network_alone, images=_images(subject, execution))
            for part, function in (("network", alone), ("detector", Detector.detect_batch)):
                call = partial(_together, pool, function, detectors, subject.tiles)
                call()
                work[f"{execution.backend} {execution.precision}", part] = partial(timed, call)
        found = alternate({" / ".join(key): value for key, value in work.items()}, options.rounds)
    count = cpus * len(subject.tiles)
    return {key: statistics.median(found[" / ".join(key)]) / count for key in work}


def _together(pool: ThreadPoolExecutor, function: Any, detectors: Sequence[Detector], tiles: TileBatch) -> None:
    list(pool.map(lambda detector: function(detector, tiles), detectors))


def _images(subject: Subject, execution: Execution) -> torch.Tensor:
    """One batch as the network gets it."""
    return torch.from_numpy(network_images(subject.tiles[: execution.batch], subject.card))


def _network_alone(detector: Detector, tiles: TileBatch, *, images: torch.Tensor) -> None:
    with torch_settings(detector.execution), torch.inference_mode():
        for _ in range(0, len(tiles), len(images)):
            detector.adapter.compute(images)  # type: ignore[attr-defined]


def _quantized(subject: Subject) -> bytes:
    images = [network_images(subject.tiles[i : i + 1], subject.card) for i in range(min(2, len(subject.tiles)))]
    graph = raw_graph(subject.card, subject.network, "int8")
    return quantized(graph, [np.asarray(image) for image in images], name=subject.name)


def _detector(subject: Subject, execution: Execution, graph: bytes) -> Detector:
    card, threshold = subject.card, subject.card.threshold
    if execution.precision == "int8":
        network = GraphNetwork(graph, execution, name=card.name)
        return Detector(card, ZooOnnxAdapter(card, subject.network, network, threshold=threshold), execution)
    return Detector(card, ZooAdapter(card, subject.network, execution, threshold=threshold), execution)
