"""The result is that of matching all boxes at once, however the files are divided."""

from __future__ import annotations

import datetime as dt
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod import deduplicate
from geosod.detections import Detections
from tests.deduplication.brute import brute
from tests.deduplication.outputs import commit
from tests.output.samples import make_scene

UTM = "EPSG:32633"
ROTATED = Affine.translation(500_000, 5_200_000) @ Affine.rotation(25) @ Affine.scale(0.5, -0.5)


def crowded(rng: np.random.Generator, n: int) -> Detections:
    """Boxes that overlap much, with many ties; some are large."""
    corner = rng.integers(0, 60, (n, 2)).astype(float)
    size = rng.choice([6.0, 8, 8, 10, 10, 40], (n, 1)) + rng.integers(0, 3, (n, 2))
    return Detections(
        boxes=np.hstack([corner, corner + size]),
        scores=rng.integers(1, 5, n) / 4,
        labels=rng.integers(0, 2, n),
        truncated=rng.random(n) < 0.2,
        n_merged=rng.integers(1, 4, n),
    )


def build(root: Path, seed: int, scenes: int, n: int) -> list[Path]:
    """Outputs of overlapping scenes, each with its own shift and rotation; two share a folder."""
    rng = np.random.default_rng(seed)
    for k in range(scenes):
        place = (
            ROTATED @ Affine.rotation(float(rng.integers(0, 2) * 7)) @ Affine.translation(*rng.integers(0, 3, 2) * 25)
        )
        when = [None, *(dt.datetime(2024, 5, d, tzinfo=dt.UTC) for d in (1, 2))][rng.integers(0, 3)]
        scene = make_scene(f"s{k}", crs=UTM, transform=place, size=(120, 120), when=when, uri=f"/s{k}.tif")
        # Class ids differ from scene to scene; only names are compared.
        classes = ("boat", "plane") if k % 2 else ("plane", "boat")
        commit(root / f"out{max(0, k - 1)}", scene, crowded(rng, n), crs=UTM, classes=classes)
    return sorted(root.glob("out*"))


def regroup(outputs: list[Path], rows: int) -> None:
    for output in outputs:
        for path in output.glob("detections/*/*.parquet"):
            pq.write_table(pq.read_table(path, partitioning=None), path, row_group_size=rows)


def read(outputs: list[Path]) -> list[dict[str, Any]]:
    tables = [pq.read_table(p, partitioning=None) for o in outputs for p in o.glob("detections/*/*.parquet")]
    return [
        {
            "scene": r["scene_id"], "id": r["detection_id"], "shape": shapely.from_wkb(r["geometry"]),
            "truncated": r["truncated"],
            "label": r["label"], "score": r["score"], "n": r["n_merged"],
            "date": None if r["datetime"] is None else r["datetime"].timestamp(),
        }
        for table in tables for r in table.to_pylist()
    ]  # fmt: skip


def tables_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.parquet"))}


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    scenes=st.integers(2, 4),
    n=st.integers(0, 30),
    prefer=st.sampled_from(["score", "newest"]),
    metric=st.sampled_from(["iou", "ios"]),
    threshold=st.sampled_from([0.1, 0.3, 0.5, 0.9]),
    class_agnostic=st.booleans(),
    rows=st.sampled_from([1, 2, 5, 17]),
    group=st.sampled_from([1, 4, 13]),
)
def test_the_result_is_that_of_comparing_all_pairs(
    seed, scenes, n, prefer, metric, threshold, class_agnostic, rows, group
) -> None:
    rule: dict[str, Any] = {
        "prefer": prefer, "metric": metric, "threshold": threshold, "class_agnostic": class_agnostic,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        outputs = build(root, seed, scenes, n)
        whole = deduplicate(outputs, out=root / "whole", **rule)
        before = read(outputs)
        merges = brute(before, **rule)
        regroup(outputs, group)
        parts = deduplicate(outputs[::-1], out=root / "parts", rows=rows, **rule)
        assert tables_of(root / "parts") == tables_of(root / "whole")
        check(root / "whole", before, merges)
        assert whole.rows_in == parts.rows_in == len(before)
        assert whole.merged == parts.merged == len(merges)


def check(new: Path, before: list[dict[str, Any]], merges: dict[str, str]) -> None:
    after = {
        r["detection_id"]: r
        for p in new.glob("detections/*/*.parquet")
        for r in pq.read_table(p, partitioning=None).to_pylist()
    }
    assert set(after) == {row["id"] for row in before} - set(merges)
    scene = {row["id"]: row["scene"] for row in before}
    for row in before:
        if row["id"] in merges:
            continue
        merged = sorted((scene[gone], gone) for gone, kept in merges.items() if kept == row["id"])
        names = [name for _, name in merged]
        got = after[row["id"]]
        assert got["merged_ids"] == names
        assert got["n_scenes"] == 1 + len({scene[name] for name in names})
        assert got["n_merged"] == row["n"] + sum(r["n"] for r in before if r["id"] in names)
    duplicates = new / "duplicates.parquet"
    assert duplicates.exists() == bool(merges)
    if merges:
        gone = pq.read_table(duplicates).to_pylist()
        assert {r["detection_id"]: r["kept_id"] for r in gone} == merges
        n = {row["id"]: row["n"] for row in before}
        assert all(r["n_merged"] == n[r["detection_id"]] for r in gone)


def test_a_box_that_spans_all_strips_meets_boxes_of_each(tmp_path) -> None:
    """With IoS a large box matches all small ones inside it and suppresses one, that of the largest overlap."""
    tall = Detections(boxes=[[10, 0, 14, 800]], scores=[0.9], labels=[0])
    y = np.arange(0, 780, 10.0)
    small = np.stack([np.full_like(y, 8.0), y, np.full_like(y, 14.0), y + 6], axis=1)
    small[-1, 0] = 10.0
    many = Detections(boxes=small, scores=np.full(len(y), 0.5), labels=np.zeros(len(y)))
    commit(tmp_path / "a", make_scene("a", crs=UTM), tall, crs=UTM)
    ids = commit(tmp_path / "b", make_scene("b", crs=UTM), many, crs=UTM)
    best = ids["detection_id"].to_pylist()[int(np.argmax(ids["px_ymin"].to_numpy()))]
    outputs = [tmp_path / "a", tmp_path / "b"]
    for rows in (1, 10, 1000):
        result = deduplicate(outputs, out=tmp_path / "new", metric="ios", rows=rows, overwrite=True)
        assert result.merged == 1
        assert pq.read_table(tmp_path / "new" / "duplicates.parquet")["detection_id"].to_pylist() == [best]


@pytest.mark.parametrize("rows", [1, 7, 400])
def test_chains_continue_through_strips(tmp_path, rows) -> None:
    """Boxes that alternate between two scenes, each overlapping the previous one: one component through all strips."""
    y = np.arange(100) * 4.0
    boxes = np.stack([np.zeros(100), y, np.full(100, 10.0), y + 10], axis=1)
    scores = np.linspace(0.9, 0.1, 100)
    for k in range(2):
        d = Detections(boxes=boxes[k::2], scores=scores[k::2], labels=np.zeros(50))
        commit(tmp_path / f"o{k}", make_scene(f"s{k}", crs=UTM), d, crs=UTM)
    outputs = sorted(tmp_path.glob("o?"))
    before = read(outputs)
    rule = {"prefer": "score", "metric": "iou", "threshold": 0.4, "class_agnostic": False}
    merges = brute(before, **rule)
    assert len(merges) == 50
    deduplicate(outputs, out=tmp_path / "new", rows=rows, **rule)
    check(tmp_path / "new", before, merges)
    shutil.rmtree(tmp_path / "new")
