"""Bad input is told in one line, costs only its own ground, and sets the exit code; on both engines."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import rasterio
import rasterio.shutil
import shapely
import torch

import geosod
from geosod.detectors.cache import cache_folder
from geosod.detectors.contract import RawBoxes
from geosod.detectors.postprocess import postprocess
from geosod.errors import ConfigError, ModelError, OutputError, UsageError
from geosod.output.commit import commit_outputs, open_output
from geosod.output.scene_outputs import SceneOutputs
from geosod.running.events import Failed, Note, TilesDetected
from geosod.scene import TileBatch
from geosod.testing import fake_card
from geosod.tiling.grid import make_grid
from tests.rasters import noise, random_bundle, write_tif
from tests.running.helpers import PLAIN, detect, files, ray_workers, tables


@pytest.fixture(params=["serial", "local"])
def engine(request: pytest.FixtureRequest) -> str:
    """For what is decided before or after an engine runs; where Ray makes a difference, tests have it as well."""
    return str(request.param)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_tif(tmp_path / "good.tif", noise(3, 300, 300))


def cut_cog(path: Path, share: float = 0.6) -> Path:
    """A COG (its directory in front) whose last blocks are missing."""
    with rasterio.open(write_tif(path.with_suffix(".whole.tif"), noise(3, 512, 512))) as source:
        rasterio.shutil.copy(source, path, driver="COG", blocksize=64, overviews="NONE", compress="DEFLATE")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def test_an_unreadable_path_leaves_the_others_unharmed(engine, good, rgb_bundle, tmp_path) -> None:
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"no tiff at all")
    out, told = tmp_path / "out", []
    scenes = [tmp_path / "missing.tif", broken, good]
    result = detect(scenes, rgb_bundle, out, engine=engine, on_event=told.append)
    assert result.exit_code == 3
    # What is not there goes by a hash, so that its failure is never taken for that of a scene of the same name.
    statuses = {s.scene_id.partition("-")[0]: s.status for s in result.scenes}
    assert statuses == {"missing": "failed", "broken": "failed", "good": "done"}
    lines = [e.failure.message for e in told if isinstance(e, Failed)]
    assert len(lines) == 2 and all("\n" not in line and ".tif" in line for line in lines)
    rows = pq.read_table(out / "failures.parquet").to_pylist()
    assert {(r["scene_id"].partition("-")[0], r["stage"], r["col"]) for r in rows} == {
        ("missing", "open", None),
        ("broken", "open", None),
    }
    alone = tmp_path / "alone"
    detect(good, rgb_bundle, alone)
    name = "detections/acq_date=unknown/good.parquet"
    assert tables(out)[name] == tables(alone)[name]


def test_nothing_to_begin_is_exit_code_2(rgb_bundle, tmp_path) -> None:
    result = detect(tmp_path / "missing.tif", rgb_bundle, tmp_path / "out")
    assert result.exit_code == 2 and "missing.tif" in result.failures[0].message


@pytest.mark.parametrize("engine", ["serial", "local", "ray"])
def test_lost_ground_of_a_truncated_file_is_recorded(engine, good, rgb_bundle, tmp_path, request) -> None:
    if engine == "ray":
        request.getfixturevalue("cluster")
    out = tmp_path / "out"
    result = detect([cut_cog(tmp_path / "cut.tif"), good], rgb_bundle, out, engine=engine)
    assert result.exit_code == 3
    assert {s.scene_id: s.status for s in result.scenes} == {"cut": "partial", "good": "done"}
    rows = pq.read_table(out / "failures.parquet").to_pylist()
    assert rows and all(r["scene_id"] == "cut" and r["stage"] == "read" and r["width"] > 0 for r in rows)
    coverage = geopandas.read_parquet(out / "coverage" / "cut.parquet")
    area = coverage.groupby("status")["area_km2"].sum()
    lost = shapely.union_all(
        [shapely.box(r["col"], r["row"], r["col"] + r["width"], r["row"] + r["height"]) for r in rows]
    )
    assert area["failed"] / area.sum() == pytest.approx(lost.area / 512**2, rel=0.01)
    found = pq.read_table(out / "detections/acq_date=unknown/cut.parquet")
    # What is unreadable is treated as nodata: no box lies wholly on it.
    boxes = shapely.box(*(found[c].to_numpy() for c in ("px_xmin", "px_ymin", "px_xmax", "px_ymax")))
    assert not shapely.contains(lost.buffer(-1.0), boxes).any()


def test_a_rerun_tries_partial_scenes_again_and_clears_their_failures(good, rgb_bundle, tmp_path) -> None:
    out, scene = tmp_path / "out", tmp_path / "cut.tif"
    detect(cut_cog(scene), rgb_bundle, out)
    cut_cog(scene, 1.0)
    result = detect(scene, rgb_bundle, out)
    assert result.exit_code == 0 and result.scenes[0].status == "done"
    assert "failures.parquet" not in files(out)


def test_a_detector_that_fails_on_a_tile_costs_that_tile(rgb_bundle, tmp_path, monkeypatch) -> None:
    from geosod.detectors.detector import Detector

    original = Detector.detect_batch

    def picky(self, batch: TileBatch):
        if batch.pixels.any() and (batch.windows[:, :2] == 0).all(axis=1).any():
            raise RuntimeError("no memory for this tile")
        return original(self, batch)

    monkeypatch.setattr(Detector, "detect_batch", picky)
    events: list[Any] = []
    scene = write_tif(tmp_path / "a.tif", noise(3, 300, 300))
    result = detect(scene, rgb_bundle, tmp_path / "out", on_event=events.append)
    # Why the batch failed is reported before its tiles are tried one by one.
    notes = [event.text for event in events if isinstance(event, Note)]
    assert len(notes) == 1 and "RuntimeError: no memory for this tile" in notes[0] and "one by one" in notes[0]
    assert result.exit_code == 3 and result.detections > 0
    (failure,) = result.failures
    assert (failure.stage, failure.window.col, failure.window.row, failure.window.width) == ("detect", 0, 0, 128)
    assert "no memory for this tile" in failure.message
    coverage = geopandas.read_parquet(tmp_path / "out/coverage/a.parquet")
    share = coverage[coverage.status == "failed"].area_km2.sum() / coverage.area_km2.sum()
    assert share == pytest.approx(128**2 / 300**2, rel=0.01)


def test_degenerate_boxes_are_counted_and_left_out(rgb_bundle, tmp_path, monkeypatch, capsys) -> None:
    from geosod.cli.summary import summary
    from geosod.detectors.adapters.zoo import ZooAdapter

    scene, original = write_tif(tmp_path / "a.tif", noise(3, 300, 300)), ZooAdapter.predict
    expected = detect(scene, rgb_bundle, tmp_path / "expected")
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor([[nan, 0, 5, 5], [0, 0, inf, 5], [9, 9, 5, 5], [3, 3, 3, 8], [1, 1, 9, 9], [1, 1, 9, 9]])
    scores, labels = torch.tensor([0.9, 0.9, 0.9, 0.9, nan, inf]), torch.zeros(6, dtype=torch.int64)

    def wild(self, images):
        raw = original(self, images)
        more = RawBoxes.per_tile([(boxes, scores, labels)] * len(images))
        return RawBoxes(
            *(torch.cat([getattr(raw, n), getattr(more, n)]) for n in ("boxes", "scores", "labels", "tile"))
        )

    monkeypatch.setattr(ZooAdapter, "predict", wild)
    result = detect(scene, rgb_bundle, tmp_path / "out")
    tiles = len(make_grid(300, 300, tile=128, overlap=32).windows_array())
    assert result.exit_code == 0 and result.scenes[0].counts.degenerate == 6 * tiles
    assert tables(tmp_path / "out") == tables(tmp_path / "expected") and expected.scenes[0].counts.degenerate == 0
    item = json.loads((tmp_path / "out/items/a.json").read_text())
    assert item["properties"]["geosod:degenerate_detections"] == 6 * tiles
    assert f"{6 * tiles} degenerate boxes" in summary(result)


def test_degenerate_boxes_do_not_fill_a_tile() -> None:
    """A tile is capped by the boxes it holds."""
    card = fake_card(top_k=3, tile=64, overlap=0)
    nan, inf = float("nan"), float("inf")
    wild = [[0, 0, 5, 5], [nan, 0, 5, 5], [0, 0, 5, inf]]
    full = [[0, 0, 5, 5], [5, 0, 9, 5], [9, 0, 12, 5]]
    raw = RawBoxes.per_tile([(np.array(b, np.float32), np.full(3, 0.9), np.zeros(3, int)) for b in (wild, full)])
    windows, size = np.array([[0, 0, 64, 64]] * 2), np.array([[64, 64]] * 2)
    tiles = TileBatch(np.zeros((2, 1, 64, 64), np.uint8), windows, None, size)
    found = postprocess(raw, tiles, card, threshold=0.1)
    assert (found.capped.tolist(), found.degenerate.tolist()) == ([False, True], [2, 0])
    assert found.counts.tolist() == [1, 3] and len(found.detections) == 4


def test_a_network_that_gives_no_numbers_costs_its_tiles(rgb_bundle, tmp_path, monkeypatch) -> None:
    """NaN is below every threshold: without a check its ground would count as inspected."""
    from geosod.detectors.adapters.zoo import ZooAdapter

    original = ZooAdapter._prepared

    def sick(self, model):
        network = original(self, model)

        def run(x):
            raw = network(x)
            raw[x[:, 0, 5, 5] == 1] *= float("nan")
            return raw

        return run

    monkeypatch.setattr(ZooAdapter, "_prepared", sick)
    pixels = noise(3, 300, 300)
    pixels[0, 5::128, 5::128], pixels[0, 5, 5] = 0, 255
    result = detect(write_tif(tmp_path / "a.tif", pixels), rgb_bundle, tmp_path / "out")
    assert result.exit_code == 3 and result.detections > 0
    (failure,) = result.failures
    assert (failure.stage, failure.error, failure.window.col, failure.window.row) == ("detect", "ModelError", 0, 0)
    assert "not a number" in failure.message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bands": "1,2,9"}, "no band '9'"),
        ({"bands": "1,2"}, "2 bands chosen, but the model takes 3"),
        ({"bands": "red,green,infrared"}, "no band 'infrared'"),
    ],
)
def test_wrong_bands_are_told(settings, message, good, rgb_bundle, tmp_path) -> None:
    result = detect(good, rgb_bundle, tmp_path / "out", **settings)
    assert result.exit_code == 2 and message in result.failures[0].message


def test_scenes_that_do_not_fit_the_model_are_refused(rgb_bundle, tmp_path) -> None:
    scenes = [
        write_tif(tmp_path / "four.tif", noise(4, 64, 64), photometric="MINISBLACK"),
        write_tif(tmp_path / "deep.tif", noise(3, 64, 64, dtype="uint16")),
    ]
    result = detect(scenes, rgb_bundle, tmp_path / "out")
    assert result.exit_code == 2
    messages = {f.scene_id: f.message for f in result.failures}
    assert "the model takes red, green, blue" in messages["four"]
    assert "pixels are uint16" in messages["deep"]
    rows = pq.read_table(tmp_path / "out" / "failures.parquet").to_pylist()
    assert {row["scene_id"] for row in rows} == {"four", "deep"}, "ground that was not looked at is on record"


def test_the_models_gsd_is_enforced(tmp_path) -> None:
    bundle = random_bundle(tmp_path / "m", bands=("pan",), gsd=10.0, gsd_range=(5.0, 20.0))
    fine = write_tif(tmp_path / "fine.tif", noise(1, 64, 64))
    coarse = write_tif(tmp_path / "coarse.tif", noise(1, 64, 64), transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5.8e6))
    unplaced = write_tif(tmp_path / "unplaced.tif", noise(1, 64, 64), crs=None)
    notes = []
    result = detect([fine, coarse, unplaced], bundle, tmp_path / "out", on_event=notes.append)
    assert {s.scene_id: s.status for s in result.scenes} == {"fine": "failed", "coarse": "done", "unplaced": "done"}
    assert "GSD is 0.5 m" in result.failures[0].message
    assert any("unplaced" in e.text for e in notes if isinstance(e, Note))


def test_settings_are_checked_before_anything_is_done(good, rgb_bundle, tmp_path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="tresh: unknown setting"):
        detect(good, rgb_bundle, out, tresh=0.5)
    with pytest.raises(ConfigError, match=r"threshold = 1\.5"):
        detect(good, rgb_bundle, out, threshold=1.5)
    with pytest.raises(ConfigError, match="overlap 200 x 200 must be at least 0 and below the tile"):
        detect(good, rgb_bundle, out, overlap=200)
    with pytest.raises(ConfigError, match="cannot be read as a vector file"):
        detect(good, rgb_bundle, out, aoi=good)
    with pytest.raises(ConfigError, match="EPSG:999999"):
        detect(good, rgb_bundle, out, crs="EPSG:999999")
    with pytest.raises(ModelError, match="no such folder"):
        detect(good, "no-such-model", out)
    with pytest.raises(UsageError, match="no scene given"):
        detect([], rgb_bundle, out)
    assert not out.exists() or not files(out)


def test_an_output_that_cannot_be_written_is_refused(good, rgb_bundle, tmp_path) -> None:
    with pytest.raises(OutputError, match=r"good\.tif"):
        detect(good, rgb_bundle, good)
    told = []
    with pytest.raises(OutputError, match="cannot be written"):
        detect(good, rgb_bundle, "/proc/geosod-out", on_event=told.append)
    assert not told, "before any work is done"


def test_reruns_skip_what_is_committed(engine, good, rgb_bundle, tmp_path) -> None:
    out = tmp_path / "out"
    detect(good, rgb_bundle, out, engine=engine)
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*.parquet")}
    other = write_tif(tmp_path / "other.tif", noise(3, 200, 200))
    result = detect([good, other], rgb_bundle, out, engine=engine)
    assert result.exit_code == 0 and {s.scene_id: s.status for s in result.scenes} == {
        "good": "skipped",
        "other": "done",
    }
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items())
    os.utime(good)
    assert detect(good, rgb_bundle, out).scenes[0].status == "done", "the file is another one now"
    again = detect(good, rgb_bundle, out, overwrite=True)
    assert again.scenes[0].status == "done"
    changed = detect(good, rgb_bundle, out, threshold=0.6)
    assert changed.exit_code == 2 and "--overwrite" in changed.failures[0].message


def test_another_scene_of_the_same_name_gets_a_name_of_its_own(good, rgb_bundle, tmp_path) -> None:
    (tmp_path / "there").mkdir()
    twin = write_tif(tmp_path / "there" / "good.tif", noise(3, 200, 200, seed=9))
    out, later = tmp_path / "out", tmp_path / "later"
    ids = {s.scene_id for s in detect([good, twin], rgb_bundle, out).scenes}
    assert len(ids) == 2 and all(i.startswith("good-") for i in ids)
    detect(good, rgb_bundle, later)
    (second,) = detect(twin, rgb_bundle, later).scenes
    assert second.status == "done" and second.scene_id.startswith("good-")
    assert detect(twin, rgb_bundle, later).scenes[0].status == "skipped"


def test_aoi_limits_the_work_and_shares_out_the_boxes(rgb_bundle, tmp_path) -> None:
    scene = write_tif(tmp_path / "s.tif", noise(3, 500, 800))
    whole = detect(scene, rgb_bundle, tmp_path / "whole")
    found, covered = [], []
    for name, span in {"left": (0, 300), "right": (300, 800)}.items():
        x0, x1 = (500_000 + 0.5 * x for x in span)
        box = geopandas.GeoSeries([shapely.box(x0, 5_800_000 - 250, x1, 5_800_000)], crs=32631)
        box.to_crs(3857).to_file(tmp_path / f"{name}.gpkg")
        result = detect(scene, rgb_bundle, tmp_path / name, aoi=tmp_path / f"{name}.gpkg")
        assert result.exit_code == 0 and 0 < result.scenes[0].counts.raw < whole.scenes[0].counts.raw
        found.append(pq.read_table(result.scenes[0].paths[0]))
        covered.append(geopandas.read_parquet(result.scenes[0].paths[1]))
    centres = np.concatenate([(t["px_xmin"].to_numpy() + t["px_xmax"].to_numpy()) / 2 for t in found])
    assert (centres[: len(found[0])] <= 300.5).all() and (centres[len(found[0]) :] >= 299.5).all()
    # Objects well inside one AOI or the other are those of the whole scene.
    everything = pq.read_table(whole.scenes[0].paths[0])
    middle = (everything["px_xmin"].to_numpy() + everything["px_xmax"].to_numpy()) / 2
    clear = np.abs(middle - 300) > 200
    assert np.isin(everything["detection_id"].to_numpy(zero_copy_only=False)[clear],
                   np.concatenate([t["detection_id"].to_numpy(zero_copy_only=False) for t in found])).all()  # fmt: skip
    inspected = [c[c.status == "inspected"].area_km2.sum() for c in covered]
    outside = [c[c.status == "outside_aoi"].area_km2.sum() for c in covered]
    assert inspected[0] == pytest.approx(outside[1], rel=2e-3) and inspected[1] == pytest.approx(outside[0], rel=2e-3)


def test_a_run_that_is_killed_leaves_no_result_and_a_rerun_completes(rgb_bundle, tmp_path) -> None:
    scenes = [write_tif(tmp_path / f"s{i}.tif", noise(3, 400, 2000, seed=i)) for i in range(4)]
    out = tmp_path / "out"
    call = {"model": str(rgb_bundle), "out": str(out), "engine": "serial"} | PLAIN
    script = f"import geosod; geosod.detect({[str(s) for s in scenes]!r}, **{call!r})"
    process = subprocess.Popen([sys.executable, "-c", script], env=os.environ)
    deadline = time.monotonic() + 120
    while not list(out.glob("items/*.json")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    committed = {p.stem for p in out.glob("items/*.json")}
    assert 0 < len(committed) < 4, "the run was to be killed between two commits"
    for path in out.rglob("*.parquet"):
        assert ".staging-" in str(path) or path.stem in committed
    result = detect(scenes, rgb_bundle, out)
    assert result.exit_code == 0
    assert {s.scene_id for s in result.scenes if s.status == "skipped"} == committed
    fresh = tmp_path / "fresh"
    detect(scenes, rgb_bundle, fresh)
    assert tables(out) == tables(fresh)
    assert not list(out.glob(".staging-*"))


def test_pixel_scenes_and_single_files(rgb_bundle, tmp_path) -> None:
    unplaced = write_tif(tmp_path / "u.tif", noise(3, 200, 200), crs=None)
    result = detect(unplaced, rgb_bundle, tmp_path / "out")
    assert files(tmp_path / "out") == {"pixel/u.parquet", "coverage/u.parquet", "items/u.json"}
    assert result.scenes[0].inspected_km2 is None
    detect(unplaced, rgb_bundle, tmp_path / "one" / "name.parquet")
    assert files(tmp_path / "one") == {"name.parquet", "name.coverage.parquet", "name.json"}
    assert (tmp_path / "one/name.parquet").read_bytes() == (tmp_path / "out/pixel/u.parquet").read_bytes()


def test_public_names() -> None:
    for name in geosod.__all__:
        assert getattr(geosod, name) is not None


def test_one_scene_that_cannot_be_finished_leaves_the_others_unharmed(engine, good, rgb_bundle, tmp_path) -> None:
    """A local frame has no place on the Earth: told before any tile is read."""
    local = write_tif(tmp_path / "local.tif", noise(3, 200, 200), crs='LOCAL_CS["site grid",UNIT["metre",1]]')
    result = detect([local, good], rgb_bundle, tmp_path / "out", engine=engine)
    assert result.exit_code == 3
    assert {s.scene_id: s.status for s in result.scenes} == {"local": "failed", "good": "done"}
    assert "local.tif" in result.failures[0].uri and "\n" not in result.failures[0].message


@pytest.mark.slow
def test_a_detector_that_only_fails_is_given_up_and_the_others_do_the_work(cluster, rgb_bundle, tmp_path) -> None:
    """One is killed when both are at work, and its successor finds no weights, nor a place for a copy of them."""
    bundle, cache = tmp_path / "bundle", cache_folder("bundles")
    shutil.copytree(rgb_bundle, bundle)
    shutil.rmtree(cache, ignore_errors=True)
    told, killed = [], []

    def on_event(event: object) -> None:
        told.append(event)
        if not isinstance(event, TilesDetected):
            return
        if not killed:
            killed.append(idle_detectors(2)[0].pid)
            (bundle / "model.safetensors").unlink()
            cache.parent.mkdir(parents=True, exist_ok=True)
            cache.write_text("in the way")
            os.kill(killed[0], signal.SIGKILL)
        elif not given_up(told):
            # The scene must not be done before the successor has started and failed.
            time.sleep(0.3)

    scene = write_tif(tmp_path / "s.tif", noise(3, 3000, 3000))
    try:
        result = detect(scene, bundle, tmp_path / "out", engine="ray", workers=2, on_event=on_event)
    finally:
        cache.unlink(missing_ok=True)
    assert killed and result.exit_code == 0
    assert given_up(told)
    tiles = sum(e.tiles for e in told if isinstance(e, TilesDetected))
    assert tiles == result_tiles(3000), "every tile once, by the detector that is left"


def given_up(told: list[object]) -> bool:
    return any(isinstance(e, Note) and "only fails and is stopped" in e.text for e in told)


def idle_detectors(count: int) -> list[psutil.Process]:
    """Detector processes, once `count` of them are loaded and have nothing to do (the driver is held up here)."""
    since, deadline = time.monotonic(), time.monotonic() + 120
    found: list[psutil.Process] = []
    while len(found) < count or time.monotonic() - since < 2:
        assert time.monotonic() < deadline, "the detectors never came to rest"
        time.sleep(0.1)
        # While it runs a method, the title names that, too.
        found = [p for p in ray_workers("DetectorActor") if " ".join(p.cmdline()).strip() == "ray::DetectorActor"]
        since = since if len(found) >= count else time.monotonic()
    return found


def result_tiles(side: int) -> int:
    grid = make_grid(side, side, tile=128, overlap=32)
    return grid.rows * grid.cols


def test_requests_that_are_refused_leave_no_trace_in_the_failures(good, rgb_bundle, tmp_path) -> None:
    out = tmp_path / "out"
    detect(good, rgb_bundle, out)
    assert detect(good, rgb_bundle, out, threshold=0.6).exit_code == 2
    assert detect(good, rgb_bundle, out, precision="bf16").exit_code == 2
    assert "failures.parquet" not in files(out)
    detect([good, tmp_path / "late.tif"], rgb_bundle, out)
    assert "failures.parquet" in files(out)
    write_tif(tmp_path / "late.tif", noise(3, 100, 100))
    assert detect([good, tmp_path / "late.tif"], rgb_bundle, out).exit_code == 0
    assert "failures.parquet" not in files(out)


def test_one_file_is_not_replaced_by_another_scene(good, rgb_bundle, tmp_path) -> None:
    other = write_tif(tmp_path / "other.tif", noise(3, 100, 100))
    out = tmp_path / "name.parquet"
    detect(good, rgb_bundle, out)
    with pytest.raises(OutputError, match="--overwrite"):
        detect(other, rgb_bundle, out)
    assert detect(other, rgb_bundle, out, overwrite=True).scenes[0].scene_id == "other"


def test_times_and_bands_mean_one_thing_however_they_are_written() -> None:
    import datetime as dt

    from geosod.config import make_config

    day = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    assert make_config(datetime="20240101").datetime == make_config(datetime=dt.date(2024, 1, 1)).datetime == day
    assert make_config(datetime="2024-01-01T02:00+02:00").datetime == day
    with pytest.raises(ConfigError, match="datetime"):
        make_config(datetime=2024)
    assert make_config(bands=[1, 2, 3]).options() == make_config(bands="1, 2,3").options()


@pytest.mark.parametrize("engine", ["serial", "local", "ray"])
def test_two_runs_at_once_with_files_of_one_name(engine, rgb_bundle, tmp_path, request) -> None:
    """The second run plans before the first commits: both scenes are there, as when one ran after the other."""
    if engine == "ray":
        request.getfixturevalue("cluster")
    scenes = [
        write_tif(_made(tmp_path / name) / "scene.tif", noise(3, 200, 200, seed=i)) for i, name in enumerate("AB")
    ]
    first = make_job_and_outputs(scenes[0], rgb_bundle)

    def commit_the_other(event: object) -> None:
        if isinstance(event, TilesDetected) and not (tmp_path / "out/items/scene.json").exists():
            commit_outputs(open_output(tmp_path / "out"), first)

    result = detect(scenes[1], rgb_bundle, tmp_path / "out", engine=engine, on_event=commit_the_other)
    assert result.exit_code == 0 and result.scenes[0].scene_id.startswith("scene-")
    names = sorted(path.stem for path in (tmp_path / "out/items").glob("*.json"))
    assert len(names) == 2 and names[0] == "scene"
    detect(scenes[0], rgb_bundle, tmp_path / "after")
    detect(scenes[1], rgb_bundle, tmp_path / "after")
    assert tables(tmp_path / "out") == tables(tmp_path / "after")
    again = detect(scenes, rgb_bundle, tmp_path / "out")
    assert [scene.status for scene in again.scenes] == ["skipped", "skipped"]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def make_job_and_outputs(scene: Path, bundle: Path) -> SceneOutputs:
    return geosod.detect(scene, model=bundle, **PLAIN)["scene"]
