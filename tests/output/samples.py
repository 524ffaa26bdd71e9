"""Scenes, boxes and provenance for the tests of the output package."""

from __future__ import annotations

import datetime as dt

import numpy as np
from affine import Affine
from pyproj import CRS

from geosod.detections import Detections
from geosod.results import Execution, Provenance
from geosod.scene import Scene, SceneRef

CRS84 = "OGC:CRS84"
PROVENANCE = Provenance(
    model="boats",
    model_digest="ab" * 32,
    config_digest="cd" * 32,
    version="0.1.0",
    classes=("boat", "plane"),
    execution=Execution("cpu", "eager", "fp32", 4, 1),
    options={"threshold": 0.3},
)
NORTH_UP = Affine(0.5, 0, 500_000, 0, -0.5, 5_200_000)
ACROSS = Affine(0.00002, 0, 179.99, 0, -0.00002, -16)


def make_scene(
    name: str = "scene",
    *,
    crs: str | None = "EPSG:32633",
    transform: Affine | None = NORTH_UP,
    size: tuple[int, int] = (1000, 800),
    when: dt.datetime | None = None,
    uri: str = "https://user:secret@example.org/a/scene.tif?signature=xyz",
) -> Scene:
    wkt = None if crs is None else CRS.from_user_input(crs).to_wkt()
    ref = SceneRef(uri, name, when)
    return Scene(
        ref, *size, 3, "uint8", wkt, transform, (None,) * 3, (False,) * 3, None, ("",) * 3, (256, 256), (), (0.5, 0.5)
    )


SCENES = {
    "utm": make_scene(),
    "across": make_scene(crs="EPSG:4326", transform=ACROSS),
    "pixel": make_scene(crs=None, transform=None),
}


def random_detections(seed: int, n: int, *, duplicates: bool = False) -> Detections:
    """Boxes inside 1000 x 800 pixels; with `duplicates`, on a coarse lattice so that some coincide."""
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 760, (n, 2)), rng.uniform(2, 40, (n, 2))
    boxes = np.hstack([corner, corner + size])
    scores = rng.uniform(0.1, 1, n)
    if duplicates:
        boxes, scores = np.round(boxes / 100) * 100 + (0, 0, 7, 7), np.round(scores, 1)
    return Detections(
        boxes=boxes,
        scores=scores,
        labels=rng.integers(0, 2, n),
        truncated=rng.random(n) < 0.1,
        n_merged=rng.integers(1, 4, n),
        level=rng.choice([1.0, 0.5], n),
    )
