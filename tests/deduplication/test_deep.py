"""Many scenes of one place: the result is that of comparing all pairs, although few of them are measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod import deduplicate
from geosod.deduplication import run, suppress, sweep
from geosod.deduplication.boxes import Boxes
from geosod.deduplication.candidates import components, index_candidates
from geosod.deduplication.match import MatchRule
from geosod.detections import Detections
from tests.deduplication.brute import brute
from tests.deduplication.outputs import commit
from tests.deduplication.test_exact import UTM, check, read, tables_of
from tests.deduplication.test_overlap import boxes_of, rows_of
from tests.output.samples import make_scene


def stack(rng: np.random.Generator, scenes: int, objects: int, jitter: float, *, split: bool = False) -> Boxes:
    """The same objects in many scenes, some missing in each, with errors of position and size; some split at a line."""
    corner = rng.uniform(0, 6 * np.sqrt(objects), (objects, 2))
    size = rng.choice([5.0, 8, 12], (objects, 2))
    scene, which = (grid.reshape(-1) for grid in np.meshgrid(np.arange(scenes), np.arange(objects), indexing="ij"))
    found = rng.random(len(scene)) < 0.9
    scene, which = scene[found], which[found]
    n = len(scene)
    low = corner[which] + rng.normal(0, jitter, (n, 2))
    high = low + size[which] * rng.uniform(1 - jitter / 10, 1 + jitter / 10, (n, 2))
    shapes = np.asarray(shapely.box(*low.T, *high.T), object)
    if split:
        line = float(np.median(low[:, 0]) + 3)
        parts = [
            shapely.intersection(shapes, shapely.box(*side)) for side in ((-99, -99, line, 99), (line, -99, 99, 99))
        ]
        several = ~shapely.is_empty(parts[0]) & ~shapely.is_empty(parts[1])
        shapes[several] = shapely.multipolygons(np.stack([part[several] for part in parts], axis=1))
    score = rng.integers(1, 9, n).astype(np.float32) / 8
    return boxes_of(shapes, scene, score=score, truncated=rng.random(n) < 0.1, label=which % 2)


def suppressed(boxes: Boxes, rule: MatchRule) -> tuple[dict[str, str], int]:
    """Id of every dropped box → id of the one it is merged into; and the number of pairs measured."""
    index, n = index_candidates(boxes, rule, full_circle=None), len(boxes)
    dates = np.full(boxes.scene.max() + 1, np.iinfo(np.int64).min)
    found = suppress.suppress(boxes, index, np.ones(n, np.bool_), dates, rule, full_circle=None)
    names = np.array(boxes.ids.to_pylist())
    return dict(zip(names[found.dropped].tolist(), names[found.kept].tolist(), strict=True)), found.pairs


@pytest.mark.parametrize("limits", [(1, 0, 0), (2, 0, 3), (7, 5, 1), (40, 1, 40), (500_000, 0, 4096), (9, 10**6, 9)])
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    jitter=st.sampled_from([0.0, 0.7, 2.0]),
    metric=st.sampled_from(["iou", "ios"]),
    threshold=st.sampled_from([0.1, 0.5, 0.8]),
    class_agnostic=st.booleans(),
    split=st.booleans(),
)
def test_deep_stacks(limits, seed, jitter, metric, threshold, class_agnostic, split) -> None:
    """Limits on pairs and on waiting boxes do not change the result."""
    boxes = stack(np.random.default_rng(seed), 12, 6, jitter, split=split)
    rule: dict[str, Any] = {"metric": metric, "threshold": threshold, "class_agnostic": class_agnostic}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(("MAX_PAIRS", "MAX_SPECULATIVE", "MAX_WAITING"), limits, strict=True):
            patch.setattr(suppress, name, value)
        merges, _ = suppressed(boxes, MatchRule(**rule))
    assert merges == brute(rows_of(boxes), prefer="score", **rule)


@pytest.mark.parametrize("order", ["any", "by object", "by scene"])
def test_pairs_grow_with_rows_and_not_with_depth(order) -> None:
    """Of the pairs of an object's boxes only those with the kept box are measured."""
    rule = MatchRule()
    for depth in (4, 16, 64):
        rng = np.random.default_rng(depth)
        boxes = stack(rng, depth, 40, 0.3)
        rank = {"any": rng.permutation(len(boxes)), "by scene": boxes.scene, "by object": boxes.bounds[:, 0]}[order]
        columns = {"score": -rank.astype(np.float32), "truncated": np.zeros(len(boxes), np.bool_)}
        boxes = Boxes(**({name: getattr(boxes, name) for name in Boxes.__slots__} | columns))
        merges, pairs = suppressed(boxes, rule)
        assert len(merges) > 0.5 * len(boxes)
        assert pairs <= 2 * len(boxes) + suppress.MAX_SPECULATIVE


def test_each_box_of_a_pile_is_reached_once() -> None:
    """Boxes of a chain are one component, isolated boxes others, and nothing is left in the index."""
    x = np.arange(50) * 4.0
    chain = shapely.box(x, 0, x + 10, 10)
    boxes = boxes_of(np.concatenate([chain, chain, shapely.box(x, 500, x + 3, 510)]), np.arange(150) % 7)
    rule = MatchRule(threshold=0.4)
    index = index_candidates(boxes, rule, full_circle=None)
    component = components(index)
    assert len(np.unique(component[:100])) == 1 and len(np.unique(component)) == 51
    assert not np.any(index.parts.skip[:-1] == np.arange(150))


@pytest.mark.parametrize("rows", [1, 13, 40])
def test_a_stack_is_processed_in_strips(tmp_path, rows, monkeypatch) -> None:
    """Most boxes wait in files for their strip, and few pairs are measured at a time."""
    monkeypatch.setattr(suppress, "MAX_PAIRS", 5)
    rng = np.random.default_rng(rows)
    corner = rng.uniform(0, 60, (8, 2))
    spilled = []
    append_table = sweep.append_table
    monkeypatch.setattr(
        sweep, "append_table", lambda path, table: (spilled.append(len(table)), append_table(path, table))
    )
    for k in range(12):
        low = corner + rng.normal(0, 0.8, corner.shape)
        d = Detections(
            boxes=np.hstack([low, low + 8]), scores=rng.random(8), labels=np.zeros(8), truncated=rng.random(8) < 0.1
        )
        place = Affine(0.5, 0, 500_000, 0, -0.5, 5_200_000)
        commit(tmp_path / "out", make_scene(f"s{k:02}", crs=UTM, transform=place, uri=f"/{k}.tif"), d, crs=UTM)
    before = read([tmp_path / "out"])
    rule = {"prefer": "score", "metric": "iou", "threshold": 0.5, "class_agnostic": False}
    merges = brute(before, **rule)
    deduplicate(tmp_path / "out", out=tmp_path / "new", rows=rows, **rule)
    check(tmp_path / "new", before, merges)
    assert sum(spilled) > 10 and len(merges) > 60
    monkeypatch.setattr(suppress, "MAX_PAIRS", 500_000)
    deduplicate(tmp_path / "out", out=tmp_path / "once", rows=run.ROWS, **rule)
    assert tables_of(tmp_path / "new") == tables_of(tmp_path / "once")


@pytest.mark.parametrize(("whole", "count"), [(False, 2), (True, 1)])
def test_all_fragments_of_a_truncated_object_are_merged_into_the_whole(tmp_path, whole, count) -> None:
    """Two fragments in one scene are one box of another; next to a matching whole box, a fragment is another object."""
    one = Detections(boxes=[[100, 100, 140, 120]], scores=[0.5], labels=[0])
    boxes = [[100, 100, 110, 120], [132, 100, 140, 120], *([[101, 100, 140, 120]] if whole else [])]
    truncated = [True, True, *([False] if whole else [])]
    two = Detections(boxes=boxes, scores=[0.9] * len(boxes), labels=[0] * len(boxes), truncated=truncated)
    commit(tmp_path / "a", make_scene("a", crs=UTM, uri="/a.tif"), one, crs=UTM)
    commit(tmp_path / "b", make_scene("b", crs=UTM, uri="/b.tif"), two, crs=UTM)
    rule = {"prefer": "score", "metric": "iou", "threshold": 0.5, "class_agnostic": False}
    outputs = [tmp_path / "a", tmp_path / "b"]
    before = read(outputs)
    merges = brute(before, **rule)
    deduplicate(outputs, out=tmp_path / "new", **rule)
    check(tmp_path / "new", before, merges)
    assert len(merges) == count


def test_the_buffer_frees_its_room_and_its_files(tmp_path) -> None:
    boxes = stack(np.random.default_rng(0), 3, 10, 0.5)
    buffer = sweep._StripBuffer(len(boxes), tmp_path)
    for strip in (1, 1, 2):
        buffer.put(strip, boxes)
    assert buffer.room == 0 and len(list(tmp_path.iterdir())) == 2
    for strip, count in ((1, 2), (2, 1), (3, 0)):
        kept = buffer.pop(strip)
        assert len(kept) == count and all(part.to_arrow().equals(boxes.to_arrow()) for part in kept)
    assert buffer.room == len(boxes) and not list(tmp_path.iterdir())
