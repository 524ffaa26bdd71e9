"""TinyPerson's JSON: COCO's, with annotations that are ignored, uncertain, or logos.

https://github.com/ucas-vg/TinyBenchmark
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geosod.datasets.contract import Format, Source, Target
from geosod.datasets.formats import coco
from geosod.datasets.labels import Labels
from geosod.datasets.write_files import write_json


def read_tinyperson(source: Source) -> Labels:
    """The labels of a file of whole images; those of parts of images (``corner``) are recorded as problems."""
    return coco.read_coco(source, ignored=_ignored)


def _ignored(entry: dict[str, Any]) -> bool:
    return any(bool(entry.get(key, False)) for key in ("ignore", "uncertain", "logo"))


def write_tinyperson(labels: Labels, target: Target) -> None:
    """Write such a file."""

    def extra(_: int, ignore: bool) -> dict[str, Any]:
        return {"ignore": ignore, "uncertain": False, "logo": False, "in_dense_image": False}

    write_json(target.path, coco.coco_document(labels, target, coco.coco_annotations(labels, extra)))


def recognises(path: Path) -> bool:
    """Whether annotations have the key ``uncertain``."""
    return coco.recognises(path, key="uncertain")


FORMAT = Format("tinyperson", "TinyPerson JSON", False, read_tinyperson, write_tinyperson, recognises, suffix=".json")
