"""Real imagery, if it is available: mosaics, 16 bits, four bands, and refusals."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely

from tests.rasters import random_bundle
from tests.running.helpers import detect


def build_vrt(path: Path, sources: list[Path]) -> Path:
    """A mosaic of north-up files of one CRS, type and resolution, on the first one's pixel grid."""
    with rasterio.open(sources[0]) as first:
        base, profile = first.transform, first.profile
        names = [c.name for c in first.colorinterp]
    boxes = []
    for source in sources:
        with rasterio.open(source) as dataset:
            col, row = (round(v) for v in ~base @ (dataset.transform.c, dataset.transform.f))
            boxes.append((col, row, dataset.width, dataset.height))
    left, top = min(b[0] for b in boxes), min(b[1] for b in boxes)
    width, height = max(b[0] + b[2] for b in boxes) - left, max(b[1] + b[3] for b in boxes) - top
    corner = base @ (left, top)
    bands = []
    for i, name in enumerate(names, 1):
        parts = "".join(
            f'<SimpleSource><SourceFilename relativeToVRT="0">{source}</SourceFilename><SourceBand>{i}</SourceBand>'
            f'<SrcRect xOff="0" yOff="0" xSize="{w}" ySize="{h}"/>'
            f'<DstRect xOff="{col - left}" yOff="{row - top}" xSize="{w}" ySize="{h}"/></SimpleSource>'
            for source, (col, row, w, h) in zip(sources, boxes, strict=True)
        )
        nodata = "" if profile["nodata"] is None else f"<NoDataValue>{profile['nodata']}</NoDataValue>"
        colour = "" if name == "alpha" else f"<ColorInterp>{name.title()}</ColorInterp>"
        bands.append(f'<VRTRasterBand dataType="Byte" band="{i}">{nodata}{colour}{parts}</VRTRasterBand>')
    place = f"{corner[0]}, {base.a}, 0, {corner[1]}, 0, {base.e}"
    path.write_text(
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}"><SRS>{profile["crs"].to_wkt()}</SRS>'
        f"<GeoTransform>{place}</GeoTransform>{''.join(bands)}</VRTDataset>"
    )
    return path


def neighbours(folder: Path, pattern: str, max_files: int) -> list[Path]:
    """The file with the most others within 3 km, and those, so that their mosaic has few gaps."""
    places = {}
    for path in sorted(folder.glob(pattern)):
        with rasterio.open(path) as dataset:
            places[path] = np.array([dataset.transform.c, dataset.transform.f])
    near = {p: [q for q in places if np.abs(places[q] - places[p]).max() < 3000] for p in places}
    return max(near.values(), key=len)[:max_files]


@pytest.fixture(scope="module")
def naip(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_vrt(
        tmp_path_factory.mktemp("vrt") / "claremont.vrt", neighbours(data / "trees", "claremont_*.tif", 12)
    )


def test_a_mosaic_goes_through_with_a_model_for_its_bands(naip, data, tmp_path) -> None:
    bundle = random_bundle(
        tmp_path / "m", bands=("red", "green", "blue", "nir"), tile=256, gsd=0.6, gsd_range=(0.4, 0.8)
    )
    result = detect(naip, bundle, tmp_path / "out", bands="1,2,3,4")
    assert result.exit_code == 0 and result.detections > 100
    found = geopandas.read_parquet(result.scenes[0].paths[0])
    with rasterio.open(naip) as mosaic:
        utm = found.to_crs(mosaic.crs)
        assert shapely.box(*mosaic.bounds).buffer(0.1).contains(shapely.union_all(utm.geometry.values))
        assert np.allclose(
            utm.geometry.centroid.x, mosaic.bounds.left + 0.6 * (found.px_xmin + found.px_xmax) / 2, atol=0.05
        )
        assert np.allclose(found.width_m, 0.6 * (found.px_xmax - found.px_xmin), rtol=2e-3)


def test_a_mosaic_is_refused_by_models_for_other_bands(naip, rgb_bundle, data, tmp_path) -> None:
    result = detect(
        naip, random_bundle(tmp_path / "m", bands=("B04", "B03", "B02", "B08")), tmp_path / "a", bands="1,2,3"
    )
    assert result.exit_code == 2 and len(result.failures) == 1
    assert "the model takes 4: B04, B03, B02, B08" in result.failures[0].message


def test_sentinel_2_goes_through_with_a_model_for_16_bits(data, tmp_path) -> None:
    bundle = random_bundle(
        tmp_path / "m", bands=("B04", "B03", "B02", "B08"), dtype="uint16", top=4000.0, gsd_range=(6, 12)
    )
    result = detect(data / "vessels" / "athens.tif", bundle, tmp_path / "out", datetime="2021-07-04T09:00:00Z")
    assert result.exit_code == 0 and result.detections > 100
    assert "acq_date=2021-07-04" in result.scenes[0].paths[0]
    found = geopandas.read_parquet(result.scenes[0].paths[0])
    # Web Mercator metres are too long by 1 / cos(latitude); the columns are true metres.
    true = 9.9977 * (found.px_xmax - found.px_xmin) * np.cos(np.radians(found.lat))
    assert np.allclose(found.width_m, true, rtol=5e-3)


def test_sentinel_2_is_refused_by_models_for_other_pixels(rgb_bundle, data, tmp_path) -> None:
    scene = data / "vessels" / "athens.tif"
    bands = detect(scene, rgb_bundle, tmp_path / "a")
    assert bands.exit_code == 2 and "the model takes red, green, blue" in bands.failures[0].message
    depth = detect(scene, random_bundle(tmp_path / "m8", bands=("a", "b", "c", "d")), tmp_path / "b")
    assert depth.exit_code == 2 and "pixels are uint16" in depth.failures[0].message
    coarse = random_bundle(tmp_path / "m1", bands=("a", "b", "c", "d"), dtype="uint16", gsd_range=(0.3, 1.0))
    gsd = detect(scene, coarse, tmp_path / "c")
    assert gsd.exit_code == 2 and "GSD is 7.88 m" in gsd.failures[0].message


def test_a_corrupt_file_has_failed_ground(data, rgb_bundle, tmp_path) -> None:
    result = detect([data / "formats" / "corrupt.tif", data / "formats" / "cogeo.tif"], rgb_bundle, tmp_path / "out")
    assert result.exit_code == 3
    assert {s.scene_id: s.status for s in result.scenes} == {"corrupt": "partial", "cogeo": "done"}
    coverage = geopandas.read_parquet(tmp_path / "out" / "coverage" / "corrupt.parquet")
    assert coverage[coverage.status == "failed"].area_km2.sum() > 0
