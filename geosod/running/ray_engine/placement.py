"""Which node takes what: detectors packed on nodes with devices, readers spread over the others. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

#: Nodes that a line names; of more it gives the number.
MAX_NAMED = 4


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is alive.

    Attributes:
        id: Ray's identifier.
        address: IP address, for people.
        cpus: cores that Ray may use.
        devices: devices of the kind that the run's detectors take; 0 for a run on CPUs.
    """

    id: str
    address: str
    cpus: float
    devices: float = 0.0

    def room(self, share: float) -> int:
        """How many detectors fit that take `share` of a device each."""
        return int(self.devices) * int(1 / share + 1e-9)


def detector_nodes(nodes: Sequence[Node], detectors: int, share: float, taken: Mapping[str, int]) -> list[str | None]:
    """A node for each detector more: nodes with devices are filled one after the other, the largest first.

    Args:
        nodes: those that are alive.
        detectors: how many to place.
        share: of a device that each takes; 0 for detectors on CPUs, which are spread by cores.
        taken: detectors that nodes have already.

    Returns:
        Identifiers of nodes, fewest nodes possible; None for a detector that waits for a node to join.
    """
    count = Counter(taken)
    places: list[str | None] = []
    for _ in range(detectors):
        node = _for_device(nodes, count, share) if share else _least_used(nodes, count)
        places.append(node.id if node else None)
        if node:
            count[node.id] += 1
    return places


def reader_node(nodes: Sequence[Node], readers: Mapping[str, int]) -> str | None:
    """The node for one reader more: that with the fewest for its cores, of those without devices while they have room.

    Args:
        nodes: those that are alive.
        readers: readers that nodes have already.
    """
    free = [node for node in nodes if readers.get(node.id, 0) < node.cpus]
    without = [node for node in free if not node.devices]
    node = _least_used(without or free, readers)
    return node.id if node else None


def explained(nodes: Sequence[Node], detectors: Iterable[str | None], readers: int, device: str) -> str:
    """A line about where detectors and readers go, and why.

    Args:
        nodes: those that are alive.
        detectors: the node of each detector; None for those that wait for one.
        readers: how many readers there are at most.
        device: Ray's name of the devices, or "CPU".
    """
    by_node = Counter(detectors)
    waiting = by_node.pop(None, 0)
    address = {node.id: node.address for node in nodes}
    taken = [f"{address.get(node, 'a lost node')}: {number}" for node, number in by_node.most_common() if node]
    where = f"{device} nodes" if device != "CPU" else "nodes by cores"
    line = f"placement: {sum(by_node.values())} detector(s) on {len(by_node)} of {_count(nodes, device)} {where}"
    line += f" ({_listed(taken)})" if taken else ""
    line += f", {waiting} wait for a node to join" if waiting else ""
    cpus = [node for node in nodes if node.cpus and not node.devices]
    first = [node for node in nodes if node.cpus] if device == "CPU" else cpus
    names = _listed([node.address for node in first])
    kind = "" if device == "CPU" else f" without {device}s, then on those with"
    return f"{line}; up to {readers} readers, spread over {len(first)} node(s){kind} ({names or 'none yet'})"


def _count(nodes: Sequence[Node], device: str) -> int:
    return sum(1 for node in nodes if (node.cpus if device == "CPU" else node.devices))


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _for_device(nodes: Sequence[Node], taken: Mapping[str, int], share: float) -> Node | None:
    free = [node for node in nodes if taken.get(node.id, 0) < node.room(share)]
    return max(free, key=lambda node: (taken.get(node.id, 0) > 0, node.devices, node.id), default=None)


def _least_used(nodes: Sequence[Node], taken: Mapping[str, int]) -> Node | None:
    usable = [node for node in nodes if node.cpus]
    return min(usable, key=lambda node: (taken.get(node.id, 0) / node.cpus, -node.cpus, node.id), default=None)
