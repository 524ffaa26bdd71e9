"""Pages of `geosod view`, read back as text; how browsers show them is in test_browser.py."""

from __future__ import annotations

import datetime as dt
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyproj import Geod, Transformer
from typer.testing import CliRunner

import geosod
from geosod.cli.main import app
from geosod.deduplication.sources import SceneSource
from geosod.errors import ConfigError, OutputError, UsageError
from geosod.map_page.backdrop import drawn
from geosod.map_page.plane import Plane, SceneFrame, choose_plane, lonlat, side_by_side
from geosod.map_page.run import default_out, view
from tests.deduplication.outputs import ORIGIN, commit, lattice, seen, utm_scene
from tests.map_page.pages import columns_of, corners_of, elements_of, policy_of, readable, values_of
from tests.output.samples import ACROSS, CRS84, make_scene, random_detections
from tests.rasters import noise, write_tif

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return readable(tmp_path_factory.mktemp("outputs"))


def rows(out: Path) -> geopandas.GeoDataFrame:
    return geopandas.read_parquet(next(out.glob("*/*/*.parquet"), None) or next(out.glob("pixel/*.parquet")))


def decoded(webp: np.ndarray) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(webp.tobytes())).convert("RGBA"))


def test_boxes_lie_where_pyproj_puts_them(out) -> None:
    """Side lengths and distances between boxes on the map are those on the ellipsoid."""
    page, frame = view(out), rows(out)
    corners, geod = corners_of(page), Geod(ellps="WGS84")
    ring = shapely.get_coordinates(frame.geometry).reshape(-1, 5, 2)[:, :4]
    for a, b in ((0, 1), (1, 2), (0, 2)):
        expected = geod.inv(*ring[:, a].T, *ring[:, b].T)[2]
        found = np.linalg.norm(corners[:, a] - corners[:, b], axis=1)
        assert np.allclose(found, expected, atol=2e-3), (a, b)
    centres = corners.mean(axis=1)
    expected = geod.inv(*np.tile(ring[0].mean(axis=0), (len(ring), 1)).T, *ring.mean(axis=1).T)[2]
    assert np.allclose(np.linalg.norm(centres - centres[0], axis=1), expected, atol=0.02)


def test_attributes_are_those_of_the_output(out) -> None:
    page, frame = view(out), rows(out)
    values, columns = values_of(page), columns_of(page)
    names = [one["name"] for one in values["classes"]]
    assert [names[k] for k in columns["label"]] == frame["label"].tolist()
    for name in ("score", "width_m", "height_m", "truncated", "n_merged", "level"):
        assert (columns[name] == frame[name].to_numpy().astype(columns[name].dtype)).all(), name
    hashes = [bytes(part).hex() for part in columns["id"].reshape(-1, 8)]
    ids = [values["ids"].get(str(k), f"scene-{text}") for k, text in enumerate(hashes)]
    assert ids == frame["detection_id"].tolist()
    assert np.allclose(columns["lonlat"].reshape(-1, 2) / 1e7, frame[["lon", "lat"]], atol=1e-7)
    pixels = columns["pixels"].reshape(4, -1).T / 10
    pixels[:, 2:] += pixels[:, :2]
    assert np.allclose(pixels, frame[["px_xmin", "px_ymin", "px_xmax", "px_ymax"]], atol=0.11)


def test_a_page_asks_for_nothing_from_elsewhere(out) -> None:
    html = view(out).html
    own = re.sub(r"<script>\(function webpackUniversal.*?</script>", "", html, flags=re.DOTALL)
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?\s*(https?:)?//""", own)
    policy = policy_of(view(out))
    assert "default-src 'none'" in policy and "connect-src" not in policy and "http" not in policy
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
    assert "sourceMappingURL" not in html


def test_the_same_output_gives_the_same_page(out, tmp_path) -> None:
    assert view(out, out=tmp_path / "a.html").html == view(out, out=tmp_path / "b.html").html


def test_names_cannot_become_markup(tmp_path) -> None:
    scene = replace(make_scene(), ref=replace(make_scene().ref, id="x' onload='alert(3)' <b>"))
    commit(tmp_path / "o", scene, random_detections(0, 20), classes=(EVIL, "plane\u2028"))
    page = view(tmp_path / "o", title=EVIL)
    found = elements_of(page)
    assert found.count("script") == 3 + len(values_of(page)["columns"]) and "img" not in found
    assert found == elements_of(view(tmp_path / "o", title="plain"))
    assert values_of(page)["classes"][0]["name"] == EVIL and EVIL not in page.html


def test_the_best_are_kept_and_the_rest_is_told(out) -> None:
    page, frame = view(out, max_boxes=20), rows(out)
    kept = columns_of(page)["score"]
    assert sorted(kept.tolist()) == sorted(frame["score"].nlargest(20).tolist())
    assert page.boxes == 20 and page.total == 50
    (note,) = page.notes
    assert note.startswith("30 of 50 boxes are left out") and f"{kept.min():.3f}"[:4] in note


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0.25, 0.5, 0.5, 0.75, 1.0]), max_size=8), min_size=1, max_size=3),
    st.integers(1, 12),
)
def test_ties_are_cut_where_the_room_ends(tmp_path_factory, scores, limit) -> None:
    out = tmp_path_factory.mktemp("ties") / "out"
    for k, own in enumerate(scores):
        found = random_detections(k, len(own))
        commit(out, utm_scene(f"s{k}"), replace(found, scores=np.array(own, np.float32)))
    page = view(out, max_boxes=limit, pictures=False)
    every = sorted((value for own in scores for value in own), reverse=True)
    assert sorted(columns_of(page)["score"].tolist(), reverse=True) == every[:limit]
    assert page.total == len(every) and page.boxes == min(limit, len(every))


def test_a_threshold_and_classes_choose(out) -> None:
    frame = rows(out)
    page = view(out, threshold=0.5, classes=["plane"])
    assert page.total == ((frame["score"] >= np.float32(0.5)) & (frame["label"] == "plane")).sum()


def test_scenes_have_their_ground_and_dates(out) -> None:
    (scene,) = values_of(view(out))["scenes"]
    assert scene["date"] == dt.datetime(2024, 5, 1, 10, 30, tzinfo=dt.UTC).timestamp() * 1000
    xy = np.array(scene["footprint"][0][0]).reshape(-1, 2) * values_of(view(out))["step"]
    assert shapely.Polygon(xy).area == pytest.approx(500 * 400, rel=2e-3)


def test_a_picture_is_that_of_the_scene(tmp_path) -> None:
    """Its colours, at its place, and invalid pixels are transparent."""
    image = np.full((3, 800, 1000), 60, np.uint8)
    image[:, :, 500:] = np.array([220, 30, 90], np.uint8)[:, None, None]
    image[:, :100] = 0
    place = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 500_000, 0, -0.5, 5_200_000)}
    out = readable(tmp_path, **place)
    write_tif(tmp_path / "scene.tif", image, nodata=0, **place)
    page = view(out)
    columns, step = columns_of(page), values_of(page)["step"]
    shown = decoded(columns["picture-0"])
    assert shown.shape == (800, 1000, 4) and (shown[20:80, :, 3] == 0).all() and (shown[120:, :, 3] == 255).all()
    assert np.abs(shown[400, 750, :3].astype(int) - (220, 30, 90)).max() < 8
    mesh = columns["positions-0"].reshape(-1, 2) * step
    texture = columns["texture-0"].reshape(-1, 2)
    frame = rows(out)
    # A box lies in the picture where it lies in the file.
    centre = corners_of(page).mean(axis=1)
    pixel = np.stack([frame["px_xmin"] + frame["px_xmax"], frame["px_ymin"] + frame["px_ymax"]], axis=1) / 2
    fit, *_ = np.linalg.lstsq(np.column_stack([texture, np.ones(len(texture))]), mesh, rcond=None)
    expected = np.column_stack([pixel / (1000, 800), np.ones(len(pixel))]) @ fit
    assert np.abs(expected - centre).max() < 0.05


@pytest.mark.parametrize("what", ["gone", "changed", "broken"])
def test_a_scene_that_cannot_be_read_is_a_footprint(what, tmp_path) -> None:
    out = readable(tmp_path)
    if what == "gone":
        (tmp_path / "scene.tif").unlink()
    elif what == "changed":
        write_tif(tmp_path / "scene.tif", noise(3, 64, 64))
    else:
        (tmp_path / "scene.tif").write_bytes(b"II*\0 broken")
    page = view(out)
    (scene,) = values_of(page)["scenes"]
    assert scene["no_picture"] and scene["footprint"] and page.boxes == 50 and page.exit_code == 0
    assert page.notes[0].startswith("1 of 1 scenes are shown as a footprint without a picture, such as scene: ")


def test_pictures_of_16_bits_are_stretched(tmp_path) -> None:
    place = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 500_000, 0, -0.5, 5_200_000)}
    out = readable(tmp_path, **place)
    ramp = np.broadcast_to(np.linspace(1000, 3000, 1000).astype(np.uint16), (3, 800, 1000)).copy()
    write_tif(tmp_path / "scene.tif", ramp, **place)
    shown = decoded(columns_of(view(out))["picture-0"])
    assert shown[400, 20, 0] < 25 and shown[400, -20, 0] > 230


def test_scenes_without_georeference_lie_beside_each_other(tmp_path) -> None:
    for name in ("a", "b", "c"):
        commit(tmp_path / "o", make_scene(name, crs=None, transform=None), random_detections(1, 30))
    page = view(tmp_path / "o")
    values, corners = values_of(page), corners_of(page)
    assert values["unit"] == "px" and page.boxes == 90
    boxes = [shapely.box(*scene["bounds"]) for scene in values["scenes"]]
    assert all(not a.intersects(b) for k, a in enumerate(boxes) for b in boxes[:k])
    for scene, outline in zip(values["scenes"], boxes, strict=True):
        own = corners[scene["first"] : scene["first"] + scene["count"]]
        assert shapely.contains_xy(outline.buffer(0.1), *own.reshape(-1, 2).T).all()


def test_what_has_no_georeference_is_told_beside_what_has(tmp_path) -> None:
    commit(tmp_path / "o", make_scene("a"), random_detections(0, 10))
    commit(tmp_path / "o", make_scene("b", crs=None, transform=None), random_detections(1, 30))
    page = view(tmp_path / "o")
    assert page.scenes == 1 and "1 of 2 scenes have no georeference, such as 'b'" in page.notes[0]


def test_boxes_over_the_antimeridian_are_whole(tmp_path) -> None:
    scene = make_scene("pacific", crs="EPSG:4326", transform=ACROSS)
    found = random_detections(0, 200)
    table = commit(tmp_path / "o", scene, found)
    page = view(tmp_path / "o")
    sides = np.linalg.norm(np.diff(corners_of(page), axis=1), axis=2)
    expected = np.sort(np.stack([table["width_m"], table["height_m"]], axis=1), axis=1)
    assert np.allclose(np.sort(sides[:, :2], axis=1), expected, rtol=2e-3, atol=2e-3)
    west, _, east, _ = values_of(page)["bounds"]
    assert east - west < 3000


def test_scenes_of_all_continents_share_a_mercator_map(tmp_path) -> None:
    for name, zone, east in (("fiji", 60, 830_000), ("paris", 31, 450_000), ("peru", 18, 300_000)):
        place = Affine(0.5, 0, east, 0, -0.5, 5_000_000)
        commit(tmp_path / "o", make_scene(name, crs=f"EPSG:326{zone}", transform=place), random_detections(0, 20))
    page = view(tmp_path / "o")
    values = values_of(page)
    assert values["mercator"] == 6378137.0
    longest = np.ptp(corners_of(page), axis=1).max()
    assert longest < 200  # no box is torn


def test_boxes_at_the_edge_of_a_mercator_map_are_whole(tmp_path) -> None:
    """Two scenes about 0° and one about 180°: the map ends in the middle of the third."""
    for name, north in (("a", 40), ("b", -40)):
        place = Affine(0.00002, 0, -0.01, 0, -0.00002, north)
        commit(tmp_path / "o", make_scene(name, crs="EPSG:4326", transform=place), random_detections(0, 5))
    write_tif(tmp_path / "pacific.tif", noise(3, 800, 1000), crs="EPSG:4326", transform=ACROSS)
    pacific = make_scene("pacific", crs="EPSG:4326", transform=ACROSS, uri=str(tmp_path / "pacific.tif"))
    commit(tmp_path / "o", pacific, random_detections(1, 200))
    page = view(tmp_path / "o")
    values = values_of(page)
    assert values["mercator"] is not None and np.ptp(corners_of(page), axis=1).max() < 200
    (west, _, east, _) = values["scenes"][2]["bounds"]
    assert values["scenes"][2]["id"] == "pacific" and 2000 < east - west < 3000
    mesh = columns_of(page)["positions-2"].reshape(-1, 2) * values["step"]
    assert mesh[:, 0].min() >= west - 1 and mesh[:, 0].max() <= east + 1
    assert np.ptp(corners_of(page)[-200:, :, 0]) > 1000  # boxes lie on both sides of the edge


@pytest.mark.parametrize("crs", ["EPSG:3031", "+proj=stere +lat_0=90 +a=1737400 +b=1737400 +type=crs"])
def test_poles_and_the_moon(crs, tmp_path) -> None:
    place = Affine(1, 0, -500, 0, -1, 400)  # the pole is in the middle
    own = CRS84 if crs.startswith("EPSG") else "+proj=longlat +a=1737400 +b=1737400 +type=crs"
    table = commit(tmp_path / "o", make_scene("pole", crs=crs, transform=place), random_detections(0, 40), crs=own)
    page = view(tmp_path / "o")
    assert page.boxes == len(table) and page.exit_code == 0
    area = shapely.area(shapely.polygons(corners_of(page)))
    assert np.allclose(np.sort(area), np.sort(table["area_m2"].to_numpy()), rtol=0.2)


@given(
    st.lists(st.tuples(st.floats(-180, 180), st.floats(-90, 90)), min_size=2, max_size=6),
    st.floats(1e-5, 1e-3),
)
@settings(max_examples=60, deadline=None)
def test_a_map_is_true_where_its_scenes_are(places, step) -> None:
    """Short lines have their length on the ellipsoid; on Mercator maps after division by the scale."""
    points = np.array(places)
    try:
        plane = choose_plane(points, CRS84)
    except geosod.GeosodError:
        return
    here = points[np.abs(points[:, 1]) < 80]
    there = here + np.array([0, step])
    a, b = plane.of(here, CRS84), plane.of(there, CRS84)
    expected = Geod(ellps="WGS84").inv(*here.T, *there.T)[2]
    found = np.linalg.norm(b - a, axis=1)
    if plane.mercator is not None:
        found /= np.cosh(a[:, 1] / plane.mercator)
        assert np.allclose(found, expected, rtol=0.01)
    elif np.degrees(np.abs(points[:, 1])).max() < 84:
        assert np.allclose(found, expected, rtol=0.04)


def test_longitudes_of_projected_scenes() -> None:
    xy = np.array([[500_000.0, 5_200_000.0], [600_000.0, 5_300_000.0]])
    expected = Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True).transform(*xy.T)
    assert np.allclose(lonlat(xy, "EPSG:32633").T, expected, atol=1e-9)


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), min_size=1, max_size=20))
def test_no_scene_covers_another(sizes) -> None:
    places = side_by_side(np.array(sizes, float))
    boxes = [shapely.box(x, y - h, x + w, y) for (x, y), (w, h) in zip(places, sizes, strict=True)]
    assert all(not a.intersects(b) for k, a in enumerate(boxes) for b in boxes[:k])


def test_a_page_appears_whole_and_replaces_nothing(out, tmp_path) -> None:
    target = tmp_path / "new" / "map.html"
    page = view(out, out=target)
    assert target.read_text("utf-8") == page.html and page.out == str(target)
    assert [path.name for path in target.parent.iterdir()] == ["map.html"]
    with pytest.raises(OutputError, match=r"map\.html: exists; use --overwrite"):
        view(out, out=target)
    assert view(out, out=target, overwrite=True, threshold=0.9).html == target.read_text("utf-8")


def test_links_lead_to_the_files(out, tmp_path) -> None:
    target = tmp_path / "map.html"
    (scene,) = values_of(view(out, out=target))["scenes"]
    assert scene["href"].startswith("./") and (target.parent / unquote(scene["href"])).resolve().is_file()
    assert values_of(view(out))["scenes"][0]["href"] is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"out": "map.txt"}, "is no name of a page"),
        ({"max_boxes": 0}, "max_boxes 0: give a number from 1"),
        ({"max_boxes": 10**9}, "max_boxes 1000000000"),
        ({"threshold": 2}, "threshold 2 is not a score"),
        ({"classes": "boat"}, "give a list of names"),
        ({"classes": ["car"]}, "class 'car' is not in the outputs; they have boat, plane"),
    ],
)
def test_bad_requests_are_refused(settings, message, out) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        view(out, **settings)


def test_what_is_no_output_is_refused(tmp_path) -> None:
    with pytest.raises(OutputError, match="no such output"):
        view(tmp_path / "nothing")


def test_a_broken_scene_is_left_out(tmp_path) -> None:
    for name in ("a", "b"):
        commit(tmp_path / "o", utm_scene(name), random_detections(0, 10))
    path = next((tmp_path / "o").glob("detections/*/a.parquet"))
    path.write_bytes(path.read_bytes()[:1000] + b"\0" * 200 + path.read_bytes()[1200:])
    page = view(tmp_path / "o")
    assert page.exit_code == 3 and page.scenes == 1 and page.skipped[0].scene_id == "a"
    assert any("left out" in note for note in page.notes)


def test_deduplicated_outputs_and_single_files(tmp_path) -> None:
    objects = lattice(ORIGIN, (10, 10), 20.0)
    for k, name in enumerate(("a", "b")):
        scene = utm_scene(name)
        commit(tmp_path / f"{name}.parquet", scene, seen(scene, objects, scores=np.full(len(objects), 0.5 + k / 4)))
    assert view(tmp_path / "a.parquet").boxes == view(tmp_path / "b.parquet").boxes > 0
    geosod.deduplicate([tmp_path / "a.parquet", tmp_path / "b.parquet"], out=tmp_path / "once")
    frame = geopandas.read_parquet(tmp_path / "once" / "detections")
    assert sorted(columns_of(view(tmp_path / "once"))["n_scenes"].tolist()) == sorted(frame["n_scenes"].tolist())
    with pytest.raises(OutputError, match="scene 'a' is"):
        view([tmp_path / "a.parquet", tmp_path / "a.parquet"])


def test_items_of_others_cannot_break_the_page(tmp_path) -> None:
    """What is not a number is left out, and the source of a picture is never a list of files."""
    out = readable(tmp_path)
    path = out / "items" / "scene.json"
    item = json.loads(path.read_text())
    item["properties"]["geosod:inspected_km2"] = "<b>much</b>"
    path.write_text(json.dumps(item))
    (scene,) = values_of(view(out))["scenes"]
    assert scene["inspected_km2"] is None
    item["geometry"] = {"type": "Point", "coordinates": [1, 2]}
    path.write_text(json.dumps(item))
    with pytest.raises(OutputError, match="no scene can be used; scene 'scene'"):
        view(out)


@pytest.mark.parametrize("source", ["-", "@/etc/hostname", "/nowhere/*.tif", "https://127.0.0.1:9/a.tif"])
def test_sources_that_are_no_file_give_no_picture(source) -> None:
    scene = SceneSource("s", "o", {}, Path(), Path(), Path(), 0, None, 0, None, {"source": source, "options": {}})
    picture, why = drawn(scene, SceneFrame(Plane(None), None, None, np.zeros(2)), 64)
    assert picture is None and why


def test_an_output_without_detections(tmp_path) -> None:
    commit(tmp_path / "o", utm_scene("a"), random_detections(0, 0))
    page = view(tmp_path / "o")
    assert page.boxes == 0 and values_of(page)["scenes"][0]["footprint"]


def test_where_a_page_goes_by_itself(tmp_path, monkeypatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    assert default_out(".") == str(tmp_path / "out.html")
    assert default_out("../x/boats.parquet") == str(tmp_path / "out" / ".." / "x" / "boats.html")
    with pytest.raises(ConfigError, match="give -o"):
        default_out("s3://bucket/out")


def test_the_command_writes_beside_the_output(tmp_path) -> None:
    out = readable(tmp_path)
    done = CliRunner().invoke(app, ["view", str(out), "--threshold", "0.3", "--json"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out.html").exists() and '"exit_code": 0' in done.stdout
    again = CliRunner().invoke(app, ["view", str(out)])
    assert again.exit_code == 2 and "use --overwrite" in again.output


def test_without_the_library_the_extra_is_named(out, monkeypatch) -> None:
    monkeypatch.setattr("geosod.map_page.library.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=re.escape('pip install "geosod[view]"')):
        view(out)
