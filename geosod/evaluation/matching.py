"""Which labelled box each detection takes: greedy assignment by descending score, as COCO does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.datasets.labels import ANY_CLASS
from geosod.evaluation.comparison import Comparison
from geosod.evaluation.overlaps import Overlaps
from geosod.merging.kernel import kernel

#: What a labelled box is: an object to be found; one that counts neither as found nor as missed; a region, which
#: any number of detections may lie in and whose overlap is intersection over the detection.
OBJECT, IGNORED, REGION = 0, 1, 2
#: How a detection of one class relates to labels of another: they never match, they match as labels of its own class
#: do, or they are regions to it.
APART, SAME, EXCUSED = 0, 1, 2


class Matches(NamedTuple):
    """What each detection was assigned.

    Attributes:
        truth: (M,) int64, row of the labels, or -1.
        ignored: (M,) bool, whether it counts neither as right nor as wrong.
        objects: (N,) bool, labels that are to be found.
    """

    truth: IntArray
    ignored: BoolArray
    objects: BoolArray

    @property
    def hit(self) -> BoolArray:
        """(M,) bool, detections that found an object."""
        return (self.truth >= 0) & ~self.ignored


def own_class(classes: int) -> npt.NDArray[np.uint8]:
    """The relation of classes that match only themselves, see `match_at`."""
    return relation_of(np.eye(classes, dtype=np.uint8))


def relation_of(among: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(K, K + 1) relation from that (K, K) among classes; regions without a class, the last column, hold for all."""
    return np.concatenate([among, np.full((len(among), 1), SAME, np.uint8)], axis=1)


def roles_of(comparison: Comparison) -> npt.NDArray[np.uint8]:
    """(N,) uint8, what each labelled box is."""
    truth = comparison.truth
    region = truth.crowd | (truth.labels == ANY_CLASS)
    return np.where(region, REGION, np.where(truth.ignore, IGNORED, OBJECT)).astype(np.uint8)


def match(
    comparison: Comparison,
    overlaps: Overlaps,
    *,
    threshold: float,
    roles: npt.NDArray[np.uint8] | None = None,
    relation: npt.NDArray[np.uint8] | None = None,
    outside: BoolArray | None = None,
    excused_by_region: bool = False,
    order: IntArray | None = None,
) -> Matches:
    """As `match_at`, with one threshold."""
    (found,) = match_at(
        comparison,
        overlaps,
        thresholds=(threshold,),
        roles=roles,
        relation=relation,
        outside=outside,
        excused_by_region=excused_by_region,
        order=order,
    )
    return found


def match_at(
    comparison: Comparison,
    overlaps: Overlaps,
    *,
    thresholds: Sequence[float],
    roles: npt.NDArray[np.uint8] | None = None,
    relation: npt.NDArray[np.uint8] | None = None,
    outside: BoolArray | None = None,
    excused_by_region: bool = False,
    order: IntArray | None = None,
) -> list[Matches]:
    """Assign labelled boxes to detections, in the order of their scores (Lin et al. 2014; pycocotools).

    A detection takes the free object with the highest overlap of at least the threshold, the last of several equal
    ones. Where there is none, it takes an ignored box or a region in the same way, and is ignored.

    Args:
        comparison: N labels and M detections.
        overlaps: their pairs.
        thresholds: T minimum overlaps, from `overlaps.MIN_OVERLAP` to 1. All at once take little longer than one,
            since in large scenes most of the time goes into fetching the boxes from memory.
        roles: (N,) uint8, `OBJECT`, `IGNORED` or `REGION`; None for those of the labels.
        relation: (K, K + 1) uint8, `APART`, `SAME` or `EXCUSED` by class of the detection and of the label, with labels
            that have no class in the last column; None for `own_class`.
        outside: (M,) bool, detections that are ignored unless they find an object, because their size, for example,
            is not evaluated.
        excused_by_region: whether a detection that found nothing is also ignored where an ignored box covers
            at least the threshold of it (TinyBenchmark).
        order: (M,) int64, detections in the order in which they choose; None for `Comparison.order`.

    Returns:
        The matches at each threshold.
    """
    roles = roles_of(comparison) if roles is None else roles
    relation = own_class(len(comparison.truth.classes)) if relation is None else relation
    shape = (len(comparison.found), len(thresholds))
    taken, ignored = np.full(shape, -1, np.int64), np.zeros(shape, np.bool_)
    _match(
        comparison.order if order is None else order,
        *overlaps,
        np.array(comparison.found.labels),
        np.array(comparison.truth.labels),
        roles,
        np.ascontiguousarray(relation),
        np.minimum(np.array(thresholds, np.float64), 1 - 1e-10),
        excused_by_region,
        np.ones((len(comparison.truth), len(thresholds)), np.bool_),
        taken,
        ignored,
    )
    if outside is not None:
        ignored |= outside[:, None] & (taken < 0)
    columns = zip(np.ascontiguousarray(taken.T), np.ascontiguousarray(ignored.T), strict=True)
    return [Matches(truth, apart, roles == OBJECT) for truth, apart in columns]


@kernel
def _best(
    first: int,
    end: int,
    d_label: int,
    wanted: bool,
    truths: IntArray,
    iou: FloatArray,
    iod: FloatArray,
    labels: npt.NDArray[np.int32],
    roles: npt.NDArray[np.uint8],
    relation: npt.NDArray[np.uint8],
    threshold: float,
    level: int,
    free: BoolArray,
) -> int:
    """The pair with the highest overlap of one detection, with objects or with what is none; -1 if there is none."""
    best, value = -1, threshold
    for p in range(first, end):
        t = truths[p]
        kind = relation[d_label, labels[t]]
        if kind == APART or (kind == SAME and roles[t] == OBJECT) != wanted:
            continue
        region = kind == EXCUSED or roles[t] == REGION
        overlap = iod[p] if region else iou[p]
        if overlap >= value and (region or free[t, level]):
            best, value = p, overlap
    return best


@kernel
def _match(
    order: IntArray,
    starts: IntArray,
    truths: IntArray,
    iou: FloatArray,
    iod: FloatArray,
    d_labels: npt.NDArray[np.int32],
    labels: npt.NDArray[np.int32],
    roles: npt.NDArray[np.uint8],
    relation: npt.NDArray[np.uint8],
    thresholds: FloatArray,
    excused_by_region: bool,
    free: BoolArray,
    taken: IntArray,
    ignored: BoolArray,
) -> None:
    for d in order:
        first, end, label = starts[d], starts[d + 1], d_labels[d]
        if first == end:
            continue
        for k in range(len(thresholds)):
            low = thresholds[k]
            p = _best(first, end, label, True, truths, iou, iod, labels, roles, relation, low, k, free)
            if p < 0:
                p = _best(first, end, label, False, truths, iou, iod, labels, roles, relation, low, k, free)
                ignored[d, k] = p >= 0
            if p >= 0:
                t = truths[p]
                taken[d, k] = t
                if relation[label, labels[t]] == SAME:
                    free[t, k] = False
            elif excused_by_region:
                for q in range(first, end):
                    t = truths[q]
                    if relation[label, labels[t]] == SAME and roles[t] != OBJECT and iod[q] >= low:
                        ignored[d, k] = True
