"""The running maximum against torch's pooling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from geosod.detectors.zoo.peaks import highest_around


@pytest.mark.parametrize("window", [1, 3, 5, 7, 9, 15, 31])
@pytest.mark.parametrize("size", [(1, 1), (2, 40), (33, 17)])
def test_it_is_the_maximum_of_the_window(window: int, size: tuple[int, int]) -> None:
    heat = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(window))
    expected = F.max_pool2d(heat, window, stride=1, padding=window // 2)
    assert torch.equal(highest_around(heat, window), expected)
    strided = heat.contiguous(memory_format=torch.channels_last)
    assert torch.equal(highest_around(strided, window), expected)


def test_what_is_not_a_number_spreads() -> None:
    heat = torch.zeros(1, 1, 5, 5)
    heat[..., 0, 0] = torch.nan
    assert torch.isnan(highest_around(heat, 3)).sum() == 4
