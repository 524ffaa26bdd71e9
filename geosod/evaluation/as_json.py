"""The figures of an evaluation as plain values."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from geosod.evaluation.errors import STEPS
from geosod.evaluation.figures import BoxFigures, Counted, Evaluation
from geosod.evaluation.points import PointScore
from geosod.evaluation.tiny import TINY_THRESHOLDS


def as_json(result: Evaluation) -> dict[str, Any]:
    """The figures as plain values; None where one is undefined."""
    values: dict[str, Any] = {
        "images": result.images,
        "objects": result.objects,
        "ignored": result.ignored,
        "detections": result.detections,
        "classes": list(result.comparison.truth.classes),
        "settings": _plain(result.settings),
        "notes": list(result.notes),
    }
    if result.boxes is not None:
        values["boxes"] = _boxes_as_json(result.boxes)
    if result.points is not None:
        points = result.points
        values["points"] = _point_score(points.score) | {
            "f_interval": _plain(points.f_interval),
            "by_class": {name: _point_score(score) for name, score in points.by_class.items()},
            "by_group": {n: _point_score(s) | {"f_interval": _plain(i)} for n, (s, i) in points.by_group.items()},
        }
    if result.groups:
        values["groups"] = {name: _counts_as_json(counted) for name, counted in result.groups.items()}
    return values


def _boxes_as_json(boxes: BoxFigures) -> dict[str, Any]:
    ap = boxes.ap
    by_range = [
        {
            "range": name,
            "objects": int(ap.objects[:, r].sum()),
            "AP": ap.mean(name=name),
            "AP50": ap.mean(threshold=0.5, name=name),
            "AR": ap.mean_recall(name=name),
        }
        for r, name in enumerate(ap.ranges)
    ]
    by_class = {
        name: {
            "objects": int(ap.objects[k, 0]),
            "AP": ap.mean(label=k),
            "AP50": ap.mean(threshold=0.5, label=k),
            "AP75": ap.mean(threshold=0.75, label=k),
            "errors": dict(zip(STEPS, boxes.errors.ap[k].tolist(), strict=True)),
        }
        for k, name in enumerate(ap.classes)
    }
    tiny = {
        f"{metric}{round(100 * t)}": {
            name: boxes.tiny_ap.mean(threshold=t, name=name) if metric == "AP" else boxes.tiny_miss_rate.mean(t, name)
            for name in boxes.tiny_ap.ranges
        }
        for metric in ("AP", "MR")
        for t in TINY_THRESHOLDS
    }
    values = {
        "AP": ap.mean(),
        "AP50": ap.mean(threshold=0.5),
        "AP75": ap.mean(threshold=0.75),
        "AR": ap.mean_recall(),
        "intervals": boxes.intervals,
        "at_iou": _counts_as_json(boxes.at_iou),
        "best_threshold": boxes.best_threshold,
        "by_range": by_range,
        "by_class": by_class,
        "tiny": tiny,
        "errors": boxes.errors.mean(),
        "proposals": {str(n): value for n, value in boxes.proposals.items()},
        "curves": boxes.curves,
        "calibration": boxes.calibration,
    }
    plain: dict[str, Any] = _plain(values)
    return plain


def _counts_as_json(counted: Counted) -> dict[str, Any]:
    shares = {"precision": counted.precision, "recall": counted.recall, "f_score": counted.f_score}
    plain: dict[str, Any] = _plain(counted) | _plain(shares)
    return plain


def _point_score(score: PointScore) -> dict[str, Any]:
    shares = {
        "precision": score.precision,
        "recall": score.recall,
        "f_score": score.f_score,
        "rmse_m": score.rmse,
        "rmse_px": (score.squared / score.matched) ** 0.5 if score.matched else float("nan"),
    }
    plain: dict[str, Any] = _plain(shares) | {"matched": score.matched, "found": score.found, "truth": score.truth}
    return plain


def _plain(value: Any) -> Any:
    """A value as JSON has it: nan and infinity are None, arrays are lists, dataclasses mappings."""
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(part) for part in (value.tolist() if isinstance(value, np.ndarray) else value)]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value
