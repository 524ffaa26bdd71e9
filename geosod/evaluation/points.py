"""How well the centres of detections agree with labelled points."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from geosod.arrays import FloatArray, IntArray
from geosod.errors import ConfigError
from geosod.evaluation.comparison import Comparison
from geosod.evaluation.matching import OBJECT, roles_of

#: Thresholds that are tried where one is chosen.
_CANDIDATES = 100


@dataclass(frozen=True, slots=True)
class PointScore:
    """Counts over a set of images, and the metrics derived from them.

    Attributes:
        matched: number of pairs of a predicted and a true point.
        found: number of predicted points.
        truth: number of true points.
        squared: sum of the squared distances of the pairs, in square pixels.
        gsd: metres a pixel; nan where it is not known.
    """

    matched: int
    found: int
    truth: int
    squared: float
    gsd: float

    @property
    def precision(self) -> float:
        """Fraction of the predicted points that are matched; nan without any."""
        return self.matched / self.found if self.found else float("nan")

    @property
    def recall(self) -> float:
        """Fraction of the true points that are matched; nan without any."""
        return self.matched / self.truth if self.truth else float("nan")

    @property
    def f_score(self) -> float:
        """Harmonic mean of precision and recall; nan without any point."""
        return 2 * self.matched / (self.found + self.truth) if self.found + self.truth else float("nan")

    @property
    def rmse(self) -> float:
        """Root of the mean squared distance of the pairs, in metres; nan without any."""
        return self.gsd * (self.squared / self.matched) ** 0.5 if self.matched else float("nan")


@dataclass(frozen=True, slots=True, eq=False)
class PointCounts:
    """`PointScore` image by image.

    Attributes:
        matched, found, truth: (K, I) int64, by class and image.
        squared: (K, I) float64, sum of the squared distances of the pairs, in square pixels.
        gsd: (I,) float64, metres a pixel; nan where it is not known.
    """

    matched: IntArray
    found: IntArray
    truth: IntArray
    squared: FloatArray
    gsd: FloatArray

    def total(self, *, label: int | None = None, images: IntArray | None = None) -> PointScore:
        """The sum over classes and images, or over some of them."""
        rows = slice(None) if label is None else [label]
        columns = np.arange(self.matched.shape[1]) if images is None else images
        matched, found, truth = (int(c[rows][:, columns].sum()) for c in (self.matched, self.found, self.truth))
        squared = self.squared[rows][:, columns]
        metres = float((squared * self.gsd[columns] ** 2).sum())
        pixels = float(squared.sum())
        gsd = (metres / pixels) ** 0.5 if pixels > 0 else float(self.gsd[columns].mean()) if len(columns) else np.nan
        return PointScore(matched, found, truth, pixels, gsd)


def assign(found: FloatArray, truth: FloatArray, *, limit: float) -> IntArray:
    """Pair predicted points with true ones, one to one: the maximum number of pairs, with the minimum total distance.

    Time and memory grow with the number of pairs within the limit.

    Args:
        found: (M, 2) predicted ``x, y`` in pixels.
        truth: (N, 2) true ones, same frame.
        limit: maximum distance of a pair in pixels.

    Returns:
        (K, 2) int64 rows of `found` and of `truth`, ascending by the former.

    Raises:
        ConfigError: the limit is not above 0, or scipy is not installed.
    """
    if not 0 < limit < np.inf:
        raise ConfigError(f"limit={limit}: the maximum distance of a pair must be above 0 px")
    try:
        from scipy.sparse import coo_array  # type: ignore[import-untyped]
        from scipy.sparse.csgraph import min_weight_full_bipartite_matching  # type: ignore[import-untyped]
        from scipy.spatial import cKDTree  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError('points are matched with scipy; pip install "geosod[evaluate]"') from error
    if not (len(found) and len(truth)):
        return np.empty((0, 2), np.int64)
    near = cKDTree(found).sparse_distance_matrix(cKDTree(truth), limit, output_type="ndarray")
    m, n = len(found), len(truth)
    # Every point may stay alone at a price above that of all pairs together, so that no pair is given up for distance.
    # Prices are above 0, since a price of 0 counts as no edge.
    alone = limit * (min(m, n) + 1) + 1
    rows, cols = np.append(near["i"], np.arange(m)), np.append(near["j"], n + np.arange(m))
    graph = coo_array((np.append(near["v"] + 1, np.full(m, alone)), (rows, cols)), shape=(m, n + m)).tocsr()
    chosen, partner = min_weight_full_bipartite_matching(graph)
    paired = partner < n
    pairs = np.column_stack([chosen[paired], partner[paired]]).astype(np.int64)
    return np.asarray(pairs[np.argsort(pairs[:, 0])])


def score_points(pairs: Iterable[tuple[FloatArray, FloatArray]], *, gsd: float, limit: float = 10.0) -> PointScore:
    """Precision, recall, F-score and RMSE over a whole split (Ventura et al. 2024).

    Args:
        pairs: predicted (M, 2) and true (N, 2) points ``x, y`` of every image, in pixels of one frame.
        gsd: metres a pixel.
        limit: maximum distance of a match in pixels; the protocol's 6 m are 10 px at 0.6 m.
    """
    matched, n_found, n_truth, squared = 0, 0, 0, 0.0
    for found, truth in pairs:
        rows = assign(found, truth, limit=limit)
        matched, n_found, n_truth = matched + len(rows), n_found + len(found), n_truth + len(truth)
        squared += float(((found[rows[:, 0]] - truth[rows[:, 1]]) ** 2).sum())
    return PointScore(matched, n_found, n_truth, squared, gsd)


def count_points(comparison: Comparison, *, limit: float, min_score: float = 0.0) -> PointCounts:
    """Match the centres of detections with the centres of labels, class by class, in every image.

    Predicted points that stay without a partner count neither way within the limit of an ignored label.

    Args:
        comparison: labels, points or boxes, and detections.
        limit: maximum distance of a match in pixels.
        min_score: detections with a lower score are left out.
    """
    truth, roles = comparison.truth, roles_of(comparison)
    marks, centres = _centres(truth.boxes), _centres(comparison.found.boxes)
    shape = (len(truth.classes), len(truth.images))
    matched, n_found, n_truth = (np.zeros(shape, np.int64) for _ in range(3))
    squared = np.zeros(shape)
    kept = comparison.order[comparison.found.scores[comparison.order] >= min_score]
    for i in range(shape[1]):
        here = kept[np.searchsorted(comparison.image[kept], i) : np.searchsorted(comparison.image[kept], i + 1)]
        labelled = np.flatnonzero(truth.image == i)
        for k in range(shape[0]):
            found = here[comparison.found.labels[here] == k]
            objects = labelled[(truth.labels[labelled] == k) & (roles[labelled] == OBJECT)]
            rows = assign(centres[found], marks[objects], limit=limit)
            apart = labelled[
                (roles[labelled] != OBJECT) & ((truth.labels[labelled] == k) | (truth.labels[labelled] < 0))
            ]
            alone = np.setdiff1d(np.arange(len(found)), rows[:, 0])
            excused = _near_any(centres[found[alone]], truth.boxes[apart], limit)
            matched[k, i], n_truth[k, i] = len(rows), len(objects)
            n_found[k, i] = len(found) - int(excused.sum())
            squared[k, i] = ((centres[found[rows[:, 0]]] - marks[objects[rows[:, 1]]]) ** 2).sum()
    sizes = [image.metres_per_pixel or (np.nan, np.nan) for image in truth.images]
    gsd = np.sqrt(np.prod(np.array(sizes, np.float64).reshape(-1, 2), axis=1))
    return PointCounts(matched, n_found, n_truth, squared, gsd)


def choose_threshold(comparison: Comparison, *, limit: float) -> float:
    """The minimum score with the highest F-score over all classes; the lowest of several.

    Choose it on another split than the one that is reported.

    Args:
        comparison: labels and detections of the split to choose on.
        limit: maximum distance of a match in pixels.
    """
    scores = np.unique(comparison.found.scores)
    if len(scores) > _CANDIDATES:
        scores = np.unique(np.quantile(comparison.found.scores, np.linspace(0, 1, _CANDIDATES), method="lower"))
    results = [(count_points(comparison, limit=limit, min_score=float(s)).total().f_score, float(s)) for s in scores]
    return max(results, key=lambda pair: (pair[0], -pair[1]), default=(0.0, 0.0))[1]


def _centres(boxes: FloatArray) -> FloatArray:
    return np.asarray((boxes[:, :2] + boxes[:, 2:]) / 2)


def _near_any(points: FloatArray, boxes: FloatArray, limit: float) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which points (M, 2) lie within the limit of a box; boxes of points have no area."""
    result = np.zeros(len(points), np.bool_)
    for box in boxes:
        away = np.maximum(0, np.maximum(box[:2] - points, points - box[2:]))
        result |= np.hypot(*away.T) <= limit
    return result
