"""SmallFPN: shapes, folding, decoding against plain loops, and a loss that falls to its targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from geosod.detectors.zoo.fpn import SmallFPN, decode, decode_fixed, loss
from geosod.errors import ConfigError


def _model(**kwargs) -> SmallFPN:
    torch.manual_seed(0)
    model = SmallFPN(**({"bands": 3, "classes": 3, "width": 8} | kwargs))
    # Statistics away from 0 and 1, as after training.
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.7, 1.3)
    return model.eval()


@pytest.mark.parametrize(("bands", "classes", "height", "width"), [(3, 3, 64, 96), (8, 1, 32, 32), (1, 5, 96, 64)])
def test_output_has_a_cell_for_every_stride(bands: int, classes: int, height: int, width: int) -> None:
    model = _model(bands=bands, classes=classes)
    raw = model(torch.rand(2, bands, height, width))
    assert raw.shape == (2, classes + 4, height // model.stride, width // model.stride)


def test_default_network_is_small() -> None:
    assert sum(p.numel() for p in SmallFPN(bands=3, classes=3).parameters()) < 1_000_000


@torch.inference_mode()
def test_fused_network_says_the_same_and_leaves_the_original_alone() -> None:
    model = _model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.rand(2, 3, 64, 64)
    lean = model.fused()
    torch.testing.assert_close(lean(x), model(x), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in lean.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_weights_survive_a_file(tmp_path) -> None:
    model = _model()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    other = SmallFPN(bands=3, classes=3, width=8).eval()
    other.load_state_dict(load_file(tmp_path / "w.safetensors"), strict=True)
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(other(x), model(x))


@torch.inference_mode()
def test_fusion_factor_scales_what_comes_from_above() -> None:
    x = torch.rand(1, 3, 64, 64)
    deep, flat = _model(), _model(fusion=(1.0, 1.0, 0.0))
    flat.load_state_dict(deep.state_dict())
    assert not torch.allclose(deep(x), flat(x))
    for parameter in flat.lateral.parameters():
        parameter.zero_()
    same = _model(fusion=(1.0, 1.0, 0.0))
    same.load_state_dict(deep.state_dict())
    torch.testing.assert_close(same(x), flat(x))


@torch.inference_mode()
def test_runs_in_bf16_channels_last() -> None:
    model = _model().fused().to(torch.bfloat16).to(memory_format=torch.channels_last)
    x = torch.rand(1, 3, 64, 64)
    near = model(x.bfloat16().contiguous(memory_format=torch.channels_last)).float()
    exact = _model().fused()(x)
    assert (near - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("bad", [{"bands": 0}, {"classes": 0}, {"width": 2}, {"fusion": (1.0, 1.0)}])
def test_bad_arguments_are_named(bad: dict) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(bad))}="):
        SmallFPN(**({"bands": 3, "classes": 3} | bad))


def _decode_by_hand(raw: np.ndarray, threshold: float, topk: int) -> list[tuple[float, int, list[float]]]:
    classes, rows, cols = raw.shape[0] - 4, *raw.shape[1:]
    scores = 1 / (1 + np.exp(-raw[:classes].astype(np.float64)))
    found = []
    for k, r, c in np.ndindex(classes, rows, cols):
        around = scores[k, max(0, r - 1) : r + 2, max(0, c - 1) : c + 2]
        if scores[k, r, c] >= threshold and scores[k, r, c] >= around.max():
            dx, dy, w, h = raw[classes:, r, c].astype(np.float64)
            x, y, w, h = c + 0.5 + dx, r + 0.5 + dy, np.exp(w), np.exp(h)
            found.append((scores[k, r, c], k, [4 * (x - w / 2), 4 * (y - h / 2), 4 * (x + w / 2), 4 * (y + h / 2)]))
    return sorted(found, key=lambda f: -f[0])[:topk]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7), st.integers(1, 40), st.booleans()
)
def test_decode_agrees_with_plain_loops(seed: int, classes: int, rows: int, cols: int, topk: int, fixed: bool) -> None:
    rng = np.random.default_rng(seed)
    raw = rng.normal(0, 1, (2, classes + 4, rows, cols)).astype(np.float32)
    boxes, scores, labels = (decode_fixed if fixed else decode)(torch.from_numpy(raw), threshold=0.45, topk=topk)
    by_hand = [_decode_by_hand(raw[i], 0.45, topk) for i in range(2)]
    most = min(topk, classes * rows * cols)
    assert boxes.shape[1] == most if fixed else max(map(len, by_hand)) <= boxes.shape[1] <= most
    for i, expected in enumerate(by_hand):
        assert int(torch.isfinite(scores[i]).sum()) == len(expected)
        n = len(expected)
        assert torch.isinf(scores[i, n:]).all()
        np.testing.assert_allclose(scores[i, :n].numpy(), [e[0] for e in expected], rtol=1e-5)
        assert labels[i, :n].tolist() == [e[1] for e in expected]
        np.testing.assert_allclose(boxes[i, :n].numpy(), np.array([e[2] for e in expected]).reshape(-1, 4), atol=1e-3)


def test_decode_of_half_precision_is_in_float32() -> None:
    raw = torch.randn(1, 7, 4, 4, dtype=torch.bfloat16)
    boxes, scores, _ = decode(raw, threshold=0.0, topk=5)
    assert boxes.dtype == scores.dtype == torch.float32


def _targets() -> dict[str, torch.Tensor]:
    heat, shape, weight = torch.zeros(1, 2, 8, 8), torch.zeros(1, 4, 8, 8), torch.zeros(1, 8, 8)
    heat[0, 1, 3, 5] = 1.0
    shape[0, :, 3, 5] = torch.tensor([0.3, -0.2, 0.9, 0.4])
    weight[0, 3, 5] = 1.0
    return {"heat": heat, "shape": shape, "weight": weight}


def test_loss_is_least_at_the_targets_and_grows_away_from_them() -> None:
    targets = _targets()
    perfect = torch.cat([(targets["heat"] * 2 - 1) * 12, targets["shape"]], dim=1)
    best = loss(perfect, targets)
    assert float(best["total"]) < 1e-3
    for channel, step in ((2, 0.3), (3, -0.3), (4, 0.3), (5, -0.3)):
        worse = perfect.clone()
        worse[0, channel, 3, 5] += step
        assert float(loss(worse, targets)["box"]) > float(best["box"]) + 0.05
    for cell in ((1, 3, 5), (0, 3, 5), (1, 0, 0)):
        worse = perfect.clone()
        worse[(0, *cell)] *= -1
        assert float(loss(worse, targets)["centre"]) > 1.0


def test_decode_returns_the_box_that_the_targets_describe() -> None:
    targets = _targets()
    raw = torch.cat([(targets["heat"] * 2 - 1) * 12, targets["shape"]], dim=1)
    boxes, scores, labels = decode(raw, threshold=0.5, topk=10)
    cx, cy, w, h = 4 * 5.8, 4 * 3.3, 4 * np.exp(0.9), 4 * np.exp(0.4)
    assert scores.shape == (1, 1) and int(labels[0, 0]) == 1 and float(scores[0, 0]) > 0.99
    np.testing.assert_allclose(boxes[0, 0], [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], atol=1e-3)
