"""The pyramid: torchvision's where α = 1, the equation where it is not, and σ-power initialisation."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from geosod.detectors.zoo.pyramid import Pyramid
from geosod.errors import ConfigError

CHANNELS = (6, 8, 10, 12)


def maps(seed: int = 0, *, side: int = 16) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(2, c, side >> i, side >> i) for i, c in enumerate(CHANNELS)]


def like(source: Pyramid, **options) -> Pyramid:
    """Another pyramid with the same convolutions."""
    made = Pyramid(CHANNELS, 16, **options)
    made.load_state_dict({**made.state_dict(), **source.state_dict()})
    return made


@torch.inference_mode()
def test_with_factor_1_it_is_torchvisions_to_the_last_bit() -> None:
    theirs = FeaturePyramidNetwork(list(CHANNELS), 16, LastLevelMaxPool())
    ours = Pyramid(CHANNELS, 16)
    ours.load_state_dict(theirs.state_dict())
    x = maps()
    wanted = theirs(OrderedDict((str(i), m) for i, m in enumerate(x)))
    for got, want in zip(ours(x), wanted.values(), strict=True):
        assert torch.equal(got, want)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1.2), min_size=3, max_size=3))
@torch.inference_mode()
def test_it_computes_the_equation(alpha) -> None:
    """P(i) = layer(inner(C(i)) + α · up(P'(i + 1))), written out."""
    pyramid, x = Pyramid(CHANNELS, 16, fusion=alpha), maps()
    inner = [block(m) for block, m in zip(pyramid.inner_blocks, x, strict=True)]
    merged = [None, None, None, inner[3]]
    for i in (2, 1, 0):
        merged[i] = inner[i] + alpha[i] * merged[i + 1].repeat_interleave(2, 2).repeat_interleave(2, 3)
    wanted = [block(m) for block, m in zip(pyramid.layer_blocks, merged, strict=True)]
    got = pyramid(x)
    for a, b in zip(got[:4], wanted, strict=True):
        torch.testing.assert_close(a, b)
    assert torch.equal(got[4], got[3][:, :, ::2, ::2])


@pytest.mark.parametrize("sigma", [0.5, 0.8, 2.0])
def test_power_initialisation_equals_a_fusion_factor(sigma) -> None:
    """Gong et al. 2021, section 3.3: parameters × σ^(i-2) and ÷ σ^(i-2) with α = 1 are those with α = σ."""
    torch.manual_seed(2)
    plain = Pyramid(CHANNELS, 16)
    with torch.no_grad():
        for block in (*plain.inner_blocks, *plain.layer_blocks):
            block[0].bias.uniform_(-1, 1)
    scaled = like(plain)
    scaled._scale(sigma)
    for a, b in zip(scaled(maps()), like(plain, fusion=sigma)(maps()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain(maps())[0], like(plain, fusion=sigma)(maps())[0])


def test_sigma_is_applied_to_what_a_new_network_starts_from() -> None:
    torch.manual_seed(4)
    plain = Pyramid(CHANNELS, 16)
    torch.manual_seed(4)
    scaled = Pyramid(CHANNELS, 16, sigma=0.5)
    for i in range(4):
        torch.testing.assert_close(scaled.inner_blocks[i][0].weight, plain.inner_blocks[i][0].weight * 0.5**i)
        torch.testing.assert_close(scaled.layer_blocks[i][0].weight, plain.layer_blocks[i][0].weight / 0.5**i)


@pytest.mark.parametrize(("mode", "count"), [("learnable-one", 1), ("learnable-three", 3), ("attention", 3 * 33)])
def test_trained_factors_start_at_1_and_have_gradients(mode, count) -> None:
    torch.manual_seed(0)
    plain = Pyramid(CHANNELS, 16)
    made = like(plain, fusion=mode)
    assert sum(p.numel() for p in made.alpha.parameters()) == count
    for a, b in zip(made(maps()), plain(maps()), strict=True):
        torch.testing.assert_close(a, b)
    sum(level.square().mean() for level in made(maps())).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.alpha.parameters())


def test_one_learnable_factor_is_that_of_all_levels() -> None:
    made, plain = Pyramid(CHANNELS, 16, fusion="learnable-one"), None
    with torch.no_grad():
        made.alpha.factors.fill_(0.3)
    plain = Pyramid(CHANNELS, 16, fusion=0.3)
    plain.load_state_dict({k: v for k, v in made.state_dict().items() if "alpha" not in k})
    for a, b in zip(made(maps()), plain(maps()), strict=True):
        torch.testing.assert_close(a, b)


def test_attention_factors_lie_between_0_and_2_and_are_local() -> None:
    """A change in one corner of the coarsest map does not change cells that do not touch it."""
    made = Pyramid(CHANNELS, 16, fusion="attention")
    with torch.no_grad():
        for gate in made.alpha.gates:
            gate.weight.normal_()
    x = maps(side=32)
    before = made(x)[0]
    x[3][:, :, 0, 0] += 5
    after = made(x)[0]
    assert torch.equal(before[:, :, 12:, 12:], after[:, :, 12:, 12:]) and not torch.equal(before, after)


@pytest.mark.parametrize(
    "wrong",
    [
        {"fusion": -1.0},
        {"fusion": (1.0, 1.0)},
        {"fusion": "best"},
        {"fusion": float("nan")},
        {"sigma": 0.0},
        {"channels": 2},
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Pyramid(CHANNELS, **wrong)
