"""Pages read back as text, and outputs with scenes that can be read."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine

from geosod.map_page.run import MapPage
from geosod.scene import SceneRef
from geosod.scenes.open import open_scene
from tests.deduplication.outputs import DAY, commit
from tests.output.samples import random_detections
from tests.rasters import noise, write_tif

_VALUES = re.compile(r'<script type="application/json" id="values">(.*?)</script>', re.DOTALL)
_COLUMN = re.compile(r'<script type="text/plain" id="column-(\d+)">(.*?)</script>', re.DOTALL)


def values_of(page: MapPage) -> Any:
    """What the scripts of a page get as JSON."""
    (text,) = _VALUES.findall(page.html)
    return json.loads(text)


def columns_of(page: MapPage) -> dict[str, np.ndarray]:
    """What they get as arrays, by name."""
    described = values_of(page)["columns"]
    texts = dict(_COLUMN.findall(page.html))
    kinds = {"Uint8Array": "u1", "Uint16Array": "<u2", "Uint32Array": "<u4", "Int32Array": "<i4", "Float32Array": "<f4"}
    return {
        one["name"]: np.frombuffer(gzip.decompress(base64.b64decode(texts[str(k)])), kinds[one["kind"]])
        for k, one in enumerate(described)
    }


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append(tag)


def elements_of(page: MapPage) -> list[str]:
    """Names of the elements of a page, as a parser of HTML finds them."""
    parser = _Elements()
    parser.feed(page.html)
    return parser.found


def corners_of(page: MapPage) -> np.ndarray:
    """(N, 4, 2) corners of the boxes on the map."""
    steps = columns_of(page)["corners"].reshape(8, -1).astype(np.float64).T.reshape(-1, 4, 2)
    steps[:, 1:] += steps[:, :1]
    return steps * values_of(page)["step"]


def policy_of(page: MapPage) -> str:
    """The content security policy of a page."""
    (text,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page.html)
    return unescape(text)


def readable(folder: Path, name: str = "scene", *, boxes: int = 50, seed: int = 0, **georeference: Any) -> Path:
    """An output with a scene of 1000 x 800 pixels, whose file is beside it."""
    path = folder / f"{name}.tif"
    place = georeference or {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 500_000, 0, -0.5, 5_200_000)}
    write_tif(path, noise(3, 800, 1000, seed=seed), **({} if place.get("crs") is None else place))
    scene = open_scene(SceneRef(str(path), name, DAY))
    commit(folder / "out", scene, random_detections(seed, boxes))
    return folder / "out"
