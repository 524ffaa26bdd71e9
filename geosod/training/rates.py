"""The learning rate of each step, which depends on nothing but the step."""

from __future__ import annotations

import math

from geosod.training.config import TrainConfig

#: Of the peak, at the end of a cosine.
_FLOOR = 0.01
#: Share of a run that is its warm-up where the settings ask for a longer one than the run.
_LONGEST = 0.1


def learning_rate(step: int, steps: int, config: TrainConfig, *, epoch: float) -> float:
    """The learning rate of a step, counted from 0.

    Args:
        step: the step.
        steps: of the run.
        config: `peak_lr`, `warmup`, `schedule`, `milestones`.
        epoch: steps of an epoch; milestones may lie inside one (SNIP drops the rate after 5.33 epochs).
    """
    warmup = config.warmup * steps if config.warmup < 1 else config.warmup
    if warmup >= steps:
        warmup = _LONGEST * steps
    if step < warmup:
        return config.peak_lr * (0.01 + 0.99 * step / warmup)
    if config.schedule == "constant":
        return config.peak_lr
    if config.schedule == "steps":
        return config.peak_lr * 0.1 ** sum(step >= round(milestone * epoch) for milestone in config.milestones)
    progress = (step - warmup) / max(1.0, steps - warmup)
    return config.peak_lr * (_FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
