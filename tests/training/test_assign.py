"""Matching of boxes with objects: torchvision's matcher, and SNIP's rule in plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import box_iou, generalized_box_iou

from geosod.detectors.zoo.anchors import Anchors, decoded, encoded, regular_shapes
from geosod.errors import ConfigError
from geosod.training import assign
from geosod.training.assign import IGNORED, NEGATIVE, MatchRule, match
from geosod.training.box_losses import box_loss, offset_loss
from geosod.training.overlaps import covered_matrix, iou_matrix, nwd, nwd_matrix
from tests.training.samples import targets

PRIORS = Anchors((4, 8, 16), regular_shapes((8, 16, 32), (0.5, 1, 2), (1.0,))).boxes((64, 64), torch.device("cpu"))


def boxes(rng, count: int, *, low: float = 4, high: float = 40) -> torch.Tensor:
    corner = rng.uniform(-5, 60, (count, 2))
    return torch.from_numpy(np.hstack([corner, corner + rng.uniform(low, high, (count, 2))]).astype(np.float32))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), count=st.integers(0, 12), force=st.booleans())
def test_without_ignored_objects_it_is_torchvisions_matcher(seed, count, force) -> None:
    truths = boxes(np.random.default_rng(seed), count)
    got = match(PRIORS, targets(truths.tolist()), MatchRule(0.5, 0.4, force))
    if not count:
        assert (got == NEGATIVE).all()
        return
    wanted = Matcher(0.5, 0.4, allow_low_quality_matches=force)(box_iou(truths, PRIORS))
    assert torch.equal(got, wanted)


def snip(priors, truths, labels, ignored, high, low) -> list[int]:
    """Singh and Davis 2018, section 6.1, one prior box after the other; regions of any class as in COCO."""

    def area(a):
        return (a[2] - a[0]) * (a[3] - a[1])

    def shared(a, b):
        return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))

    def iou(a, b):
        return shared(a, b) / (area(a) + area(b) - shared(a, b))

    overlaps = [[iou(p, t) for t in truths] for p in priors]
    best_of_truth = [max(row[k] for row in overlaps) for k in range(len(truths))]
    found = []
    for prior, row in zip(priors, overlaps, strict=True):
        best = max(range(len(row)), key=lambda k: row[k])
        what = best if row[best] >= high else IGNORED if row[best] >= low else NEGATIVE
        if any(row[k] > 0 and row[k] == best_of_truth[k] for k in range(len(row))):
            what = best
        if what >= 0 and ignored[what]:
            what = IGNORED
        if any(ignored[k] and labels[k] >= 0 and row[k] > 0.3 for k in range(len(row))):
            what = IGNORED
        for k, truth in enumerate(truths):
            if what == NEGATIVE and labels[k] < 0 and shared(prior, truth) / area(prior) > 0.5:
                what = IGNORED
        found.append(what)
    return found


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999), count=st.integers(1, 8))
def test_snips_assignment_is_that_of_plain_loops(seed, count) -> None:
    rng = np.random.default_rng(seed)
    # Coordinates in quarters: the loops in float64 and the matrices in float32 see the same ties.
    truths = (boxes(rng, count) * 4).round() / 4
    ignored = rng.random(count) < 0.5
    labels = np.where(ignored & (rng.random(count) < 0.4), -1, 0)
    one = targets(truths.tolist(), labels.tolist(), ignored.tolist())
    priors = torch.cat([(boxes(rng, 60) * 4).round() / 4, truths])
    got = match(priors, one, MatchRule(0.5, 0.4)).tolist()
    wanted = snip(priors.double().tolist(), truths.double().tolist(), labels, ignored, 0.5, 0.4)
    assert got == wanted


def test_an_ignored_object_takes_its_boxes_from_its_neighbour() -> None:
    """All objects take part: a prior box nearer to the ignored one is no example of the valid one."""
    truths = [[0.0, 0, 10, 10], [3.0, 0, 13, 10]]
    priors = torch.tensor([[2.5, 0, 12.5, 10], [0.0, 0, 10, 10], [-4.0, 0, 6, 10], [40.0, 40, 50, 50]])
    both = targets(truths, ignored=[False, True])
    # IoU 0.90 with the ignored one; 1 with the valid one, but 0.54 with the ignored one; 0.43 with the valid one.
    assert match(priors, both, MatchRule(0.5, 0.4)).tolist() == [IGNORED, IGNORED, IGNORED, NEGATIVE]
    alone = targets(truths[:1])
    assert match(priors, alone, MatchRule(0.5, 0.4)).tolist() == [0, 0, IGNORED, NEGATIVE]


def test_an_object_that_no_box_touches_takes_none() -> None:
    """Every overlap with it is the highest, 0."""
    assert (match(PRIORS, targets([[500.0, 500, 510, 510]]), MatchRule()) == NEGATIVE).all()


def test_negatives_inside_a_region_are_left_out_and_positives_are_not() -> None:
    one = targets([[0.0, 0, 40, 40], [10.0, 10, 18, 18]], [-1, 0], [True, False])
    priors = torch.tensor([[10.0, 10, 18, 18], [30.0, 30, 38, 38], [38.0, 38, 46, 46], [50.0, 50, 58, 58]])
    assert match(priors, one, MatchRule(0.5, 0.4, force=False)).tolist() == [1, IGNORED, NEGATIVE, NEGATIVE]


def test_parts_of_the_matrix_give_the_same_as_the_whole(monkeypatch) -> None:
    rng = np.random.default_rng(5)
    truths = boxes(rng, 9)
    one = targets(truths.tolist(), ignored=(rng.random(9) < 0.4).tolist())
    whole = match(PRIORS, one, MatchRule())
    monkeypatch.setattr(assign, "_CHUNK", 100)
    assert torch.equal(match(PRIORS, one, MatchRule()), whole)


def test_by_nwd_a_tiny_object_between_cells_is_matched() -> None:
    """A box of 3 px overlaps no prior box by an IoU of 0.3, but is not far from one (Wang et al. 2021)."""
    one = targets([[6.5, 6.5, 9.5, 9.5]])
    assert (match(PRIORS, one, MatchRule(0.5, 0.4, force=False)) >= 0).sum() == 0
    found = match(PRIORS, one, MatchRule(0.7, 0.3, force=False, metric="nwd"))
    assert (found >= 0).sum() >= 4
    near = PRIORS[found >= 0]
    assert ((near[:, :2] + near[:, 2:]) / 2 - 8).abs().max() <= 4


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999))
def test_overlaps_are_those_of_torchvision_and_of_the_formula(seed) -> None:
    rng = np.random.default_rng(seed)
    a, b = boxes(rng, 7), boxes(rng, 5)
    torch.testing.assert_close(iou_matrix(a, b), box_iou(a, b))
    part = np.array([[shared_part(p, q) for q in b.tolist()] for p in a.tolist()])
    np.testing.assert_allclose(covered_matrix(a, b), part, atol=1e-5)
    for i, p in enumerate(a.double().numpy()):
        for j, q in enumerate(b.double().numpy()):
            gauss_p, gauss_q = (np.r_[(x[:2] + x[2:]) / 2, (x[2:] - x[:2]) / 2] for x in (p, q))
            wanted = np.exp(-np.linalg.norm(gauss_p - gauss_q) / 12.8)
            assert abs(float(nwd_matrix(a, b)[i, j]) - wanted) < 1e-5


def shared_part(a, b) -> float:
    sides = [max(0.0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1)]
    return sides[0] * sides[1] / ((a[2] - a[0]) * (a[3] - a[1]))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999))
def test_offsets_are_those_of_torchvisions_coder_and_come_back(seed) -> None:
    rng = np.random.default_rng(seed)
    priors, wanted = boxes(rng, 12), boxes(rng, 12)
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    offsets = encoded(wanted, priors)
    torch.testing.assert_close(offsets, coder.encode_single(wanted, priors), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decoded(offsets, priors), wanted, rtol=1e-4, atol=1e-3)
    anything = torch.from_numpy(rng.normal(0, 3, (12, 4)).astype(np.float32))
    torch.testing.assert_close(decoded(anything, priors), coder.decode_single(anything, priors), rtol=1e-4, atol=1e-2)


def test_losses_of_boxes_are_0_where_they_agree_and_those_of_torchvision() -> None:
    rng = np.random.default_rng(3)
    priors, wanted, other = boxes(rng, 9), boxes(rng, 9), boxes(rng, 9)
    for name in ("smooth-l1", "giou", "nwd"):
        loss = offset_loss(name)
        assert loss(encoded(wanted, priors), priors, wanted).abs().max() < 1e-3
        assert (loss(encoded(other, priors), priors, wanted) > 0.01).all()
    giou = box_loss("giou")(other, wanted)
    torch.testing.assert_close(giou, 1 - generalized_box_iou(other, wanted).diagonal(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(box_loss("nwd")(other, wanted), 1 - nwd(other, wanted))


def test_equal_boxes_have_a_gradient_that_is_a_number() -> None:
    same = torch.tensor([[0.0, 0, 8, 8]], requires_grad=True)
    for name in ("giou", "nwd"):
        box_loss(name)(same, same.detach()).sum().backward()
        assert torch.isfinite(same.grad).all()


@pytest.mark.parametrize(
    "wrong", [{"high": 0.3}, {"low": 0.0}, {"high": 1.5}, {"metric": "ios"}, {"scale": 0.0}], ids=str
)
def test_rules_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        MatchRule(**wrong)


def test_losses_of_other_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="'ciou' is none of smooth-l1, giou, nwd"):
        offset_loss("ciou")
