"""Resizing beside cv2.resize, which Ultralytics, YOLOX and others use."""

from __future__ import annotations

import numpy as np
import pytest

from geosod.detectors.network_input import NetworkInput
from geosod.detectors.resize import prepare
from tests.detectors.test_network_input import image

cv2 = pytest.importorskip("cv2")


def test_resizing_equals_opencv() -> None:
    """Ultralytics and YOLOX resize with cv2.resize: all but a few pixels in 10,000 are the same, those by one step."""
    for size in ((40, 31), (200, 150), (96, 64), (33, 64)):
        tile = image()
        spec = NetworkInput(size=size, resize="stretch", resampling="opencv")
        ours = prepare(tile.clone(), spec, spec.fit(96, 64), whole=True)[0].permute(1, 2, 0).numpy() * 255
        pixels = (tile[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        theirs = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR).astype(float)
        assert np.abs(ours - theirs).max() < 1.01
        assert (np.abs(ours - theirs) > 0.01).mean() < 0.002
