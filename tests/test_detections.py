"""Detections: immutable columns, and the flags of boxes at tile edges."""

from __future__ import annotations

import pickle
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

import geosod
from geosod.detections import BOTTOM, EDGE_MARGIN, LEFT, RIGHT, TOP, Detections, fragment_flags
from geosod.errors import ConfigError
from geosod.scene import Window


def some(n: int = 4) -> Detections:
    low = np.arange(2.0 * n).reshape(n, 2)
    return Detections(boxes=np.hstack([low, low + 3]), scores=np.linspace(0.2, 0.9, n), labels=np.arange(n) % 2)


def test_columns_are_copies_that_nobody_can_write_to() -> None:
    boxes, scores, labels = np.zeros((3, 4)), np.zeros(3, np.float32), np.zeros(3, np.int32)
    made = Detections(boxes=boxes, scores=scores, labels=labels, truncated=np.zeros(3, bool))
    boxes[:], scores[:], labels[:] = 7, 7, 7
    assert not made.boxes.any() and not made.scores.any() and not made.labels.any()
    assert boxes.flags.writeable
    parts = (made, made[1:], made[[0, 2]], Detections.concat([made, made]), made.with_columns(scores=[1, 2, 3]))
    for found in (*parts, pickle.loads(pickle.dumps(made)), Detections.from_arrow(made.to_arrow()), Detections.empty()):
        for field in fields(found):
            with pytest.raises(ValueError, match="read-only"):
                getattr(found, field.name)[...] = 1
    with pytest.raises(AttributeError):
        made.boxes = boxes  # type: ignore[misc]


def test_it_prints_short() -> None:
    big = Detections(boxes=np.zeros((100_000, 4)), scores=np.full(100_000, 0.5), labels=np.arange(100_000) % 9)
    assert len(repr(big)) < 150 and "100000 boxes" in repr(big) and "4 more" in repr(big)
    assert repr(some(2)) == "Detections(2 boxes, scores 0.2 to 0.9, labels {0: 1, 1: 1})"
    assert repr(Detections.empty()) == "Detections(no boxes)"


def test_labels_are_ids() -> None:
    assert Detections(boxes=np.zeros((2, 4)), scores=[1, 1], labels=[0.0, 3.0]).labels.tolist() == [0, 3]
    with pytest.raises(ConfigError, match=r"labels are ids of classes, but hold 0\.5"):
        Detections(boxes=np.zeros((2, 4)), scores=[1, 1], labels=[0, 0.5])


@pytest.mark.parametrize("wrong", [[0.5], [64], [-1]])
def test_flags_are_sums_of_bits(wrong) -> None:
    with pytest.raises(ConfigError, match="sum of LEFT 1"):
        Detections(boxes=np.zeros((1, 4)), scores=[1], labels=[0], fragment=wrong)


def test_flags_by_brute_force() -> None:
    """Every side of every box in every tile of a scene, written out."""
    rng = np.random.default_rng(0)
    for col, row in [(0, 0), (60, 0), (120, 0), (0, 40), (60, 40), (120, 40)]:
        low = rng.uniform(0, 60, (200, 2)) + np.array([col, row])
        boxes = np.hstack([low, np.minimum(low + rng.uniform(1, 60, (200, 2)), [col + 80, row + 60])])
        flags = fragment_flags(boxes, (col, row, 80, 60), (200, 100), border=2, edge_margin=9)
        for box, flag in zip(boxes, flags, strict=True):
            distances = [(box[0] - col, LEFT, col > 0), (box[1] - row, TOP, row > 0)]
            distances += [(col + 80 - box[2], RIGHT, col < 120), (row + 60 - box[3], BOTTOM, row < 40)]
            sides = sum(bit for gap, bit, inside in distances if gap <= 2 and inside)
            near = any(gap <= 9 and inside for gap, _, inside in distances)
            assert flag == (sides or (EDGE_MARGIN if near else 0))


def test_flags_make_merging_of_tiles_aware_of_borders() -> None:
    """A long object in two tiles, and the same in one call per tile, as the documentation shows it."""
    scene, tiles = (200, 100), [Window(0, 0, 120, 100), Window(80, 0, 120, 100)]
    parts = []
    for tile, box in zip(tiles, [[30, 40, 120, 60], [80, 40, 170, 60]], strict=True):
        flags = fragment_flags([box], tile, scene)
        parts.append(geosod.Detections(boxes=[box], scores=[0.8], labels=[0], fragment=flags))
    merged = geosod.merge(geosod.Detections.concat(parts), margin=2.0)
    assert merged.boxes.tolist() == [[30, 40, 170, 60]] and merged.n_merged.tolist() == [2]
    without = [part.with_columns(fragment=[0]) for part in parts]
    assert len(geosod.merge(geosod.Detections.concat(without))) == 2


@pytest.mark.parametrize(
    ("boxes", "tile", "message"),
    [([[1, 2, 3]], (0, 0, 10, 10), "expected"), ([[0, 0, 1, 1]], (195, 0, 10, 10), "does not lie in a scene")],
)
def test_flags_of_nonsense(boxes, tile, message) -> None:
    with pytest.raises(ConfigError, match=message):
        fragment_flags(boxes, tile, (200, 100))
    assert fragment_flags([], (0, 0, 10, 10), (200, 100)).shape == (0,)


@pytest.mark.parametrize(
    "columns",
    [
        {"labels": ["ship", "car"]},
        {"labels": None},
        {"labels": np.array([0.5, 1], object)},
        {"labels": np.array([-(2**63), 0])},
        {"n_merged": [2**40, 1]},
        {"n_merged": [1.5, 1]},
        {"n_merged": [-5, 1]},
        {"scores": ["a", "b"]},
        {"scores": np.ma.masked_array([0.5, 0.6], mask=[False, True])},
    ],
    ids=str,
)
def test_unusable_columns_are_refused(columns: dict[str, Any]) -> None:
    usable = {"boxes": [[0, 0, 1, 1]] * 2, "scores": [0.5, 0.6], "labels": [0, 1]}
    with pytest.raises(ConfigError, match=f"Detections: {next(iter(columns))}"):
        Detections(**(usable | columns))
    with pytest.raises(ConfigError, match="one dimension"):
        Detections(**usable)[np.array([[0, 1]])]


def test_rows_are_chosen_as_numpy_does() -> None:
    made = some(5)
    for index in ([], [4, 0, 0], [-1], np.array([3, 1], np.uint32), slice(4, 0, -2), made.scores > 0.5):
        chosen = made[index]
        rows = np.asarray(index, np.int64) if isinstance(index, list) else index
        for field in fields(made):
            np.testing.assert_array_equal(getattr(chosen, field.name), getattr(made, field.name)[rows])
    for wrong in ([5], [0.5], [True, False]):
        with pytest.raises((IndexError, TypeError)):
            made[wrong]
