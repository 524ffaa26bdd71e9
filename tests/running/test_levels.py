"""Pyramid inference: several scales of one scene, each with the sizes it may report."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

import geosod
from geosod.config import make_config
from geosod.detections import RIGHT, Detections
from geosod.errors import ConfigError
from geosod.merging.components import settle
from geosod.merging.rule import MergeRule
from geosod.results import Execution
from geosod.running.detect import make_job
from geosod.running.planning import Level, _usual_sizes, plan_scene
from geosod.running.stages import _of_level
from geosod.scene import SceneRef
from geosod.scenes.open import open_scene
from geosod.testing import fake_detector
from tests.rasters import UTM31, noise, write_tif
from tests.running.helpers import detect, tables

TILE, OVERLAP = 256, 64


def rectangles() -> np.ndarray:
    """Objects of 12 to 1400 px, 20 px apart at least, many across tile borders."""
    boxes = [(60, 60, 1460, 1010), (1600, 100, 1900, 320), (1550, 400, 1680, 1000), (2100, 80, 2700, 700)]
    rng = np.random.default_rng(4)
    for x in range(40, 2900, 95):
        for y in range(1100, 2900, 90):
            w, h = rng.integers(12, 60, 2)
            boxes.append((x, y, x + w, y + h))
    return np.array(boxes, float)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory) -> tuple[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("blocks")
    pixels = np.full((1, 3000, 3000), 10, np.uint8)
    for x0, y0, x1, y1 in rectangles().astype(int):
        pixels[0, y0:y1, x0:x1] = 250
    return str(write_tif(folder / "blocks.tif", pixels, block=256)), rectangles()


def found(scene: str, tmp_path, **settings) -> np.ndarray:
    """Boxes of a detector that finds every bright rectangle, or what a tile shows of it, without fail."""
    detector = fake_detector(Execution("cpu", "eager", "fp32", 4, 1), tile=TILE, overlap=OVERLAP)
    result = geosod.detect(scene, model=detector, out=tmp_path / "out", unit=(2, 3), **settings)
    assert result.exit_code == 0
    table = pq.read_table(next((tmp_path / "out/detections").rglob("*.parquet")))
    return np.column_stack([table[f"px_{n}"].to_numpy() for n in ("xmin", "ymin", "xmax", "ymax")])


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return shapely.area(shapely.intersection(a[:, None], b)) / shapely.area(shapely.union(a[:, None], b))


def score(boxes: np.ndarray, truth: np.ndarray) -> tuple[int, int]:
    """Truths without a box of IoU 0.5, and boxes beyond one for each truth."""
    overlap = iou(shapely.box(*truth.T), shapely.box(*boxes.T))
    return int((overlap.max(axis=1) < 0.5).sum()), len(boxes) - int((overlap.max(axis=1) >= 0.5).sum())


def test_objects_of_every_size_are_found_once(blocks, tmp_path) -> None:
    scene, truth = blocks
    assert score(found(scene, tmp_path, levels="1,0.5,0.25,full"), truth) == (0, 0)


@pytest.mark.parametrize("method", ["nms", "nmm", "greedy_nmm", "wbf"])
def test_one_level_puts_the_pieces_of_large_objects_together(blocks, tmp_path, method) -> None:
    scene, truth = blocks
    assert score(found(scene, tmp_path, merge_method=method), truth) == (0, 0)


def test_pieces_of_what_a_level_may_not_report_are_not_reported(blocks, tmp_path) -> None:
    scene, truth = blocks
    sides = np.sqrt(np.prod(truth[:, 2:] - truth[:, :2], axis=1))
    assert score(found(scene, tmp_path, levels="1:0-50"), truth[sides <= 50]) == (0, 0)


def test_a_larger_box_does_not_drop_what_a_level_is_for(blocks, tmp_path) -> None:
    scene, _ = blocks
    level = Level(1.0, open_scene(SceneRef(scene, "s")), (10.0, 50.0))
    boxes = [[0, 0, 100, 100], [20, 20, 50, 50], [60, 20, 100, 90], [5, 5, 9, 9]]
    raw = Detections(boxes=boxes, scores=[0.9, 0.8, 0.7, 0.6], labels=[0] * 4, fragment=[0, 0, RIGHT, 0])
    merged = settle(_of_level(raw, level, borders=True), level.scene.window, MergeRule(metric="ios"), whole=True)
    assert merged.final.boxes.tolist() == [[0, 0, 100, 100], [20, 20, 50, 50]]
    assert merged.final.n_merged.tolist() == [2, 1]
    plain = _of_level(raw, level, borders=False)
    assert plain.boxes.tolist() == [[20, 20, 50, 50]]


def test_tiles_without_overlap(blocks, tmp_path) -> None:
    scene, truth = blocks
    assert score(found(scene, tmp_path, overlap=0), truth) == (0, 0)


def test_without_the_border_policy_large_objects_are_reported_in_pieces(blocks, tmp_path) -> None:
    scene, truth = blocks
    missed, extra = score(found(scene, tmp_path, borders=False), truth)
    assert missed >= 4 and extra > 20


@pytest.mark.parametrize("unit", [(1, 0), (2, 3)])
def test_the_result_does_not_depend_on_units(tmp_path, rgb_bundle, unit) -> None:
    scene = write_tif(tmp_path / "s.tif", noise(3, 900, 1300))
    for name, shape in {"whole": (0, 0), "units": unit}.items():
        assert detect(scene, rgb_bundle, tmp_path / name, unit=shape, levels="2:0-20,1,0.4,full").exit_code == 0
    assert tables(tmp_path / "whole") == tables(tmp_path / "units")
    table = pq.read_table(next((tmp_path / "whole/detections").rglob("*.parquet")))
    assert set(np.round(table["level"].to_numpy().astype(float), 4)) >= {2.0, 1.0, 0.4}


def test_a_level_reports_its_sizes_only(tmp_path, rgb_bundle) -> None:
    scene = write_tif(tmp_path / "s.tif", noise(3, 700, 700))
    levels = "1:4-9,0.5:15-21"
    assert detect(scene, rgb_bundle, tmp_path / "out", levels=levels).exit_code == 0
    table = pq.read_table(next((tmp_path / "out/detections").rglob("*.parquet")))
    x0, y0, x1, y1 = (table[f"px_{n}"].to_numpy() for n in ("xmin", "ymin", "xmax", "ymax"))
    side, level = np.sqrt((x1 - x0) * (y1 - y0)), table["level"].to_numpy()
    for scale, low, high in ((1, 4, 9), (0.5, 15, 21)):
        own = side[level == scale]
        assert len(own) > 5 and own.min() >= low - 1e-9 and own.max() <= high + 1e-9


@given(scales=st.lists(st.floats(0.01, 4), min_size=1, max_size=5, unique=True), overlap=st.integers(8, 512))
def test_usual_sizes_leave_no_gap(scales, overlap) -> None:
    scales = sorted(scales, reverse=True)
    sizes = [_usual_sizes(scales, overlap)[scale] for scale in scales]
    assert sizes[0][0] == 0 and sizes[-1][1] is None
    for (_, high), (low, _) in pairwise(sizes):
        assert low == pytest.approx(high / 2)


def test_levels_as_written(tmp_path) -> None:
    written = make_config(levels="1, 0.5:30-,full:-900").levels
    assert [(level.scale, level.sizes) for level in written] == [
        (1.0, None), (0.5, (30.0, None)), ("full", (0.0, 900.0)),
    ]  # fmt: skip
    (tmp_path / "c.yaml").write_text("levels: [1, 0.5, {scale: full, sizes: [100, null]}]\n")
    assert make_config(tmp_path / "c.yaml").levels[2].sizes == (100.0, None)
    for wrong in ("half", "1:9-3", "0", "99", ""):
        with pytest.raises(ConfigError, match="levels"):
            make_config(levels=wrong)


def test_auto_halves_until_the_scene_fits(tmp_path, rgb_bundle) -> None:
    scene = write_tif(tmp_path / "s.tif", noise(3, 400, 1000))
    job = make_job(rgb_bundle, levels="auto")
    tile, _ = job.tile
    plan = plan_scene(job, SceneRef(str(scene), "s"))
    assert [level.scale for level in plan.levels] == [1, 0.5, 0.25, tile / 1000]
    assert len([unit for unit in plan.units if unit.level == tile / 1000 for _ in unit.windows]) == 1
    small = write_tif(tmp_path / "small.tif", noise(3, tile, tile))
    assert [level.scale for level in plan_scene(job, SceneRef(str(small), "s")).levels] == [1]
    with pytest.raises(ConfigError, match="auto"):
        make_config(levels="auto:0-9")


def test_an_aoi_leaves_out_tiles_of_every_level(tmp_path, rgb_bundle) -> None:
    scene = write_tif(tmp_path / "s.tif", noise(3, 1000, 1000))
    corner = shapely.box(500_000, 5_800_000 - 60, 500_060, 5_800_000)
    geopandas.GeoDataFrame(geometry=[corner], crs=UTM31).to_file(tmp_path / "aoi.gpkg")
    job = make_job(rgb_bundle, levels="1,0.5")
    whole = plan_scene(job, SceneRef(str(scene), "s"))
    from geosod.scenes.aoi import load_aoi

    part = plan_scene(replace(job, aoi=load_aoi(tmp_path / "aoi.gpkg")), SceneRef(str(scene), "s"))
    tiles = {level.scale: [w for u in part.units if u.level == level.scale for w in u.windows] for level in part.levels}
    assert len(tiles[1.0]) == 4 and len(tiles[0.5]) == 1 < sum(len(u.windows) for u in whole.units if u.level == 0.5)
    assert detect(scene, rgb_bundle, tmp_path / "out", levels="1,0.5", aoi=tmp_path / "aoi.gpkg").exit_code == 0


def test_ground_that_a_coarse_level_could_not_read_is_told(tmp_path, rgb_bundle) -> None:
    path = write_tif(tmp_path / "s.tif", noise(3, 600, 600), block=128)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 30_000] = bytes(30_000)
    path.write_bytes(data)
    assert detect(path, rgb_bundle, tmp_path / "one").exit_code == 3
    result = detect(path, rgb_bundle, tmp_path / "out", levels="1,0.5")
    assert result.exit_code == 3
    for failure in result.failures:
        assert failure.window is not None and failure.window.right <= 600 and failure.window.bottom <= 600
    failed = [
        geopandas.read_parquet(tmp_path / out / "coverage/s.parquet").query("status == 'failed'").area_km2.sum()
        for out in ("one", "out")
    ]
    assert failed[1] >= failed[0] > 0


def test_no_overlap_does_not_silence_the_finest_level(tmp_path, rgb_bundle) -> None:
    scene = write_tif(tmp_path / "s.tif", noise(3, 500, 500))
    assert detect(scene, rgb_bundle, tmp_path / "out", levels="1,0.5", overlap=0).exit_code == 0
    table = pq.read_table(next((tmp_path / "out/detections").rglob("*.parquet")))
    assert (table["level"].to_numpy() == 1).sum() > 20


@pytest.mark.parametrize("levels", ["full:100-,1", "1:0-9,full:8-", "1,full"])
def test_full_may_be_a_level_that_is_there(tmp_path, rgb_bundle, levels) -> None:
    """On a scene that fits in a tile: the ranges of both hold."""
    scene = write_tif(tmp_path / "s.tif", noise(3, 120, 120))
    for name, value in {"one": "1", "both": levels}.items():
        assert detect(scene, rgb_bundle, tmp_path / name, levels=value).exit_code == 0
    assert tables(tmp_path / "one").keys() == tables(tmp_path / "both").keys()
    counts = [pq.read_table(next((tmp_path / n / "detections").rglob("*.parquet"))).num_rows for n in ("one", "both")]
    assert counts[0] == counts[1] > 20


def test_scales_that_nearly_agree_have_units_of_their_own(tmp_path, rgb_bundle) -> None:
    scene = write_tif(tmp_path / "s.tif", noise(3, 384, 384))
    assert detect(scene, rgb_bundle, tmp_path / "out", levels="1,0.333333,full").exit_code == 0


def test_order_of_levels_is_no_setting(tmp_path) -> None:
    assert make_config(levels="0.5,full,1") == make_config(levels="1,0.5,full")
    assert make_config(levels="1:0-inf").levels[0].sizes == (0.0, None)
    with pytest.raises(ConfigError, match="twice"):
        make_config(levels="1,1:0-5")


@pytest.mark.parametrize("settings", [{"levels": "1,full"}, {"levels": "1,0.5"}, {"tile_gsd": 0.8}])
def test_one_broken_block_costs_its_own_ground(tmp_path, rgb_bundle, settings) -> None:
    """Also where it is seen at another scale."""
    path = write_tif(tmp_path / "s.tif", noise(3, 1024, 1024), block=256, compress="none")
    path.write_bytes(path.read_bytes()[:-100])
    failed = {}
    for name, some in {"plain": {}, "scaled": settings}.items():
        assert detect(path, rgb_bundle, tmp_path / name, **some).exit_code == 3
        coverage = geopandas.read_parquet(tmp_path / name / "coverage/s.parquet")
        failed[name] = coverage[coverage.status == "failed"].area_km2.sum() / coverage.area_km2.sum()
    assert failed["plain"] == pytest.approx(1 / 16, abs=0.001)
    assert failed["plain"] <= failed["scaled"] < 0.25


@pytest.mark.parametrize("scale", ["0.013", "0.37", "0.8"])
def test_a_scaled_scene_is_all_of_the_file_and_no_more(tmp_path, rgb_bundle, scale) -> None:
    scene = write_tif(tmp_path / "s.tif", noise(3, 351, 350))
    areas = []
    for name, levels in {"one": "1", "scaled": scale}.items():
        assert detect(scene, rgb_bundle, tmp_path / name, levels=levels).exit_code == 0
        areas.append(geopandas.read_parquet(tmp_path / name / "coverage/s.parquet").area_km2.sum())
    assert areas[1] == pytest.approx(areas[0], rel=1e-6)
    table = pq.read_table(next((tmp_path / "scaled/detections").rglob("*.parquet")))
    assert table["px_xmax"].to_numpy().max(initial=0) <= 350 + 1e-9
    told = json.loads(table.schema.metadata[b"geosod"])
    assert (told["width"], told["height"]) == (350, 351)
