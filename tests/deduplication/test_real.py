"""Real objects, and those of the demo, in two overlapping scenes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.windows import Window

import geosod
from geosod import deduplicate
from geosod.demo.scene import write_scene
from geosod.detections import Detections
from tests.deduplication.outputs import commit, rows_of
from tests.output.samples import CRS84, make_scene

#: Where the second image of the refinery begins, in pixels of the first; found by trying shifts on the labels.
SHIFT = (255, -768)


def labels_of(folder: Path, image: str) -> np.ndarray:
    for subset in ("train", "val"):
        labels = json.loads((folder / f"{subset}.json").read_text())
        for entry in labels["images"]:
            if entry["file_name"].startswith(image):
                boxes = [a["bbox"] for a in labels["annotations"] if a["image_id"] == entry["id"]]
                x, y, w, h = np.array(boxes, float).T
                return np.stack([x, y, x + w, y + h], axis=1)
    pytest.skip(f"image {image} is missing")


def overlaps(a: np.ndarray, b: np.ndarray, metric: str) -> np.ndarray:
    """The metric of every pair."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b)]
    shared, one, other = np.prod(np.clip(sides, 0, None), axis=2), areas[0][:, None], areas[1][None]
    return shared / (np.minimum(one, other) if metric == "ios" else one + other - shared)


@pytest.mark.parametrize(("metric", "count"), [("ios", 167), ("iou", 161)])
@pytest.mark.parametrize("crs", [CRS84, "EPSG:32633"])
@pytest.mark.parametrize("prefer", ["score", "newest"])
def test_tanks_of_one_refinery(data, tmp_path, crs, prefer, metric, count) -> None:
    """Labels drawn twice by people: each tank in both images becomes one box, and no other is lost.

    One pair has an IoU of exactly one half in pixels.
    """
    if not (data / "tanks").is_dir():
        pytest.skip("no images of tanks among the real imagery")
    grid = Affine(1.2, 0, 500_000, 0, -1.2, 5_200_000)
    boxes = [labels_of(data / "tanks", image) for image in ("058b9459", "8e40cbf3")]
    rng = np.random.default_rng(0)
    names = []
    for k, (own, place) in enumerate(zip(boxes, (grid, grid @ Affine.translation(*SHIFT)), strict=True)):
        scene = make_scene(f"s{k}", crs="EPSG:32633", transform=place, size=(2560, 2560), uri=f"/{k}.jpg")
        d = Detections(boxes=own, scores=rng.random(len(own)), labels=np.zeros(len(own)))
        rows = commit(tmp_path / f"o{k}", scene, d, crs=crs, classes=("tank",))
        corners = {
            tuple(r[f"px_{side}"] for side in ("xmin", "ymin", "xmax", "ymax")): r["detection_id"]
            for r in rows.to_pylist()
        }
        names.append([corners[tuple(box)] for box in own.tolist()])
    pairs = np.argwhere(overlaps(boxes[0], boxes[1] + SHIFT * 2, metric) >= 0.5)
    assert len(pairs) == count
    assert len(set(pairs[:, 0])) == len(set(pairs[:, 1])) == count
    result = deduplicate(
        [tmp_path / "o0", tmp_path / "o1"], out=tmp_path / "new", metric=metric, threshold=0.5, prefer=prefer
    )
    assert (result.rows_in, result.rows_out) == (209 + 185, 209 + 185 - count)
    gone = pq.read_table(tmp_path / "new" / "duplicates.parquet").to_pylist()
    merged = {frozenset((row["detection_id"], row["kept_id"])) for row in gone}
    assert merged == {frozenset((names[0][a], names[1][b])) for a, b in pairs}


@pytest.mark.slow
def test_two_halves_of_a_scene_are_the_whole(tmp_path) -> None:
    """Detecting in two overlapping halves and deduplicating finds the objects of the whole scene."""
    write_scene(tmp_path / "whole.tif", size=3072, seed=11)
    with rasterio.open(tmp_path / "whole.tif") as whole:
        for name, left, right in (("west", 0, 1856), ("east", 1216, 3072)):
            window = Window(left, 0, right - left, 3072)
            profile = {"driver": "GTiff", "tiled": True, "compress": "deflate", "width": window.width, "height": 3072}
            profile |= {"count": whole.count, "dtype": "uint8", "crs": whole.crs, "nodata": whole.nodata}
            with (
                rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
                rasterio.open(
                    tmp_path / f"{name}.tif", "w", transform=whole.window_transform(window), **profile
                ) as out,
            ):
                out.write(whole.read(window=window))
                out.write_mask(whole.dataset_mask(window=window))
    for out, scenes in (("one", ["whole"]), ("two", ["west", "east"])):
        files = [tmp_path / f"{name}.tif" for name in scenes]
        geosod.detect(files, model="demo-harbour", out=tmp_path / out, engine="serial")
    result = deduplicate(tmp_path / "two", out=tmp_path / "new")
    whole, new = rows_of(tmp_path / "one"), rows_of(tmp_path / "new")
    assert result.merged > 20 and len(whole) > 100
    assert abs(len(new) - len(whole)) <= max(2, 0.01 * len(whole))
    # Each box of the whole scene has a counterpart of its own.
    a, b = whole.geometry.to_numpy(), new.geometry.to_numpy()
    near, far = shapely.STRtree(b).query(a)
    shared = shapely.area(shapely.intersection(a[near], b[far]))
    good = shared / (shapely.area(a)[near] + shapely.area(b)[far] - shared) >= 0.5
    assert len(set(near[good])) >= 0.98 * len(a)
