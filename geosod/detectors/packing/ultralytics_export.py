"""Run as a program: exports a trusted checkpoint to ONNX with ultralytics, and reports where the graph is."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from geosod.errors import one_line


def export(source: Path, size: tuple[int, int] | None, *, nms_free: bool) -> dict[str, Any]:
    """Unpickle a checkpoint and write its graph, of any batch and size, beside it.

    Args:
        source: the checkpoint.
        size: (width, height) of the network's input; None for that of its training.
        nms_free: take the head that needs no NMS, where the network has two.

    Returns:
        {"path": …}, or {"error": …} where it is neither a detector of boxes nor a classifier.
    """
    ultralytics = import_module("ultralytics")
    ultralytics.settings.update({"sync": False})
    yolo = ultralytics.YOLO(source)
    if yolo.task not in ("detect", "classify"):
        what = "detectors of axis-aligned boxes (task 'detect') and classifiers of crops (task 'classify')"
        return {"error": f"its task is {yolo.task!r}; geosod runs {what}"}
    options: dict[str, Any] = {} if size is None else {"imgsz": [size[1], size[0]]}
    if nms_free:
        options["nms"] = False
    path = yolo.export(format="onnx", dynamic=True, simplify=False, device="cpu", verbose=False, **options)
    return {"path": str(Path(path).resolve())}


def main() -> None:
    """Arguments: the checkpoint, the report's file, and the further arguments of `export` as JSON."""
    source, report, arguments = sys.argv[1:]
    try:
        found = export(Path(source), **json.loads(arguments))
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {one_line(error)[:300]}"}
    Path(report).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
