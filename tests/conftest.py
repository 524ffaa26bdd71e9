"""Fixtures shared by all tests: real GeoTIFFs, a small bundle with random weights, a private HOME."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rasters import random_bundle

#: Files whose tests start a Ray of their own.
_OWN_RAY = ("test_cluster.py", "test_jobs.py", "test_mixed_cluster.py", "test_unreachable.py")
#: Ray lets its workers give way to all other processes. Beside the other tests they would hardly get a core.
os.environ.setdefault("RAY_worker_niceness", "0")
SHARED = Path(__file__).parents[2] / "shared"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests with Ray, which have a process of their own; others share processes by file.

    Files that start processes come first, while the process that starts them is small: on some virtual machines the
    kernel has killed processes of several gigabytes when a child of theirs ended. Files with slow tests follow.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    starting = {path for path in {item.path for item in items} if "subprocess" in path.read_text("utf-8")}
    key = lambda path: (path not in starting, path.parent.name != "cli", path not in slow)  # noqa: E731
    items.sort(key=lambda item: (not _starts_ray(item), *key(item.path)))
    for item in items:
        if _starts_ray(item):
            item.add_marker(pytest.mark.ray)
        item.add_marker(pytest.mark.xdist_group(str(item.path)))


def _starts_ray(item: Any) -> bool:
    """Whether a test uses the shared Ray, or starts one of its own; several at once would wait for each other."""
    return _in_ray(item) or item.path.name in _OWN_RAY or item.name.startswith("test_ray_")


def _in_ray(item: Any) -> bool:
    """Whether a test uses the fixture `cluster`, or has a parameter for which it asks for it."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return "cluster" in getattr(item, "fixturenames", ()) or "ray" in [p for p in parameters if isinstance(p, str)]


@pytest.fixture
def cluster() -> None:
    """Ray on this machine, which the following tests with this fixture use too."""
    from tests.running.helpers import start_ray

    start_ray()


@pytest.fixture(autouse=True)
def no_cluster(request: pytest.FixtureRequest) -> None:
    """Tests that do not ask for Ray find none."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized() and not _in_ray(request.node):
        ray.shutdown()


@pytest.fixture(scope="session", autouse=True)
def waiting_without_blocking() -> Iterator[None]:
    """Wait for processes by asking again and again, see `pytest_collection_modifyitems`."""
    wait = subprocess.Popen.wait

    def patient(self: Any, timeout: float | None = None) -> int:
        return int(wait(self, timeout=86_400.0 if timeout is None else timeout))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "wait", patient)
        yield


@pytest.fixture(scope="session", autouse=True)
def private_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Ray keeps its token, torch its compiled code and geosod its notes below HOME."""
    home = tmp_path_factory.mktemp("home")
    before = {name: os.environ.get(name) for name in ("HOME", "RAY_ADDRESS")}
    os.environ["HOME"] = str(home)
    os.environ.pop("RAY_ADDRESS", None)
    yield home
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def data() -> Path:
    """Real imagery that lies beside the project on some machines."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("no folder of real imagery beside the project")
    return folder


@pytest.fixture(scope="session")
def rgb_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for uint8 red, green, blue with random weights that find many boxes in anything."""
    return random_bundle(tmp_path_factory.mktemp("models") / "random-rgb", bands=("red", "green", "blue"))
