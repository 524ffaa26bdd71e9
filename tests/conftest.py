"""Fixtures shared by all tests: real GeoTIFFs, a small bundle with random weights, a private HOME."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rasters import random_bundle

SHARED = Path(__file__).parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests, or that start Ray, come first: run side by side, none of them is left for the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow") or "cluster" in _fixtures(item)}
    items.sort(key=lambda item: item.path not in slow)


def _fixtures(item: pytest.Item) -> list[str]:
    return getattr(item, "fixturenames", [])


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
