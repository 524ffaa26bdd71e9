"""The operator is torchvision's, whether or not torchvision itself is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torchvision

from geosod.detectors import nms as module
from geosod.detectors.nms import nms


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


def test_torchvision_is_not_imported_and_may_be_later() -> None:
    script = (
        "import sys, torch; from geosod.detectors.nms import nms; b = torch.tensor([[0., 0, 5, 5], [0, 0, 5, 4]]); "
        "s = torch.tensor([0.1, 0.2]); assert nms(b, s, 0.5).tolist() == [1]; assert 'torchvision' not in sys.modules; "
        "import torchvision; assert torchvision.ops.nms(b, s, 0.5).tolist() == nms(b, s, 0.5).tolist() == [1]"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_torchvision_is_imported_where_its_library_has_another_name(monkeypatch) -> None:
    module._operator.cache_clear()
    monkeypatch.setattr(module, "_in_library", lambda library: None)
    try:
        corners, scores = boxes(100)
        assert torch.equal(nms(corners, scores, 0.3), torchvision.ops.nms(corners, scores, 0.3))
        assert module._operator() is torchvision.ops.nms
    finally:
        module._operator.cache_clear()
