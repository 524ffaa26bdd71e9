"""Clusters of unequal nodes: readers on CPU nodes, detectors packed on GPU nodes, and nodes that join and leave."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from geosod.errors import ConfigError
from geosod.running.detect import make_job
from geosod.running.events import DetectorsStarted, Note, TilesDetected
from geosod.running.ray_engine.claims import claims
from geosod.running.ray_engine.detectors import DetectorPool
from geosod.running.ray_engine.placement import Node, detector_nodes, explained, reader_node
from geosod.running.tile_queue import TileQueue
from tests.rasters import noise, write_tif
from tests.running.helpers import WORKERS, detect, tables

MIXED = (Node("a", "10.0.0.1", 8), Node("b", "10.0.0.2", 16), Node("g", "10.0.0.3", 4, 2), Node("h", "10.0.0.4", 4, 1))


def placed(nodes: tuple[Node, ...], readers: int) -> Counter[str | None]:
    """How many readers each node gets, one after the other."""
    found: Counter[str | None] = Counter()
    for _ in range(readers):
        found[reader_node(nodes, {node: n for node, n in found.items() if node})] += 1
    return found


def test_readers_are_spread_by_cores_and_leave_gpu_nodes_for_last() -> None:
    assert placed(MIXED, 12) == {"a": 4, "b": 8}
    assert placed(MIXED, 24) == {"a": 8, "b": 16}
    assert placed(MIXED, 28) == {"a": 8, "b": 16, "g": 2, "h": 2}
    assert placed(MIXED, 33) == {"a": 8, "b": 16, "g": 4, "h": 4, None: 1}
    assert placed(MIXED[2:], 2) == {"g": 1, "h": 1}, "a cluster of GPU nodes alone reads there"


def test_detectors_fill_one_gpu_node_after_the_other() -> None:
    assert detector_nodes(MIXED, 2, 1.0, {}) == ["g", "g"]
    assert detector_nodes(MIXED, 4, 1.0, {}) == ["g", "g", "h", None]
    assert detector_nodes(MIXED, 3, 0.5, {"h": 1}) == ["h", "g", "g"]
    assert detector_nodes(MIXED[:2], 3, 0.0, {}) == ["b", "a", "b"], "on CPUs by cores"
    assert detector_nodes((), 1, 0.0, {}) == [None]


nodes_of_any_kind = st.lists(
    st.builds(lambda cpus, gpus: (cpus, gpus), st.integers(0, 8), st.integers(0, 4)), max_size=6
)


@given(nodes_of_any_kind, st.integers(0, 40), st.sampled_from((1.0, 0.5, 0.25, 0.333)))
def test_no_node_gets_more_than_fits(sizes: list[tuple[int, int]], number: int, share: float) -> None:
    nodes = tuple(Node(str(i), f"10.0.0.{i}", cpus, gpus) for i, (cpus, gpus) in enumerate(sizes))
    found = Counter(detector_nodes(nodes, number, share, {}))
    room = {node.id: node.room(share) for node in nodes}
    assert all(found[node] <= room[node] for node in room) and found.total() == number
    assert found[None] == max(0, number - sum(room.values()))
    partly = [node for node, n in room.items() if 0 < found[node] < n]
    assert len(partly) <= 1, "packed: at most one node is neither full nor empty"
    readers = placed(nodes, number)
    assert all(readers[node.id] <= node.cpus for node in nodes)
    if any(readers[node.id] for node in nodes if node.devices):
        assert all(readers[node.id] == node.cpus for node in nodes if not node.devices)


def test_the_line_says_where_and_why() -> None:
    assert explained(MIXED, ["g", "g", None], 24, "GPU") == (
        "placement: 2 detector(s) on 1 of 2 GPU nodes (10.0.0.3: 2), 1 wait for a node to join; up to 24 readers, "
        "spread over 2 node(s) without GPUs, then on those with (10.0.0.1, 10.0.0.2)"
    )
    assert explained(MIXED[:2], ["b", "a"], 2, "CPU") == (
        "placement: 2 detector(s) on 2 of 2 nodes by cores (10.0.0.2: 1, 10.0.0.1: 1); up to 2 readers, spread over 2 "
        "node(s) (10.0.0.1, 10.0.0.2)"
    )


@pytest.fixture
def mixed(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Cluster, dict[str, str]]]:
    """A head without CPUs, two CPU nodes and two GPU nodes, of two GPUs and of one; and names of their identifiers."""
    import_module("geosod.running.ray_engine")
    monkeypatch.setattr(sys.modules["geosod.running.ray_engine.flow"], "GROW_SECONDS", 1.0)
    started = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": 150 << 20, "_system_config": WORKERS},
    )
    names = {}
    for name, cpus, gpus in (("cpu 1", 4, 0), ("cpu 2", 4, 0), ("one gpu", 1, 1), ("two gpus", 1, 2)):
        node = started.add_node(num_cpus=cpus, num_gpus=gpus, object_store_memory=150 << 20)
        names[node.node_id] = name
    ray.init(address=started.address, log_to_driver=False)
    yield started, names
    ray.shutdown()
    started.shutdown()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Counter[str]]:
    """Nodes on which tiles are read, and on which batches are detected, as the tasks themselves report them."""
    found: dict[str, Counter[str]] = {"read": Counter(), "detected": Counter()}
    append, ended = TileQueue.append, DetectorPool.ended

    def record_read(queue: Any, tiles: Any) -> None:
        found["read"][tiles.node] += 1
        append(queue, tiles)

    def record_detected(pool: Any, i: int, *, failed: bool, node: str | None = None) -> None:
        found["detected"][node or "lost"] += 1
        ended(pool, i, failed=failed, node=node)

    monkeypatch.setattr(TileQueue, "append", record_read)
    monkeypatch.setattr(DetectorPool, "ended", record_detected)
    return found


@pytest.mark.slow
def test_a_mixed_cluster_is_used_as_it_is_and_as_it_becomes(mixed, seen, rgb_bundle, tmp_path: Path) -> None:
    cluster, names = mixed
    scenes = [write_tif(tmp_path / f"s{i}.tif", noise(3, 700, 900, seed=i)) for i in range(4)]
    detect(scenes, rgb_bundle, tmp_path / "serial", batch=1)
    shared = {"engine": "ray", "device": "auto", "unit": (2, 0), "workers": None, "batch": 1}

    notes: list[str] = []
    result = detect(
        scenes[0], rgb_bundle, tmp_path / "packed", **(shared | {"workers": 2}),
        on_event=lambda e: notes.append(e.text) if isinstance(e, Note) else None,
    )  # fmt: skip
    assert result.exit_code == 0
    assert {names[node] for node in seen["read"]} == {"cpu 1", "cpu 2"}, "spread over CPU nodes"
    assert {names[node] for node in seen["detected"]} == {"two gpus"}, "packed on one GPU node"
    assert any(n.startswith("placement: 2 detector(s) on 1 of 2 GPU nodes (") for n in notes), notes

    # Now a node joins in mid-run, takes part, and is lost.
    seen["detected"].clear()
    late: list[Any] = []
    workers: list[int] = []

    def change(event: object) -> None:
        if isinstance(event, DetectorsStarted):
            workers.append(event.workers)
        if not isinstance(event, TilesDetected):
            return
        if not late:
            late.append(cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=150 << 20))
        elif len(late) == 1:
            if seen["detected"][late[0].node_id]:
                cluster.remove_node(late[0], allow_graceful=False)
                late.append("removed")
            else:
                time.sleep(1.0)  # until its detector is loaded

    result = detect(scenes, rgb_bundle, tmp_path / "ray", **shared, on_event=change)
    assert workers[0] == 3 and max(workers) == 4, "one detector more for the GPU that joined"
    assert late[1:] == ["removed"], "the node that joined was used"
    assert result.exit_code == 0 and tables(tmp_path / "ray") == tables(tmp_path / "serial")
    deadline = time.monotonic() + 60
    while ray.cluster_resources()["GPU"] > 3:  # until Ray has noticed that the node is lost
        assert time.monotonic() < deadline
        time.sleep(0.2)
    _an_autoscalers_nodes_count(rgb_bundle)


def _an_autoscalers_nodes_count(bundle: Path) -> None:
    """What an autoscaler reports that it may add, as Ray stores it."""
    now = claims(make_job(bundle))
    config = autoscaler_pb2.ClusterConfig()
    for name, has, most in (("readers", {"CPU": 16.0}, 4), ("detectors", {"CPU": 8.0, "GPU": 1.0}, 20)):
        group = config.node_group_configs.add(name=name, max_count=most)
        group.resources.update({key: int(value) for key, value in has.items()})
    client = ray._private.worker.global_worker.gcs_client
    key, namespace = (
        name.encode()
        for name in (ray._raylet.GCS_AUTOSCALER_CLUSTER_CONFIG_KEY, ray._raylet.GCS_AUTOSCALER_STATE_NAMESPACE)
    )
    client.internal_kv_put(key, config.SerializeToString(), True, namespace)
    later = claims(make_job(bundle))
    assert (now.workers, later.workers, later.readers) == (3, 20, 160) and later.nodes == now.nodes
    assert claims(make_job(bundle, workers=2)).workers == 2 and claims(make_job(bundle, device="cpu")).workers == 224
    with pytest.raises(ConfigError, match="21 detectors need a GPU each, but Ray has 20"):
        claims(make_job(bundle, workers=21))
