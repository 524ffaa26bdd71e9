"""The parquet of a scene is the same bytes for any units, actors, engine, and after a worker was killed."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from geosod.detections import Detections
from geosod.errors import ConfigError
from geosod.merging import components
from geosod.running import stages
from geosod.running.events import TilesDetected
from tests.rasters import noise, random_bundle, write_tif
from tests.running import helpers
from tests.running.helpers import kill_a_worker, tables


def detect(*args, **settings):
    """A low threshold makes long chains."""
    return helpers.detect(*args, merge_threshold=0.3, **settings)


def corners(files: dict[str, bytes]) -> dict[str, list[tuple[float, ...]]]:
    """The corners of every box, by file."""
    names = ("px_xmin", "px_ymin", "px_xmax", "px_ymax")
    found = {n: pq.read_table(io.BytesIO(data)) for n, data in files.items() if n.startswith("detections")}
    return {n: sorted(zip(*(table[c].to_pylist() for c in names), strict=True)) for n, table in found.items()}


@pytest.fixture(scope="module")
def rgb_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector that leaves dense clusters of overlapping boxes, so that chains of matches cross borders."""
    folder = tmp_path_factory.mktemp("models") / "dense"
    return random_bundle(folder, bands=("red", "green", "blue"), nms_iou=0.95, top_k=150)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two scenes of unlike sizes, one with a nodata corner, so that batches mix scenes."""
    folder = tmp_path_factory.mktemp("scenes")
    holed = noise(3, 700, 900, seed=2)
    holed[:, :300, :300] = 0
    return [write_tif(folder / "a.tif", noise(3, 600, 1000, seed=1)), write_tif(folder / "b.tif", holed, nodata=0)]


@pytest.fixture(scope="module")
def expected(scenes: list[Path], rgb_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The oracle: one unit for the whole scene, no merging tree, in this process."""
    out = tmp_path_factory.mktemp("oracle")
    result = detect(scenes, rgb_bundle, out, unit=(0, 0))
    assert result.exit_code == 0 and result.detections > 500
    assert all(scene.counts.pending == 0 for scene in result.scenes)
    return tables(out)


@pytest.mark.parametrize("unit", [(1, 0), (1, 1), (2, 3), (0, 1), (8, 8)])
def test_units_do_not_matter(unit, scenes, rgb_bundle, expected, tmp_path: Path) -> None:
    result = detect(scenes, rgb_bundle, tmp_path, unit=unit)
    assert unit == (8, 8) or all(scene.counts.pending > 0 for scene in result.scenes), "nothing crossed a unit's border"
    assert tables(tmp_path) == expected


@pytest.mark.parametrize("tiling", [{"tile": "160x96", "overlap": 0.25}, {"tile": "96x224", "overlap": "40x0.3"}])
def test_units_do_not_matter_where_tiles_are_not_square(tiling, scenes, rgb_bundle, tmp_path: Path) -> None:
    whole = detect(scenes, rgb_bundle, tmp_path / "whole", unit=(0, 0), **tiling)
    assert whole.exit_code == 0 and whole.detections > 500
    for unit in [(1, 1), (2, 3)]:
        parts = detect(scenes, rgb_bundle, tmp_path / f"{unit}", unit=unit, **tiling)
        assert all(scene.counts.pending > 0 for scene in parts.scenes)
        assert tables(tmp_path / f"{unit}") == tables(tmp_path / "whole")
    detect(scenes, rgb_bundle, tmp_path / "local", engine="local", workers=2, unit=(2, 3), **tiling)
    assert tables(tmp_path / "local") == tables(tmp_path / "whole")


@pytest.mark.parametrize(("workers", "unit"), [(1, (1, 0)), (2, (2, 3))])
def test_actors_and_engine_do_not_matter(workers, unit, scenes, rgb_bundle, expected, tmp_path, cluster) -> None:
    assert detect(scenes, rgb_bundle, tmp_path, engine="ray", workers=workers, unit=unit).exit_code == 0
    assert tables(tmp_path) == expected


@pytest.mark.parametrize("method", ["soft_nms", "nmm", "greedy_nmm", "wbf"])
def test_every_method_is_exact(method, scenes, rgb_bundle, tmp_path) -> None:
    """Through the pipeline; the merging room's own tests try harder."""
    settings = {"merge_method": method, "merge_threshold_by_class": "car=0.3", "threshold": 0.4}
    for name, unit in {"whole": (0, 0), "rows": (1, 0), "units": (2, 3)}.items():
        result = detect(scenes[0], rgb_bundle, tmp_path / name, unit=unit, **settings)
        assert result.exit_code == 0 and result.detections > 100
    assert tables(tmp_path / "whole") == tables(tmp_path / "rows") == tables(tmp_path / "units")


def test_a_class_that_the_model_does_not_know_is_refused(scenes, rgb_bundle, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"boat.*ship, car"):
        detect(scenes[0], rgb_bundle, tmp_path, merge_threshold_by_class="boat=0.3")


def test_levels_are_the_same_in_both_engines(scenes, rgb_bundle, tmp_path, cluster) -> None:
    """Every level has its own units and tree."""
    for engine, unit in (("serial", (0, 0)), ("ray", (2, 2))):
        settings = {"levels": "1,full", "engine": engine, "unit": unit}
        assert detect(scenes[0], rgb_bundle, tmp_path / engine, **settings).exit_code == 0
    assert tables(tmp_path / "ray") == tables(tmp_path / "serial")


def test_a_killed_detector_does_not_matter(scenes, rgb_bundle, expected, tmp_path, cluster) -> None:
    killed = []

    def kill_one(event: object) -> None:
        if isinstance(event, TilesDetected) and not killed:
            killed.append(kill_a_worker("DetectorActor"))

    result = detect(scenes, rgb_bundle, tmp_path, engine="ray", workers=2, unit=(1, 0), on_event=kill_one)
    assert result.exit_code == 0 and killed == [True]
    assert tables(tmp_path) == expected


def test_batches_are_filled_across_scenes(scenes, rgb_bundle, tmp_path, cluster) -> None:
    sizes = []
    detect(
        scenes, rgb_bundle, tmp_path, engine="ray", unit=(2, 2), batch=4,
        on_event=lambda event: sizes.append(event.tiles) if isinstance(event, TilesDetected) else None,
    )  # fmt: skip
    assert len(sizes) > 3 and all(size == 16 for size in sizes[:-1]), "four batches of four tiles"


def test_mutant_per_unit_nms_is_caught(scenes, rgb_bundle, expected, tmp_path, monkeypatch) -> None:
    """NMS of each unit, then NMS of the survivors: what the component split replaces."""
    original = stages.settle

    def shortcut(detections: Detections, core, rule) -> components.Settled:
        survivors = original(detections, core, rule, whole=True).final
        return components.Settled(Detections.empty(), survivors)

    monkeypatch.setattr(stages, "settle", shortcut)
    result = detect(scenes, rgb_bundle, tmp_path, unit=(1, 1))
    assert result.exit_code == 0 and corners(tables(tmp_path)) != corners(expected)


def test_mutant_without_cores_is_caught(scenes, rgb_bundle, expected, tmp_path, monkeypatch) -> None:
    """Settling everything inside each unit leaves the duplicates of the overlap."""
    original = stages.settle
    monkeypatch.setattr(stages, "settle", lambda d, core, rule: original(d, core, rule, whole=True))
    result = detect(scenes, rgb_bundle, tmp_path, unit=(1, 0))
    assert result.exit_code == 0 and corners(tables(tmp_path)) != corners(expected)
