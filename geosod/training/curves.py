"""The curves of a run, losses and figures of the validations, as a picture."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from geosod.errors import ConfigError
from geosod.training.run_folder import RunFolder


def read_rows(path: Path) -> dict[str, list[float]]:
    """The columns of a log; empty where there is none."""
    if not path.is_file():
        return {}
    rows = list(csv.DictReader(path.read_text().splitlines()))
    names = list(rows[0]) if rows else []
    return {name: [float(row[name]) for row in rows] for name in names}


def draw_curves(folder: RunFolder) -> Path:
    """Draw ``curves.png`` in the folder of a run.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("curves need matplotlib; install it with: pip install 'geosod[train]'") from error
    log, validation = read_rows(folder.log), read_rows(folder.validation)
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, rates = figure.subplots(1, 2)
    for name in (name for name in log if name not in ("step", "seconds", "rate")):
        losses.plot(log["step"], log[name], label=name, linewidth=2 if name == "total" else 1)
    _finish(losses, "loss", log)
    for name in (name for name in validation if name != "step"):
        rates.plot(validation["step"], validation[name], marker="o", label=name)
    rates.set_ylim(0, 1)
    _finish(rates, "validation", validation)
    figure.savefig(folder.curves, dpi=100)
    return folder.curves


def _finish(axes: Any, title: str, columns: dict[str, list[float]]) -> None:
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    if columns:
        axes.legend()
