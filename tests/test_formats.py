"""Every unusual raster gives a correct result or one clear error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from pyproj import CRS, Geod, Transformer

from tests.formats import files, run

#: Files with unreadable pixels, and their share of the area.
BROKEN = {"corrupt.tif": 0.25}


def names() -> list[str]:
    folder = Path(__file__).parents[2] / "shared/data/formats"
    return [path.name for path in files(folder)] if folder.is_dir() else ["none"]


def geodesic_km2(path: Path) -> float:
    """Area of a raster on the ellipsoid of its CRS, summed over 32 x 32 cells by pyproj."""
    with rasterio.open(path) as dataset:
        crs, t = CRS.from_wkt(dataset.crs.to_wkt()), dataset.transform
        c, r = np.meshgrid(np.linspace(0, dataset.width, 33), np.linspace(0, dataset.height, 33))
    to_lonlat = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    lon, lat = to_lonlat.transform(*(t @ (c, r)))
    geod: Geod = crs.geodetic_crs.get_geod()
    total = 0.0
    for i in range(32):
        for j in range(32):
            corners = [(i, j), (i, j + 1), (i + 1, j + 1), (i + 1, j)]
            ring = [(lon[a], lat[a]) for a in corners]
            total += abs(geod.polygon_area_perimeter(*zip(*ring, strict=True))[0])
    return total / 1e6


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_every_file_gives_a_result_or_one_clear_line(name, data, tmp_path) -> None:
    path = data / "formats" / name
    outcome = run(path, tmp_path)
    assert "\n" not in outcome.text and outcome.text
    if name in BROKEN:
        assert outcome.exit_code == 3
        assert outcome.coverage["failed"] / sum(outcome.coverage.values()) == pytest.approx(BROKEN[name], abs=0.01)
    else:
        assert outcome.exit_code == 0, outcome.text
        assert "failed" not in outcome.coverage
    if outcome.scene.transform is not None and name != "cog_world.tif":
        assert sum(outcome.coverage.values()) == pytest.approx(geodesic_km2(path), rel=2e-3)
    if name == "cog_world.tif":
        assert sum(outcome.coverage.values()) == pytest.approx(510_065_622, rel=1e-3), "the whole ellipsoid"
