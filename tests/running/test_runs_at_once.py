"""Runs on one cluster at the same time do each scene once, and take over what a killed one worked on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from geosod.running.detect import make_job
from geosod.running.events import Note
from geosod.running.ray_engine import ownership
from geosod.running.ray_engine.claims import claims
from geosod.running.ray_engine.ownership import Ownership
from tests.rasters import noise, write_tif
from tests.running.helpers import PLAIN, RAY, detect, tables

SETTINGS: dict[str, Any] = {"engine": "ray", "workers": 1, "unit": (2, 2)}
#: A run of another driver, which begins when it is told to and prints how each scene ends.
_OTHER = """
import json, sys
import ray
ray.init(address=sys.argv[1], log_to_driver=False)
import geosod
from geosod.running import ray_engine
call = json.loads(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
result = geosod.detect(**call)
print(json.dumps({scene.scene_id: scene.status for scene in result.scenes}), flush=True)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray with room for the readers of two runs."""
    ray.shutdown()
    ray.init(**RAY | {"num_cpus": 2})
    yield
    ray.shutdown()


class Driver:
    """A run in a process of its own."""

    def __init__(self, scenes: list[Path], bundle: Path, out: Path) -> None:
        call = PLAIN | SETTINGS | {"scenes": [str(scene) for scene in scenes], "model": str(bundle), "out": str(out)}
        command = [sys.executable, "-c", _OTHER, ray.get_runtime_context().gcs_address, json.dumps(call)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=os.environ, stdin=pipe, stdout=pipe, text=True)
        self._line("ready")

    def begin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def statuses(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self._line("{"))
        self.process.communicate(timeout=60)
        return found

    def _line(self, begin: str) -> str:
        """The next line that begins so; Ray prints some of its own."""
        assert self.process.stdout is not None
        return next(line for line in self.process.stdout if line.startswith(begin))


@pytest.mark.slow
def test_ray_runs_at_the_same_instant_do_each_scene_once(cluster, rgb_bundle, tmp_path) -> None:
    scenes = [write_tif(tmp_path / f"s{i}.tif", noise(3, 300, 400, seed=i)) for i in range(8)]
    expected = detect(scenes, rgb_bundle, tmp_path / "serial", unit=(2, 2))
    other = Driver(scenes, rgb_bundle, tmp_path / "out")
    other.begin()
    ours = detect(scenes, rgb_bundle, tmp_path / "out", **SETTINGS)
    statuses = {scene.scene_id: scene.status for scene in ours.scenes}, other.statuses()
    names = {f"s{i}" for i in range(8)}
    done = [{name for name, status in found.items() if status == "done"} for found in statuses]
    assert done[0] | done[1] == names and not done[0] & done[1], statuses
    assert all(set(found.values()) <= {"done", "skipped"} and set(found) == names for found in statuses)
    assert done[0] and done[1], "both have worked"
    assert tables(tmp_path / "out") == tables(tmp_path / "serial") and ours.total == expected.total
    assert not ownership._keys("scene "), "nothing is left on the head"


@pytest.mark.slow
def test_ray_takes_over_what_a_killed_run_worked_on(cluster, rgb_bundle, tmp_path) -> None:
    """It is killed when this run has come to its scene, and waits for it."""
    scene = write_tif(tmp_path / "s.tif", noise(3, 700, 900))
    detect(scene, rgb_bundle, tmp_path / "serial", unit=(2, 2))
    other = Driver([scene], rgb_bundle, tmp_path / "out")
    other.begin()
    deadline = time.monotonic() + 120
    while not ownership._keys("scene ") and time.monotonic() < deadline:
        time.sleep(0.01)
    waited = []

    def kill(event: object) -> None:
        if isinstance(event, Note) and "another run works on" in event.text:
            waited.append(event.text)
            other.process.kill()

    result = detect(scene, rgb_bundle, tmp_path / "out", on_event=kill, **SETTINGS)
    other.process.communicate()
    assert waited == ["waiting for 1 scene(s) that another run works on"]
    assert [one.status for one in result.scenes] == ["done"] and tables(tmp_path / "out") == tables(tmp_path / "serial")
    assert not ownership._keys("scene "), "the keys of the killed run are gone, too"


def test_ray_gives_detectors_of_further_runs_fewer_cores(cluster, rgb_bundle) -> None:
    job = make_job(rgb_bundle, workers=2, device="cpu")
    shares = [2 * claims(job, rank=rank).options["num_cpus"] for rank in range(1, 8)]
    assert shares[:3] == [1.0, 0.5, 0.25] and sum(shares) < 2, "some of two cores are left for readers"


def test_ray_gives_each_scene_to_one_of_many_that_ask_at_once(cluster) -> None:
    """Eight processes at a time, while holders are dead, alive and gone; never two have a scene."""
    for held in (False, True):
        if held:  # by a driver that is dead by then
            address = ray.get_runtime_context().gcs_address
            code = (
                f"import ray; ray.init(address={address!r}); from geosod.running.ray_engine.ownership import Ownership"
            )
            code += "; assert all(Ownership('o').take(f's{i}') for i in range(20))"
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=os.environ)
            assert len(ownership._keys("scene ")) == 20
        taken = ray.get([_taken.options(num_cpus=0.1).remote(20) for _ in range(8)])
        counts = Counter(name for names in taken for name in names)
        assert counts == {f"s{i}": 1 for i in range(20)}
        for key in ownership._keys(""):
            ownership.internal_kv._internal_kv_del(key, namespace=b"geosod")


@ray.remote
def _taken(count: int) -> list[str]:
    """What a process gets of some scenes; it counts as a driver of its own."""
    ask = Ownership("o")
    ask._job = ""  # holders of this job are other processes, and alive
    return [f"s{i}" for i in range(count) if ask.take(f"s{i}")]
