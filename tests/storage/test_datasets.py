"""Opening rasters in several threads at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

OPEN_AT_ONCE = """
import sys, warnings
from concurrent.futures import ThreadPoolExecutor
from geosod.scene import SceneRef
from geosod.storage.datasets import open_dataset

def opened(_):
    # What any other library may do in its own thread.
    with warnings.catch_warnings(), open_dataset(SceneRef(sys.argv[1], "a"), view=None, options={}) as dataset:
        return dataset.width

with ThreadPoolExecutor(8) as threads:
    assert set(threads.map(opened, range(400))) == {8}
"""


def test_nothing_is_printed_of_scenes_without_position(tmp_path: Path) -> None:
    scene = tmp_path / "a.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(scene)
    done = subprocess.run([sys.executable, "-c", OPEN_AT_ONCE, scene], check=True, capture_output=True, text=True)
    assert not done.stderr
