"""Plots of an evaluation, as SVG."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from geosod.errors import ConfigError
from geosod.evaluation.errors import STEPS
from geosod.evaluation.figures import BoxFigures

#: Classes in the plot of precision and recall: those with the most objects.
_CLASSES = 10


def draw_plots(boxes: BoxFigures) -> dict[str, str]:
    """All plots of figures about boxes.

    Args:
        boxes: the figures.

    Returns:
        Title → an SVG element.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    return {
        "Precision and recall": _precision_recall(boxes),
        "Score and precision": _calibration(boxes),
        "Errors": _errors(boxes),
        "Recall of the best detections": _proposals(boxes),
        "AP50 by size and by distance to the border of a tile": _ranges(boxes),
    }


def _axes(x: str, y: str) -> tuple[Any, Any]:
    """A figure and its axes. No state of matplotlib's is touched, so that users' own figures are left alone."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError('plots need matplotlib; pip install "geosod[evaluate]"') from error
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    # No date, so that equal figures give equal files.
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _precision_recall(boxes: BoxFigures) -> str:
    figure, axes = _axes("recall", "precision")
    most = np.argsort(-boxes.ap.objects[:, 0], kind="stable")[:_CLASSES]
    for k in most.tolist():
        if boxes.ap.objects[k, 0]:
            name = boxes.ap.classes[k]
            curve = boxes.curves[name]
            label = f"{name}, AP50 {boxes.ap.mean(threshold=0.5, label=k):.3f}"
            axes.plot(curve.recall, curve.precision, label=_plain_text(label), linewidth=1.5)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    if axes.lines:
        axes.legend(fontsize="small", loc="lower left")
    return _svg(figure)


def _calibration(boxes: BoxFigures) -> str:
    figure, axes = _axes("score", "share of detections that are right")
    bins = boxes.calibration
    known = bins.count > 0
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
    axes.bar(bins.low[known] + 0.05, bins.precision[known], width=0.09, alpha=0.8)
    axes.set_title(f"expected calibration error {bins.error:.3f}", fontsize="medium")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    return _svg(figure)


def _errors(boxes: BoxFigures) -> str:
    figure, axes = _axes("", "AP if all errors up to this one were forgiven")
    values = boxes.errors.mean()
    bars = axes.bar(range(len(STEPS)), [values[step] for step in STEPS])
    axes.bar_label(bars, fmt="%.3f", fontsize="small")
    axes.set_xticks(range(len(STEPS)), STEPS)
    axes.set_ylim(0, 1.1)
    return _svg(figure)


def _proposals(boxes: BoxFigures) -> str:
    figure, axes = _axes("detections an image", "average recall, IoU 0.5 to 0.95")
    axes.plot(list(boxes.proposals), list(boxes.proposals.values()), marker="o", linewidth=1.5)
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    return _svg(figure)


def _ranges(boxes: BoxFigures) -> str:
    figure, axes = _axes("AP50", "")
    shown = [(r, n) for r, n in enumerate(boxes.ap.ranges) if boxes.ap.objects[:, r].sum()]
    bars = axes.barh(range(len(shown)), [boxes.ap.mean(threshold=0.5, name=name) for _, name in shown])
    axes.bar_label(
        bars, labels=[f"{int(boxes.ap.objects[:, r].sum()):,} objects" for r, _ in shown], fontsize="x-small"
    )
    axes.set_yticks(range(len(shown)), [name for _, name in shown], fontsize="small")
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25)
    return _svg(figure)


def _plain_text(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")
