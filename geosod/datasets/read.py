"""Read labels of any format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from geosod.datasets.class_map import rename_classes
from geosod.datasets.contract import Format, Source
from geosod.datasets.formats import find_format
from geosod.datasets.labels import Labels
from geosod.datasets.problems import Problems
from geosod.errors import LabelError

#: What becomes of entries that cannot be used.
Invalid = Literal["refuse", "skip"]
#: So many problems stand in the message of a refusal.
_SHOWN = 5


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """Labels, and what was found when they were read.

    Attributes:
        labels: what could be read.
        format: name of the format.
        problems: entries that were left out.
        notes: what a user should know.
    """

    labels: Labels
    format: str
    problems: Problems
    notes: tuple[str, ...]


def read_labels(
    path: str | Path,
    *,
    format: str | None = None,
    images: str | Path | None = None,
    scenes: Sequence[str] = (),
    subset: str | None = None,
    classes: Sequence[str] | None = None,
    label_column: str | None = None,
    crs: str | None = None,
    rename: Mapping[str, str | None] | None = None,
    points: bool = False,
    invalid: Invalid = "refuse",
) -> Reading:
    """Read labels.

        reading = read_labels("val.json")
        reading.labels.boxes, reading.problems.found

    Args:
        path: the file or folder of the labels.
        format: a name in `geosod.datasets.formats.FORMATS`; None recognises it.
        images: folder of the images; None looks where the format has them.
        scenes: georeferenced scenes, as for `geosod.detect`; for labels with ground coordinates.
        subset: which part of a set in several is read, such as ``train``.
        classes: names of the classes in their order, for files that have only numbers.
        label_column: column with the names of classes, for vector files.
        crs: CRS of a vector file that has none.
        rename: class → its new name, or None to drop its boxes; see `rename_classes`.
        points: reduce boxes to points at their centres.
        invalid: whether labels with entries that cannot be used are refused, or those entries skipped. Images whose
            whole file cannot be used are skipped with it, since they would count as images without objects.

    Raises:
        LabelError: nothing can be read, or `invalid` is ``refuse`` and an entry cannot be used.
        ConfigError: an argument is wrong.
        SceneError: a scene cannot be opened.
    """
    if invalid not in ("refuse", "skip"):
        raise LabelError(f"invalid {invalid!r}: choose refuse or skip")
    if classes is not None and len(set(classes)) != len(classes):
        raise LabelError(f"classes {', '.join(classes)}: a name stands twice")
    where = Path(path).expanduser()
    chosen = find_format(where, format)
    if not where.exists():
        raise LabelError(f"{where}: there is no such file or folder")
    folder = Path(images).expanduser() if images is not None else None
    if folder is not None and not folder.is_dir():
        raise LabelError(f"{folder}: there is no such folder of images")
    problems, notes = Problems(), list[str]()
    source = Source(where, folder, scenes, subset, classes, label_column, crs, problems, notes)
    _check_takes(chosen, source)
    labels = chosen.read(source)
    if problems.count and invalid == "refuse":
        raise LabelError(_refusal(problems))
    labels = rename_classes(labels, rename) if rename else labels
    return Reading(to_points(labels) if points else labels, chosen.name, problems, tuple(notes))


def _check_takes(chosen: Format, source: Source) -> None:
    """Refuse what a format has no use for, since it would be ignored."""
    flags = {"label_column": "--label-column", "crs": "--labels-crs"}
    for name in ("images", "scenes", "subset", "classes", "label_column", "crs"):
        if getattr(source, name) and name not in chosen.takes:
            takes = ", ".join(flags.get(one, f"--{one}") for one in sorted(chosen.takes))
            raise LabelError(
                f"{source.path}: {chosen.name} has no use for {flags.get(name, f'--{name}')}; it takes {takes}"
            )


def _refusal(problems: Problems) -> str:
    listed = "; ".join(map(str, problems.found[:_SHOWN]))
    more = f"; and {problems.count - _SHOWN:,} more" if problems.count > _SHOWN else ""
    return f"{listed}{more}. Fix them, or leave these entries out with --invalid skip"


def to_points(labels: Labels) -> Labels:
    """The same objects as points at the centres of their boxes; ignored regions of all classes are dropped."""
    if labels.points:
        return labels
    kept = labels[labels.labels >= 0]
    centres = (kept.boxes[:, :2] + kept.boxes[:, 2:]) / 2
    return kept.with_columns(boxes=centres[:, [0, 1, 0, 1]], area=[0.0] * len(kept), points=True)
