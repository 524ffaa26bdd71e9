"""Change between dates, compared with objects whose fate is known."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geosod.errors import ConfigError, OutputError
from geosod.scene import Scene
from geosod.summarizing.change import KINDS, changes
from geosod.summarizing.zones import H3Zones
from tests.deduplication.outputs import DAY, ORIGIN, commit, lattice, seen, utm_scene

LATER = DAY + dt.timedelta(days=9)
DATES = ("2024-05-01", "2024-05-10")
#: Objects 20 m apart on 500 m x 400 m, none at the edge of a scene.
OBJECTS = lattice((ORIGIN[0] + 30, ORIGIN[1] - 30), (40, 17), 20.0)


def visible(scene: Scene) -> np.ndarray:
    """Which of `OBJECTS` a scene shows, by the true place of their centres."""
    frame = shapely.Polygon([scene.transform @ corner for corner in ((0, 0), (1000, 0), (1000, 800), (0, 800))])
    outline = geopandas.GeoSeries([frame], crs=scene.crs).to_crs("EPSG:32631")[0]
    return shapely.contains_xy(outline, OBJECTS)


def build(
    out: Path, before: np.ndarray, after: np.ndarray, *, crs: str = "OGC:CRS84", labels: np.ndarray | None = None
) -> dict[str, int]:
    """Three overlapping scenes of two dates that show some of the objects; the number of objects of each kind."""
    rng = np.random.default_rng(0)
    scenes = [
        (utm_scene("a", 31, when=DAY), before),
        (utm_scene("b", 32, shift=(120.0, 0.0), when=DAY), before),
        (utm_scene("c", 31, shift=(200.0, 0.0), when=LATER), after),
    ]
    for scene, there in scenes:
        own = None if labels is None else labels[there]
        found = seen(scene, OBJECTS[there], scores=rng.uniform(0.4, 1, there.sum()), labels=own)
        commit(out, scene, found[np.flatnonzero(~found.truncated)], crs=crs)
    early, late = visible(scenes[0][0]) | visible(scenes[1][0]), visible(scenes[2][0])
    seen_before, seen_after = before & early, after & late
    return {
        "same": int((seen_before & seen_after).sum()),
        "new": int((seen_after & ~before & early).sum()),
        "gone": int((seen_before & ~after & late).sum()),
        "unseen_before": int((seen_after & ~early).sum()),
        "unseen_after": int((seen_before & ~late).sum()),
    }


def at_edges() -> np.ndarray:
    """Objects near the edge of some scene, of which only a part may be visible."""
    near = np.zeros(len(OBJECTS), np.bool_)
    for zone, shift in ((31, 0.0), (32, 120.0), (31, 200.0)):
        scene = utm_scene("x", zone, shift=(shift, 0.0))
        frame = shapely.Polygon([scene.transform @ corner for corner in ((0, 0), (1000, 0), (1000, 800), (0, 800))])
        outline = geopandas.GeoSeries([frame], crs=scene.crs).to_crs("EPSG:32631")[0]
        near |= shapely.distance(outline.boundary, shapely.points(OBJECTS)) < 12
    return near


INNER = ~at_edges()


def totals(result) -> dict[str, int]:
    return {kind: sum(result.table[kind].to_pylist()) for kind in KINDS}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=hnp.arrays(np.bool_, len(OBJECTS)),
    after=hnp.arrays(np.bool_, len(OBJECTS)),
    crs=st.sampled_from(["OGC:CRS84", "EPSG:32631"]),
)
def test_every_object_has_the_change_that_it_had(before, after, crs, tmp_path_factory) -> None:
    out = tmp_path_factory.mktemp("o")
    expected = build(out, before & INNER, after & INNER, crs=crs)
    assert totals(changes(out, dates=DATES)) == expected


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("outputs") / "out"
    labels = rng.integers(0, 2, len(OBJECTS))
    build(folder, (rng.random(len(OBJECTS)) < 0.7) & INNER, (rng.random(len(OBJECTS)) < 0.7) & INNER, labels=labels)
    return folder


def test_objects_are_written_with_their_change(out, tmp_path) -> None:
    result = changes(out, dates=DATES, objects=tmp_path / "x.gpkg")
    frame = pyogrio.read_dataframe(tmp_path / "x.gpkg")
    assert frame["change"].value_counts().to_dict() == {k: n for k, n in totals(result).items() if n}
    assert frame["detection_id"].is_unique and (tmp_path / "x.qml").exists()
    table = result.table.to_pandas().set_index("class")
    assert all(
        (frame[frame["label"] == name]["change"] == "new").sum() == table.loc[name, "new"] for name in table.index
    )
    shared = geopandas.read_parquet(next(out.glob("coverage/c*"))).union_all()
    early = [geopandas.read_parquet(out / "coverage" / f"{name}.parquet").union_all() for name in "ab"]
    both = geopandas.GeoSeries([shared & (early[0] | early[1])], crs="OGC:CRS84").to_crs("EPSG:6933").area[0] / 1e6
    assert np.allclose(table["inspected_km2"], both, rtol=1e-5)
    with pytest.raises(OutputError, match="exists"):
        changes(out, dates=DATES, objects=tmp_path / "x.gpkg")
    changes(out, dates=DATES, objects=tmp_path / "y.geojson", threshold=0.9)
    assert len(pyogrio.read_dataframe(tmp_path / "y.geojson")) < len(frame)


def test_cells_add_up(out) -> None:
    whole, cells = changes(out, dates=DATES), changes(out, dates=DATES, zones=H3Zones(10))
    assert totals(whole) == totals(cells) and len(cells.table) > len(whole.table)
    halves = cells.table["inspected_km2"].to_numpy().sum() / 2  # two classes
    assert np.isclose(halves, whole.table["inspected_km2"][0].as_py(), rtol=1e-9)


def test_a_score_that_falls_below_the_threshold_is_no_change(tmp_path) -> None:
    for name, when, score in (("a", DAY, 0.6), ("c", LATER, 0.4)):
        scene = utm_scene(name, when=when)
        commit(tmp_path / "o", scene, seen(scene, OBJECTS[:10], scores=np.full(10, score)))
    assert totals(changes(tmp_path / "o", dates=DATES, threshold=0.5)) == dict.fromkeys(KINDS, 0) | {"same": 10}


def test_the_other_order_swaps_new_and_gone(out) -> None:
    forth, back = totals(changes(out, dates=DATES)), totals(changes(out, dates=DATES[::-1]))
    assert forth["new"] == back["gone"] and forth["gone"] == back["new"] and forth["same"] == back["same"]
    assert forth["unseen_before"] == back["unseen_after"] and forth["new"] > 0 < forth["gone"]


def test_what_cannot_be_compared_is_refused(out, tmp_path) -> None:
    with pytest.raises(ConfigError, match="no scene is of that day"):
        changes(out, dates=("2024-05-01", "2024-06-01"))
    with pytest.raises(ConfigError, match="have no common pixels"):
        changes(out, dates=DATES, objects=tmp_path / "x.json")
    with pytest.raises(ConfigError, match="merge threshold 2"):
        changes(out, dates=DATES, merge_threshold=2.0)
