"""A service in a process of its own, with small limits: ``python -m tests.serving.limited MODEL FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from geosod.serving.options import Limits, ServeOptions
from geosod.serving.server import serve
from tests.serving.running import SETTINGS

if __name__ == "__main__":
    folder = Path(sys.argv[2])
    limits = Limits(
        body_bytes=1 << 20,
        pixels=2_000_000,
        body_seconds=1.0,
        seconds=30.0,
        connections=256,
        bytes_in_progress=128 << 20,
    )
    options = ServeOptions(
        model=sys.argv[1], port=0, settings=SETTINGS | {"batch": 1}, limits=limits, jobs=folder / "jobs",
        scene_folders=(folder / "scenes",),
    )  # fmt: skip
    serve(options, on_listening=lambda url: print(url, flush=True))
