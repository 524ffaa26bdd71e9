"""A cluster of several nodes in one machine: a head without CPUs, and a worker node that is lost in mid-run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from geosod.errors import EngineError
from geosod.running.events import TilesDetected
from geosod.running.ray_engine.detectors import DetectorPool
from tests.rasters import noise, write_tif
from tests.running.helpers import HEAD, PLAIN, detect, tables

pytestmark = pytest.mark.slow


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    started = Cluster(initialize_head=True, head_node_args=HEAD)
    for _ in range(2):
        started.add_node(num_cpus=2, object_store_memory=150 << 20)
    ray.init(address=started.address, log_to_driver=False)
    yield started
    ray.shutdown()
    started.shutdown()


def test_a_cluster_gives_the_same_and_survives_the_loss_of_a_node(nodes, rgb_bundle, tmp_path: Path) -> None:
    scenes = [write_tif(tmp_path / f"s{i}.tif", noise(3, 700, 900, seed=i)) for i in range(3)]
    detect(scenes, rgb_bundle, tmp_path / "serial")
    victim = next(iter(nodes.worker_nodes))
    lost = threading.Event()

    def lose_a_node(event: object) -> None:
        if isinstance(event, TilesDetected) and not lost.is_set():
            lost.set()
            nodes.remove_node(victim, allow_graceful=False)

    result = detect(scenes, rgb_bundle, tmp_path / "ray", engine="ray", workers=2, unit=(1, 0), on_event=lose_a_node)
    assert lost.is_set() and result.exit_code == 0
    assert tables(tmp_path / "ray") == tables(tmp_path / "serial")


def test_a_run_without_nodes_ends_and_is_taken_up(nodes, rgb_bundle, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules[DetectorPool.__module__], "STRANDED", 5.0)
    scenes = [write_tif(tmp_path / f"s{i}.tif", noise(3, 700, 900, seed=i)) for i in range(3)]
    detect(scenes, rgb_bundle, tmp_path / "serial")
    settings = {"engine": "ray", "workers": 2, "unit": (1, 0)}

    def lose_all(event: object) -> None:
        if isinstance(event, TilesDetected):
            for node in list(nodes.worker_nodes):
                nodes.remove_node(node, allow_graceful=False)

    with pytest.raises(EngineError, match=r"all nodes with CPUs are lost.*run the same command again"):
        detect(scenes, rgb_bundle, tmp_path / "ray", on_event=lose_all, **settings)
    nodes.add_node(num_cpus=2, object_store_memory=150 << 20)
    assert detect(scenes, rgb_bundle, tmp_path / "ray", **settings).exit_code == 0
    assert tables(tmp_path / "ray") == tables(tmp_path / "serial")


def test_the_job_script_joins_the_cluster(nodes, rgb_bundle, tmp_path: Path) -> None:
    """What `ray job submit` starts on the head: RAY_ADDRESS is set, and the arguments are the command's."""
    scene = write_tif(tmp_path / "s.tif", noise(3, 300, 400))
    detect(scene, rgb_bundle, tmp_path / "serial")
    script = Path(__file__).parents[2] / "pipelines" / "detect.py"
    flags = [word for name, value in PLAIN.items() for word in (f"--{name}", str(value))]
    command = [
        sys.executable,
        script,
        scene,
        "-m",
        rgb_bundle,
        "-o",
        tmp_path / "ray",
        "--workers",
        "2",
        "--json",
        *flags,
    ]
    done = subprocess.run(
        [str(word) for word in command],
        env=os.environ | {"RAY_ADDRESS": nodes.address},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["detections"] > 0 and "2 detector(s), " in done.stderr
    assert tables(tmp_path / "ray") == tables(tmp_path / "serial")
    assert nodes.head_node is not None and ray.is_initialized(), "the cluster goes on without the job"


def test_runs_in_two_threads_take_turns(rgb_bundle, tmp_path: Path) -> None:
    """They share one connection to Ray, which the first of them starts and ends."""
    scenes = [write_tif(tmp_path / f"s{i}.tif", noise(3, 300, 400, seed=i)) for i in range(2)]
    codes: dict[int, int] = {}

    def run(i: int) -> None:
        codes[i] = detect(scenes[i], rgb_bundle, tmp_path / str(i), engine="ray", workers=1).exit_code

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert codes == {0: 0, 1: 0} and not ray.is_initialized()
