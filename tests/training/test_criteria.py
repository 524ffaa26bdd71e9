"""Every criterion: it overfits a batch, ignores what is ignored, and gives numbers whatever the targets are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geosod.errors import ConfigError, LabelError
from geosod.training.criteria import CRITERIA, architecture_of, criterion_of
from tests.training.samples import NETWORKS, SIDE, any_targets, drawn, fix, targets

#: Network, its options, and the criterion's.
SETUPS = {
    "retinanet": ("retinanet", {}, {}),
    "retinanet-giou": ("retinanet", {}, {"box_loss": "giou"}),
    "retinanet-nwd": ("retinanet", {}, {"box_loss": "nwd", "assigner": "nwd", "high": 0.7, "low": 0.3}),
    "retinanet-hard": ("retinanet", {}, {"class_loss": "hard-negatives"}),
    "fcos": ("fcos", {}, {}),
    "fcos-varifocal": ("fcos", {"quality": "varifocal"}, {}),
    "fcos-aligned": ("fcos", {"quality": "varifocal"}, {"assigner": "task-aligned"}),
    "fcos-nwd": ("fcos", {}, {"box_loss": "nwd"}),
    "ssd": ("ssd", {}, {"class_loss": "hard-negatives"}),
    "centre": ("centre", {}, {}),
    "centre-2px": ("centre", {"stride": 2}, {}),
    "centre-points": ("centre", {"side": 12.0, "stride": 1}, {"sigma": 2.0}),
    "small-fpn": ("small-fpn", {}, {}),
    "centre-unet": ("centre-unet", {"side": 12.0}, {"sigma": 2.0}),
    "faster-rcnn": ("faster-rcnn", {}, {}),
    "faster-rcnn-ohem": ("faster-rcnn", {}, {"sampler": "ohem", "batch": 20}),
}
#: Those whose loss is a function of the raw output.
ONE_STAGE = [name for name, (network, _, _) in SETUPS.items() if network != "faster-rcnn"]


def made(setup: str):
    name, options, of_criterion = SETUPS[setup]
    torch.manual_seed(0)
    return criterion_of(NETWORKS[name](**options), **of_criterion)


def fixed(setup: str, *, count: int = 2, seed: int = 0, spread: float = 1.0):
    """A criterion whose network's raw output is a parameter."""
    criterion = made(setup)
    with torch.inference_mode():
        shape = criterion.network(torch.zeros(count, 3, SIDE, SIDE)).shape
    raw = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * spread
    fix(criterion.network, raw)
    return criterion


@pytest.mark.parametrize("setup", SETUPS)
def test_sixty_steps_overfit_a_batch(setup) -> None:
    criterion, (images, labelled) = made(setup), drawn()
    optimiser = torch.optim.AdamW(criterion.parameters(), lr=4e-3)
    history = []
    for _ in range(60):
        losses = criterion(images, labelled)
        total = sum(losses.values())
        optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(criterion.parameters(), 10.0)
        optimiser.step()
        history.append(float(total.detach()))
    assert history[-1] < 0.5 * history[0], history[::10]
    # After so few steps one more or less is a matter of rounding, which differs by processor.
    assert found_of(criterion.network.train(), images, labelled) >= 5, history[::10]


@torch.no_grad()
def found_of(network, images, labelled) -> int:
    """How many objects have a box of their class with IoU above 0.5 among the 30 best of their image."""
    from torchvision.ops import box_iou

    boxes, scores, labels = network.decode(network(images), size=(SIDE, SIDE), threshold=0.02, topk=30)
    count = 0
    for i, one in enumerate(labelled):
        kept = torch.isfinite(scores[i])
        close = box_iou(one.boxes, boxes[i, kept]) > 0.5
        count += int((close & (one.labels[:, None] == labels[i, kept][None])).any(dim=1).sum())
    return count


@pytest.mark.parametrize("setup", SETUPS)
def test_images_without_objects_have_finite_losses_and_none_of_boxes(setup) -> None:
    criterion = made(setup)
    losses = criterion(torch.rand(2, 3, SIDE, SIDE), [targets([]), targets([])])
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(loss == 0 for name, loss in losses.items() if "box" in name)
    assert sum(losses.values()) > 0
    sum(losses.values()).backward()
    # Gradients of all parameters, so that DistributedDataParallel does not wait for some.
    missing = [name for name, p in criterion.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


@pytest.mark.parametrize("setup", SETUPS)
def test_under_autocast_losses_are_float32(setup) -> None:
    criterion = made(setup)
    with torch.autocast("cpu", torch.bfloat16):
        losses = criterion(*drawn())
    assert all(loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in criterion.parameters() if p.grad is not None)


@pytest.mark.parametrize("setup", ONE_STAGE)
def test_ignored_objects_ask_nothing_of_the_network(setup) -> None:
    """All the image is an ignored region: no place in it is an example of anything."""
    criterion = fixed(setup, count=1)
    whole = targets([[-200.0, -200, SIDE + 200, SIDE + 200], [8.0, 8, 16, 16]], [-1, 1], [True, True])
    sum(criterion(torch.zeros(1, 3, SIDE, SIDE), [whole]).values()).backward()
    assert criterion.network.raw.grad.abs().max() == 0


@pytest.mark.parametrize("setup", ONE_STAGE)
def test_an_object_that_is_ignored_is_no_negative_example_either(setup) -> None:
    """What it asks for where the object is differs from what an image without it asks for."""
    images = torch.zeros(1, 3, SIDE, SIDE)
    box = [[20.0, 20, 30, 30]]
    grads = {}
    for name, one in (("none", targets([])), ("valid", targets(box)), ("ignored", targets(box, ignored=[True]))):
        criterion = fixed(setup, count=1, spread=0.1)
        losses = criterion(images, [one])
        sum(losses.values()).backward()
        grads[name] = criterion.network.raw.grad.clone()
        if "box" in losses:
            assert (name == "valid") == bool(losses["box"] > 0)
    asked, spared = grads["valid"] - grads["none"], grads["ignored"]
    changed = asked.flatten(2).abs().amax(dim=2)[0] > 0 if asked.ndim == 3 else asked.abs().amax(dim=1)[0] > 0
    silent = (spared.abs().amax(dim=2)[0] == 0) if spared.ndim == 3 else (spared.abs().amax(dim=1)[0] == 0)
    assert changed.any() and (silent & changed).any()


@pytest.mark.parametrize("setup", ONE_STAGE)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(one=any_targets(), other=any_targets(), seed=st.integers(0, 99), spread=st.sampled_from([0.1, 3.0, 100.0]))
def test_losses_and_gradients_are_numbers_whatever_the_targets(setup, one, other, seed, spread) -> None:
    criterion = fixed(setup, seed=seed, spread=spread)
    losses = criterion(torch.zeros(2, 3, SIDE, SIDE), [one, other])
    assert all(loss.ndim == 0 and torch.isfinite(loss) and loss >= 0 for loss in losses.values()), losses
    sum(losses.values()).backward()
    assert torch.isfinite(criterion.network.raw.grad).all()


@pytest.mark.parametrize("setup", ONE_STAGE)
def test_two_workers_equal_one_with_both_batches(setup) -> None:
    """Gradients averaged over two halves, with counts averaged too, are those of the whole."""
    images, labelled = drawn(count=2)
    labelled[1] = targets(labelled[1].boxes[:1].tolist(), [0])

    def gradient(part, normaliser=None):
        criterion = fixed(setup, spread=0.3)
        raw = criterion.network.raw
        criterion.network.raw = torch.nn.Parameter(raw[part].detach().clone())
        if normaliser:
            criterion.normaliser = normaliser
        sum(criterion(images[part], labelled[part]).values()).backward()
        return criterion.network.raw.grad

    whole = gradient(slice(0, 2))
    counts = [[], []]
    for k in range(2):
        gradient(slice(k, k + 1), lambda n, k=k: counts[k].append(n.detach()) or n.clamp(min=1))
    means = [torch.stack(pair).sum().clamp(min=1) / 2 for pair in zip(*counts, strict=True)]
    parts = []
    for k in range(2):
        left = iter(means)
        parts.append(gradient(slice(k, k + 1), lambda _: next(left)) / 2)  # noqa: B023
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-6)


def test_every_criterion_is_for_a_network_of_the_zoo() -> None:
    # A classifier of crops is tested in test_crops.
    assert {*NETWORKS, "classifier"} == set(CRITERIA)
    assert all(architecture_of(NETWORKS[name]()) == name for name in NETWORKS)


def test_what_does_not_fit_is_refused() -> None:
    criterion = made("retinanet")
    images = torch.zeros(1, 3, SIDE, SIDE)
    with pytest.raises(LabelError, match="2 targets for 1 images"):
        criterion(images, [targets([]), targets([])])
    with pytest.raises(LabelError, match="label 5 is neither -1 nor"):
        criterion(images, [targets([[0.0, 0, 4, 4]], [5])])
    with pytest.raises(ConfigError, match="no criterion for Identity"):
        criterion_of(torch.nn.Identity())
    with pytest.raises(ConfigError, match="unexpected keyword argument 'speed'"):
        criterion_of(NETWORKS["retinanet"](), speed=3)
