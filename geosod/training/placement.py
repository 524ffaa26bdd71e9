"""The device and the precision of a training run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from geosod.detectors.execution import resolved_device
from geosod.detectors.ways import this_machine
from geosod.errors import ConfigError
from geosod.machine import keep_freed_memory, usable_cpus
from geosod.training.config import TrainConfig


def training_device(asked: str) -> torch.device:
    """The device that a setting means; of several the first.

    Raises:
        ConfigError: torch does not have it.
    """
    name = resolved_device(this_machine(), asked)
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {asked!r}: torch has none here: {error}") from error
    if device.type == "cpu":
        keep_freed_memory()
    return device


def training_precision(config: TrainConfig, device: torch.device) -> str:
    """The precision of the forward pass: bf16 where the device computes in it at full speed.

    Raises:
        ConfigError: fp16 is asked for on a CPU, where gradients would vanish.
    """
    if config.precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision fp16 on a CPU: use bf16, fp32 or auto")
    if config.precision != "auto":
        return config.precision
    return "bf16" if this_machine().fast("bf16", device.type) else "fp32"


def loader_threads(config: TrainConfig, device: torch.device, *, workers: int = 1) -> int:
    """Threads that make batches, for each of the workers of this machine."""
    if config.loaders is not None:
        return config.loaders
    return 1 if device.type == "cpu" else max(1, min(8, usable_cpus() // workers - 1))


def device_name(device: torch.device) -> str:
    """A device in words, as "NVIDIA H100" or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def device_or_auto(asked: str) -> str:
    """The device that was asked for, or "auto" where torch has none here."""
    try:
        training_device(asked)
    except ConfigError:
        return "auto"
    return asked


@contextmanager
def torch_threads(config: TrainConfig) -> Iterator[None]:
    """In the block torch uses as many CPU threads as the settings say; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads or usable_cpus())
    try:
        yield
    finally:
        torch.set_num_threads(before)
