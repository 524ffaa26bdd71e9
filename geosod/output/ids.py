"""Identifiers of boxes that are the same in every run."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from geosod.arrays import FloatArray, IntArray
from geosod.detections import Detections
from geosod.output.parts import by_part

Hashes = npt.NDArray[np.uint64]


class Repeats(NamedTuple):
    """Boxes whose hash occurs in an earlier row of a file, by row.

    Attributes:
        rows: (M,) int64, ascending.
        numbers: (M,) int64, how often the hash occurs in earlier rows, at least 1.
    """

    rows: IntArray
    numbers: IntArray

    def of(self, part: slice) -> Repeats:
        """Those in a part of the rows; `rows` count from its first."""
        low, high = np.searchsorted(self.rows, (part.start, part.stop))
        return Repeats(self.rows[low:high] - part.start, self.numbers[low:high])


def detection_ids(scene_id: str, hashes: Hashes, repeats: Repeats) -> pa.Array:
    """Identifiers: the scene's id and the hash of each box as 16 hex digits, then ``-1``, ``-2``… where it repeats.

    Args:
        scene_id: id of the scene.
        hashes: (N,) uint64, from `box_hashes`.
        repeats: which of them occur in an earlier row of the file.

    Returns:
        (N,) string array without duplicates.
    """
    prefix, n = f"{scene_id}-".encode(), len(hashes)
    text = np.empty((n, len(prefix) + 16), np.uint8)
    text[:, : len(prefix)] = np.frombuffer(prefix, np.uint8)
    text[:, len(prefix) :] = np.frombuffer(hashes.astype(">u8").tobytes().hex().encode(), np.uint8).reshape(n, 16)
    offsets = np.arange(n + 1, dtype=np.int32) * np.int32(text.shape[1])
    names = pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(text))
    if len(repeats.rows) == 0:
        return names
    suffixed = pc.binary_join_element_wise(names.take(pa.array(repeats.rows)), _text(repeats.numbers), "-")
    repeated = np.zeros(n, np.bool_)
    repeated[repeats.rows] = True
    return pc.replace_with_mask(names, pa.array(repeated), suffixed)


def box_hashes(boxes: FloatArray, labels: npt.NDArray[np.int32]) -> Hashes:
    """(N,) uint64, hashes of the label id and the four pixel coordinates.

    Args:
        boxes: (N, 4) float64, scene frame.
        labels: (N,) int32.
    """
    state = _mix(labels.astype(np.int64).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15))
    for column in (boxes + 0.0).T:  # adding zero turns -0.0 into 0.0
        state = _mix((state + np.uint64(0x9E3779B97F4A7C15)) ^ np.ascontiguousarray(column).view(np.uint64))
    return state


def repeated_boxes(detections: Detections, order: npt.NDArray[Any]) -> Repeats:
    """The boxes whose hash occurs in an earlier row; in practice, the same box twice.

    Args:
        detections: N boxes.
        order: (N,) their order in the file.
    """
    ranked = _hashes(detections)
    ranked.sort()
    several = np.unique(ranked[1:][ranked[1:] == ranked[:-1]])
    del ranked
    if len(several) == 0:
        return Repeats(np.empty(0, np.int64), np.empty(0, np.int64))
    hashes = _hashes(detections)
    rows = np.flatnonzero(np.isin(hashes, several)[order])
    hashes = hashes[order[rows]]
    by_hash = np.argsort(hashes, kind="stable")
    first = np.searchsorted(hashes[by_hash], hashes[by_hash])
    numbers = np.empty(len(rows), np.int64)
    numbers[by_hash] = np.arange(len(rows)) - first
    return Repeats(rows[numbers > 0], numbers[numbers > 0])


def _hashes(detections: Detections) -> Hashes:
    """`box_hashes` on all cores."""
    hashes = np.empty(len(detections), np.uint64)

    def fill(part: slice) -> None:
        hashes[part] = box_hashes(detections.boxes[part], detections.labels[part])

    for _ in by_part(fill, len(hashes)):
        pass
    return hashes


def _mix(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _text(numbers: IntArray) -> pa.Array:
    return pc.cast(pa.array(numbers), pa.string())
