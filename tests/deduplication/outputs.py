"""Outputs as `geosod detect` writes them, made with the project's own writers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
from affine import Affine
from pyproj import Transformer

from geosod.detections import Detections
from geosod.output.commit import commit_scene, open_output
from geosod.output.coverage import coverage_table
from geosod.output.geoparquet import file_metadata
from geosod.output.stac_item import scene_item
from geosod.output.table import detection_table, with_ground_position
from geosod.results import INSPECTED, Coverage, Failure
from geosod.scene import Scene
from tests.output.samples import CRS84, PROVENANCE, make_scene

#: A point in UTM zone 31 that is also near the edge of zone 32.
ORIGIN = (779_000.0, 5_810_000.0)
DAY = dt.datetime(2024, 5, 1, 10, 30, tzinfo=dt.UTC)


def commit(
    out: Path,
    scene: Scene,
    detections: Detections,
    *,
    crs: str = CRS84,
    classes: tuple[str, ...] = ("boat", "plane"),
    failures: Iterable[Failure] = (),
) -> pa.Table:
    """Commit a scene to a folder or a single file; returns its rows."""
    folder = open_output(out, scenes=1)
    provenance = replace(PROVENANCE, classes=classes)
    table = detection_table(scene, with_ground_position(scene, detections), provenance, crs=crs)
    coverage = coverage_table(scene, Coverage.of_window(scene.window, 32, INSPECTED), crs=crs)
    item = scene_item(
        scene, provenance, hrefs=folder.files(scene).hrefs(), detections=len(table), status="done",
        failures=0, inspected_km2=None, crs=crs, processed=DAY,
    )  # fmt: skip
    commit_scene(
        folder, scene, detections=table, coverage=coverage, item=item, crs=crs,
        metadata=file_metadata(scene, provenance), failures=tuple(failures),
    )  # fmt: skip
    return table


def utm_scene(
    name: str,
    zone: int = 31,
    *,
    shift: tuple[float, float] = (0.0, 0.0),
    rotation: float = 0.0,
    when: dt.datetime | None = DAY,
    size: tuple[int, int] = (1000, 800),
) -> Scene:
    """A scene of half a metre a pixel, its corner `shift` metres from `ORIGIN`, rotated by degrees."""
    to_crs = Transformer.from_crs("EPSG:32631", f"EPSG:326{zone}", always_xy=True)
    x, y = to_crs.transform(ORIGIN[0] + shift[0], ORIGIN[1] + shift[1])
    transform = Affine.translation(x, y) @ Affine.rotation(rotation) @ Affine.scale(0.5, -0.5)
    return make_scene(name, crs=f"EPSG:326{zone}", transform=transform, size=size, when=when, uri=f"/{name}.tif")


def seen(
    scene: Scene,
    ground: np.ndarray,
    *,
    scores: np.ndarray,
    labels: np.ndarray | None = None,
    side: float = 20.0,
    crs: str = "EPSG:32631",
) -> Detections:
    """Boxes of `side` pixels around points in `crs`, as visible in a scene; truncated at its edge."""
    to_crs = Transformer.from_crs(crs, scene.crs, always_xy=True)
    pixel = np.stack(~scene.transform @ np.stack(to_crs.transform(*ground.T)), axis=1)
    boxes = np.hstack([pixel - side / 2, pixel + side / 2])
    limit = np.array([scene.width, scene.height] * 2, float)
    clipped = np.clip(boxes, 0, limit)
    visible = (clipped[:, 2] - clipped[:, 0] > 1) & (clipped[:, 3] - clipped[:, 1] > 1)
    labels = np.zeros(len(ground)) if labels is None else labels
    return Detections(
        boxes=clipped[visible],
        scores=scores[visible],
        labels=labels[visible],
        truncated=(clipped != boxes).any(axis=1)[visible],
        n_merged=np.full(visible.sum(), 2),
    )


def lattice(corner: tuple[float, float], size: tuple[int, int], step: float) -> np.ndarray:
    """(N, 2) points, `step` apart, from a corner to the right and downwards."""
    x, y = np.meshgrid(np.arange(size[0]) * step, -np.arange(size[1]) * step)
    return np.stack([x, y], axis=-1).reshape(-1, 2) + corner


def rows_of(folder: Path) -> geopandas.GeoDataFrame:
    """All detections of a dataset folder."""
    return geopandas.read_parquet(folder / "detections")
