"""What average precision loses to which kind of error, as COCO's analysis and SAHI break it down."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geosod.arrays import FloatArray
from geosod.evaluation.average_precision import RECALLS, average_precision
from geosod.evaluation.comparison import Comparison
from geosod.evaluation.matching import APART, EXCUSED, SAME, relation_of
from geosod.evaluation.overlaps import Overlaps

#: Steps of the analysis; each forgives the errors of those before it, and one more kind.
STEPS = ("C75", "C50", "Loc", "Sim", "Oth", "BG", "FN")
#: IoU at which a box counts as on the object, however badly it fits.
_LOCATED = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class ErrorAnalysis:
    """AP of each class if errors were forgiven, one kind after the other (Hoiem et al. 2012; COCO; SAHI).

    Attributes:
        classes: name of each class.
        ap: (K, 7) float64, by `STEPS`, nan where a class has no object. C75 and C50: AP at IoU 0.75 and 0.5. Loc: at
            IoU 0.1, so without errors of localisation. Sim: detections on objects of another class of the same
            supercategory do not count either. Oth: nor those on objects of any class. BG: nor those on background.
            FN: 1, without missed objects.
    """

    classes: tuple[str, ...]
    ap: FloatArray

    def mean(self) -> dict[str, float]:
        """Mean over the classes that have objects."""
        known = self.ap[~np.isnan(self.ap).any(axis=1)]
        values = known.mean(axis=0) if len(known) else np.full(len(STEPS), np.nan)
        return dict(zip(STEPS, values.tolist(), strict=True))


def analyse_errors(comparison: Comparison, overlaps: Overlaps, *, max_detections: int | None = 500) -> ErrorAnalysis:
    """Break average precision down by kinds of errors.

    A detection is on an object of another class if at least a tenth of the detection lies in it, as in SAHI. Classes
    without a supercategory are similar to none.

    Args:
        comparison: labels and detections.
        overlaps: their pairs.
        max_detections: detections of an image and class that take part.
    """
    truth = comparison.truth
    plain = average_precision(comparison, overlaps, thresholds=(0.75, 0.5, _LOCATED), max_detections=max_detections).ap[
        :, :, 0
    ]
    above = np.array(truth.supercategories, dtype=object)
    similar = (above[:, None] == above[None]) & (above != "")[None]
    own = np.eye(len(truth.classes), dtype=np.bool_)
    columns = [*plain]
    for excused in (similar, np.ones_like(own)):
        among = np.where(own, SAME, np.where(excused, EXCUSED, APART)).astype(np.uint8)
        result = average_precision(
            comparison,
            overlaps,
            thresholds=(_LOCATED,),
            relation=relation_of(among),
            max_detections=max_detections,
        )
        columns.append(result.ap[0, :, 0])
    recall = result.recall[0, :, 0]
    reached = (RECALLS[None] <= recall[:, None]).mean(axis=1) * (recall > 0)
    no_object = np.isnan(recall)
    columns += [np.where(no_object, np.nan, reached), np.where(no_object, np.nan, 1.0)]
    return ErrorAnalysis(truth.classes, np.column_stack(columns))
