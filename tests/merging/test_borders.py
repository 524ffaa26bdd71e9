"""What becomes of fragments; the general comparison with plain loops is in `test_methods`."""

import numpy as np
import pytest

from benchmarks.borders import GROUPS, MARGIN, Figures, draw_cases, trial
from geosod.errors import ConfigError
from geosod.merging import METHODS, merge
from geosod.types import BOTTOM, LEFT, RIGHT, RIM, TOP, Detections

#: Tiles [0, 100] and [80, 180] along x, and the same along y.
NORTH_WEST, NORTH_EAST, SOUTH_WEST, SOUTH_EAST = RIGHT | BOTTOM, LEFT | BOTTOM, RIGHT | TOP, LEFT | TOP


def pieces(boxes, fragment, scores=None, **columns):
    n = len(boxes)
    scores = np.linspace(0.5, 0.9, n) if scores is None else scores
    return Detections(boxes=boxes, scores=scores, labels=columns.pop("labels", [0] * n), fragment=fragment, **columns)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_pieces_that_agree_where_their_tiles_overlap_are_one_object(method):
    lot = pieces([[30, 10, 100, 40], [80, 10.5, 150, 39]], [RIGHT, LEFT], cut=[False, True], n_merged=[2, 3])
    merged = merge(lot, method=method)
    assert merged.boxes.tolist() == [[30, 10, 150, 40]]
    assert merged.scores.tolist() == pytest.approx([0.9])
    assert (merged.n_merged.tolist(), merged.cut.tolist(), merged.fragment.tolist()) == ([5], [True], [0])
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
    lot = pieces([[0, 0, 10, 10], [0, 0, 10, 11]], [0, RIM], [0.3, 0.9])
    assert merge(lot).boxes.tolist() == [[0, 0, 10, 10]]
    # Two of them do not grow into one.
    rims = pieces([[0, 0, 10, 10], [4, 0, 14, 10]], [RIM, RIM])
    assert merge(rims).boxes.tolist() == [[4, 0, 14, 10]]


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
    with pytest.raises(ConfigError, match="32"):
        pieces([[0, 0, 1, 1]], [32])
    for wrong in ({"margin": -1.0}, {"gap": np.nan}):
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
