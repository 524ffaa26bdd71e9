"""Identifiers of boxes: stable, and without duplicates."""

from __future__ import annotations

from collections import Counter

import numpy as np

from geosod.detections import Detections
from geosod.output.ids import box_hashes, detection_ids, repeated_boxes
from tests.output.samples import random_detections


def names_of(boxes: np.ndarray, labels: np.ndarray, scene_id: str = "s") -> list[str]:
    found = Detections(boxes=boxes, scores=np.ones(len(boxes)), labels=labels)
    repeats = repeated_boxes(found, np.arange(len(boxes)))
    return detection_ids(scene_id, box_hashes(found.boxes, found.labels), repeats).to_pylist()


def test_identifiers_are_stable_and_unique() -> None:
    boxes = np.array([[1.0, 2, 3, 4], [1, 2, 3, 4], [-0.0, 2, 3, 4], [0.0, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]])
    labels = np.array([0, 0, 0, 1, 1, 0], np.int32)
    names = names_of(boxes, labels)
    assert len(set(names)) == 6
    assert (names[1], names[5]) == (names[0] + "-1", names[0] + "-2")
    assert names_of(boxes[2:3], labels[:1]) == names_of(boxes[3:4], labels[:1])
    # Pinned: an identifier must not change between versions, or reruns would not match earlier results.
    assert names[0] == names_of(boxes[:1], labels[:1])[0] == "s-bf4777d7f100da71"
    assert names_of(boxes[:1], labels[:1], "Sc\u00e8ne 1") == ["Sc\u00e8ne 1-bf4777d7f100da71"]


def test_repeats_are_numbered_along_the_file() -> None:
    found = random_detections(4, 300, duplicates=True)
    order = np.random.default_rng(0).permutation(300)
    hashes, repeats = box_hashes(found.boxes, found.labels)[order], repeated_boxes(found, order)
    seen: Counter[int] = Counter()
    expected = np.zeros(300, int)
    for row, value in enumerate(hashes.tolist()):
        expected[row] = seen[value]
        seen[value] += 1
    assert expected.max() > 0
    assert np.array_equal(repeats.rows, np.flatnonzero(expected))
    assert np.array_equal(repeats.numbers, expected[expected > 0])
    part = repeats.of(slice(100, 200))
    assert np.array_equal(part.rows, np.flatnonzero(expected[100:200]))
    assert np.array_equal(part.numbers, expected[100:200][expected[100:200] > 0])


def test_hashes_are_well_distributed() -> None:
    grid = np.stack(np.meshgrid(np.arange(300.0), np.arange(300.0)), axis=-1).reshape(-1, 2)
    names = names_of(np.hstack([grid, grid + 1]), np.zeros(len(grid), np.int32))
    assert len({name[:11] for name in names}) > 80_000  # 36 bits are enough for nearly all of 90,000 to differ
    assert not any(name.count("-") > 1 for name in names)
