"""Counts and densities, compared with pandas, geopandas, h3 and scipy."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import geopandas
import h3
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from affine import Affine
from scipy.stats import chi2
from typer.testing import CliRunner

import geosod
from geosod.cli.main import app
from geosod.detections import Detections
from geosod.errors import ConfigError
from geosod.summarizing.intervals import poisson_interval
from geosod.summarizing.run import summarize
from geosod.summarizing.zones import H3Zones, read_areas
from tests.deduplication.outputs import DAY, ORIGIN, commit, lattice, seen, utm_scene
from tests.output.samples import ACROSS, make_scene, random_detections

OBJECTS = lattice(ORIGIN, (44, 34), 20.0)
#: Equal-area, of another family than the one that is used (Lambert's azimuthal about the scenes).
EQUAL_AREA = "+proj=laea +lat_0=52.4 +lon_0=7.1 +ellps=WGS84"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Overlapping scenes of two dates."""
    folder, rng = tmp_path_factory.mktemp("outputs") / "out", np.random.default_rng(0)
    for k, (name, shift) in enumerate((("a", (0.0, 0.0)), ("b", (200.0, 0.0)), ("c", (0.0, 0.0)))):
        scene = utm_scene(name, 31 + k % 2, shift=shift, rotation=10.0 * k, when=DAY + dt.timedelta(days=k // 2))
        labels = rng.integers(0, 2, len(OBJECTS))
        commit(folder, scene, seen(scene, OBJECTS, scores=rng.random(len(OBJECTS)), labels=labels))
    return folder


def rows(out: Path) -> geopandas.GeoDataFrame:
    """All detections, with their centres as geometries."""
    frame = pd.concat([pd.read_parquet(path, partitioning=None) for path in sorted(out.glob("detections/*/*"))])
    return geopandas.GeoDataFrame(frame, geometry=shapely.points(frame["lon"], frame["lat"]), crs="OGC:CRS84")


def coverage(out: Path) -> geopandas.GeoDataFrame:
    """The inspected ground."""
    frame = pd.concat([geopandas.read_parquet(path) for path in sorted(out.glob("coverage/*"))])
    return frame[frame["status"] == "inspected"]


def test_intervals_are_those_of_chi_squared() -> None:
    counts = np.array([0, 1, 2, 10, 137, 10**6])
    for level in (0.5, 0.95, 0.999):
        low, high = poisson_interval(counts, level)
        tail = (1 - level) / 2
        assert np.allclose(low[1:], chi2.ppf(tail, 2 * counts[1:]) / 2) and low[0] == 0
        assert np.allclose(high, chi2.ppf(1 - tail, 2 * counts + 2) / 2)
    # Garwood (1936), as in Ulm (1990): 0 → 3.69, 10 → 4.80 to 18.39.
    low, high = poisson_interval(np.array([0, 10]), 0.95)
    assert np.allclose(high, [3.689, 18.391], atol=5e-4) and np.isclose(low[1], 4.795, atol=5e-4)


def test_intervals_contain_the_expected_number_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    for mean in (0.5, 3.0, 40.0):
        low, high = poisson_interval(rng.poisson(mean, 20_000), 0.9)
        assert ((low <= mean) & (mean <= high)).mean() >= 0.895


def test_counts_and_ground_by_class_and_date(out) -> None:
    result = summarize(out, by=("class", "date"), threshold=0.3)
    frame = rows(out)
    frame = frame[frame["score"] >= np.float32(0.3)]
    frame["date"] = frame["datetime"].dt.strftime("%Y-%m-%d")
    expected = frame.groupby(["date", "label"]).size()
    table = result.table.to_pandas().set_index(["date", "class"])
    assert table["count"].to_dict() == expected.to_dict() and len(table) == 4
    ground = coverage(out).groupby(lambda _: 0)["area_km2"].sum()[0]
    per_scene = coverage(out).set_index("scene_id")["area_km2"]
    assert np.allclose(table.loc["2024-05-01", "inspected_km2"], per_scene[["a", "b"]].sum())
    assert np.allclose(table.loc["2024-05-02", "inspected_km2"], per_scene["c"].sum()) and ground > 0
    assert np.allclose(table["per_km2"], table["count"] / table["inspected_km2"])
    assert np.allclose(table["per_km2_high"], table["count_high"] / table["inspected_km2"])
    assert "ground that another scene shows" in result.notes[0]


@pytest.mark.parametrize("resolution", [8, 10, 12])
def test_cells_are_those_of_h3_and_divide_the_ground(resolution, out) -> None:
    table = summarize(out, by=(), zones=H3Zones(resolution)).table.to_pandas().set_index("h3")
    frame = rows(out)
    cells = [h3.latlng_to_cell(y, x, resolution) for y, x in zip(frame["lat"], frame["lon"], strict=True)]
    counts = table["count"][table["count"] > 0]
    assert counts.sort_index().to_dict() == pd.Series(cells).value_counts().sort_index().to_dict()
    assert np.isclose(table["inspected_km2"].sum(), coverage(out)["area_km2"].sum(), rtol=1e-9)
    shapes = [shapely.Polygon(np.array(h3.cell_to_boundary(cell))[:, ::-1]) for cell in table.index]
    flat = geopandas.GeoSeries(shapes, crs="OGC:CRS84").to_crs(EQUAL_AREA)
    ground = coverage(out).to_crs(EQUAL_AREA).geometry
    expected = sum(flat.intersection(one).area for one in ground) / 1e6
    assert np.allclose(table["inspected_km2"].fillna(0), expected, atol=1e-6 + 1e-5 * expected.max())


def districts(path: Path, *, crs: str = "EPSG:32632") -> geopandas.GeoDataFrame:
    """Three districts, one of two parts, one that no scene shows."""
    x, y = ORIGIN[0] + 13, ORIGIN[1] - 13  # no object lies on a border
    cells = [(0, 0, 130, 300), (130, 0, 300, 300), (300, 0, 900, 800), (5000, 0, 6000, 500)]
    boxes = [shapely.box(x + a, y - d, x + c, y - b) for a, b, c, d in cells]
    frame = geopandas.GeoDataFrame({"code": [1, 2, 3, 4], "name": ["east", "west", "east", "far"]}, geometry=boxes)
    frame = frame.set_crs("EPSG:32631").to_crs(crs)
    frame.to_file(path, layer="districts")
    return frame


@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:3857"])
def test_areas_are_those_of_geopandas(crs, out, tmp_path) -> None:
    frame = districts(tmp_path / "d.gpkg", crs=crs)
    result = summarize(out, by=("class",), zones=read_areas(tmp_path / "d.gpkg"))
    table = result.table.to_pandas().set_index(["area", "class"])
    joined = rows(out).to_crs(crs).sjoin(frame, predicate="within")
    expected = joined.groupby(["name", "label"]).size()
    assert table["count"].to_dict() == expected.to_dict() and "far" not in table.index
    flat = frame.set_geometry(frame.segmentize(20)).to_crs(EQUAL_AREA).dissolve("name")
    ground = coverage(out).segmentize(0.0003).to_crs(EQUAL_AREA)
    for name in ("east", "west"):
        area = ground.intersection(flat.geometry[name]).area.sum() / 1e6
        assert np.allclose(table.loc[name, "inspected_km2"], area, rtol=1e-5)
    outside = len(rows(out)) - joined.index.size
    assert any(f"{outside:,} detections lie in none" in note for note in result.notes)


def test_deduplicated_outputs_count_ground_once(out, tmp_path) -> None:
    geosod.deduplicate(out, out=tmp_path / "new")
    result = summarize(tmp_path / "new", by=())
    union = coverage(out).to_crs(EQUAL_AREA).union_all().area / 1e6
    assert result.table["count"].to_pylist() == [len(rows(tmp_path / "new"))]
    assert np.isclose(result.table["inspected_km2"][0].as_py(), union, rtol=1e-6) and not result.notes
    cells = summarize(tmp_path / "new", by=(), zones=H3Zones(11)).table
    assert np.isclose(np.nansum(cells["inspected_km2"].to_numpy()), union, rtol=1e-6)
    with pytest.raises(ConfigError, match="counts at one of them only"):
        summarize(tmp_path / "new", by=("date",))
    with pytest.raises(ConfigError, match="some outputs are deduplicated, and some are not"):
        commit(tmp_path / "o", utm_scene("z"), Detections.empty())
        summarize([tmp_path / "new", tmp_path / "o"])


def test_cells_on_both_sides_of_the_antimeridian_divide_the_ground(tmp_path) -> None:
    scene = make_scene("pacific", crs="EPSG:4326", transform=ACROSS)
    commit(tmp_path / "o", scene, random_detections(0, 300))
    for resolution in (4, 9):
        result = summarize(tmp_path / "o", by=(), zones=H3Zones(resolution))
        assert np.isclose(
            np.nansum(result.table["inspected_km2"].to_numpy()), coverage(tmp_path / "o")["area_km2"].sum()
        )
        assert sum(result.table["count"].to_pylist()) == 300
        assert result.outlines is not None and (np.abs(shapely.bounds(result.outlines)) <= 180).all()


def test_a_large_scene_is_measured_along_its_curved_edges(tmp_path) -> None:
    """In longitude and latitude the edges of a scene of 200 km bend by hundreds of metres."""
    transform = Affine(200, 0, 400_000, 0, -200, 6_900_000)
    commit(
        tmp_path / "o", make_scene("big", crs="EPSG:32633", transform=transform), Detections.empty(), crs="EPSG:32633"
    )
    expected = coverage(tmp_path / "o")["area_km2"].sum()
    table = summarize(tmp_path / "o", by=(), zones=H3Zones(4)).table
    assert np.isclose(np.nansum(table["inspected_km2"].to_numpy()), expected, rtol=1e-6) and expected > 30_000


def test_nothing_found_on_inspected_ground_is_a_row(tmp_path) -> None:
    commit(tmp_path / "o", utm_scene("a"), Detections.empty())
    table = summarize(tmp_path / "o").table.to_pylist()
    assert [row["class"] for row in table] == ["boat", "plane"]
    assert all(row["count"] == 0 and row["per_km2"] == 0 and row["per_km2_high"] > 9 for row in table)


def test_scenes_without_georeference_have_counts_alone(out, tmp_path) -> None:
    scene = make_scene("chip", crs=None, transform=None)
    commit(tmp_path / "o", scene, random_detections(0, 20))
    row = summarize(tmp_path / "o", by=()).table.to_pylist()[0]
    assert row["count"] == 20 and row["inspected_km2"] is None and row["per_km2"] is None
    with pytest.raises(ConfigError, match="zones need longitudes"):
        summarize(tmp_path / "o", zones=H3Zones(7))
    both = summarize([out, tmp_path / "o"], by=())
    assert both.table["count"][0].as_py() == len(rows(out)) and "1 of 4 scenes have no georeference" in both.notes[0]


def test_scenes_of_the_moon_have_densities(tmp_path) -> None:
    moon = "+proj=eqc +R=1737400 +units=m +no_defs +type=crs"
    scene = make_scene("crater", crs=moon, transform=Affine(10, 0, 5000, 0, -10, 9000))
    commit(tmp_path / "o", scene, random_detections(0, 50), crs=moon)
    row = summarize(tmp_path / "o", by=()).table.to_pylist()[0]
    assert row["count"] == 50 and np.isclose(row["inspected_km2"], 10 * 8, rtol=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "colour"], "by 'colour' is not known"),
        (["--h3", "16"], "h3 resolution 16"),
        (["--h3", "15"], "the ground has about .* cells; take a coarser one"),
        (["--h3", "7", "--areas", "x.gpkg"], "give one"),
        (["--areas", "x.gpkg"], "areas x.gpkg: cannot be read"),
        (["--area-column", "name"], "--area-column is of --areas"),
        (["--confidence", "95"], "confidence 95.0: the rate of an interval is between 0 and 1"),
        (["--change", "2024-05-01"], "give two days"),
        (["--change", "2024-05-01,2030-01-01"], "no scene is of that day; the outputs have 2024-05-01, 2024-05-02"),
        (["--objects", "x.gpkg"], "give --change"),
        (["-o", "x.gpkg"], "without --h3 or --areas a summary is no map"),
        (["-o", "x.json", "--h3", "7"], "a summary has no images"),
        (["--classes", "ship"], "class 'ship' is not in the outputs"),
    ],
)
def test_what_cannot_be_done_is_refused(arguments, message, out, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments == ["--h3", "15"]:
        monkeypatch.setattr("geosod.summarizing.zones.MAX_CELLS", 1000)
        with pytest.raises(ConfigError, match=message):
            summarize(out, zones=H3Zones(15))
        return
    result = cli(out, *arguments, "-q")
    assert result.exit_code == 2
    assert re.search(message, result.output), result.output
    assert not any(tmp_path.iterdir())


def cli(*args: object) -> Any:
    """The command line, in this process."""
    return CliRunner().invoke(app, ["summarize", *map(str, args)])


def test_summaries_are_written_as_tables_and_maps(out, tmp_path) -> None:
    done = cli(out, "--h3", "10", "--by", "class", "-o", tmp_path / "x.gpkg", "--json")
    listed = json.loads(done.stdout)["rows"]
    frame = pyogrio.read_dataframe(tmp_path / "x.gpkg")
    assert done.exit_code == 0 and frame["count"].tolist() == [row["count"] for row in listed]
    for cell, shape in zip(frame["h3"], frame.geometry, strict=True):
        wanted = shapely.Polygon(np.array(h3.cell_to_boundary(cell))[:, ::-1])
        assert shapely.equals_exact(shapely.normalize(shape), shapely.normalize(wanted), 1e-9)
    assert cli(out, "--by", "class,date", "-o", tmp_path / "x.csv").exit_code == 0
    assert pd.read_csv(tmp_path / "x.csv")["count"].sum() == len(rows(out))
    again = cli(out, "-o", tmp_path / "x.csv")
    assert again.exit_code == 2 and "exists; use --overwrite" in again.stderr
    assert "boat" in cli(out).stdout
