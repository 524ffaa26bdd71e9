"""The shipped tree model: its accuracy, and that scenes of many tiles give the result of a single tile."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio

from geosod.api import load_model
from geosod.detections import Detections
from geosod.detectors import open_bundle
from geosod.detectors.adapters.zoo import network
from geosod.detectors.detector import Detector
from geosod.evaluation.points import PointScore, score_points
from geosod.scene import TileBatch
from geosod.tiling.grid import make_grid
from tests.rasters import write_tif
from tests.running.helpers import PLAIN, detect
from tests.test_real_data import build_vrt
from tests.training.test_points import picture, scatter

MODEL = "trees-naip-60cm"
TILE = 256
ONE = PLAIN | {"batch": 1}


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load_model(MODEL, **ONE)


@pytest.fixture(scope="module")
def reach() -> int:
    """The radius of the network's receptive field around a peak, plus half a window and a box."""
    model = network(open_bundle(MODEL).card)
    return int(model.reach + model.window // 2 + model.side)


def alone(detector: Detector, pixels: np.ndarray) -> Detections:
    """The detections in one image, given as one tile."""
    size = np.array([[pixels.shape[2], pixels.shape[1]]])
    return detector.detect(TileBatch(pixels[None], np.hstack([np.zeros((1, 2), np.int64), size]), None, size))[0]


def middles(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def rows_of(boxes: np.ndarray, scores: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(N, 5) boxes and scores of those inside, in one order."""
    rows = np.column_stack([boxes, scores])[inside]
    return rows[np.lexsort(rows[:, :2].T.round(2))]


def test_the_card_describes_the_model() -> None:
    card = open_bundle(MODEL).card
    assert (card.bands, card.dtype, card.classes, card.gsd) == (
        ("red", "green", "blue", "nir"),
        "uint8",
        ("tree",),
        0.6,
    )
    assert card.accuracy["f_score"] >= 0.80 and card.accuracy["trees"] == 2070
    assert "CC BY 4.0" in card.provenance["attribution"]
    for tile, overlap in zip(card.tile_size, card.overlap, strict=True):
        assert overlap >= 2 * network(card).reach + 12 and (tile - overlap) % 8 == 0
    assert sum(f.stat().st_size for f in open_bundle(MODEL).folder.iterdir()) < 10_000_000


def test_drawn_trees_are_found(detector) -> None:
    rng = np.random.default_rng(5)
    points = scatter(rng, 40, TILE, 8)
    found = alone(detector, picture(points, TILE, rng))
    score = score_points([(middles(found.boxes), points)], gsd=0.6, limit=4)
    assert score.recall > 0.7 and score.precision > 0.8


@pytest.mark.slow
def test_many_tiles_give_the_result_of_one_tile(detector, reach, tmp_path) -> None:
    """Away from tile borders the results are bit-identical."""
    rng = np.random.default_rng(6)
    height, width, tile, overlap = 640, 800, 512, 160
    points = np.stack(np.mgrid[10:width:22, 10:height:22], axis=-1).reshape(-1, 2) + 0.5
    pixels = picture(points + rng.integers(-4, 5, points.shape), width, rng)[:, :height]
    scene = write_tif(
        tmp_path / "park.tif", pixels, crs="EPSG:26911", transform=rasterio.Affine(0.6, 0, 4e5, 0, -0.6, 37e5)
    )
    result = detect(scene, MODEL, tmp_path / "out", bands="1,2,3,4", tile=tile, overlap=overlap, batch=1)
    table = geopandas.read_parquet(result.scenes[0].paths[0])
    boxes = table[["px_xmin", "px_ymin", "px_xmax", "px_ymax"]].to_numpy()
    whole = alone(detector, pixels)
    x_edges, y_edges = make_grid(width, height, tile=tile, overlap=overlap).interior_edges()
    pipeline, one = (
        rows_of(b, s, away(middles(b), x_edges, y_edges, reach))
        for b, s in ((boxes, table.score.to_numpy()), (whole.boxes, whole.scores))
    )
    assert len(one) > 100 and np.array_equal(pipeline, one)
    assert abs(len(table) - len(whole)) < 0.02 * len(whole)


def away(points: np.ndarray, x_edges: np.ndarray, y_edges: np.ndarray, distance: float) -> np.ndarray:
    """(N,) bool, whether a point is farther than `distance` from every line x and every line y."""
    return (np.abs(points[:, :1] - x_edges) > distance).all(axis=1) & (np.abs(points[:, 1:] - y_edges) > distance).all(
        axis=1
    )


def labelled(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pixels and points of the validation images; a label means the centre of a pixel."""
    coco = json.loads((folder / "val.json").read_text())
    points = defaultdict(list)
    for annotation in coco["annotations"]:
        points[annotation["image_id"]].append(annotation["point"])
    images = []
    for image in coco["images"]:
        with rasterio.open(folder / image["file_name"]) as dataset:
            images.append((dataset.read(), np.array(points[image["id"]], float).reshape(-1, 2) + 0.5))
    return images


def measured(model: Detector, images: list[tuple[np.ndarray, np.ndarray]]) -> PointScore:
    return score_points(((middles(alone(model, pixels).boxes), truth) for pixels, truth in images), gsd=0.6)


@pytest.mark.slow
def test_validation_images_reach_the_figures_of_the_card(detector, data) -> None:
    images = labelled(data / "trees")
    score = measured(detector, images)
    stated = open_bundle(MODEL).card.accuracy
    assert score.truth == 2070 and score.f_score >= 0.80
    assert score.f_score == pytest.approx(stated["f_score"], abs=0.004)
    assert score.rmse == pytest.approx(stated["rmse_m"], abs=0.05)
    bf16 = measured(load_model(MODEL, **(ONE | {"precision": "bf16"})), images)
    assert bf16.f_score >= 0.80 and bf16.rmse == pytest.approx(score.rmse, abs=0.05)
    chosen = measured(load_model(MODEL, batch=1), images)
    assert chosen.f_score == pytest.approx(score.f_score, abs=0.003), "what is fastest here costs accuracy"


def neighbourhood(folder: Path, side: int) -> list[Path]:
    """The largest group of images on one grid of whole tiles within a square of `side` pixels."""
    places = {}
    for path in sorted(folder.glob("*.tif")):
        with rasterio.open(path) as dataset:
            places[path] = np.array([dataset.transform.c, -dataset.transform.f]) / 0.6 / TILE
    groups = []
    for corner in places.values():
        steps = {path: place - corner for path, place in places.items()}
        near = [p for p, s in steps.items() if (np.abs(s - s.round()) < 0.002).all() and s.round().min() >= 0]
        groups.append([p for p in near if steps[p].round().max() <= side / TILE - 1])
    return max(groups, key=len)


@pytest.mark.slow
def test_a_mosaic_gives_the_results_of_its_images(detector, reach, data, tmp_path) -> None:
    sources = neighbourhood(data / "trees", 1536)
    mosaic = build_vrt(tmp_path / "mosaic.vrt", sources)
    result = detect(mosaic, MODEL, tmp_path / "out", bands="1,2,3,4", batch=1)
    table = geopandas.read_parquet(result.scenes[0].paths[0])
    boxes, card = table[["px_xmin", "px_ymin", "px_xmax", "px_ymax"]].to_numpy(), open_bundle(MODEL).card
    with rasterio.open(mosaic) as dataset:
        place, x_edges, y_edges = (
            dataset.transform,
            *make_grid(dataset.width, dataset.height, tile=card.tile, overlap=card.overlap).interior_edges(),
        )
    assert len(sources) >= 6 and len(x_edges) and len(y_edges)
    compared = 0
    for source in sources:
        with rasterio.open(source) as dataset:
            pixels = dataset.read()
            corner = np.round(~place @ (dataset.transform.c, dataset.transform.f))
        found = alone(detector, pixels)
        inner = [
            away(m, x_edges, y_edges, reach) & (np.abs(m - corner - TILE / 2) < TILE / 2 - reach).all(axis=1)
            for m in (middles(boxes), middles(found.boxes) + corner)
        ]
        expected = rows_of(found.boxes + np.tile(corner, 2), found.scores, inner[1])
        assert np.array_equal(rows_of(boxes, table.score.to_numpy(), inner[0]), expected)
        compared += len(expected)
    assert compared >= 10
