"""What the training runs share: the learning rate over time, the running mean of the weights, batches made ahead."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Batch = TypeVar("Batch")


def ahead(make: Callable[[], Batch]) -> Iterator[Batch]:
    """What `make` gives, again and again, one made in a thread while another is learned from."""
    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(make)
        while True:
            batch = coming.result()
            coming = worker.submit(make)
            yield batch


def one_cycle(progress: float, *, peak: float) -> float:
    """The rate after a share of the time (Smith 2018): up over a tenth of it, then down along a cosine."""
    if progress < 0.1:
        return peak * (0.04 + 0.96 * progress / 0.1)
    return peak * (0.002 + 0.998 * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - 0.1) / 0.9))))


@torch.no_grad()
def follow(mean: torch.nn.Module, model: torch.nn.Module, keep: float) -> None:
    """Move a running mean of the weights towards the model's, in place."""
    state = model.state_dict()
    for name, value in mean.state_dict().items():
        if value.dtype.is_floating_point:
            value.lerp_(state[name], 1 - keep)
        else:
            value.copy_(state[name])
