"""The operator is torchvision's, whether or not torchvision itself is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torchvision

from geosod.detectors import operators
from geosod.detectors.operators import nms, roi_align


def boxes(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 4, generator=generator) * 50
    corners[:, 2:] += corners[:, :2]
    return corners, torch.rand(count, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 300])
def test_it_is_torchvisions(count, dtype) -> None:
    corners, scores = (column.to(dtype) for column in boxes(count))
    for iou in (0.0, 0.3, 1.0):
        assert torch.equal(nms(corners, scores, iou), torchvision.ops.nms(corners, scores, iou))


@pytest.mark.parametrize("samples", [-1, 2])
@pytest.mark.parametrize("count", [0, 1, 40])
def test_regions_are_cut_and_learnt_from_as_by_torchvision(count, samples) -> None:
    maps = torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(1))
    corners, _ = boxes(count)
    regions = torch.cat([(torch.arange(count) % 2)[:, None], corners], dim=1)
    found = []
    for function in (
        lambda x: roi_align(x, regions, (3, 4), 0.5, samples),
        lambda x: torchvision.ops.roi_align(x, regions, (3, 4), 0.5, samples, aligned=True),
    ):
        x = maps.clone().requires_grad_()
        cut = function(x)
        cut.square().sum().backward()
        found.append((cut, x.grad))
    for got, want in zip(*found, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize(
    "call",
    [
        "ops.nms(b, s, 0.5)",
        "ops.roi_align(torch.rand(1, 1, 8, 8), torch.tensor([[0., 0, 0, 5, 5]]), (2, 2), 1.0, 2)",
        "import_module('geosod.detectors.zoo.fcos').FCOS(bands=3, classes=1, backbone='resnet18')",
        "import_module('geosod.detectors.zoo.faster_rcnn')",
        "import_module('geosod.detectors.staged')",
    ],
)
def test_torchvision_is_not_imported_and_may_be_later(call) -> None:
    script = (
        "import sys, torch; from importlib import import_module; from geosod.detectors import operators as ops; "
        "b = torch.tensor([[0., 0, 5, 5], [0, 0, 5, 4]]); s = torch.tensor([0.1, 0.2]); "
        f"{call}; assert 'torchvision' not in sys.modules; "
        "import torchvision; assert torchvision.ops.nms(b, s, 0.5).tolist() == ops.nms(b, s, 0.5).tolist() == [1]"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_torchvision_is_imported_where_its_library_has_another_name(monkeypatch) -> None:
    operators._operators.cache_clear()
    imported = []
    monkeypatch.setattr(operators, "_registers", lambda library: False)
    monkeypatch.setattr(operators, "import_module", imported.append)
    try:
        corners, scores = boxes(100)
        assert torch.equal(nms(corners, scores, 0.3), torchvision.ops.nms(corners, scores, 0.3))
        assert imported == ["torchvision"]
    finally:
        operators._operators.cache_clear()
