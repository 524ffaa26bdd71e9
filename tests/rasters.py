"""Real files for tests: GeoTIFFs of known pixels, and bundles with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from affine import Affine

from geosod.detectors.adapters.zoo import network
from geosod.detectors.bundle import write_bundle
from geosod.detectors.card import ModelCard

UTM31 = "EPSG:32631"
NORTH_UP = Affine(0.5, 0, 500_000, 0, -0.5, 5_800_000)


def noise(bands: int, height: int, width: int, *, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    """(bands, height, width) pixels of which no two rows are alike; never 0."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.uniform(0.01, 1, (bands, height, width)).astype(dtype)
    return rng.integers(1, min(255, np.iinfo(dtype).max), (bands, height, width)).astype(dtype)


def write_tif(
    path: Path,
    pixels: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    block: int = 64,
    crs: str | None = UTM31,
    transform: Affine | None = NORTH_UP,
    **profile: Any,
) -> Path:
    """Write a tiled, deflated GeoTIFF; `mask` becomes an internal mask."""
    count, height, width = pixels.shape
    defaults = {"tiled": True, "blockxsize": block, "blockysize": block, "compress": "deflate"}
    if block == 0:
        defaults = {"tiled": False, "blockysize": 7, "compress": "deflate"}
    place = {} if crs is None else {"crs": crs, "transform": transform}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", driver="GTiff", width=width, height=height, count=count, dtype=pixels.dtype,
            **(defaults | place | profile),
        ) as dataset,
    ):  # fmt: skip
        dataset.write(pixels)
        if mask is not None:
            dataset.write_mask(mask)
    return path


def random_bundle(
    folder: Path, *, bands: tuple[str, ...], dtype: str = "uint8", top: float = 255.0, tile: int = 128, **fields: Any
) -> Path:
    """A bundle with random weights, narrow and quick, whose threshold lets many boxes through."""
    values: dict[str, Any] = {
        "name": folder.name,
        "architecture": "small-fpn",
        "parameters": {"width": 8},
        "bands": bands,
        "dtype": dtype,
        "minimum": (0.0,) * len(bands),
        "maximum": (top,) * len(bands),
        "classes": ("ship", "car"),
        "tile": tile,
        "overlap": tile // 4,
        "threshold": 0.0,
        "top_k": 60,
        "license": "proprietary",
    }
    card = ModelCard(**(values | fields))
    torch.manual_seed(7)
    model = network(card)
    _spread(model, len(bands), classes=len(card.classes))
    return write_bundle(folder, card, model.state_dict()).folder


def _spread(model: Any, bands: int, *, classes: int) -> None:
    """The initial network says the same everywhere; let it say much, around boxes of some 20 px that overlap."""
    head = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.out_channels == classes + 4][-1]
    model.eval()
    with torch.no_grad():
        head.bias.zero_()
        head.weight.normal_()
        head.weight.mul_(0.6 / model(torch.rand(1, bands, 256, 256)).std())
        head.bias[classes:] = 1.0
