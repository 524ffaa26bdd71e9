"""From what a tile costs here to 1,000 nodes and 10 million km² at 0.5 m: balance, loads, and the first bottleneck.

Costs of the stages are measured on one core of this machine, one after the other. The predictions of the same model are
compared with runs on 1, 2 and 4 nodes in this machine, whose detectors wait instead of computing: with a few cores for
all nodes this shows whether distribution, driver, transport and tail are as modelled, not whether cores add up.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.options import Options, say
from benchmarks.processes import call
from benchmarks.scale_model import (
    Costs,
    Fleet,
    capacities,
    first_limit,
    in_flight_bytes,
    predicted_seconds,
    scaled,
    straggler_seconds,
)
from benchmarks.scenes import demo_scene
from benchmarks.table import Row, Table
from geosod.detections import Detections
from geosod.machine import usable_cpus
from geosod.merging.components import load_kernels, merge_group
from geosod.output.commit import commit_outputs, open_output
from geosod.running.assemble import assemble_scene
from geosod.running.detect import make_job
from geosod.running.job import Job, load_fitting
from geosod.running.planning import ScenePlan, plan_scene
from geosod.running.ray_engine.flow import MAX_COLUMN, MAX_FINISHING
from geosod.running.ray_engine.session import IN_FLIGHT, READ_AHEAD, group_size
from geosod.running.stages import TileOutcome, detect_tiles, read_spec, read_tiles, settle_unit
from geosod.scene import SceneRef
from geosod.scenes.read import ReadSummary

#: Ground to search, and metres a pixel.
KM2, GSD = 10e6, 0.5
#: What is assumed of a node: cores, bytes per second of its network (10 Gbit/s), memory of its object store.
CORES, NETWORK, STORE = 16, 1.25e9, 14 << 30
#: Seconds of a tile of 1024 px on an NVIDIA H100, steps on both sides included (docs/benchmarks.md, `gpu`).
GPU_TILE = 1.3e-3
#: Tiles in a batch group there: one batch of 8, the size that was measured.
GPU_GROUP = 8
#: Megapixels of a scene: 15 km × 15 km.
SCENE_MPX = 900
#: Side of the tiles with which the driver's work is measured.
DRIVER_TILE = 256
#: Nodes in the simulation, and seconds for which its detectors wait for each tile.
NODES = (1, 2, 4)
WAIT = 0.2
#: Side of the tiles there: so that there are many.
NODES_TILE = 512
#: What the design does where a stage is the first limit.
REMEDIES = {
    "reading": "more reader nodes, or several detectors on one GPU: readers are spread over all CPU nodes that join",
    "detecting": "more detector nodes: batches are filled across units and scenes, so any number is kept busy",
    "network of detector nodes": "readers on the detector nodes: tiles of a node are taken by its own detectors first",
    "driver": "larger batch groups, and several runs with a driver each: their scenes may share one output folder",
    "committing": "several runs with a driver each: scenes are independent, and commit into one folder one by one",
    "network of the driver's node": "several runs with a driver each",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """Costs of a scene, and what they were measured on."""

    scene: Path
    costs: Costs
    group: int
    megapixels: float

    @property
    def tiles_a_megapixel(self) -> float:
        """Tiles for a megapixel of ground."""
        return self.costs.scene_tiles / self.megapixels


def run(options: Options) -> list[Table]:
    job = make_job(options.model, device="cpu", batch=1)
    load_kernels(job.rule)
    small, large = (measured_on(size, job, options) for size in options.pick((2048, 8192), (1024, 2048)))
    driver = driver_cost(options)
    rows = simulated(driver, options)
    costs = replace(scaled(small.costs, large.costs, SCENE_MPX * large.tiles_a_megapixel), driver=driver)
    found = replace(large, costs=costs)
    fleets = fleets_of(costs, large.group)
    return [
        Table.of("scale-costs", "What stages cost", cost_rows(found)),
        Table.of("scale-nodes", "Predictions compared with runs on nodes in one machine", rows),
        Table.of("scale-balance", "Stages at 1,000 nodes", balance_rows(found, fleets)),
        Table.of("scale-loads", "Loads at 1,000 nodes", load_rows(found, fleets)),
    ]


def measured_on(size: int, job: Job, options: Options) -> Measured:
    """Median costs on a drawn scene; the first run, in which code is loaded, does not count."""
    scene = demo_scene(options, size)
    say(f"stages on {size} x {size} pixels")
    runs = [measured(job, scene, options.folder / f"out-{size}-{job.tile[0]}-{i}") for i in range(options.rounds + 1)][
        1:
    ]
    return replace(runs[0], costs=_median([each.costs for each in runs]))


def measured(job: Job, scene: Path, out: Path) -> Measured:
    """Run a scene's stages one after the other, on one core."""
    plan = plan_scene(job, SceneRef(str(scene), "scene"))
    detector, _ = load_fitting(job)
    spec = read_spec(job, plan, plan.scene, detector.execution.backend, group_size(job, detector.execution))
    seconds = dict.fromkeys(("read", "detect", "settle", "merge", "commit"), 0.0)
    nodes, summaries, tiles, pending = {}, [], 0, 0
    clock = _Clock(seconds)
    clock.start()
    items = read_tiles(plan.scene, plan.units, spec)
    for unit in plan.units:
        outcomes: list[TileOutcome] = []
        while not isinstance(item := next(items), ReadSummary):
            clock.stop("read")
            tiles += len(item)
            outcomes += detect_tiles(detector, [item])[0]
            clock.stop("detect")
        clock.stop("read")
        nodes[unit.id], summary = settle_unit(job.rule, plan.level(unit), unit, item, outcomes)
        clock.stop("settle")
        pending += _bytes(nodes[unit.id].pending)
        summaries.append(summary)
    merged = _merged(plan, job, nodes)
    clock.stop("merge")
    outputs = assemble_scene(job, plan, detector.execution, merged, summaries)
    commit_outputs(open_output(out, scenes=1, overwrite=True), outputs)
    clock.stop("commit")
    costs = Costs(
        seconds["read"] / tiles, seconds["detect"] / tiles, seconds["settle"] / len(plan.units), seconds["merge"],
        seconds["commit"], 0.0, float(_tile_bytes(job)), pending / len(plan.units), float(_bytes(merged)),
        tiles / len(plan.units), float(tiles),
    )  # fmt: skip
    return Measured(scene, costs, group_size(job, detector.execution), plan.scene.megapixels)


class _Clock:
    """Adds the time since the last stop to one of several sums."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds, self._last = seconds, 0.0

    def start(self) -> None:
        self._last = time.perf_counter()

    def stop(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds[name] += now - self._last
        self._last = now


def _merged(plan: ScenePlan, job: Job, nodes: dict) -> Detections:  # type: ignore[type-arg]
    found = {name: (node.final, node.pending) for name, node in nodes.items()}
    for level in plan.tree:
        for group in level:
            children = [found.pop(child) for child in group.children]
            node = merge_group([pending for _, pending in children], group.core, job.rule, whole=group.whole)
            found[group.id] = Detections.concat([*(final for final, _ in children), node.final]), node.pending
    return Detections.concat([final for final, _ in found.values()])


def _bytes(found: Detections) -> int:
    return int(found.boxes.nbytes + found.scores.nbytes + found.labels.nbytes)


def _tile_bytes(job: Job) -> int:
    return job.tile[0] * job.tile[1] * len(job.model.card.bands)


def _median(costs: Sequence[Costs]) -> Costs:
    names = Costs.__dataclass_fields__
    return Costs(**{name: statistics.median(getattr(each, name) for each in costs) for name in names})


def simulated(driver: float, options: Options) -> list[Row]:
    """Rows of predictions and runs on nodes whose detectors wait."""
    size, wait = options.pick(8192, 2048), options.pick(WAIT, 0.02)
    found = measured_on(size, make_job(options.model, device="cpu", batch=1, tile=NODES_TILE), options)
    rows: list[Row] = []
    for nodes in options.pick(NODES, (1,)):
        say(f"{nodes} nodes")
        given = {"nodes": nodes, "seconds": wait, "tile": NODES_TILE}
        runs = [_nodes(found.scene, options, **given) for _ in range(options.rounds)]
        tiles, seconds = (statistics.median(each[name] for each in runs) for name in ("tiles", "seconds"))
        predicted = predicted_seconds(
            replace(found.costs, detect=wait, driver=driver), tiles=round(tiles), detectors=nodes, cores=usable_cpus(),
            group=found.group, column=MAX_COLUMN, busy=False,
        )  # fmt: skip
        rows.append(
            {
                "nodes": nodes, "tiles": round(tiles), "seconds a tile in a detector": wait,
                "predicted seconds": predicted, "measured seconds": seconds,
                "measured / predicted": seconds / predicted,
            }
        )  # fmt: skip
    return rows


def driver_cost(options: Options) -> float:
    """Core-seconds of the driver for a batch group: many small tiles, and detectors that do not wait."""
    scene = demo_scene(options, options.pick(8192, 2048))
    say("the driver's work")
    runs = [_nodes(scene, options, nodes=1, seconds=0.0, tile=DRIVER_TILE) for _ in range(options.rounds)]
    return statistics.median(each["driver"] / each["groups"] for each in runs)


def _nodes(scene: Path, options: Options, **settings: float) -> dict[str, float]:
    given = {"scene": scene, "out": options.folder / "nodes"} | settings
    values: dict[str, float] = call("benchmarks.scale_nodes:run_nodes", **given).value
    return values


def fleets_of(costs: Costs, group: int) -> dict[str, tuple[Costs, Fleet]]:
    """Clusters of 1,000 nodes, so many of which read as keep the detectors of the others busy."""
    cpu, gpu = _split(costs.read / CORES, costs.detect / CORES), _split(costs.read / CORES, GPU_TILE)
    common = {"reader_cores": CORES, "network": NETWORK, "commits": MAX_FINISHING}
    return {
        "CPUs": (costs, Fleet(readers=cpu, detectors=1000 - cpu, per_node=CORES, group=group, **common)),
        "CPUs and GPUs": (
            replace(costs, detect=GPU_TILE),
            Fleet(readers=gpu, detectors=1000 - gpu, per_node=1, group=GPU_GROUP, **common),
        ),
    }


def _split(read: float, detect: float) -> int:
    """How many of 1,000 nodes read, where a node takes so many seconds a tile for either."""
    return min(999, max(1, round(1000 * read / (read + detect))))


def tiles_in_all(found: Measured) -> float:
    """Tiles of all the ground."""
    return KM2 * 1e6 / GSD**2 / 1e6 * found.costs.scene_tiles / SCENE_MPX


def cost_rows(found: Measured) -> list[Row]:
    c = found.costs
    values: dict[str, float] = {
        "read and cut a tile, core-ms": 1e3 * c.read,
        "detect on a tile, core-ms": 1e3 * c.detect,
        "settle a unit, core-ms": 1e3 * c.settle,
        "merge a scene, core-ms": 1e3 * c.merge,
        "commit a scene, core-ms": 1e3 * c.commit,
        "driver for a batch group, core-ms": 1e3 * c.driver,
        "pixels of a tile, MB": c.tile_bytes / 1e6,
        "pending boxes of a unit, kB": c.pending_bytes / 1e3,
        "boxes of a scene, kB": c.final_bytes / 1e3,
        "tiles in a scene": c.scene_tiles,
        "megapixels in a scene": float(SCENE_MPX),
    }
    return [{"": name, "value": value} for name, value in values.items()]


def balance_rows(found: Measured, fleets: dict[str, tuple[Costs, Fleet]]) -> list[Row]:
    rows: list[Row] = []
    for name, (costs, fleet) in fleets.items():
        limit, rate = first_limit(costs, fleet)
        hours = tiles_in_all(found) / rate / 3600
        for stage, each in capacities(costs, fleet).items():
            rows.append(
                {
                    "1,000 nodes": f"{name}: {fleet.readers} read, {fleet.detectors} detect", "stage": stage,
                    "tiles/s": each, "hours for all the ground": tiles_in_all(found) / each / 3600,
                    "first limit": stage == limit, "what helps": REMEDIES[stage] if stage == limit else "",
                }
            )  # fmt: skip
        say(f"{name}: {limit} is the first limit, {hours:.1f} hours")
    return rows


def load_rows(found: Measured, fleets: dict[str, tuple[Costs, Fleet]]) -> list[Row]:
    rows: list[Row] = []
    tiles = tiles_in_all(found)
    for name, (costs, fleet) in fleets.items():
        limit, rate = first_limit(costs, fleet)
        at_detector, at_reader = in_flight_bytes(costs, fleet, in_flight=IN_FLIGHT, ahead=READ_AHEAD // 2)
        tail = straggler_seconds(costs, column=MAX_COLUMN, group=fleet.group, in_flight=IN_FLIGHT)
        drivers = rate_without_driver(costs, fleet) / rate
        values = {
            "object store of a detector node, share of it": at_detector / STORE,
            "object store of a reader node, share of it": at_reader / STORE,
            "driver, calls of detectors a second": rate / fleet.group,
            "drivers (runs) for the rate of readers and detectors": drivers,
            "pixels that travel, TB": tiles * costs.tile_bytes / 1e12,
            "pending boxes that travel, TB": tiles / costs.unit_tiles * costs.pending_bytes / 1e12,
            "boxes to the driver's node, TB": tiles / costs.scene_tiles * costs.final_bytes / 1e12,
            "tail: last reader and detector, s": tail,
            "tail, share of the run": tail / (tiles / rate),
        }
        rows += [{"1,000 nodes": name, "": what, "value": value} for what, value in values.items()]
    return rows


def rate_without_driver(costs: Costs, fleet: Fleet) -> float:
    """Tiles per second of the stages that grow with the nodes."""
    found = capacities(costs, fleet)
    return min(found[name] for name in ("reading", "detecting", "network of detector nodes"))
