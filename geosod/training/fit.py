"""The loop of a training run: steps, validations, checkpoints, until all steps are done or the time is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from geosod.training.ahead import made_ahead
from geosod.training.batches import Batch
from geosod.training.config import TrainConfig
from geosod.training.events import Emit, Noted, Stepped, Validated
from geosod.training.rates import learning_rate
from geosod.training.seeds import torch_seed
from geosod.training.state import State, check_finite

#: Steps between reports, and seconds between checkpoints.
REPORT_EVERY, SAVE_EVERY = 10, 120.0
#: So many different images that cannot be read are reported one by one.
_MAX_REPORTED = 20


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a run is.

    Attributes:
        steps: number of all steps.
        epoch: steps in which as many slices are shown as cover the images once.
        validate_every: steps between validations.
    """

    steps: int
    epoch: float
    validate_every: int


@dataclass(slots=True)
class Fit:
    """A training run that goes on from its state.

    Attributes:
        state: of the network.
        plan: how long it is.
        config: the settings.
        device: of the network.
        make: step → its batch, or a worker's share of it.
        emit: called with each event.
        validate: tries the averaged weights; None for a worker that leaves it to another.
        save: writes a checkpoint; None likewise.
        module: what is called for the losses: the criterion, or its wrapper for several workers.
        loaders: threads that make batches.
        save_every: steps between checkpoints; None saves by the clock.
    """

    state: State
    plan: Plan
    config: TrainConfig
    device: torch.device
    make: Callable[[int], Batch]
    emit: Emit
    validate: Callable[[State], dict[str, float]] | None = None
    save: Callable[[State], None] | None = None
    module: nn.Module | None = None
    loaders: int = 1
    save_every: int | None = None
    _unread: set[str] = field(default_factory=set)

    def run(self) -> bool:
        """Train to the end; False where `max_minutes` were over before.

        Raises:
            TrainingError: the loss is not finite.
            SceneError: an image cannot be read, and the settings say to stop.
        """
        state, c = self.state, self.config
        started, before = time.monotonic(), state.seconds
        saved, last = time.monotonic(), self.plan.steps
        losses: list[dict[str, torch.Tensor]] = []
        for batch in made_ahead(self.make, state.step, last, threads=self.loaders):
            losses.append(self._step(batch))
            state.seconds = before + time.monotonic() - started
            done = state.step
            # The first step shows that something happens, and how fast.
            if done % REPORT_EVERY == 0 or done in (1, last):
                self._report(losses, len(batch.targets))
                losses = []
            if done % self.plan.validate_every == 0 and done < last:
                self._validate()
            over = c.max_minutes is not None and time.monotonic() - started > 60 * c.max_minutes
            if self.save is not None and (over or done == last or self._due(done, saved)):
                state.check()
                self.save(state)
                saved = time.monotonic()
            if over and done < last:
                return False
        return True

    def _due(self, done: int, saved: float) -> bool:
        if self.save_every is None:
            return time.monotonic() - saved > SAVE_EVERY
        return done % self.save_every == 0

    def _step(self, batch: Batch) -> dict[str, torch.Tensor]:
        for uri, message in batch.problems:
            self._note_unread(uri, message)
        state = self.state
        # Dropout and the like depend on the step alone, so that a run that was interrupted goes on as it would have.
        torch.manual_seed(torch_seed(self.config.seed * 1_000_003 + state.step))
        rate = learning_rate(state.step, self.plan.steps, self.config, epoch=self.plan.epoch)
        # Validation may have left another mode.
        (self.module or state.criterion).train()
        return state.train(batch.to(self.device), self.config, rate=rate, module=self.module)

    def _report(self, losses: list[dict[str, torch.Tensor]], images: int) -> None:
        state = self.state
        names = list(dict.fromkeys(name for one in losses for name in one))
        means: dict[str, Any] = {
            name: float(torch.stack([one[name] for one in losses if name in one]).mean()) for name in names
        }
        check_finite(means, state.step)
        rate = self.state.optimiser.param_groups[0]["lr"]
        self.emit(Stepped(state.step, self.plan.steps, means, rate, state.seconds, state.step * images))

    def _validate(self) -> None:
        if self.validate is None:
            return
        figures = self.validate(self.state)
        # The first figure is the one that counts.
        value = next(iter(figures.values()))
        best = value > self.state.best[0]
        if best:
            self.state.best = (value, self.state.step)
        self.emit(Validated(self.state.step, figures, best))

    def _note_unread(self, uri: str, message: str) -> None:
        if uri in self._unread or len(self._unread) >= _MAX_REPORTED:
            return
        self._unread.add(uri)
        self.emit(Noted(f"{message}; others are shown in its place"))
