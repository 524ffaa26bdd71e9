"""Points and their objects: torchvision's FCOS, plain loops, and TOOD's alignment written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from geosod.detectors.zoo.anchors import centres
from geosod.errors import ConfigError
from geosod.training import assign_points as module
from geosod.training.assign import IGNORED, NEGATIVE
from geosod.training.assign_points import AlignmentRule, PointRule, assign_aligned, assign_points
from geosod.training.criteria import criterion_of
from geosod.training.point_criterion import centreness_of
from tests.training.samples import fcos, targets

STRIDES = (4, 8, 16, 32, 64)
POINTS, OF = centres((128, 128), STRIDES, torch.device("cpu"))


def drawn(seed: int, count: int, *, low: float = 8, high: float = 100) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-10, 110, (count, 2))
    sides = np.exp(rng.uniform(np.log(low), np.log(high), (count, 2)))
    return torch.from_numpy(np.hstack([corner, corner + sides]).astype(np.float32))


def torchvisions(boxes: torch.Tensor) -> torch.Tensor:
    """The matches that torchvision's FCOS makes of the same points."""
    from torchvision.models.detection.fcos import FCOS

    backbone = nn.Identity()
    backbone.out_channels = 32
    model = FCOS(backbone, num_classes=1)
    found = []
    model.head.compute_loss = lambda *args: found.append(args[-1])
    half = OF[:, None] / 2
    anchors = torch.cat([POINTS - half, POINTS + half], dim=1)
    counts = [int((s == OF).sum()) for s in STRIDES]
    one = {"boxes": boxes, "labels": torch.zeros(len(boxes), dtype=torch.int64)}
    model.compute_loss([one], {}, [anchors], counts)
    return found[0][0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999), count=st.integers(1, 12))
def test_points_are_those_of_torchvision_but_for_objects_it_loses(seed, count) -> None:
    boxes = drawn(seed, count)
    wanted = torchvisions(boxes)
    got = assign_points(POINTS, OF, targets(boxes.tolist()), PointRule())
    differ = got != wanted
    lost = set(range(count)) - set(_fitting(boxes).tolist())
    assert all(int(k) in lost for k in got[differ]) and differ.sum() <= len(lost)


def _fitting(boxes: torch.Tensor) -> torch.Tensor:
    """Objects that have a point in torchvision's rule where no other object takes it."""
    return torch.tensor([k for k in range(len(boxes)) if (torchvisions(boxes[k : k + 1]) >= 0).any()])


def test_an_object_smaller_than_a_cell_has_the_nearest_point() -> None:
    """FCOS would never train on it, since no point lies in it."""
    one = targets([[10.8, 10.9, 13.0, 13.1], [60.5, 60.5, 63.5, 63.5]])
    assert (torchvisions(one.boxes) == NEGATIVE)[POINTS[:, 0] < 50].all()
    found = assign_points(POINTS, OF, one, PointRule())
    (row,) = torch.nonzero(found == 0).flatten().tolist()
    assert OF[row] == 4 and (POINTS[row] - torch.tensor([11.9, 12.0])).abs().max() <= 2.1
    assert centreness_of(POINTS[row : row + 1], one.boxes[:1]) == 1


def test_points_of_and_in_ignored_objects_are_left_out() -> None:
    one = targets([[0.0, 0, 64, 64], [20.0, 20, 32, 32]], [-1, 0], [True, False])
    found = assign_points(POINTS, OF, one, PointRule())
    inside = (POINTS > 0).all(dim=1) & (POINTS < 64).all(dim=1)
    assert set(found[inside].tolist()) == {IGNORED, 1} and (found[~inside] == NEGATIVE).all()
    both = assign_points(POINTS, OF, targets(one.boxes.tolist(), [0, 0], [False, True]), PointRule())
    small = (POINTS > 20).all(dim=1) & (POINTS < 32).all(dim=1) & (OF == 4)
    assert (both[small] == IGNORED).all() and (both == 0).any()


def test_parts_give_the_same_as_the_whole(monkeypatch) -> None:
    one = targets(drawn(3, 9, low=2).tolist(), ignored=[k % 3 == 0 for k in range(9)])
    scores, boxes = torch.rand(len(POINTS), 1), drawn(4, len(POINTS))
    whole = assign_points(POINTS, OF, one, PointRule())
    aligned = assign_aligned(POINTS, OF, scores, boxes, one, AlignmentRule())
    monkeypatch.setattr(module, "_CHUNK", 2 * len(POINTS))
    assert torch.equal(assign_points(POINTS, OF, one, PointRule()), whole)
    for a, b in zip(assign_aligned(POINTS, OF, scores, boxes, one, AlignmentRule()), aligned, strict=True):
        assert torch.equal(a, b)


def aligned_by_hand(points, scores, boxes, truths, labels, alpha, beta, topk):
    """Feng et al. 2021, section 3.2, one object after the other."""

    def iou(a, b):
        sides = [max(0.0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1)]
        shared = sides[0] * sides[1]
        return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)

    claims = {}
    for k, t in enumerate(truths):
        inside = [i for i, (x, y) in enumerate(points) if t[0] < x < t[2] and t[1] < y < t[3]]
        metric = {i: scores[i][labels[k]] ** alpha * iou(boxes[i], t) ** beta for i in inside}
        for i in sorted(inside, key=lambda i, m=metric: -m[i])[:topk]:
            claims.setdefault(i, []).append((iou(boxes[i], t), k, metric[i]))
    mine = {i: max(of) for i, of in claims.items()}
    wanted = {}
    for k in range(len(truths)):
        of = {i: claim for i, claim in mine.items() if claim[1] == k}
        if of:
            top_metric, top_iou = max(c[2] for c in of.values()), max(c[0] for c in of.values())
            wanted |= {i: (k, c[2] / top_metric * top_iou if top_metric else 0.0) for i, c in of.items()}
    return wanted


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 9999), count=st.integers(1, 5), topk=st.integers(1, 9))
def test_alignment_is_that_of_plain_loops(seed, count, topk) -> None:
    rng = np.random.default_rng(seed)
    points, strides = centres((64, 64), (8, 16), torch.device("cpu"))
    truths = drawn(seed, count, low=20, high=50) / 2
    labels = rng.integers(0, 2, count)
    scores = torch.from_numpy(rng.uniform(0.01, 0.99, (len(points), 2)).astype(np.float32))
    half = torch.from_numpy(rng.uniform(4, 20, (len(points), 2)).astype(np.float32))
    boxes = torch.cat([points - half, points + half], dim=1)
    found, wanted = assign_aligned(
        points, strides, scores, boxes, targets(truths.tolist(), labels.tolist()), AlignmentRule(1.0, 6.0, topk)
    )
    by_hand = aligned_by_hand(points.tolist(), scores.tolist(), boxes.tolist(), truths.tolist(), labels, 1.0, 6.0, topk)
    inside = {k for k, _ in by_hand.values()}
    for i in range(len(points)):
        if int(found[i]) in inside or i in by_hand:
            assert i in by_hand and int(found[i]) == by_hand[i][0]
            assert float(wanted[i]) == pytest.approx(by_hand[i][1], abs=1e-4)
        else:
            assert found[i] == NEGATIVE or int(found[i]) not in inside


def test_of_each_object_the_highest_target_is_its_highest_iou() -> None:
    points, strides = centres((64, 64), (8,), torch.device("cpu"))
    one = targets([[4.0, 4, 28, 28], [36.0, 36, 60, 60]])
    half = torch.linspace(6, 16, len(points))[:, None].expand(-1, 2)
    boxes = torch.cat([points - half, points + half], dim=1)
    found, wanted = assign_aligned(points, strides, torch.full((len(points), 1), 0.5), boxes, one, AlignmentRule())
    from geosod.training.overlaps import iou_pairs

    for k in range(2):
        of = found == k
        best = iou_pairs(boxes[of], one.boxes[k].expand(int(of.sum()), 4)).max()
        assert float(wanted[of].max()) == pytest.approx(float(best), abs=1e-6)


def test_centreness_is_that_of_the_paper() -> None:
    box = torch.tensor([[0.0, 0, 10, 20]])
    assert centreness_of(torch.tensor([[5.0, 10]]), box) == 1
    left, up = 2 / 8, 5 / 15
    assert float(centreness_of(torch.tensor([[2.0, 5]]), box)) == pytest.approx((left * up) ** 0.5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PointRule(radius=0),
        lambda: PointRule(reach=-1),
        lambda: AlignmentRule(topk=0),
        lambda: AlignmentRule(beta=-1),
        lambda: criterion_of(fcos(), assigner="task-aligned"),
        lambda: criterion_of(fcos(), assigner="nearest"),
        lambda: criterion_of(fcos(), box_loss="smooth-l1"),
    ],
)
def test_rules_out_of_range_are_refused(make) -> None:
    with pytest.raises(ConfigError, match=r"radius|reach|topk|beta|varifocal|nearest|smooth-l1"):
        make()
