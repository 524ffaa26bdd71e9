"""Losses and figures of a run for TensorBoard, in the folder of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geosod.training.events import Event, Started, Stepped, Validated


class Board:
    """Writes event files that ``tensorboard --logdir runs`` shows; nothing where TensorBoard is not installed.

    Args:
        folder: of the event files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def record(self, event: Event) -> None:
        """Add what a report or a validation says; a start hides what was written of steps that are done again."""
        if isinstance(event, Started):
            self._open(event.step)
        if self._writer is None:
            return
        if isinstance(event, Stepped):
            for name, value in event.losses.items():
                self._writer.add_scalar(f"loss/{name}", value, event.step)
            self._writer.add_scalar("rate", event.rate, event.step)
        elif isinstance(event, Validated):
            for name, value in event.figures.items():
                self._writer.add_scalar(f"validation/{name}", value, event.step)
            self._writer.flush()

    def _open(self, step: int) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError:
            return
        self.close()
        self._writer = SummaryWriter(str(self._folder), purge_step=step + 1)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
