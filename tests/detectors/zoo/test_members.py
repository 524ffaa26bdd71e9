"""Members of the zoo: they build, run and have a criterion that takes their options."""

from __future__ import annotations

import json

import pytest
import torch

from geosod.detectors.zoo.members import MEMBERS, build, member
from geosod.errors import ConfigError
from geosod.training.criteria import criterion_of


@pytest.mark.parametrize("name", MEMBERS)
@torch.inference_mode()
def test_a_member_runs_and_has_a_criterion(name) -> None:
    one = member(name)
    assert json.loads(json.dumps(one.parameters)) == one.parameters
    network = build(one.architecture, bands=4, classes=2, **one.parameters).eval()
    boxes, scores, _ = network.decode(network(torch.rand(1, 4, 64, 64)), size=(64, 64), threshold=0.0, topk=5)
    assert boxes.shape == (1, 5, 4) and scores.shape == (1, 5)
    criterion_of(network, **one.options)


def test_members_grow_with_their_names() -> None:
    networks = [
        build(member(name).architecture, bands=3, classes=3, **member(name).parameters)
        for name in ("tiny", "S", "M", "L")
    ]
    sizes = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert sizes == sorted(sizes)
    assert member("XL").parameters == member("L").parameters and member("XL").upscale > 1


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="no network 'XXL' in the zoo; choose from points, tiny, S"):
        member("XXL")
    with pytest.raises(ConfigError, match="unknown architecture 'yolo'"):
        build("yolo", bands=3, classes=1)
    with pytest.raises(ConfigError, match="refuses its parameters"):
        build("fcos", bands=3, classes=1, colour="red")
