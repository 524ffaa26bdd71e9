"""`geosod demo`: draw a scene, run the pipeline on it, and compare the result with the ground truth."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geosod.demo.scene import Truth, write_scene
from geosod.errors import EngineError
from geosod.evaluation.scene_score import Score, score
from geosod.georeference.polygons import ground_polygons
from geosod.output.folder import local_path
from geosod.output.geoparquet import geometry_columns, write_geoparquet
from geosod.running.detect import detect, make_job
from geosod.running.events import Emit
from geosod.running.memory import peak_memory
from geosod.running.result import Result
from geosod.scene import Scene, SceneRef, Window
from geosod.scenes.open import open_scene
from geosod.scenes.preview import read_preview
from geosod.tiling.grid import make_grid
from geosod.viewing.pictures import contact_sheet, draw_crop, draw_overview

MODEL = "demo-harbour"
#: Scene that the bundle was not trained on; training scenes have seeds from 1000 on.
SEED = 7
CROP = 256
CROPS = 9


@dataclass(frozen=True, slots=True)
class DetectionColumns:
    """The detections of the demo scene as columns, scene frame."""

    boxes: np.ndarray[Any, np.dtype[np.float64]]
    labels: np.ndarray[Any, np.dtype[np.int32]]
    scores: np.ndarray[Any, np.dtype[np.float32]]


def run_demo(
    out: str | Path,
    *,
    size: int = 16384,
    seed: int = SEED,
    model: str = MODEL,
    on_drawn: Callable[[float], None] | None = None,
    on_event: Emit | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Run the demo.

    Args:
        out: folder for the scene, the truth, the outputs of `detect`, pictures and ``summary.json``.
        size: side of the scene in pixels, at least 1024.
        seed: selects the scene.
        model: name or folder of the model bundle.
        on_drawn: called with the fraction of the scene that is drawn, 0 to 1.
        on_event: called with the events of the run.
        **settings: as for `geosod.detect`.

    Returns:
        The contents of ``summary.json``.

    Raises:
        UsageError: a setting or the folder is invalid.
        EngineError: parts of the scene could not be processed.
    """
    started = time.monotonic()
    folder = local_path(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").unlink(missing_ok=True)
    # Each sample takes some tens of milliseconds, so samples are few.
    with peak_memory(every=2.0) as peak:
        truth = write_scene(folder / "scene.tif", size=size, seed=seed, progress=on_drawn)
        drawn = time.monotonic() - started
        result = detect(
            folder / "scene.tif", model=model, out=folder, on_event=on_event, **({"overwrite": True} | settings)
        )
    if result.scenes[0].status != "done":
        raise EngineError(f"the demo scene is {result.scenes[0].status}, not done: {result.failures[0].message}")
    scene = open_scene(SceneRef(str(folder / "scene.tif"), "scene"))
    _write_truth(folder / "truth.parquet", scene, truth)
    found = _read(result)
    figures = _score(scene, truth, found, model, settings)
    pictures = _draw(folder, scene, truth, found)
    summary = _summary(figures, result, peak.pss_bytes, drawn, time.monotonic() - started)
    summary |= {"size": size, "seed": seed, "model": model, "scene_bytes": (folder / "scene.tif").stat().st_size}
    summary |= {"pictures": pictures, "detections_file": str(Path(result.scenes[0].paths[0]).relative_to(folder))}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def _read(result: Result) -> DetectionColumns:
    table = pq.read_table(result.scenes[0].paths[0])
    sides = ("px_xmin", "px_ymin", "px_xmax", "px_ymax")
    boxes = np.column_stack([table[name].to_numpy() for name in sides])
    return DetectionColumns(boxes, table["label_id"].to_numpy(), table["score"].to_numpy())


def _write_truth(path: Path, scene: Scene, truth: Truth) -> None:
    geometry, bbox = geometry_columns(ground_polygons(scene, truth.boxes, "OGC:CRS84"))
    columns = {
        "geometry": geometry,
        "bbox": bbox,
        "label": pa.array([truth.classes[label] for label in truth.labels]),
        "label_id": pa.array(truth.labels),
    }
    for name, side in zip(("px_xmin", "px_ymin", "px_xmax", "px_ymax"), truth.boxes.T, strict=True):
        columns[name] = pa.array(np.ascontiguousarray(side))
    write_geoparquet(
        pa.table(columns), path, crs="OGC:CRS84", metadata={"description": "every object drawn into scene.tif"}
    )


def _score(scene: Scene, truth: Truth, found: DetectionColumns, model: str, settings: dict[str, Any]) -> Score:
    job = make_job(model, **settings)
    grid = make_grid(scene.width, scene.height, tile=job.tile, overlap=job.overlap)
    x_edges, y_edges = grid.interior_edges()
    return score(truth.boxes, truth.labels, found.boxes, found.labels, found.scores, x_edges=x_edges, y_edges=y_edges)


def _summary(figures: Score, result: Result, peak: int, drawn: float, total: float) -> dict[str, Any]:
    return {
        "objects": figures.objects,
        "detections": figures.detections,
        "recall": round(figures.recall, 5),
        "precision": round(figures.precision, 5),
        "recall_at_borders": round(figures.recall_at_borders, 5),
        "recall_elsewhere": round(figures.recall_elsewhere, 5),
        "objects_at_borders": figures.objects_at_borders,
        "duplicates": figures.duplicates,
        "megapixels": round(result.megapixels, 3),
        "seconds": round(result.seconds, 2),
        "mpx_per_s": round(result.megapixels / result.seconds, 3),
        "peak_pss_bytes": peak,
        "seconds_drawing": round(drawn, 2),
        "seconds_total": round(total, 2),
    }


def _draw(folder: Path, scene: Scene, truth: Truth, found: DetectionColumns) -> list[str]:
    image, scale = read_preview(scene, scene.window, max_side=1600)
    title = f"{len(found.boxes):,} objects in {scene.megapixels:,.0f} Mpx"
    overview = draw_overview(image, found.boxes * scale, found.labels, class_names=truth.classes, title=title)
    overview.save(folder / "overview.png")
    crops = [_crop(scene, window, truth, found) for window in _busiest(scene, found)]
    contact_sheet(crops, columns=3).save(folder / "crops.png")
    return ["overview.png", "crops.png"]


def _busiest(scene: Scene, found: DetectionColumns) -> list[Window]:
    """Windows with the most classes, then the most objects, spread over the scene; in reading order."""
    side = min(CROP, scene.width, scene.height)
    cells: dict[tuple[int, int], list[int]] = {}
    for (x, y), label in zip(found.boxes[:, :2].tolist(), found.labels.tolist(), strict=True):
        cells.setdefault((int(y) // side, int(x) // side), []).append(label)
    order = sorted(cells, key=lambda cell: (-len(set(cells[cell])), -min(len(cells[cell]), 40), cell))
    chosen: list[tuple[int, int]] = []
    min_distance = max(1, scene.width // side // 8)
    for cell in order:
        if all(max(abs(cell[0] - c[0]), abs(cell[1] - c[1])) >= min_distance for c in chosen):
            chosen.append(cell)
        if len(chosen) == CROPS:
            break
    corners = [(min(c * side, scene.width - side), min(r * side, scene.height - side)) for r, c in sorted(chosen)]
    return [Window(col, row, side, side) for col, row in corners] or [Window(0, 0, side, side)]


def _crop(scene: Scene, window: Window, truth: Truth, found: DetectionColumns) -> Any:
    image, _ = read_preview(scene, window, max_side=CROP)
    offset = np.array([window.col, window.row, window.col, window.row])
    shown, shown_truth = _inside(found.boxes, window), _inside(truth.boxes, window)
    return draw_crop(
        image,
        found.boxes[shown] - offset,
        found.labels[shown],
        found.scores[shown],
        class_names=truth.classes,
        truth_boxes=truth.boxes[shown_truth] - offset,
        zoom=2,
    )


def _inside(boxes: np.ndarray[Any, np.dtype[np.float64]], window: Window) -> np.ndarray[Any, np.dtype[np.bool_]]:
    x0, y0, x1, y1 = boxes.T
    meets: np.ndarray[Any, np.dtype[np.bool_]]
    meets = (x1 > window.col) & (x0 < window.right) & (y1 > window.row) & (y0 < window.bottom)
    return meets
