"""Transformations between CRSs: which one is chosen, and that threads may share it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from pyproj.aoi import AreaOfInterest
from pyproj.transformer import TransformerGroup

from geosod.errors import SceneError
from geosod.georeference.crs import LONLAT, horizontal_crs, transformer

#: CRS → a position in it; PROJ knows one transformation to WGS 84 for the first two, several for the others.
POSITIONS = {
    "EPSG:32631": (3.0, 50.0),
    "EPSG:4807": (2.35, 48.85),
    "EPSG:27700": (-2.0, 53.0),
    "EPSG:26711": (-117.0, 35.0),
}


@pytest.mark.parametrize("crs", POSITIONS)
def test_the_best_transformation_at_a_position(crs: str) -> None:
    (lon, lat), reach = POSITIONS[crs], 0.01
    area = AreaOfInterest(lon - reach, lat - reach, lon + reach, lat + reach)
    group = TransformerGroup(horizontal_crs(crs), horizontal_crs(LONLAT), always_xy=True, area_of_interest=area)
    expected = next(one for one in group.transformers if "allpark" not in one.description)
    rng = np.random.default_rng(0)
    around = np.array([[lon], [lat]]) + rng.uniform(-0.1, 0.1, (2, 1000))
    native = expected.transform(*around, direction="INVERSE")
    found = transformer(crs, LONLAT, (lon, lat))
    assert np.array_equal(found.transform(*native), expected.transform(*native))
    assert np.array_equal(found.transform(*around, direction="INVERSE"), native)


def test_threads_share_a_transformation() -> None:
    program = """
import numpy as np
from concurrent.futures import ThreadPoolExecutor
from geosod.georeference.crs import transformer
shared = transformer("EPSG:27700", "OGC:CRS84", (-2.0, 53.0))
x, y = np.random.default_rng(0).uniform(300_000, 400_000, (2, 40_000))
for _ in range(10):
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda _: np.stack(shared.transform(x, y)), range(4)))
    assert all(np.array_equal(each, found[0]) for each in found)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr or f"ended by signal {-done.returncode}"


def test_a_crs_that_cannot_be_transformed_is_refused() -> None:
    with pytest.raises(SceneError, match="cannot be transformed"):
        transformer("EPSG:3052", LONLAT, (-18.0, 65.0))
