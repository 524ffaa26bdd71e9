"""Pages of `geosod view` in a real Chromium: what is drawn where, what filters do, and what the page asks for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
from affine import Affine

from benchmarks.browser import chromium, complaints, is_installed, next_frame, open_page, requests
from benchmarks.view import CLASSES, apply_filter, make_output
from geosod.map_page.run import view
from tests.deduplication.outputs import commit, utm_scene
from tests.map_page.pages import readable, values_of
from tests.map_page.test_page import EVIL
from tests.output.samples import ACROSS, make_scene, random_detections

#: The pictures at the end of a zoom.
_NEAR = """
const map = window.geosod.map, view = {...map.view, target: [arguments[0], arguments[1], 0], zoom: arguments[2]};
map.deck.setProps({initialViewState: view});
map.moved(view);
"""
_BOUNDS = """
const ring = geosod.boxes.rings([0]), side = (k) => [0, 1, 2, 3].map((c) => ring[2 * c + k]);
return [Math.min(...side(0)), Math.min(...side(1)), Math.max(...side(0)), Math.max(...side(1))];
"""
_PICK = """
const map = window.geosod.map, found = map.deck.pickObject({x: arguments[0], y: arguments[1], radius: 1});
return found ? window.geosod.boxes.id(map.drawn.indices[found.index]) : null;
"""


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    if not is_installed():
        pytest.skip("Chromium, its driver or selenium is not installed")
    with chromium() as running:
        yield running


def shown(driver: Any, out: Path, **settings: Any) -> Any:
    """Open the page of an output; its values."""
    page = view(out, out=out.parent / "page.html", overwrite=True, **settings)
    open_page(driver, out.parent / "page.html")
    return values_of(page)


def run(driver: Any, script: str, *arguments: Any) -> Any:
    return driver.execute_script(script, *arguments)


def clean(driver: Any) -> None:
    """The page has complained of nothing, and asked for nothing but itself."""
    assert complaints(driver) == []
    assert [url for url in requests(driver) if not url.endswith("/page.html")] == []


def on_screen(driver: Any, xy: np.ndarray) -> np.ndarray:
    """Pixels of the map's element where points of the map lie, by the definition of a zoom."""
    target, zoom, size = run(
        driver,
        "const {view, container: c} = geosod.map; return [view.target, view.zoom, [c.clientWidth, c.clientHeight]]",
    )
    return (xy - np.array(target[:2])) * (1, -1) * 2**zoom + np.array(size) / 2


@pytest.mark.slow
def test_300_000_boxes_lie_where_they_belong(driver, tmp_path) -> None:
    out = make_output(tmp_path, 300_000)
    values = shown(driver, out)
    frame = geopandas.read_parquet(out / "detections")
    assert len(frame) == 300_304
    assert run(driver, "return document.getElementById('count').textContent") == f"{len(frame):,} boxes"
    counts = run(driver, "return [...document.querySelectorAll('#classes b')].map((one) => one.textContent)")
    assert counts == [f"{(frame['label'] == name).sum():,}" for name in CLASSES]
    # Every scene has boxes all over it, so every cell of dots is full.
    dots = run(driver, "return geosod.map.drawn.indices.length")
    assert dots > 5000 and not run(driver, "return geosod.map.drawn.outlines")
    chosen = np.random.default_rng(0).integers(0, len(frame), 10)
    plane = frame.geometry.iloc[chosen].to_crs(values["crs"]).centroid
    for k, x, y in zip(chosen, plane.x, plane.y, strict=True):
        run(driver, _NEAR, x + 3, y + 2, 4.0)
        next_frame(driver)
        assert run(driver, "return geosod.map.drawn.outlines")
        pixel = on_screen(driver, np.array([[x, y]]))[0]
        assert run(driver, _PICK, *pixel) == frame["detection_id"].iloc[k]
    assert values["scenes"][0]["count"] == 75_076
    clean(driver)


def test_filters_leave_what_pandas_leaves(driver, tmp_path) -> None:
    out = make_output(tmp_path, 3_000)
    shown(driver, out)
    frame = geopandas.read_parquet(out / "detections")
    longer = np.maximum(frame["width_m"], frame["height_m"])
    expected = {
        "score": frame["score"] >= np.float32(0.5),
        "size": longer >= 2.2,
        "date": frame["datetime"] >= "2024-05-02",
        "class": frame["label"] != CLASSES[0],
    }
    for name, passes in expected.items():
        run(driver, "document.getElementById('reset').click()")
        apply_filter(driver, name)
        ids = run(driver, "return Array.from(geosod.boxes.shown, (i) => geosod.boxes.id(i))")
        assert sorted(ids) == sorted(frame["detection_id"][passes]), name
        text = run(driver, "return document.getElementById('count').textContent")
        assert text == f"{passes.sum():,} of {len(frame):,} boxes" and 0 < passes.sum() < len(frame)
    apply_filter(driver, "size")
    both = expected["class"] & expected["size"]
    assert run(driver, "return geosod.boxes.shown.length") == both.sum()
    clean(driver)


def test_a_click_shows_the_attributes(driver, tmp_path) -> None:
    from selenium.webdriver import ActionChains

    out = readable(tmp_path, boxes=1, seed=3)
    (row,) = geopandas.read_parquet(out / "detections").to_dict("records")
    values = shown(driver, out)
    left, bottom, right, top = run(driver, _BOUNDS)
    run(driver, _NEAR, (left + right) / 2, (bottom + top) / 2, 3.0)
    next_frame(driver)
    element = driver.find_element("id", "map")
    ActionChains(driver).move_to_element_with_offset(element, 2, 1).click().pause(0.6).perform()
    names = [one.text for one in driver.find_elements("css selector", "#attributes dt")]
    texts = dict(zip(names, [one.text for one in driver.find_elements("css selector", "#attributes dd")], strict=True))
    assert texts["id"] == row["detection_id"] and texts["class"] == row["label"]
    assert texts["score"] == f"{row['score']:.3f}" and texts["date"] == "2024-05-01 10:30:00 UTC"
    assert texts["lon, lat"] == f"{row['lon']:.6f}, {row['lat']:.6f}"
    link = driver.find_element("css selector", "#attributes a").get_attribute("href")
    assert link.endswith("scene.parquet") and values["scenes"][0]["href"] in run(
        driver, "return document.querySelector('#attributes a').getAttribute('href')"
    )
    clean(driver)


def test_the_picture_lies_under_the_boxes(driver, tmp_path) -> None:
    """The colours of the scene are at the places of its corners, and go when the picture is switched off."""
    import io

    from PIL import Image

    out = make_output(tmp_path, 400)
    shown(driver, out)
    for scene in driver.find_elements("css selector", "#shown label"):
        if scene.text in ("Boxes", "Failed ground", "Footprints of scenes"):
            scene.click()
    next_frame(driver)
    box = driver.find_element("id", "map").rect
    picture = np.asarray(Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")).astype(int)
    bounds = run(driver, "return geosod.values.scenes[0].bounds")
    # Red grows downwards and green to the right in these scenes, from 0 to 160.
    for u, v in ((0.25, 0.25), (0.75, 0.25), (0.5, 0.9)):
        at = np.array([bounds[0] + u * (bounds[2] - bounds[0]), bounds[3] - v * (bounds[3] - bounds[1])])
        x, y = on_screen(driver, at[None])[0] + (box["x"], box["y"])
        assert np.abs(picture[round(y), round(x)] - (160 * v, 160 * u, 90)).max() <= 14, (u, v)
    clean(driver)


def test_names_are_text_in_the_browser(driver, tmp_path) -> None:
    scene = replace(make_scene(), ref=replace(make_scene().ref, id="<img src=x onerror='window.hurt=1'>"))
    commit(tmp_path / "o", scene, random_detections(0, 20), classes=(EVIL, "plane"))
    shown(driver, tmp_path / "o", title=EVIL)
    run(driver, "geosod.map.choose(0)")
    assert run(driver, "return document.title") == EVIL
    assert EVIL in run(driver, "return document.getElementById('classes').textContent")
    assert run(driver, "return [document.images.length, window.hurt ?? null]") == [0, None]
    # Scripts and requests that are no part of the page are refused by its policy.
    run(driver, "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hurt=2'}))")
    refused = driver.execute_async_script("fetch('https://example.com').catch(() => 0).then(arguments[0])")
    assert run(driver, "return window.hurt ?? null") is None and refused == 0
    complaints(driver), requests(driver)


@pytest.mark.parametrize("kind", ["pixels", "antimeridian"])
def test_other_maps_show_their_boxes(kind, driver, tmp_path) -> None:
    place = {"crs": None, "transform": None} if kind == "pixels" else {"crs": "EPSG:4326", "transform": ACROSS}
    commit(tmp_path / "o", make_scene("here", **place), random_detections(0, 60))
    values = shown(driver, tmp_path / "o")
    assert values["unit"] == ("px" if kind == "pixels" else "m")
    assert run(driver, "return geosod.map.drawn.indices.length") == 60
    size = run(driver, "return [geosod.map.container.clientWidth, geosod.map.container.clientHeight]")
    xy = np.array(run(driver, "return Array.from(geosod.boxes.centres)")).reshape(-1, 2)
    pixels = on_screen(driver, xy)
    assert (pixels > 0).all() and (pixels < size).all() and np.ptp(pixels[:, 0]) > 0.4 * size[0]
    assert run(driver, "return document.querySelector('#scale').textContent").endswith(
        "px" if kind == "pixels" else "m"
    )
    clean(driver)


def test_a_narrow_window_folds_the_panel(tmp_path) -> None:
    if not is_installed():
        pytest.skip("Chromium, its driver or selenium is not installed")
    with chromium((420, 800)) as narrow:
        shown(narrow, readable(tmp_path))
        inner = narrow.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
        if inner[0] < 640:
            assert not narrow.find_element("id", "controls").is_displayed()
            narrow.find_element("id", "fold").click()
        assert narrow.find_element("id", "controls").is_displayed() and inner[1] <= inner[0]
        clean(narrow)


def test_far_from_the_middle_of_the_map_boxes_are_exact(driver, tmp_path) -> None:
    """Float32 of a map of the world is metres wide: boxes would jump while the map moves."""
    for k, (name, zone, east) in enumerate((("fiji", 60, 830_000), ("peru", 18, 300_000))):
        place = Affine(0.05, 0, east, 0, -0.05, 5_000_000)
        scene = make_scene(name, crs=f"EPSG:326{zone}", transform=place)
        commit(tmp_path / "o", scene, random_detections(k, 1))
    shown(driver, tmp_path / "o")
    corners = np.array(run(driver, "return Array.from(geosod.boxes.corners)")).reshape(-1, 4, 2)
    assert np.abs(corners).max() > 5e6
    for k in range(2):
        low, side = corners[k].min(axis=0), np.ptp(corners[k], axis=0)
        run(driver, _NEAR, *(low + side / 2), 8.0)
        next_frame(driver)
        for place in ((0.15, 0.5), (0.85, 0.5), (0.5, 0.15), (0.5, 0.85)):
            pixel = on_screen(driver, (low + side * place)[None])[0]
            assert run(driver, _PICK, *pixel) == run(driver, "return geosod.boxes.id(arguments[0])", k)
        for place in ((-0.3, 0.5), (1.3, 0.5)):
            assert run(driver, _PICK, *on_screen(driver, (low + side * place)[None])[0]) is None
    clean(driver)


def test_the_wheel_zooms_and_the_page_may_lie_anywhere(driver, tmp_path) -> None:
    """Zooming first has failed in flat views, and so have pages that were moved, or have unusual names."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    out = readable(tmp_path)
    view(out, out=tmp_path / "page.html")
    moved = tmp_path / "a b#c %20 ü"
    moved.mkdir()
    (tmp_path / "page.html").rename(moved / "page.html")
    open_page(driver, moved / "page.html")
    before = run(driver, "return geosod.map.view.zoom")
    origin = ScrollOrigin.from_element(driver.find_element("id", "map"))
    ActionChains(driver).scroll_from_origin(origin, 0, -400).pause(0.3).perform()
    assert run(driver, "return geosod.map.view.zoom") > before + 0.2
    assert run(driver, "return geosod.map.drawn.indices.length") > 0
    clean(driver)


def test_names_that_have_broken_other_maps(driver, tmp_path) -> None:
    names = ("Côte d'Ivoire", 'a "b"', "ayy`lmao", "C:\\path\\20190221", "${1+1}", "名前")
    commit(tmp_path / "o", make_scene(), random_detections(0, 20), classes=names)
    shown(driver, tmp_path / "o", title=names[3])
    assert run(driver, "return document.title") == names[3]
    texts = run(driver, "return [...document.querySelectorAll('#classes span')].map((one) => one.textContent)")
    assert texts == list(names)
    clean(driver)


def test_without_webgl_the_page_says_so(driver, tmp_path) -> None:
    out = readable(tmp_path)
    view(out, out=tmp_path / "page.html")
    script = "HTMLCanvasElement.prototype.getContext = () => null"
    added = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
    try:
        driver.get((tmp_path / "page.html").as_uri())
        driver.implicitly_wait(5)
        text = driver.find_element("id", "busy").text
    finally:
        driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    assert text == (
        "The map cannot be shown: WebGL 2 is switched off. It needs WebGL 2 and a browser of 2023 or later."
    )
    assert len(complaints(driver)) == 1


def test_an_output_without_detections_is_shown(driver, tmp_path) -> None:
    commit(tmp_path / "o", utm_scene("a"), random_detections(0, 0))
    shown(driver, tmp_path / "o")
    assert run(driver, "return document.getElementById('count').textContent") == "0 boxes"
    clean(driver)
