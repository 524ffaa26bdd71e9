"""Faster R-CNN's two stages: SNIP's ranges in plain loops, sampling, hard examples, and proposals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geosod.errors import ConfigError
from geosod.training.assign import IGNORED, NEGATIVE
from geosod.training.criteria import criterion_of
from geosod.training.two_stage_criterion import drawn as sampled
from geosod.training.two_stage_criterion import match_proposals
from tests.training.samples import SIDE, any_targets, drawn, faster_rcnn, targets


def plain_boxes(rng, count: int) -> np.ndarray:
    corner = rng.uniform(0, 50, (count, 2))
    return (np.hstack([corner, corner + rng.uniform(3, 30, (count, 2))]) * 4).round() / 4


def second_stage(proposals, truths, ignored, low, high) -> list[int]:
    """Singh and Davis 2018, section 6.1: all truths take part, then truths and proposals out of range are left out."""
    found = []
    for p in proposals:
        overlaps = []
        for t in truths:
            sides = [max(0.0, min(p[k + 2], t[k + 2]) - max(p[k], t[k])) for k in (0, 1)]
            shared = sides[0] * sides[1]
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (p, t)]
            overlaps.append(shared / (sum(areas) - shared))
        best = int(np.argmax(overlaps))
        what = best if overlaps[best] >= 0.5 else NEGATIVE
        if what >= 0 and ignored[what]:
            what = IGNORED
        side = ((p[2] - p[0]) * (p[3] - p[1])) ** 0.5
        found.append(what if low <= side <= high else IGNORED)
    return found


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), count=st.integers(1, 8))
def test_the_second_stage_of_snip_is_that_of_plain_loops(seed, count) -> None:
    rng = np.random.default_rng(seed)
    truths, low, high = plain_boxes(rng, count), 6.05, float(rng.choice([18.05, np.inf]))
    side = np.sqrt((truths[:, 2:] - truths[:, :2]).prod(axis=1))
    ignored = (side < low) | (side > high)
    proposals = np.vstack([truths, truths + rng.integers(-8, 9, truths.shape) / 4, plain_boxes(rng, 40)])
    proposals = proposals[(proposals[:, 2:] - proposals[:, :2] > 1).all(axis=1)]
    one = targets(truths.tolist(), ignored=ignored.tolist(), valid_range=[low, high])
    got = match_proposals(torch.from_numpy(proposals).float(), one).tolist()
    assert got == second_stage(proposals.tolist(), truths.tolist(), ignored, low, high)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30), st.integers(0, 60), st.integers(1, 40), st.sampled_from([0.25, 0.5]))
def test_samples_have_the_numbers_that_are_asked_for(positives, negatives, count, part) -> None:
    found = torch.tensor([*range(positives), *[NEGATIVE] * negatives, IGNORED, IGNORED])
    got = sampled(found, count, part)
    kept = got > IGNORED
    most = max(1, int(count * part))
    assert int((got >= 0).sum()) == min(positives, most)
    assert int(kept.sum()) == min(count, min(positives, most) + negatives)
    assert torch.equal(got[kept], found[kept])


def test_hard_examples_are_those_of_the_highest_loss() -> None:
    """With as many examples as proposals nothing is left out; with fewer the mean loss rises."""
    images, labelled = drawn(count=1)
    means = []
    for batch in (4, 16, 1000):
        torch.manual_seed(0)
        criterion = criterion_of(faster_rcnn(), sampler="ohem", batch=batch)
        losses = criterion(images, labelled)
        means.append(float((losses["class"] + losses["box"]).detach()))
    assert means[0] > means[1] > means[2]


def test_of_many_objects_a_bounded_number_joins_the_proposals(monkeypatch) -> None:
    """The head would examine all of them for their losses."""
    network = faster_rcnn(proposals=40)
    examined, examine = [], network.examine

    def counted(levels, i, boxes):
        examined.append(len(boxes))
        return examine(levels, i, boxes)

    monkeypatch.setattr(network, "examine", counted)
    corners = np.random.default_rng(0).uniform(0, 50, (2000, 2))
    many = targets(np.column_stack([corners, corners + 8]), ignored=[k % 2 == 0 for k in range(2000)])
    losses = criterion_of(network, sampler="ohem", batch=16)(torch.rand(1, 3, SIDE, SIDE), [many])
    assert all(torch.isfinite(loss) for loss in losses.values()) and max(examined) <= 40 + 16


@pytest.mark.parametrize("sampler", ["random", "ohem"])
def test_a_batch_of_ignored_objects_asks_nothing_of_the_network(sampler) -> None:
    criterion = criterion_of(faster_rcnn(), sampler=sampler)
    whole = targets([[-200.0, -200, SIDE + 200, SIDE + 200], [8.0, 8, 16, 16]], [-1, 1], [True, True])
    losses = criterion(torch.rand(1, 3, SIDE, SIDE), [whole])
    assert all(loss == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.abs().max() == 0 for p in criterion.parameters())


def test_out_of_range_proposals_ask_nothing_of_the_head() -> None:
    criterion = criterion_of(faster_rcnn())
    one = targets([[8.0, 8, 20, 20]], valid_range=[5000.0, 9000.0])
    losses = criterion(torch.rand(1, 3, SIDE, SIDE), [one])
    assert losses["class"] == 0 and losses["box"] == 0 and losses["rpn_class"] > 0


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(one=any_targets(), other=any_targets(), sampler=st.sampled_from(["random", "ohem"]))
def test_losses_and_gradients_are_numbers_whatever_the_targets(one, other, sampler) -> None:
    torch.manual_seed(0)
    criterion = criterion_of(faster_rcnn(), sampler=sampler, batch=16)
    losses = criterion(torch.rand(2, 3, SIDE, SIDE), [one, other])
    assert all(loss.ndim == 0 and torch.isfinite(loss) and loss >= 0 for loss in losses.values()), losses
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in criterion.parameters())


def test_two_workers_equal_one_with_both_images() -> None:
    """Where no example is drawn at random."""
    images, labelled = drawn(count=2)

    def gradients(part, normaliser=None):
        torch.manual_seed(0)
        criterion = criterion_of(faster_rcnn(norm="group"), rpn_batch=10**6, sampler="ohem", batch=10**6)
        criterion.normaliser = normaliser or criterion.normaliser
        sum(criterion(images[part], labelled[part]).values()).backward()
        return [p.grad for p in criterion.parameters()]

    whole, counts = gradients(slice(0, 2)), [[], []]
    for k in range(2):
        gradients(slice(k, k + 1), lambda n, k=k: counts[k].append(n.detach()) or n.clamp(min=1))
    means = [torch.stack(pair).sum() / 2 for pair in zip(*counts, strict=True)]
    parts = []
    for k in range(2):
        left = iter(means)
        parts.append(gradients(slice(k, k + 1), lambda _: next(left)))  # noqa: B023
    for a, b, c in zip(*parts, whole, strict=True):
        torch.testing.assert_close((a + b) / 2, c, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_proposals_are_in_the_image_the_best_first_and_apart() -> None:
    from torchvision.ops import box_iou

    torch.manual_seed(1)
    network = faster_rcnn(proposals=60).eval()
    network.rpn_out.weight.mul_(20)
    levels = network.levels(torch.rand(2, 3, SIDE, SIDE))
    boxes, sound = network.propose(network.regions(levels), (SIDE, SIDE))
    assert boxes.shape == (2, 60, 4) and sound.any(dim=1).all()
    assert (boxes >= 0).all() and (boxes <= SIDE).all()
    for i in range(2):
        mine = boxes[i][sound[i]]
        close = box_iou(mine, mine) - torch.eye(len(mine))
        # Suppression is inside each level; five levels may each propose a box.
        assert (close > network.proposal_iou).sum(dim=1).max() <= 4


@torch.no_grad()
def test_an_image_with_a_region_that_is_not_a_number_is_not_a_number() -> None:
    """Such regions are no proposals, and the others might hide it."""
    network = faster_rcnn().eval()
    regions = network.regions

    def spoilt(levels):
        found = regions(levels)
        found[1, 7, 0] = torch.nan
        return found

    network.regions = spoilt
    raw = network(torch.rand(2, 3, SIDE, SIDE))
    assert torch.isnan(raw[1]).all() and not torch.isnan(raw[0]).any()


@pytest.mark.parametrize("wrong", [{"sampler": "best"}, {"batch": 0}, {"rpn_batch": 0}, {"low": 0.9}], ids=str)
def test_arguments_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        criterion_of(faster_rcnn(), **wrong)
