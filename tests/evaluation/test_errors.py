"""Error analysis compared with pycocotools, class by class, with other classes turned into crowds."""

from __future__ import annotations

import contextlib
import copy
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from geosod.datasets.labels import Labels
from geosod.detections import Detections
from geosod.evaluation.comparison import Comparison
from geosod.evaluation.errors import STEPS, analyse_errors
from geosod.evaluation.overlaps import overlaps_of

from .test_coco import coco_eval, images, random_comparison, to_coco


def _as_crowds(gt: COCO, own: int, others: set[int]) -> COCO:
    changed = COCO()
    changed.dataset = copy.deepcopy(gt.dataset)
    for ann in changed.dataset["annotations"]:
        if ann["category_id"] != own and ann["category_id"] in others:
            ann |= {"iscrowd": 1, "category_id": own}
    with contextlib.redirect_stdout(io.StringIO()):
        changed.createIndex()
    return changed


def _by_pycocotools(comparison: Comparison) -> np.ndarray:
    gt, dt = to_coco(comparison)
    kinds = comparison.truth.supercategories
    plain = coco_eval(gt, dt, 500, iouThrs=[0.75, 0.5, 0.1])["precision"][:, :, :, 0, -1].mean(axis=1)
    rows = []
    for k, above in enumerate(kinds):
        same = {i + 1 for i, other in enumerate(kinds) if other == above and above}
        steps = [
            coco_eval(_as_crowds(gt, k + 1, others), dt, 500, iouThrs=[0.1], catIds=[k + 1])["precision"][
                0, :, 0, 0, -1
            ]
            for others in (same, set(range(1, len(kinds) + 1)))
        ]
        rows.append([*plain[:, k], steps[0].mean(), steps[1].mean(), (steps[1] > 0).mean(), 1.0])
    return np.array(rows)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_analysis_equals_pycocotools(seed: int) -> None:
    comparison = random_comparison(seed, classes=4)
    ours = analyse_errors(comparison, overlaps_of(comparison)).ap
    theirs = _by_pycocotools(comparison)
    without = np.isnan(ours).all(axis=1)
    assert (theirs[without, :3] == -1).all()
    np.testing.assert_allclose(ours[~without], theirs[~without], rtol=0, atol=1e-9)


def test_each_step_forgives_one_kind_of_error() -> None:
    """One object and one kind of error for each step, worse-scored objects behind it."""
    truth = Labels(
        images=images(1), classes=["car", "van", "tree"], supercategories=["vehicle", "vehicle", ""],
        image=[0, 0, 0, 0], labels=[0, 0, 1, 2],
        boxes=[[0, 0, 10, 10], [100, 0, 110, 10], [200, 0, 210, 10], [300, 0, 310, 10]],
    )  # fmt: skip
    found = Detections(
        # A stray, a box on a tree, one on a van, one that fits badly, and one that fits at 0.6.
        boxes=[[400, 0, 410, 10], [300, 0, 310, 10], [200, 0, 210, 10], [0, 0, 10, 3], [100, 0, 110, 6]],
        scores=[0.5, 0.6, 0.7, 0.8, 0.9], labels=[0] * 5,
    )  # fmt: skip
    comparison = Comparison(truth, found, np.zeros(5, int))
    car = dict(zip(STEPS, analyse_errors(comparison, overlaps_of(comparison)).ap[0], strict=True))
    assert car["C75"] == 0 and car["C50"] == pytest.approx(51 / 101)
    assert car["Loc"] == car["Sim"] == car["Oth"] == car["BG"] == 1.0  # both cars are found before any other box
    swapped = Comparison(
        truth, Detections(boxes=found.boxes, scores=1 - found.scores, labels=found.labels), comparison.image
    )
    car = dict(zip(STEPS, analyse_errors(swapped, overlaps_of(swapped)).ap[0], strict=True))
    assert car["C75"] == 0 and car["C50"] == pytest.approx(51 / 101 / 5) and car["Loc"] == pytest.approx(2 / 5)
    assert car["Sim"] == pytest.approx(2 / 4) and car["Oth"] == pytest.approx(2 / 3) and car["BG"] == 1.0
