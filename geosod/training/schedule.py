"""Shared by the training runs: learning rate schedule, moving average of the weights, prefetching of batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Batch = TypeVar("Batch")


def prefetch(make: Callable[[], Batch]) -> Iterator[Batch]:
    """Endless results of `make`; the next one is made in a thread while the current one is used."""
    with ThreadPoolExecutor(1) as worker:
        upcoming = worker.submit(make)
        while True:
            batch = upcoming.result()
            upcoming = worker.submit(make)
            yield batch


def one_cycle(progress: float, *, peak: float) -> float:
    """The one-cycle learning rate (Smith 2018): linear warm-up over a tenth of `progress` (0 to 1), then a cosine."""
    if progress < 0.1:
        return peak * (0.04 + 0.96 * progress / 0.1)
    return peak * (0.002 + 0.998 * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - 0.1) / 0.9))))


@torch.no_grad()
def update_average(mean: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    """Update an exponential moving average of the weights in place."""
    state, done = model.state_dict(), set[int]()
    for name, value in mean.state_dict().items():
        # Weights that several modules share have several names.
        if value.numel() and value.data_ptr() in done:
            continue
        done.add(value.data_ptr())
        if value.dtype.is_floating_point:
            value.lerp_(state[name], 1 - decay)
        else:
            value.copy_(state[name])
