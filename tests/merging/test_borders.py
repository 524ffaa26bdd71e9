"""What becomes of fragments; the general comparison with plain loops is in `test_methods`."""

import numpy as np
import pytest

from benchmarks.borders import GROUPS, MARGIN, Figures, draw_cases, seen, trial
from geosod.demo.score import match
from geosod.detections import BOTTOM, EDGE_MARGIN, EXCLUDED, LEFT, RIGHT, TOP, Detections
from geosod.errors import ConfigError
from geosod.merging import METHODS, merge
from geosod.tiling.grid import make_grid

#: Tiles [0, 100] and [80, 180] along x, and the same along y.
NORTH_WEST, NORTH_EAST, SOUTH_WEST, SOUTH_EAST = RIGHT | BOTTOM, LEFT | BOTTOM, RIGHT | TOP, LEFT | TOP


def pieces(boxes, fragment, scores=None, **columns):
    n = len(boxes)
    scores = np.linspace(0.5, 0.9, n) if scores is None else scores
    return Detections(boxes=boxes, scores=scores, labels=columns.pop("labels", [0] * n), fragment=fragment, **columns)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_pieces_that_agree_where_their_tiles_overlap_are_one_object(method):
    lot = pieces([[30, 10, 100, 40], [80, 10.5, 150, 39]], [RIGHT, LEFT], truncated=[False, True], n_merged=[2, 3])
    merged = merge(lot, method=method)
    assert merged.boxes.tolist() == [[30, 10, 150, 40]]
    assert merged.scores.tolist() == pytest.approx([0.9])
    assert (merged.n_merged.tolist(), merged.truncated.tolist(), merged.fragment.tolist()) == ([5], [True], [0])
    assert len(merge(lot, method=method, borders=False)) == 2


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
def test_pieces_of_two_objects_stay_two(second):
    box, side, label = second
    assert len(merge(pieces([[30, 10, 100, 40], box], [RIGHT, side], labels=[0, label]))) == 2


def test_four_tiles_meet_over_one_object():
    lot = pieces(
        [[10, 20, 100, 100], [80, 20, 170, 100], [10, 80, 100, 160], [80, 80, 170, 160]],
        [NORTH_WEST, NORTH_EAST, SOUTH_WEST, SOUTH_EAST],
    )
    merged = merge(lot)
    assert (merged.boxes.tolist(), merged.fragment.tolist()) == ([[10, 20, 170, 160]], [0])
    assert merge(lot[[0, 1, 2]]).fragment.tolist() == [0], "its extent is known without the fourth"
    upper = merge(lot[[0, 1]])
    assert (upper.boxes.tolist(), upper.fragment.tolist()) == ([[10, 20, 170, 100]], [BOTTOM])


def test_a_piece_goes_to_a_whole_object_even_if_that_one_gives_way_itself():
    # The second whole box is suppressed by the first, which the piece does not match.
    lot = pieces([[0, 0, 10, 10], [0, 0, 10, 16], [0, 11, 10, 16]], [0, 0, TOP], [0.9, 0.8, 0.99])
    for method in ("nms", "nmm", "greedy_nmm", "wbf"):
        assert merge(lot, method=method).n_merged.tolist() == [3]
    kept = merge(lot, method="soft_nms", decay="linear", min_score=0.5)
    assert (kept.n_merged.tolist(), kept.boxes.tolist()) == ([3], [[0, 0, 10, 10]])


def test_what_is_near_a_rim_is_whole_but_comes_last():
    lot = pieces([[0, 0, 10, 10], [0, 0, 10, 11]], [0, EDGE_MARGIN], [0.3, 0.9])
    assert merge(lot).boxes.tolist() == [[0, 0, 10, 10]]
    # Two of them do not grow into one.
    rims = pieces([[0, 0, 10, 10], [3, 0, 13, 10]], [EDGE_MARGIN, EDGE_MARGIN])
    assert merge(rims).boxes.tolist() == [[3, 0, 13, 10]]
    # It is whole: it takes no large fragment around it, and no other near a rim either.
    inside = pieces([[0, 0, 100, 100], [40, 40, 50, 50]], [RIGHT, EDGE_MARGIN], [0.9, 0.3])
    assert len(merge(inside)) == len(merge(inside.with_columns(fragment=[EDGE_MARGIN, EDGE_MARGIN]))) == 2


def test_a_whole_object_that_ends_before_the_tile_does_holds_no_piece_of_it():
    # The piece goes on beyond x = 0, where its neighbour of the same class has long ended.
    lot = pieces([[0, 0, 100, 100], [40, 0, 140, 100]], [LEFT, 0], [0.7, 0.6])
    assert len(merge(lot, margin=2.0)) == 2
    held = lot.with_columns(boxes=[[0, 0, 100, 100], [-40, 0, 140, 100]])
    assert merge(held, margin=2.0).boxes.tolist() == [[-40, 0, 140, 100]]


def test_slanted_objects_side_by_side_are_not_lost():
    """Their upright boxes overlap by nearly half, and many are larger than the overlap of the tiles."""
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


def test_a_large_fragment_swallows_no_small_ones():
    few = [[0, 40.0 * i, 12, 40.0 * i + 25] for i in range(12)]
    lot = pieces([[0, 0, 512, 512], *few], [RIGHT | BOTTOM, *[LEFT] * 12], [0.3, *[0.9] * 12])
    assert len(merge(lot, margin=2.0)) == 13


def test_the_threshold_is_for_twins_and_not_for_pieces():
    lot = pieces([[0, 0, 100, 60], [50, 50, 120, 90], [105, 50, 200, 90]], [0, RIGHT, LEFT], [0.9, 0.8, 0.8])
    for threshold in (0.1, 0.5, 0.9):
        assert merge(lot, threshold=threshold).boxes.tolist() == [[0, 0, 100, 60], [50, 50, 200, 90]]


def test_bricks_along_an_edge_stay_apart():
    left = [[90, 10.0 * i, 100, 10.0 * i + 10] for i in range(10)]
    right = [[100, 10.0 * i + 5, 110, 10.0 * i + 15] for i in range(10)]
    assert len(merge(pieces(left + right, [RIGHT] * 10 + [LEFT] * 10), gap=4.0)) == 20


def test_what_is_set_aside_takes_its_pieces_and_nothing_else():
    lot = pieces([[0, 0, 100, 100], [2, 2, 99, 99], [0, 0, 30, 100]], [EXCLUDED, 0, RIGHT], [0.9, 0.8, 0.7])
    for method in sorted(METHODS):
        merged = merge(lot[[0, 1]], method=method)
        assert merged.n_merged.tolist() == [1, 1], "it neither drops its like nor gives way to it"
        taken = merge(lot[[0, 2]], method=method)
        assert (taken.boxes.tolist(), taken.n_merged.tolist()) == ([[0, 0, 100, 100]], [2])


def test_slivers_that_jitter_parts_from_their_object():
    lot = pieces([[100, 10, 140, 40], [97, 10, 98.5, 40]], [0, RIGHT])
    assert len(merge(lot)) == 2
    assert merge(lot, margin=2.0).boxes.tolist() == [[100, 10, 140, 40]]


def test_tiles_that_do_not_overlap_share_an_edge():
    lot = pieces([[30, 10, 99, 40], [101.5, 12, 150, 40]], [RIGHT, LEFT])
    assert len(merge(lot, gap=2.5)) == 2
    assert merge(lot, gap=3.0).boxes.tolist() == [[30, 10, 150, 40]]
    # The sides that touch must face each other, and corners alone do not make one of two.
    assert len(merge(lot.with_columns(fragment=[LEFT, RIGHT]), gap=3.0)) == 2
    corner = pieces([[30, 10, 99, 99], [101, 101, 150, 150]], [NORTH_WEST, SOUTH_EAST])
    assert len(merge(corner, gap=3.0)) == 2


def test_fragments_are_told_by_sides():
    with pytest.raises(ConfigError, match="LEFT 1"):
        pieces([[0, 0, 1, 1]], [True])
    with pytest.raises(ConfigError, match="64"):
        pieces([[0, 0, 1, 1]], [64])
    for wrong in ({"margin": -1.0}, {"gap": np.nan}, {"margin": None}, {"sigma": "wide"}, {"threshold": None}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            merge(Detections.empty(), **wrong)


@pytest.mark.parametrize("tile", [256, 512])
@pytest.mark.parametrize("share", [0.0, 0.125, 0.25, 0.5])
def test_a_perfect_detector_has_every_object_once(tile, share):
    runs = [trial(tile, share, seed, borders=True) for seed in range(3)]
    for k in range(len(GROUPS)):
        all_of = sum((run[k] for run in runs), Figures())
        if k == 0:
            assert (all_of.found, all_of.duplicates, all_of.pieces) == (all_of.objects, 0, 0)
        else:
            assert all_of.found >= 0.99 * all_of.objects
            assert all_of.duplicates + all_of.pieces <= 0.01 * all_of.objects
    plain = sum((figures for figures in trial(tile, share, 0, borders=False)), Figures())
    assert plain.duplicates + plain.pieces > 0.1 * plain.objects, "the policy is what does it"


@pytest.mark.parametrize("method", ["nmm", "greedy_nmm", "wbf"])
def test_so_do_other_methods(method):
    figures = sum(trial(256, 0.25, 1, borders=True, method=method), Figures())
    assert figures.found >= 0.99 * figures.objects and figures.duplicates + figures.pieces <= 0.01 * figures.objects


def test_pictures_tell_the_cases(tmp_path):
    names = [path.name for path in draw_cases(tmp_path)]
    assert len(names) == len(set(names)) == 4
    for path in tmp_path.iterdir():
        text = path.read_text()
        assert text.startswith("<svg") and text.count("<rect") > 8
    assert MARGIN > 0
