"""The figures of an evaluation as tables of text, for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from geosod.evaluation.errors import STEPS
from geosod.evaluation.figures import BoxFigures, Evaluation, Interval, PointFigures
from geosod.evaluation.points import PointScore
from geosod.evaluation.tiny import TINY_THRESHOLDS


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text.

    Attributes:
        title: what it shows.
        columns: their heads.
        rows: their cells.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables_of(result: Evaluation) -> Iterator[Table]:
    """All tables of an evaluation, the most important first."""
    level = f"{100 * result.settings.level:g} %"
    if result.boxes is not None:
        yield from _boxes(result.boxes, level)
    if result.points is not None:
        yield from _points(result.points, result.settings.radius or 0.0, level)
    if result.groups:
        rows = [
            (name, f"{c.objects:,}", number(c.precision), number(c.recall), number(c.f_score), interval(c.f_interval))
            for name, c in result.groups.items()
        ]
        head = ("group", "objects", "precision", "recall", "F", level)
        yield Table(f"Groups of images, at IoU {result.settings.iou:g}", head, tuple(rows))


def number(value: float) -> str:
    """A figure with three decimals; - where it is undefined."""
    return f"{value:.3f}" if np.isfinite(value) else "-"


def interval(value: Interval) -> str:
    """An interval; empty where there is none."""
    return "" if value is None else f"{value[0]:.3f}-{value[1]:.3f}"


def _boxes(boxes: BoxFigures, level: str) -> Iterator[Table]:
    ap = boxes.ap
    head = [
        ("AP", number(ap.mean()), interval(boxes.intervals["AP"])),
        ("AP50", number(ap.mean(threshold=0.5)), interval(boxes.intervals["AP50"])),
        ("AP75", number(ap.mean(threshold=0.75)), ""),
        ("AR", number(ap.mean_recall()), ""),
        ("precision", number(boxes.at_iou.precision), ""),
        ("recall", number(boxes.at_iou.recall), ""),
        ("F", number(boxes.at_iou.f_score), interval(boxes.at_iou.f_interval)),
        ("threshold with the highest F", number(boxes.best_threshold), ""),
        ("expected calibration error", number(boxes.calibration.error), ""),
    ]
    yield Table("All classes", ("", "", level), tuple(head))
    rows = []
    for k, name in enumerate(ap.classes):
        values = [ap.mean(label=k), *(ap.mean(threshold=t, label=k) for t in (0.5, 0.75))]
        errors = [number(value) for value in boxes.errors.ap[k].tolist()]
        rows.append((name, f"{ap.objects[k, 0]:,}", *map(number, values), *errors))
    if len(rows) > 1:
        mean = boxes.errors.mean()
        values = [ap.mean(), ap.mean(threshold=0.5), ap.mean(threshold=0.75)]
        total = ("mean", f"{ap.objects[:, 0].sum():,}", *map(number, values), *(number(mean[step]) for step in STEPS))
        rows.append(total)
    yield Table(
        "Classes, and AP as errors are forgiven", ("class", "objects", "AP", "AP50", "AP75", *STEPS), tuple(rows)
    )
    rows = [
        (
            name,
            f"{ap.objects[:, r].sum():,}",
            number(ap.mean(name=name)),
            number(ap.mean(threshold=0.5, name=name)),
            number(ap.mean_recall(threshold=0.5, name=name)),
        )
        for r, name in enumerate(ap.ranges)
        if ap.objects[:, r].sum()
    ]
    title = "Objects by size in pixels, by √area in metres, and by distance to the border of a tile"
    yield Table(title, ("", "objects", "AP", "AP50", "recall at IoU 0.5"), tuple(rows))
    yield _tiny(boxes)
    yield Table(
        "Average recall of the best detections of an image, whatever their class",
        ("detections", "AR"),
        tuple((f"{n:,}", number(value)) for n, value in boxes.proposals.items()),
    )


def _tiny(boxes: BoxFigures) -> Table:
    rows = []
    for name in boxes.tiny_ap.ranges:
        ap = [number(boxes.tiny_ap.mean(threshold=t, name=name)) for t in TINY_THRESHOLDS]
        rates = [number(boxes.tiny_miss_rate.mean(t, name)) for t in TINY_THRESHOLDS]
        objects = int(boxes.tiny_ap.objects[:, boxes.tiny_ap.ranges.index(name)].sum())
        if objects:
            rows.append((name, f"{objects:,}", *ap, *rates))
    columns = [f"{kind}{round(100 * t)}" for kind in ("AP", "MR") for t in TINY_THRESHOLDS]
    return Table("TinyPerson's protocol", ("√area", "objects", *columns), tuple(rows))


def _points(points: PointFigures, radius: float, level: str) -> Iterator[Table]:
    rows = [("all", *_point_cells(points.score), interval(points.f_interval))]
    if len(points.by_class) > 1:
        rows += [(name, *_point_cells(score), "") for name, score in points.by_class.items()]
    rows += [(name, *_point_cells(score), interval(ends)) for name, (score, ends) in points.by_group.items()]
    columns = ("", "objects", "precision", "recall", "F", "RMSE px", "RMSE m", level)
    yield Table(f"Centres, matched within {radius:g} px", columns, tuple(rows))


def _point_cells(score: PointScore) -> tuple[str, ...]:
    pixels = (score.squared / score.matched) ** 0.5 if score.matched else float("nan")
    shares = (score.precision, score.recall, score.f_score)
    return (f"{score.truth:,}", *map(number, shares), f"{pixels:.2f}", number(score.rmse))
