"""The folder of a training run: its settings, log, checkpoint, curves, and the bundle that comes out."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from geosod.errors import ConfigError, OutputError, one_line
from geosod.training.events import Event, Started, Stepped, Validated

RECORD = "training.json"
_FIELDS = ("step", "seconds", "rate", "total")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a run's files.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def model(self) -> Path:
        """The bundle of the finished model."""
        return self.path / "model"

    @property
    def checkpoint(self) -> Path:
        """What an interrupted run goes on from."""
        return self.path / "checkpoint.pt"

    @property
    def log(self) -> Path:
        """CSV with a row for each report."""
        return self.path / "log.csv"

    @property
    def validation(self) -> Path:
        """CSV with a row for each validation."""
        return self.path / "validation.csv"

    @property
    def trial(self) -> Path:
        """The bundle that a validation runs."""
        return self.path / ".validation"

    @property
    def curves(self) -> Path:
        """Losses and validations as a picture."""
        return self.path / "curves.png"

    @property
    def board(self) -> Path:
        """Event files for TensorBoard."""
        return self.path / "tensorboard"

    @property
    def ray(self) -> Path:
        """Where Ray Train keeps its checkpoints; a run goes on from what is in it."""
        return self.path / "ray"

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return (self.path / RECORD).is_file()

    def begin(self, settings: dict[str, Any], digest: str, *, overwrite: bool) -> None:
        """Create the folder, or check that what is in it belongs to the same run.

        Args:
            settings: of the run, to be kept beside its results.
            digest: of settings and data.
            overwrite: whether a run with other settings is removed.

        Raises:
            OutputError: the folder holds something else, or cannot be written.
        """
        stated = self.path / "settings.yaml"
        try:
            if self.path.exists() and not stated.is_file() and any(self.path.iterdir()):
                raise OutputError(f"{self.path}: is not empty and holds no training run; give another --out")
            if stated.is_file():
                known = yaml.safe_load(stated.read_text())
                if not isinstance(known, dict) or "digest" not in known:
                    raise OutputError(f"{stated}: is not of a training run; give another --out")
                if known.get("digest") == digest and not overwrite:
                    return
                if not overwrite:
                    raise OutputError(
                        f"{self.path}: holds a run with other settings or data; give another --out, or --overwrite to "
                        "start again"
                    )
                self._refuse_to_remove(settings.get("init"))
                self._clear()
            self.path.mkdir(parents=True, exist_ok=True)
            stated.write_text(yaml.safe_dump({"digest": digest, **settings}, sort_keys=False, allow_unicode=True))
        except (OSError, yaml.YAMLError) as error:
            raise OutputError(f"{self.path}: cannot be written: {one_line(error)}") from error

    def _refuse_to_remove(self, init: str | None) -> None:
        path = None if init is None else Path(init).expanduser()
        if path is not None and path.exists() and path.resolve().is_relative_to(self.path.resolve()):
            raise OutputError(f"init {init!r}: lies in {self.path}, which --overwrite would empty; give another --out")

    def _clear(self) -> None:
        """Remove all that a run wrote; other files stay."""
        # The record first: without it the run is not complete, whatever becomes of the rest.
        for path in (self.path / RECORD, self.checkpoint, self.log, self.validation, self.curves):
            path.unlink(missing_ok=True)
        for folder in (self.model, self.trial, self.board, self.ray):
            if folder.exists():
                shutil.rmtree(folder)

    def _keep_log_until(self, step: int) -> None:
        for path in (self.log, self.validation):
            if path.is_file():
                rows = list(csv.DictReader(path.read_text().splitlines()))
                kept = [row for row in rows if int(row["step"]) <= step]
                if kept:
                    self._write(path, kept)
                else:
                    path.unlink()

    def _write(self, path: Path, rows: list[dict[str, Any]]) -> None:
        names = list(dict.fromkeys(name for row in rows for name in row))
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)

    def record(self, event: Event) -> None:
        """Add a row for a report or a validation; a start drops those of steps that are done again."""
        if isinstance(event, Started):
            self._keep_log_until(event.step)
        elif isinstance(event, Stepped):
            plain = {"step": event.step, "seconds": round(event.seconds, 1), "rate": f"{event.rate:.3e}"}
            self._append(self.log, plain | {name: f"{value:.5f}" for name, value in event.losses.items()})
        elif isinstance(event, Validated):
            self._append(self.validation, {"step": event.step, **event.figures})

    def _append(self, path: Path, row: dict[str, Any]) -> None:
        new = not path.is_file() or not path.stat().st_size
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    def finish(self, record: dict[str, Any]) -> None:
        """Write the record of a complete run; it is what says that the run is complete."""
        partial = self.path / f"{RECORD}.partial"
        partial.write_text(json.dumps(record, indent=2) + "\n")
        partial.replace(self.path / RECORD)

    def read_record(self) -> dict[str, Any]:
        """The record of a complete run.

        Raises:
            ConfigError: it cannot be read.
        """
        try:
            found: dict[str, Any] = json.loads((self.path / RECORD).read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.path / RECORD}: cannot be read: {one_line(error)}") from error
        return found
