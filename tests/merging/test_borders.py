"""Fragments at tile borders; the general comparison with plain loops is in `test_methods`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import geosod
from benchmarks.borders import GROUPS, MARGIN, Figures, draw_cases, seen, trial
from geosod.detections import BOTTOM, EDGE_MARGIN, EXCLUDED, LEFT, RIGHT, TOP, Detections, fragment_flags
from geosod.errors import ConfigError
from geosod.evaluation.scene_score import match
from geosod.merging.merge import merge
from geosod.merging.methods import METHODS
from geosod.tiling.grid import make_grid

#: Tiles [0, 100] and [80, 180] along x, and the same along y.
NORTH_WEST, NORTH_EAST, SOUTH_WEST, SOUTH_EAST = RIGHT | BOTTOM, LEFT | BOTTOM, RIGHT | TOP, LEFT | TOP


def fragments(boxes, fragment, scores=None, **columns):
    n = len(boxes)
    scores = np.linspace(0.5, 0.9, n) if scores is None else scores
    return Detections(boxes=boxes, scores=scores, labels=columns.pop("labels", [0] * n), fragment=fragment, **columns)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_fragments_that_agree_where_their_tiles_overlap_are_one_object(method):
    boxes = fragments([[30, 10, 100, 40], [80, 10.5, 150, 39]], [RIGHT, LEFT], truncated=[False, True], n_merged=[2, 3])
    merged = merge(boxes, method=method)
    assert merged.boxes.tolist() == [[30, 10, 150, 40]]
    assert merged.scores.tolist() == pytest.approx([0.9])
    assert (merged.n_merged.tolist(), merged.truncated.tolist(), merged.fragment.tolist()) == ([5], [True], [0])
    assert len(merge(boxes, method=method, borders=False)) == 2


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(([80, 60, 150, 90], LEFT, 0), id="below the first"),
        pytest.param(([80, 34, 150, 90], LEFT, 0), id="agrees too little"),
        pytest.param(([80, 10, 150, 40], LEFT, 1), id="of another class"),
        pytest.param(([100, 10, 150, 40], LEFT, 0), id="of a tile that only touches"),
        pytest.param(([80, 10, 150, 40], 0, 0), id="whole and of little overlap"),
    ],
)
def test_fragments_of_two_objects_stay_two(second):
    box, side, label = second
    assert len(merge(fragments([[30, 10, 100, 40], box], [RIGHT, side], labels=[0, label]))) == 2


def test_four_tiles_meet_over_one_object():
    boxes = fragments(
        [[10, 20, 100, 100], [80, 20, 170, 100], [10, 80, 100, 160], [80, 80, 170, 160]],
        [NORTH_WEST, NORTH_EAST, SOUTH_WEST, SOUTH_EAST],
    )
    merged = merge(boxes)
    assert (merged.boxes.tolist(), merged.fragment.tolist()) == ([[10, 20, 170, 160]], [0])
    assert merge(boxes[[0, 1, 2]]).fragment.tolist() == [0], "its extent is known without the fourth"
    upper = merge(boxes[[0, 1]])
    assert (upper.boxes.tolist(), upper.fragment.tolist()) == ([[10, 20, 170, 100]], [BOTTOM])


def test_a_fragment_is_assigned_to_a_whole_object_even_if_that_is_suppressed_itself():
    # The second whole box is suppressed by the first, which the fragment does not match.
    boxes = fragments([[0, 0, 10, 10], [0, 0, 10, 16], [0, 11, 10, 16]], [0, 0, TOP], [0.9, 0.8, 0.99])
    for method in ("nms", "nmm", "greedy_nmm", "wbf"):
        assert merge(boxes, method=method).n_merged.tolist() == [3]
    kept = merge(boxes, method="soft_nms", decay="linear", min_score=0.5)
    assert (kept.n_merged.tolist(), kept.boxes.tolist()) == ([3], [[0, 0, 10, 10]])


def test_a_box_in_the_edge_margin_is_whole_but_ranks_last():
    boxes = fragments([[0, 0, 10, 10], [0, 0, 10, 11]], [0, EDGE_MARGIN], [0.3, 0.9])
    assert merge(boxes).boxes.tolist() == [[0, 0, 10, 10]]
    # Two of them are not stitched.
    margins = fragments([[0, 0, 10, 10], [3, 0, 13, 10]], [EDGE_MARGIN, EDGE_MARGIN])
    assert merge(margins).boxes.tolist() == [[3, 0, 13, 10]]
    # It is whole: no large fragment around it is assigned to it, and no other box in the edge margin either.
    inside = fragments([[0, 0, 100, 100], [40, 40, 50, 50]], [RIGHT, EDGE_MARGIN], [0.9, 0.3])
    assert len(merge(inside)) == len(merge(inside.with_columns(fragment=[EDGE_MARGIN, EDGE_MARGIN]))) == 2


def test_a_fragment_is_not_assigned_to_an_object_that_ends_before_it():
    # The fragment continues beyond x = 0, but its neighbour of the same class ends before.
    boxes = fragments([[0, 0, 100, 100], [40, 0, 140, 100]], [LEFT, 0], [0.7, 0.6])
    assert len(merge(boxes, margin=2.0)) == 2
    longer = boxes.with_columns(boxes=[[0, 0, 100, 100], [-40, 0, 140, 100]])
    assert merge(longer, margin=2.0).boxes.tolist() == [[-40, 0, 140, 100]]


def test_slanted_objects_side_by_side_are_not_lost():
    """Their axis-aligned boxes overlap by nearly half, and many are larger than the overlap of the tiles."""
    side, step = 169.0, 64.0
    low = 40.0 + step * np.arange(28)
    down = 40.0 + step * np.arange(28) % 300
    row = np.stack([low, down, low + side, down + side], axis=1)
    objects = np.concatenate([row + np.array([0, 600, 0, 600]) * k for k in range(3)])
    grid = make_grid(2000, 1900, tile=512, overlap=64)
    raw = Detections.concat(seen(objects, grid, np.random.default_rng(3)))
    for method in ("nms", "nmm", "greedy_nmm"):
        found = merge(raw, method=method, margin=MARGIN)
        hit, _ = match(objects, np.zeros(len(objects)), found.boxes, np.zeros(len(found)), found.scores)
        assert len(np.unique(hit[hit >= 0])) >= 0.95 * len(objects)
        assert len(found) <= 1.02 * len(objects)


def test_a_large_fragment_does_not_absorb_small_ones():
    few = [[0, 40.0 * i, 12, 40.0 * i + 25] for i in range(12)]
    boxes = fragments([[0, 0, 512, 512], *few], [RIGHT | BOTTOM, *[LEFT] * 12], [0.3, *[0.9] * 12])
    assert len(merge(boxes, margin=2.0)) == 13


def test_the_threshold_is_for_whole_boxes_and_not_for_fragments():
    boxes = fragments([[0, 0, 100, 60], [50, 50, 120, 90], [105, 50, 200, 90]], [0, RIGHT, LEFT], [0.9, 0.8, 0.8])
    for threshold in (0.1, 0.5, 0.9):
        assert merge(boxes, threshold=threshold).boxes.tolist() == [[0, 0, 100, 60], [50, 50, 200, 90]]


def test_offset_boxes_along_an_edge_are_not_stitched():
    left = [[90, 10.0 * i, 100, 10.0 * i + 10] for i in range(10)]
    right = [[100, 10.0 * i + 5, 110, 10.0 * i + 15] for i in range(10)]
    assert len(merge(fragments(left + right, [RIGHT] * 10 + [LEFT] * 10), gap=4.0)) == 20


def test_an_excluded_box_takes_its_fragments_and_nothing_else():
    boxes = fragments([[0, 0, 100, 100], [2, 2, 99, 99], [0, 0, 30, 100]], [EXCLUDED, 0, RIGHT], [0.9, 0.8, 0.7])
    for method in sorted(METHODS):
        merged = merge(boxes[[0, 1]], method=method)
        assert merged.n_merged.tolist() == [1, 1], "it neither suppresses another box nor is suppressed"
        flagged = boxes[[0, 1]].with_columns(truncated=[True, True])
        assert merge(flagged, method=method).truncated.tolist() == [True, True]
        taken = merge(boxes[[0, 2]], method=method)
        assert (taken.boxes.tolist(), taken.n_merged.tolist()) == ([[0, 0, 100, 100]], [2])


def test_slivers_that_jitter_separates_from_their_object():
    boxes = fragments([[100, 10, 140, 40], [97, 10, 98.5, 40]], [0, RIGHT])
    assert len(merge(boxes)) == 2
    assert merge(boxes, margin=2.0).boxes.tolist() == [[100, 10, 140, 40]]


def test_tiles_that_do_not_overlap_share_an_edge():
    boxes = fragments([[30, 10, 99, 40], [101.5, 12, 150, 40]], [RIGHT, LEFT])
    assert len(merge(boxes, gap=2.5)) == 2
    assert merge(boxes, gap=3.0).boxes.tolist() == [[30, 10, 150, 40]]
    # The touching sides must face each other, and fragments that meet only at a corner are not stitched.
    assert len(merge(boxes.with_columns(fragment=[LEFT, RIGHT]), gap=3.0)) == 2
    corner = fragments([[30, 10, 99, 99], [101, 101, 150, 150]], [NORTH_WEST, SOUTH_EAST])
    assert len(merge(corner, gap=3.0)) == 2


def test_fragments_are_given_as_sides():
    with pytest.raises(ConfigError, match="LEFT 1"):
        fragments([[0, 0, 1, 1]], [True])
    with pytest.raises(ConfigError, match="64"):
        fragments([[0, 0, 1, 1]], [64])
    for wrong in ({"margin": -1.0}, {"gap": np.nan}, {"margin": None}, {"sigma": "wide"}, {"threshold": None}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            merge(Detections.empty(), **wrong)


@pytest.mark.parametrize("tile", [256, 512])
@pytest.mark.parametrize("share", [0.0, 0.125, 0.25, 0.5])
def test_a_perfect_detector_reports_every_object_once(tile, share):
    runs = [trial(tile, share, seed, borders=True) for seed in range(3)]
    for k in range(len(GROUPS)):
        all_of = sum((run[k] for run in runs), Figures())
        if k == 0:
            assert (all_of.found, all_of.duplicates, all_of.fragments) == (all_of.objects, 0, 0)
        else:
            assert all_of.found >= 0.99 * all_of.objects
            assert all_of.duplicates + all_of.fragments <= 0.01 * all_of.objects
    plain = sum((figures for figures in trial(tile, share, 0, borders=False)), Figures())
    assert plain.duplicates + plain.fragments > 0.1 * plain.objects, "without the border policy there are many more"


@pytest.mark.parametrize("method", ["nmm", "greedy_nmm", "wbf"])
def test_a_perfect_detector_reports_every_object_once_with_other_methods(method):
    figures = sum(trial(256, 0.25, 1, borders=True, method=method), Figures())
    assert figures.found >= 0.99 * figures.objects and figures.duplicates + figures.fragments <= 0.01 * figures.objects


def test_there_is_one_picture_per_case(tmp_path):
    names = [path.name for path in draw_cases(tmp_path)]
    assert len(names) == len(set(names)) == 4
    for path in tmp_path.iterdir():
        text = path.read_text()
        assert text.startswith("<svg") and text.count("<rect") > 8
    assert MARGIN > 0


def test_the_example_of_the_readme_leaves_one_box_for_each_object() -> None:
    """Objects of all sizes, cut by tiles that overlap."""
    rng = np.random.default_rng(3)
    width = height = 1600
    corner, side = rng.uniform(0, 1300, (200, 2)), rng.uniform(10, 300, (200, 2))
    objects = Detections(boxes=np.hstack([corner, corner + side]), scores=np.ones(200), labels=np.zeros(200))
    objects = merge(objects, threshold=0.01)
    found_in_tiles = []
    for row in range(0, 1200, 300):
        for col in range(0, 1200, 300):
            tile = (col, row, 400, 400)
            boxes = np.clip(objects.boxes - [col, row, col, row], 0, 400)
            seen = ((boxes[:, 2:] - boxes[:, :2]) > 4).all(axis=1)
            boxes = boxes[seen] + [col, row, col, row]
            found_in_tiles.append((tile, boxes, np.full(len(boxes), 0.9), np.zeros(len(boxes))))
    text = (Path(__file__).parents[2] / "docs/python.md").read_text()
    code = text[text.index("parts = []\n") :].partition("```")[0]
    names = {"geosod": geosod, "width": width, "height": height, "found_in_tiles": found_in_tiles}
    exec(code, names)
    as_printed: dict[str, Any] = {"geosod": geosod}
    exec(text[text.index("width, height = 1000") :].partition("```")[0], as_printed)
    assert as_printed["one_per_object"].boxes.tolist() == [[100, 80, 160, 140], [520, 200, 700, 320]]
    inside = (objects.boxes[:, 2:] < 1290).all(axis=1)
    whole = {tuple(np.round(box)) for box in names["one_per_object"].boxes}  # type: ignore[attr-defined]
    assert sum(tuple(np.round(box)) in whole for box in objects.boxes[inside]) == inside.sum() > 10


def test_tiles_given_by_their_corners_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"a tile is \(col, row, width, height\), not corners"):
        fragment_flags([[0, 0, 1, 1]], (1200, 0, 1600, 400), (1600, 1200))
    with pytest.raises(ConfigError, match=r"must be \(col, row, width, height\) and \(width, height\)"):
        fragment_flags([[0, 0, 1, 1]], (0, 0, 400, 400), (0, 0, 1600, 1200))  # type: ignore[arg-type]
