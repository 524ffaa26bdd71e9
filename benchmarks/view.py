"""The page of `geosod view` in Chromium with WebGL in software, the slowest that a reader of the page may have.

A page has four scenes with pictures, two classes and two dates. A filter's result is the time until the page shows the
number of boxes that pass; the next frame is the time from then until the new picture is complete.
"""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine

from benchmarks.browser import chromium, is_installed, next_frame, open_page
from benchmarks.options import Options, UnavailableError, say
from benchmarks.table import Row, Table
from benchmarks.timing import median_of
from geosod.detections import Detections
from geosod.map_page.run import view
from geosod.output.commit import commit_scene, open_output
from geosod.output.coverage import coverage_table
from geosod.output.geoparquet import file_metadata
from geosod.output.stac_item import scene_item
from geosod.output.table import detection_table
from geosod.results import FAILED, INSPECTED, Coverage, Execution, Provenance
from geosod.scene import Scene, SceneRef
from geosod.scenes.open import open_scene

CLASSES = ("boat", "plane")
PROVENANCE = Provenance("none", "", "", "", CLASSES, Execution("cpu", "eager", "fp32", 1, 1))
FIRST_DAY = dt.datetime(2024, 5, 1, 10, 30, tzinfo=dt.UTC)
SCENES, SPACING, PIXEL = 4, 8, 0.5
#: What is filtered: name → script that sets the controls of the page, as a reader would.
FILTERS = {
    "score": "document.getElementById('score').value = '0.5'",
    "size": "document.getElementById('size-low').value = '2.2'",
    "date": "document.getElementById('date-low').value = '2024-05-02'",
    "class": "geosod.panel.rows[0].box.click()",
}
_FILTER = """
const start = performance.now();
SET;
document.getElementById('score').dispatchEvent(new Event('input'));
return performance.now() - start;
"""


def make_output(folder: Path, boxes: int) -> Path:
    """An output with about `boxes` detections in four scenes side by side, whose files are beside it."""
    rng, across = np.random.default_rng(0), round(np.sqrt(boxes / SCENES))
    side, out = across * SPACING, folder / "out"
    for k in range(SCENES):
        scene = _write_scene(folder / f"scene{k}.tif", side, k)
        centres = np.stack(np.meshgrid(*[(np.arange(across) + 0.5) * SPACING] * 2), axis=-1).reshape(-1, 2)
        half = rng.uniform(1.5, 2.5, centres.shape)
        found = Detections(
            boxes=np.hstack([centres - half, centres + half]),
            scores=rng.uniform(0.2, 1.0, len(centres)).round(2),  # some are equal to the threshold of a filter
            labels=rng.integers(0, 2, len(centres)),
        )
        _commit(out, scene, found)
    return out


def _write_scene(path: Path, side: int, k: int) -> Scene:
    rows, columns = np.mgrid[:side, :side]
    image = np.stack([rows * 160 // side, columns * 160 // side, np.full((side, side), 90 + 20 * k)]).astype(np.uint8)
    corner = (500_000 + k % 2 * side * PIXEL, 5_300_000 - k // 2 * side * PIXEL)
    with rasterio.open(
        path, "w", driver="GTiff", width=side, height=side, count=3, dtype="uint8", crs="EPSG:32633", tiled=True,
        transform=Affine(PIXEL, 0, corner[0], 0, -PIXEL, corner[1]), compress="deflate", photometric="RGB",
    ) as dataset:  # fmt: skip
        dataset.write(image)
    return open_scene(SceneRef(str(path), path.stem, FIRST_DAY + dt.timedelta(days=k % 2)))


def _commit(out: Path, scene: Scene, found: Detections) -> None:
    folder = open_output(out)
    coverage = Coverage.of_window(scene.window, 32, INSPECTED)
    coverage.codes[: len(coverage.codes) // 8, : len(coverage.codes) // 8] = FAILED
    item = scene_item(
        scene, PROVENANCE, hrefs=folder.files(scene).hrefs(), detections=len(found), status="done", failures=0,
        inspected_km2=None, crs="OGC:CRS84", processed=FIRST_DAY,
    )  # fmt: skip
    commit_scene(
        folder, scene, detections=detection_table(scene, found, PROVENANCE, crs="OGC:CRS84"),
        coverage=coverage_table(scene, coverage, crs="OGC:CRS84"), item=item, crs="OGC:CRS84",
        metadata=file_metadata(scene, PROVENANCE),
    )  # fmt: skip


def apply_filter(driver: Any, name: str) -> float:
    """Milliseconds until the page shows the number of boxes that pass one of `FILTERS`."""
    return float(driver.execute_script(_FILTER.replace("SET", FILTERS[name])))


def run(options: Options) -> list[Table]:
    if not is_installed():
        raise UnavailableError("Chromium, its driver or selenium is not installed")
    rows = [_measured(boxes, options) for boxes in options.pick((30_000, 300_000, 1_000_000), (2_000,))]
    return [Table.of("view", "A page in Chromium with WebGL in software, 1280 x 800 pixels", rows)]


def _measured(boxes: int, options: Options) -> Row:
    folder = options.folder / str(boxes)
    folder.mkdir()
    out = make_output(folder, boxes)
    start = time.perf_counter()
    page = view(out, out=folder / "page.html", max_boxes=2_000_000)
    made = time.perf_counter() - start
    say(f"{page.boxes:,} boxes")
    rounds = [_in_browser(folder / "page.html") for _ in range(options.rounds)]
    row: dict[str, Any] = {"boxes": page.boxes, "made in s": made, "MB": len(page.html) / 1e6}
    return row | median_of(rounds)


def _in_browser(page: Path) -> dict[str, float]:
    """Times in a new browser."""
    found: dict[str, float] = {}
    with chromium() as driver:
        start = time.perf_counter()
        open_page(driver, page, seconds=120)
        found["opened in s"] = time.perf_counter() - start
        results, frames = [], []
        for name in FILTERS:
            driver.execute_script("document.getElementById('reset').click()")
            next_frame(driver)
            results.append(apply_filter(driver, name))
            frames.append(next_frame(driver))
        found |= {"slowest filter ms": max(results), "slowest next frame ms": max(frames)}
        driver.execute_script("document.getElementById('reset').click()")
        next_frame(driver)
        found["pan ms"] = _moved(driver, 0.0)
        found["pan near ms"] = _moved(driver, 5.0)
    return found


def _moved(driver: Any, closer: float) -> float:
    """Milliseconds of a step to the side with the picture that it takes, `closer` zoom steps nearer than all scenes."""
    driver.execute_script(
        """
        const map = window.geosod.map, view = map.view;
        map.deck.setProps({initialViewState: {...view, zoom: view.zoom + arguments[0]}});
        map.moved({...view, zoom: view.zoom + arguments[0]});
        """,
        closer,
    )
    next_frame(driver)
    script = """
        const start = performance.now(), map = window.geosod.map, [x, y] = map.view.target;
        const view = {...map.view, target: [x + 20 / 2 ** map.view.zoom, y, 0]};
        map.deck.setProps({initialViewState: view});
        map.moved(view);
        return performance.now() - start;
    """
    return float(np.median([driver.execute_script(script) + next_frame(driver) for _ in range(5)]))
