"""Exports hold a few batches of rows, whatever the number of rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from geosod.detections import Detections
from tests.deduplication.outputs import commit, utm_scene

#: Rows of a scene, and scenes.
ROWS, SCENES = 50_000, 8
#: MiB by which the peak of all scenes may exceed that of one. GDAL holds a GeoPackage's spatial index, up to a limit.
GROWTH = {"gpkg": 100, "geojson": 60, "json": 60, "pmtiles": 200}
_SCRIPT = """
import sys
from pathlib import Path
import geosod

def peak():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024

one, every, out = sys.argv[1:]
geosod.export(one, out=out)
before = peak()
rows = geosod.export(every, out=out, overwrite=True).rows
print(rows, peak() - before)
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder, rng = tmp_path_factory.mktemp("big"), np.random.default_rng(0)
    for k in range(SCENES):
        corner = rng.uniform(0, 4980, (ROWS, 2))
        found = Detections(
            boxes=np.hstack([corner, corner + rng.uniform(4, 20, (ROWS, 2))]),
            scores=rng.random(ROWS, np.float32),
            labels=rng.integers(0, 2, ROWS),
        )
        scene = utm_scene(f"s{k}", shift=(-3000.0 * k, 0.0), size=(5000, 5000))
        for name in ("one", "every")[(k > 0) :]:
            commit(folder / name, scene, found)
    return folder / "one", folder / "every"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("suffix", GROWTH)
def test_memory_does_not_grow_with_the_rows(suffix, outputs, tmp_path) -> None:
    one, every = outputs
    line = [sys.executable, "-c", _SCRIPT, str(one), str(every), str(tmp_path / f"x.{suffix}")]
    printed = subprocess.run(line, check=True, capture_output=True, text=True).stdout.split()
    assert int(printed[0]) == ROWS * SCENES and float(printed[1]) < GROWTH[suffix], printed
