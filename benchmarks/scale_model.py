"""What a cluster does, from what a tile, a unit and a scene cost: capacities of the stages, loads, and the first limit.

Pure arithmetic on measured costs; `benchmarks.scale` measures them and compares the predictions with runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured costs, in core-seconds unless said otherwise.

    Attributes:
        read: of a tile, decoding and cutting.
        detect: seconds of a detector for a tile.
        settle: of a unit.
        merge: of a scene, its whole tree.
        commit: of a scene: joining, polygons, sizes, files.
        driver: of a batch group, in the driver's one thread and Ray's threads of its process.
        tile_bytes: pixels of a tile.
        pending_bytes: pending boxes of a unit, which travel to the merge tasks.
        final_bytes: all boxes of a scene, which travel to the driver's node.
        unit_tiles: tiles in a unit.
        scene_tiles: tiles in a scene.
    """

    read: float
    detect: float
    settle: float
    merge: float
    commit: float
    driver: float
    tile_bytes: float
    pending_bytes: float
    final_bytes: float
    unit_tiles: float
    scene_tiles: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """A cluster.

    Attributes:
        readers: nodes that read, and nothing else.
        reader_cores: cores of each.
        detectors: nodes with detectors.
        per_node: detectors on each.
        network: bytes per second that a node can receive.
        commits: scenes that the driver's node commits at a time.
        group: tiles in a batch group, which is one object and one call of a detector.
    """

    readers: int
    reader_cores: int
    detectors: int
    per_node: int
    network: float
    commits: int
    group: int

    @property
    def nodes(self) -> int:
        """All but the head."""
        return self.readers + self.detectors


def capacities(costs: Costs, fleet: Fleet) -> dict[str, float]:
    """Tiles per second that each stage could do if it were alone."""
    cores = fleet.readers * fleet.reader_cores
    # Settling and merging are short tasks on the readers' cores.
    cpu = costs.read + costs.settle / costs.unit_tiles + costs.merge / costs.scene_tiles
    return {
        "reading": cores / cpu,
        "detecting": fleet.detectors * fleet.per_node / costs.detect,
        "network of detector nodes": fleet.detectors * fleet.network / costs.tile_bytes,
        "driver": fleet.group / costs.driver,
        "committing": fleet.commits * costs.scene_tiles / costs.commit,
        "network of the driver's node": fleet.network * costs.scene_tiles / costs.final_bytes,
    }


def first_limit(costs: Costs, fleet: Fleet) -> tuple[str, float]:
    """The stage with the smallest capacity, and that in tiles per second."""
    found = capacities(costs, fleet)
    name = min(found, key=found.__getitem__)
    return name, found[name]


def in_flight_bytes(costs: Costs, fleet: Fleet, *, in_flight: int, ahead: int) -> tuple[float, float]:
    """Pixels in the object store of a detector node, and of a reader node, at most.

    Args:
        costs: of the stages.
        fleet: the cluster.
        in_flight: groups in flight for each detector, which lie on its node.
        ahead: groups that a reader may be ahead of the driver.
    """
    size = fleet.group * costs.tile_bytes
    return fleet.per_node * in_flight * size, fleet.reader_cores * ahead * size


def straggler_seconds(costs: Costs, *, column: int, group: int, in_flight: int) -> float:
    """How long the last reader and detector work while others have nothing to do.

    One reader has just begun a column of units when the others have run out of them, and one detector then has as many
    groups as are in flight.
    """
    return column * costs.unit_tiles * costs.read + in_flight * group * costs.detect


def scaled(small: Costs, large: Costs, tiles: float) -> Costs:
    """Costs for scenes of `tiles` tiles, by the line through those of two scenes; a part of a scene's is fixed."""

    def line(name: str) -> float:
        slope = (getattr(large, name) - getattr(small, name)) / (large.scene_tiles - small.scene_tiles)
        value: float = getattr(large, name) + max(0.0, slope) * (tiles - large.scene_tiles)
        return value

    return replace(
        large, merge=line("merge"), commit=line("commit"), final_bytes=line("final_bytes"), scene_tiles=tiles
    )


def predicted_seconds(
    costs: Costs, *, tiles: int, detectors: int, cores: int, group: int, column: int, busy: bool
) -> float:
    """Seconds for `tiles` tiles of a run whose nodes share `cores` of one machine, all of which are at work.

    Args:
        costs: of the stages.
        tiles: that are still to be done.
        detectors: one on each node.
        cores: of the machine.
        group: tiles in one batch group.
        column: units that one task reads, the first of which have been read before.
        busy: whether detectors compute, or only wait.
    """
    groups = -(-tiles // group)
    rounds = -(-groups // detectors)
    waiting = rounds * group * costs.detect
    computing = costs.read + costs.driver / group + costs.settle / costs.unit_tiles + costs.merge / costs.scene_tiles
    computing += costs.detect if busy else 0.0
    work = tiles * computing / cores - min(tiles, column * costs.unit_tiles) * costs.read / cores
    return max(waiting, work) + costs.commit
