"""Labels and results of one image come together, and what is not common to both counts neither way."""

from __future__ import annotations

import geopandas
import numpy as np
import pyarrow as pa
import pytest
import rasterio
import shapely

from geosod.datasets.read import read_labels
from geosod.detections import Detections
from geosod.errors import ConfigError
from geosod.evaluation.evaluate import evaluate
from geosod.evaluation.figures import EvaluationSettings
from geosod.evaluation.found_scenes import of_result, read_outputs
from geosod.evaluation.join import above_threshold, join
from geosod.running.detect import detect
from geosod.testing import fake_detector

from .scenes import SPOTS, draw, found_scene, grid_of_spots, labels_of, write_coco


def test_scenes_are_joined_by_file_then_by_name() -> None:
    a, b = grid_of_spots(3), grid_of_spots(5)
    labels = labels_of({"east/a": a, "west/a": b})
    scenes = [found_scene("a_1f3", b, uri="west/a.tif"), found_scene("a_9c2", a, uri="east/a.tif")]
    joined = join(labels, scenes)
    assert [scene.id for scene in joined.scenes] == ["a_9c2", "a_1f3"] and joined.notes == ()
    assert np.bincount(joined.comparison.image).tolist() == [3, 5]
    named = join(labels_of({"deep/b": b}), [found_scene("b", b, uri="moved/elsewhere.tif")])
    assert len(named.comparison.found) == 5
    with pytest.raises(ConfigError, match=r"none of 1 scenes \(a\) is one of the 2 labelled images"):
        join(labels, [found_scene("a", a, uri="other.tif")])  # two images have that name
    with pytest.raises(ConfigError, match="was searched twice"):
        join(labels, [found_scene("x", a, uri="west/a.tif"), found_scene("y", a, uri="west/a.tif")])


def test_images_that_were_not_searched_count_neither_way() -> None:
    a, b = grid_of_spots(3), grid_of_spots(5)
    result = evaluate(labels_of({"a": a, "b": b}), [found_scene("a", a), found_scene("c", b)])
    assert (result.images, result.objects, result.boxes.at_iou.recall) == (1, 3, 1.0)
    assert result.notes == (
        "1 of 2 labelled images were not searched and count neither way: b",
        "1 scenes without labels are left out: c",
    )


def test_classes_are_joined_by_name() -> None:
    a = grid_of_spots(4)
    two = Detections(boxes=np.concatenate([a, a + 3]), scores=np.full(8, 0.5), labels=[1] * 4 + [0] * 4)
    scene = found_scene("a", a, found=two, classes=("other", "spot"), supercategories=("", "bright"))
    joined = join(labels_of({"a": a}), [scene])
    assert joined.comparison.truth.classes == ("spot",) and len(joined.comparison.found) == 4
    assert joined.comparison.truth.supercategories == ("bright",)
    assert joined.notes == ("4 detections of classes that are not labelled are left out",)
    with pytest.raises(ConfigError, match=r"the labels have lamp.*--class-map lamp=other"):
        join(labels_of({"a": a}, classes=("lamp",)), [scene])


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="labels are of 400 x 400 pixels, but scene 'a' has 800 x 400"):
        join(labels_of({"a": grid_of_spots(2)}), [found_scene("a", grid_of_spots(2), width=800)])


def test_ground_that_was_not_inspected_counts_neither_way() -> None:
    boxes = np.array([[10, 10, 30, 30], [110, 10, 130, 30], [210, 10, 230, 30.0]])
    ground = pa.table({"geometry": [shapely.box(100, 0, 200, 400).wkb], "status": ["failed"]})
    # One object is found, one is on failed ground, one is missed; a stray box is on failed ground, too.
    found = np.concatenate([boxes[:1], [[150.0, 200, 170, 220]]])
    result = evaluate(labels_of({"a": boxes}), [found_scene("a", found, ground=ground)])
    counted = result.boxes.at_iou
    assert (result.objects, result.ignored) == (2, 1)
    assert (counted.matched, counted.found, counted.objects) == (1, 1, 2)
    assert result.notes == ("1 labels on ground that was not inspected count neither way",)


def test_outputs_in_memory_and_on_disk_give_the_same_figures(tmp_path) -> None:
    """On a rotated map, with an AOI that leaves out some of the ground."""
    boxes = {f"s{i}.tif": grid_of_spots(12 + i) for i in range(3)}
    scenes = [str(draw(tmp_path / name, rows, georeferenced=True)) for name, rows in boxes.items()]
    labels = read_labels(write_coco(tmp_path / "labels.json", boxes)).labels
    with rasterio.open(scenes[0]) as file:
        left, bottom, right, top = file.bounds
        aoi = geopandas.GeoSeries([shapely.box(left, bottom, (left + right) / 2, top)], crs=file.crs)
    aoi.to_file(tmp_path / "aoi.gpkg")
    settings = {"aoi": tmp_path / "aoi.gpkg", "workers": 1}
    in_memory = list(of_result(detect(scenes, model=fake_detector(), **settings)))
    detect(scenes, model=SPOTS, trust=True, out=tmp_path / "out", **settings)
    on_disk = read_outputs([tmp_path / "out"])
    a, b = (evaluate(labels, found, EvaluationSettings(resamples=0)) for found in (in_memory, on_disk))
    centres = (labels.boxes[:, 0] + labels.boxes[:, 2]) / 2
    for result in (a, b):
        assert (result.objects, result.ignored) == (int((centres < 200).sum()), int((centres > 200).sum()))
        assert result.boxes.ap.mean() == 1.0 and result.boxes.at_iou.precision == 1.0
    assert a.comparison.truth.images[0].metres_per_pixel == pytest.approx(
        b.comparison.truth.images[0].metres_per_pixel, rel=1e-3
    )


def test_thresholds_of_classes() -> None:
    a = grid_of_spots(4)
    comparison = join(labels_of({"a": a}), [found_scene("a", a, np.array([0.1, 0.2, 0.3, 0.4]))]).comparison
    assert len(above_threshold(comparison, 0.2).found) == 3
    assert len(above_threshold(comparison, {"default": 0.9, "spot": 0.35}).found) == 1
    with pytest.raises(ConfigError, match="threshold of 'lamp': there is no such class; there are spot"):
        above_threshold(comparison, {"lamp": 0.5})
