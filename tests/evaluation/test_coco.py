"""Average precision compared with pycocotools, on random sets of images and in one very large scene."""

from __future__ import annotations

import contextlib
import io
import os
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from geosod.datasets.labels import LabelledImage, Labels
from geosod.detections import Detections
from geosod.errors import ConfigError
from geosod.evaluation.average_precision import average_precision, interpolated, size_ranges
from geosod.evaluation.comparison import Comparison
from geosod.evaluation.overlaps import overlaps_of


def images(count: int, side: int = 1000) -> list[LabelledImage]:
    return [LabelledImage(f"scene{i}", "", side, side, i + 1) for i in range(count)]


def random_comparison(
    seed: int,
    *,
    n_images: int = 6,
    classes: int = 3,
    truths: int = 40,
    found: int = 120,
    side: float = 400.0,
    exact: bool = False,
) -> Comparison:
    """Overlapping boxes with crowds, ignored boxes, ties of scores and of boxes, and images without either."""
    rng = np.random.default_rng(seed)
    n, m = (truths, found) if exact else (int(rng.integers(0, truths + 1)), int(rng.integers(0, found + 1)))
    corner = rng.uniform(0, side, (n, 2))
    boxes = np.concatenate([corner, corner + np.exp(rng.uniform(1, 5, (n, 2)))], axis=1)
    image, labels = rng.integers(0, n_images, n), rng.integers(0, classes, n)
    of = rng.integers(0, max(n, 1), m)
    near = boxes[of] + rng.normal(0, 1, (m, 4)) * rng.choice([0, 2, 8], (m, 1)) if n else np.zeros((m, 4))
    stray = rng.uniform(0, side, (m, 4))
    chosen = rng.random(m) < (0.85 if n else 0)
    where = np.where(chosen[:, None], near, stray)
    where[:, 2:] = np.maximum(where[:, 2:], where[:, :2] + 1)
    label = np.where(chosen & (rng.random(m) < 0.9), labels[of] if n else 0, rng.integers(0, classes, m))
    crowd = rng.random(n) < 0.15
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) * rng.uniform(0.5, 1, n)
    truth = Labels(
        images=images(n_images),
        classes=[f"c{k}" for k in range(classes)],
        supercategories=[("a", "a", "b", "")[k % 4] for k in range(classes)],
        image=image,
        boxes=boxes,
        labels=labels,
        crowd=crowd,
        area=area,
    )
    scores = np.round(rng.random(m), int(rng.integers(1, 4)))
    at = np.where(chosen, image[of] if n else 0, rng.integers(0, n_images, m))
    return Comparison(truth, Detections(boxes=where, scores=scores, labels=label), at)


def to_coco(comparison: Comparison) -> tuple[COCO, COCO]:
    """The same as pycocotools has it."""
    truth, found = comparison.truth, comparison.found
    size = np.concatenate([truth.boxes[:, :2], truth.boxes[:, 2:] - truth.boxes[:, :2]], axis=1)
    gt = COCO()
    gt.dataset = {
        "images": [{"id": i + 1, "width": 1000, "height": 1000} for i in range(len(truth.images))],
        "categories": [
            {"id": k + 1, "name": n, "supercategory": s}
            for k, (n, s) in enumerate(zip(truth.classes, truth.supercategories, strict=True))
        ],
        "annotations": [
            {"id": i + 1, "image_id": int(truth.image[i]) + 1, "category_id": int(truth.labels[i]) + 1,
             "bbox": size[i].tolist(), "area": float(truth.area[i]), "iscrowd": int(truth.crowd[i])}
            for i in range(len(truth))
        ],
    }  # fmt: skip
    size = np.concatenate([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]], axis=1)
    rows = [
        {"image_id": int(comparison.image[i]) + 1, "category_id": int(found.labels[i]) + 1, "bbox": size[i].tolist(),
         "score": float(found.scores[i])}
        for i in range(len(found))
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        gt.createIndex()
        if rows:
            return gt, gt.loadRes(rows)
        empty = COCO()
        empty.dataset = gt.dataset | {"annotations": []}
        empty.createIndex()
        return gt, empty


def coco_eval(gt: COCO, dt: COCO, max_detections: int, **params) -> dict[str, np.ndarray]:
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(gt, dt, "bbox")
        run.params.maxDets = [1, max_detections]
        for name, value in params.items():
            setattr(run.params, name, value)
        run.evaluate()
        run.accumulate()
    return run.eval


def agrees(comparison: Comparison, max_detections: int) -> None:
    ours = average_precision(
        comparison,
        overlaps_of(comparison),
        ranges=tuple(size_ranges(comparison)),
        max_detections=max_detections,
    )
    theirs = coco_eval(*to_coco(comparison), max_detections)
    precision, recall = theirs["precision"][..., -1], theirs["recall"][..., -1]
    ap = np.where((precision == -1).all(axis=1), np.nan, precision.mean(axis=1))
    np.testing.assert_allclose(ours.ap, ap, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.recall, np.where(recall == -1, np.nan, recall), rtol=0, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), limit=st.sampled_from([3, 100, 500]))
@example(seed=0, limit=100)
def test_average_precision_equals_pycocotools(seed: int, limit: int) -> None:
    agrees(random_comparison(seed), limit)


def test_it_equals_pycocotools_with_more_than_500_detections_of_an_image() -> None:
    comparison = random_comparison(3, n_images=2, classes=2, truths=300, found=6000, side=900, exact=True)
    assert np.bincount(comparison.image, minlength=2).max() > 1000
    for limit in (100, 500):
        agrees(comparison, limit)


def test_it_equals_pycocotools_with_whole_numbers_and_equal_boxes() -> None:
    """Overlaps are exactly at thresholds, and several objects overlap a detection equally."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        n, m = 60, 150
        corner = rng.integers(0, 12, (n, 2)) * 2
        truth = Labels(
            images=images(2), classes=["a"], image=rng.integers(0, 2, n), labels=np.zeros(n, int),
            boxes=np.concatenate([corner, corner + rng.choice([4, 5, 10], (n, 2))], axis=1), crowd=rng.random(n) < 0.2,
        )  # fmt: skip
        corner = rng.integers(0, 12, (m, 2)) * 2
        found = Detections(
            boxes=np.concatenate([corner, corner + rng.choice([4, 5, 10], (m, 2))], axis=1),
            scores=rng.integers(0, 4, m) / 4, labels=np.zeros(m, int),
        )  # fmt: skip
        agrees(Comparison(truth, found, rng.integers(0, 2, m)), 100)


@pytest.mark.parametrize("part", ["truth", "found", "both"])
def test_empty_sides(part: str) -> None:
    full = random_comparison(1)
    truth = full.truth if part == "found" else full.truth[[]]
    found, image = (full.found, full.image) if part == "truth" else (Detections.empty(), np.zeros(0, int))
    result = average_precision(Comparison(truth, found, image), overlaps_of(Comparison(truth, found, image)))
    assert np.isnan(result.mean()) if part != "found" else result.mean() == 0


def test_interpolation_by_hand() -> None:
    # Precision 1 up to recall 1/2, then 2/3 at recall 1: 51 recalls of 1 and 50 of 2/3.
    assert interpolated(np.array([True, False, True]), 2) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_comparison_refuses_columns_that_do_not_belong_together() -> None:
    full = random_comparison(1)
    with pytest.raises(ConfigError, match="need as many images"):
        Comparison(full.truth, full.found, full.image[:-1])
    with pytest.raises(ConfigError, match="has image 6, but the labels have 6"):
        Comparison(full.truth, full.found, np.full(len(full.found), 6))
    with pytest.raises(ConfigError, match="not finite"):
        Comparison(full.truth, Detections(boxes=[[0, 0, np.nan, 1]], scores=[1], labels=[0]), np.zeros(1, int))
    with pytest.raises(ConfigError, match="'other' is not in the labels"):
        Comparison.of_images(full.truth, {"other": Detections.empty()})


@pytest.mark.slow
def test_a_million_detections_in_one_scene() -> None:
    """300,000 objects, each found three times and a tenth strays: under 30 s and 4 GiB."""
    rng = np.random.default_rng(0)
    n, m, side = 300_000, 1_000_000, 60_000
    corner = rng.uniform(0, side, (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(8, 60, (n, 2))], axis=1)
    of = rng.integers(0, n, m)
    where = boxes[of] + rng.normal(0, 2, (m, 4))
    where[: m // 10] += side / 3
    where[:, 2:] = np.maximum(where[:, 2:], where[:, :2] + 1)
    truth = Labels(images=images(1, 90_000), classes=["a"], image=np.zeros(n), boxes=boxes, labels=np.zeros(n))
    comparison = Comparison(
        truth, Detections(boxes=where, scores=rng.random(m), labels=np.zeros(m, int)), np.zeros(m, int)
    )
    agrees(random_comparison(0), 100)  # compiles
    before, started = _peak_mib(), time.monotonic()
    result = average_precision(
        comparison, overlaps_of(comparison), ranges=tuple(size_ranges(comparison)), max_detections=None
    )
    seconds, peak = time.monotonic() - started, _peak_mib()
    print(f"AP {result.mean():.4f} in {seconds:.1f} s, peak {peak:.0f} MiB ({peak - before:.0f} more)")
    assert 0.2 < result.mean() < 0.6 and seconds < 30 and peak < 4096


def _peak_mib() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if os.uname().sysname == "Darwin" else 1024)
