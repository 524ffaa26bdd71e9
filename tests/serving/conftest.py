"""One service for all tests that change nothing in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from geosod.serving.options import Limits
from tests.serving.running import Running, running


@pytest.fixture(scope="package")
def served(rgb_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with jobs, a folder of scenes and small limits."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "scenes").mkdir()
    limits = Limits(
        body_bytes=1 << 20, pixels=1_000_000, body_seconds=1.0, seconds=30.0, connections=64, bytes_in_progress=64 << 20
    )
    with running(
        rgb_bundle, limits=limits, jobs=folder / "jobs", scene_folders=((folder / "scenes").resolve(),)
    ) as service:
        yield service
