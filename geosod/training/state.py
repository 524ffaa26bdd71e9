"""The state of a training run: what a checkpoint holds, and what one step does to it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geosod.errors import ConfigError, TrainingError, one_line
from geosod.training.batches import Batch
from geosod.training.config import TrainConfig
from geosod.training.criterion import Criterion
from geosod.training.placement import device_name
from geosod.training.schedule import update_average

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(slots=True)
class State:
    """A network in training.

    Attributes:
        criterion: module with the attribute `network`; images and targets → parts of the loss.
        mean: the network with averaged weights, which is the one that is kept.
        optimiser: of the network.
        precision: of the forward pass: "fp32", "bf16" or "fp16".
        step: number of steps that are done.
        seconds: of training.
        best: the best figure of a validation so far, and its step.
        trained_on: the device, in words.
    """

    criterion: Criterion
    mean: nn.Module
    optimiser: torch.optim.Optimizer
    precision: str
    step: int = 0
    seconds: float = 0.0
    best: tuple[float, int] = (-1.0, 0)
    trained_on: str = ""
    scaler: Any = field(default=None, repr=False)

    @classmethod
    def new(cls, criterion: Criterion, config: TrainConfig, *, device: torch.device, precision: str) -> State:
        """The state before the first step."""
        criterion = criterion.to(device).to(memory_format=torch.channels_last)
        mean = copy.deepcopy(criterion.network).requires_grad_(False)
        scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None
        optimiser = optimiser_of(criterion, config)
        return cls(criterion, mean, optimiser, precision, trained_on=device_name(device), scaler=scaler)

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights, on the CPU."""
        return {name: value.detach().cpu().contiguous().clone() for name, value in self.mean.state_dict().items()}

    def check(self) -> None:
        """Refuse to keep weights that are no numbers, from which no run can go on.

        Raises:
            TrainingError: some are not.
        """
        wrong = [name for name, value in self.criterion.named_parameters() if not value.isfinite().all()]
        if wrong:
            raise TrainingError(_not_finite(f"weights ({wrong[0]})", self.step))

    def save(self, path: Path, *, settings: str) -> None:
        """Write a checkpoint, replacing one in a single step.

        Args:
            path: the file.
            settings: digest of the settings that the run depends on.
        """
        state = {
            "criterion": self.criterion.state_dict(),
            "mean": self.mean.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler else {},
            "step": self.step,
            "seconds": self.seconds,
            "best": list(self.best),
            "settings": settings,
        }
        partial = path.with_name(f"{path.name}.partial")
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path, *, settings: str) -> None:
        """Go on from a checkpoint. Nothing in it is executed.

        Raises:
            ConfigError: it is of a run with other settings, or cannot be read.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if state["settings"] != settings:
                raise ConfigError(
                    f"{path}: is of a run with other settings or data; give another --out, or --overwrite to begin anew"
                )
            self.criterion.load_state_dict(state["criterion"])
            self.mean.load_state_dict(state["mean"])
            self.optimiser.load_state_dict(state["optimiser"])
            if self.scaler:
                self.scaler.load_state_dict(state["scaler"])
            self.step, self.seconds, self.best = state["step"], state["seconds"], tuple(state["best"])
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f"{path}: cannot be read as a checkpoint: {one_line(error)[:300]}; delete it to start again"
            ) from error

    def train(
        self, batch: Batch, config: TrainConfig, *, rate: float, module: nn.Module | None = None
    ) -> dict[str, Tensor]:
        """One step; returns the parts of the loss, detached.

        Args:
            batch: on the network's device.
            config: `clip`, `ema`.
            rate: learning rate.
            module: what is called in place of the criterion, such as its wrapper for several workers.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        device = batch.images.device.type
        images = batch.images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device, _DTYPES.get(self.precision), enabled=self.precision in _DTYPES):
            losses: dict[str, Tensor] = (module or self.criterion)(images, batch.targets)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        self.optimiser.zero_grad(set_to_none=True)
        self._backward(total, config.clip)
        self.step += 1
        # A young average follows faster.
        update_average(
            self.mean, self.criterion.network, min(config.ema, self.step / (self.step + 20)) if config.ema else 0.0
        )
        return {name: loss.detach().float() for name, loss in losses.items()} | {"total": total.detach()}

    def _backward(self, total: Tensor, clip: float | None) -> None:
        if self.scaler is not None:
            self.scaler.scale(total).backward()
            self.scaler.unscale_(self.optimiser)
        else:
            total.backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(self.criterion.parameters(), clip)
        if self.scaler is not None:
            self.scaler.step(self.optimiser)
            self.scaler.update()
        else:
            self.optimiser.step()


def check_finite(losses: dict[str, float], step: int) -> None:
    """Refuse to go on with a loss that is no number.

    Raises:
        TrainingError: it is not.
    """
    wrong = [name for name, value in losses.items() if not math.isfinite(value)]
    if wrong:
        raise TrainingError(_not_finite(f"the loss ({', '.join(wrong)})", step))


def _not_finite(what: str, step: int) -> str:
    return (
        f"{what}: not finite at step {step}; use a lower --lr, a longer --warmup, or --precision fp32. "
        "Checkpoints of earlier steps are kept"
    )


def optimiser_of(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """An optimiser in which matrices and kernels decay, and biases, norms and factors do not."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups: Iterable[dict[str, Any]] = (
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    )
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.peak_lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.peak_lr)
