"""Comparison with other implementations, where they are installed."""

import importlib

import numpy as np
import pytest
import torch
import torchvision

from geosod.detections import Detections
from geosod.merging.merge import merge
from tests.merging.oracles import random_boxes

CASES = 400


def peer(name):
    """An optional module; the test is skipped where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        pytest.skip(f"{name.split('.')[0]} is not installed; pip install '.[bench]' installs it")


def clouds(seed, *, tied=False):
    """Dense clouds of a few labels, without fragments, in which about half of the boxes match another."""
    rng = np.random.default_rng(seed)
    for _ in range(CASES):
        n = int(rng.integers(2, 60))
        cloud = random_boxes(rng, n, extent=rng.choice([15.0, 60.0]), sizes=(4, 20), labels=int(rng.integers(1, 4)))
        again = cloud.with_columns(boxes=cloud.boxes + rng.normal(0, 1.0, (n, 1)))
        cloud = Detections.concat([cloud, again])
        scores = rng.choice([0.25, 0.5, 0.75], 2 * n) if tied else rng.permutation(2 * n) / (2 * n)
        yield cloud.with_columns(scores=scores, fragment=np.zeros(2 * n, int), n_merged=np.ones(2 * n)), rng


def rows_of(cloud):
    """What SAHI takes: x0, y0, x1, y1, score, label."""
    return np.column_stack([cloud.boxes, cloud.scores, cloud.labels])


def as_table(boxes, scores, labels, n_merged):
    table = np.column_stack([boxes, scores, labels, n_merged])
    return table[np.lexsort(table.T)]


def table_of(d):
    return as_table(d.boxes, d.scores, d.labels, d.n_merged)


def enclosing(cloud, groups):
    """The merged boxes for a mapping from kept to merged indices."""
    members = [[kept, *merged] for kept, merged in groups.items()]
    boxes = [[*cloud.boxes[m, :2].min(0), *cloud.boxes[m, 2:].max(0)] for m in members]
    scores = [cloud.scores[m].max() for m in members]
    return as_table(boxes, scores, cloud.labels[list(groups)], [len(m) for m in members])


def test_nms_keeps_what_torchvision_keeps():
    merged = 0
    for cloud, rng in clouds(1):
        threshold = float(rng.choice([0.3, 0.5, 0.7]))
        boxes, scores = torch.from_numpy(cloud.boxes), torch.from_numpy(cloud.scores).double()
        kept = torchvision.ops.nms(boxes, scores, threshold).numpy()
        assert (merge(cloud, threshold=threshold, class_agnostic=True).boxes == cloud[kept].boxes).all()
        per_class = torchvision.ops.batched_nms(boxes, scores, torch.from_numpy(cloud.labels), threshold).numpy()
        assert (merge(cloud, threshold=threshold).boxes == cloud[per_class].boxes).all()
        merged += len(kept) < len(per_class) < len(cloud)
    assert merged > CASES / 3, "most cases are not trivial"


@pytest.mark.parametrize("metric", ["iou", "ios"])
@pytest.mark.parametrize("method", ["greedy_nmm", "nmm"])
def test_merging_groups_as_sahi_does(method, metric):
    combine = peer("sahi.postprocess.combine")
    chained = 0
    for cloud, rng in clouds(2):
        threshold = float(rng.choice([0.25, 0.5, 0.75]))
        for agnostic, function in ((True, method), (False, f"batched_{method}")):
            groups = getattr(combine, function)(rows_of(cloud), metric.upper(), threshold)
            ours = merge(cloud, method=method, metric=metric, threshold=threshold, class_agnostic=agnostic)
            assert (table_of(ours) == enclosing(cloud, groups)).all()
        chained += len(merge(cloud, metric=metric, threshold=threshold)) > len(
            merge(cloud, method="nmm", metric=metric, threshold=threshold)
        )
    assert chained > CASES / 10, "nmm often merges more than greedy_nmm"


def test_greedy_merging_is_sahis_with_equal_scores():
    combine = peer("sahi.postprocess.combine")
    for cloud, _ in clouds(3, tied=True):
        groups = combine.batched_greedy_nmm(rows_of(cloud), "IOU", 0.5)
        assert (table_of(merge(cloud, method="greedy_nmm")) == enclosing(cloud, groups)).all()


def test_sahis_nmm_does_not_merge_equal_scores_and_ours_does():
    combine = peer("sahi.postprocess.combine")
    pair = Detections(boxes=[[0, 0, 10, 10], [1, 0, 11, 10]], scores=[0.5, 0.5], labels=[0, 0])
    assert combine.nmm(rows_of(pair), "IOU", 0.5) == {0: [], 1: []}
    assert merge(pair, method="nmm").boxes.tolist() == [[0, 0, 11, 10]]
    # SAHI's greedy_nmm merges them.
    assert combine.greedy_nmm(rows_of(pair), "IOU", 0.5) == {0: [1]}


def test_sahis_classes_drop_boxes_without_counting_them_and_ours_does_not():
    combine = peer("sahi.postprocess.combine")
    prediction = importlib.import_module("sahi.prediction")
    boxes, scores = [[0, 0, 10, 10], [4, 0, 14, 10], [-4, 0, 6, 10]], [0.9, 0.8, 0.7]
    objects = [
        prediction.ObjectPrediction(bbox=box, score=score, category_id=0, category_name="a", full_shape=[99, 99])
        for box, score in zip(boxes, scores, strict=True)
    ]
    left = combine.GreedyNMMPostprocess(match_threshold=0.4, match_metric="IOU")(objects)
    assert [o.bbox.to_xyxy() for o in left] == [[0, 0, 14, 10]]
    ours = merge(Detections(boxes=boxes, scores=scores, labels=[0, 0, 0]), method="greedy_nmm", threshold=0.4)
    assert ours.boxes.tolist() == [[-4, 0, 14, 10]]


def test_wbf_is_that_of_the_authors():
    ensemble_boxes = peer("ensemble_boxes")
    fused_any = 0
    for cloud, rng in clouds(4):
        threshold = float(rng.choice([0.3, 0.55, 0.7]))
        low = cloud.boxes.min()
        span = cloud.boxes.max() - low
        unit = (cloud.boxes - low) / span
        found = ensemble_boxes.weighted_boxes_fusion(
            [unit.tolist()], [cloud.scores.tolist()], [cloud.labels.tolist()], iou_thr=threshold
        )
        ours = merge(cloud, method="wbf", threshold=threshold)
        assert len(ours) == len(found[1])
        theirs = as_table(*found, np.zeros(len(ours)))
        again = as_table((ours.boxes - low) / span, ours.scores, ours.labels, np.zeros(len(ours)))
        order = [t[np.lexsort((t[:, 0], t[:, 4]))] for t in (theirs, again)]
        assert np.allclose(*order, atol=1e-5)
        fused_any += (ours.n_merged > 2).any()
    assert fused_any > CASES / 2
