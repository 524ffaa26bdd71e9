"""A scene process whose detectors raise where a scene that the environment names is read."""

from __future__ import annotations

import os

from geosod.errors import EngineError
from geosod.running import local_engine, scene_process


class _Engine(local_engine._Engine):
    def _add_scene(self, plan):
        if plan is not None and plan.scene.id == os.environ["GEOSOD_TEST_FAILS"]:
            raise EngineError("a detector hangs")
        super()._add_scene(plan)


def main() -> None:
    """The process."""
    local_engine._Engine = _Engine
    scene_process.main()
