"""Scenes of several remote files give the same result as those of local files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.rasters import noise, random_bundle, write_tif
from tests.remote.conftest import pixels_of
from tests.running.helpers import detect

BANDS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one file for each band."""
    folder = tmp_path_factory.mktemp("parts")
    pixels = noise(3, 400, 500)
    for name, band in zip(BANDS, pixels, strict=True):
        write_tif(folder / f"T31_{name}.tif", band[None])
    return folder


@pytest.fixture(scope="module")
def expected(parts: Path, rgb_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("expected")
    scene = {"id": "one", "bands": {name: str(parts / f"T31_{name}.tif") for name in BANDS}}
    result = detect(scene, rgb_bundle, out, unit=(2, 2))
    assert result.exit_code == 0 and result.detections > 100
    return pixels_of(out)


def item(base: str) -> dict[str, Any]:
    assets = {
        key: {"href": f"{base}T31_{name}.tif", "type": "image/tiff", "roles": ["data"], "eo:bands": [{"name": name}]}
        for key, name in zip(("B04", "B03", "B02"), BANDS, strict=True)
    }
    return {"type": "Feature", "id": "one", "properties": {"datetime": None}, "assets": assets}


def test_a_mapping_of_bands(parts, expected, serve, rgb_bundle, tmp_path) -> None:
    server = serve(parts)
    scene = {"id": "one", "bands": {name: f"{server.url}/T31_{name}.tif?sig=s3cret" for name in BANDS}}
    result = detect(scene, rgb_bundle, tmp_path, unit=(2, 2))
    assert result.exit_code == 0, result.failures
    assert pixels_of(tmp_path) == expected
    assert detect(scene, rgb_bundle, tmp_path, unit=(2, 2)).scenes[0].status == "skipped"


def test_a_product_folder(parts, expected, rgb_bundle, tmp_path) -> None:
    bands = {name: f"*_{name}.tif" for name in BANDS}
    result = detect(parts, rgb_bundle, tmp_path, unit=(2, 2), bands=bands)
    assert result.exit_code == 0, result.failures
    assert list(pixels_of(tmp_path).values()) == list(expected.values())


@pytest.mark.parametrize("where", ["local", "served"])
def test_assets_of_an_item(where, parts, expected, serve, rgb_bundle, tmp_path) -> None:
    server = serve(parts)
    base = f"{server.url}/"
    document = (parts if where == "served" else tmp_path) / "item.json"
    document.write_text(json.dumps(item("./" if where == "served" else base)))
    name = f"{server.url}/item.json" if where == "served" else str(document)
    result = detect(name, rgb_bundle, tmp_path / "out", unit=(2, 2))
    assert result.exit_code == 0, result.failures
    assert pixels_of(tmp_path / "out") == expected


def test_a_changed_band_fails_the_remaining_units(parts, serve, rgb_bundle, tmp_path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    for path in parts.glob("*.tif"):
        (folder / path.name).write_bytes(path.read_bytes())
    server = serve(folder)
    scene = {"id": "one", "bands": {name: f"{server.url}/T31_{name}.tif" for name in BANDS}}

    def change(event: object) -> None:
        if type(event).__name__ == "UnitSettled":
            (folder / "T31_blue.tif").touch()

    result = detect(scene, rgb_bundle, tmp_path / "out", unit=(2, 2), on_event=change)
    assert result.exit_code == 3 and "changed while it was read" in result.failures[0].message


def test_a_single_asset_is_the_scene_itself(parts, serve, tmp_path) -> None:
    bundle = random_bundle(tmp_path / "m", bands=("red",))
    server = serve(parts)
    scene = item("./")
    scene["assets"] = {"red": scene["assets"]["B04"]}
    (parts / "single.json").write_text(json.dumps(scene))
    result = detect(f"{server.url}/single.json", bundle, tmp_path / "out")
    assert result.exit_code == 0 and result.scenes[0].uri.endswith("T31_red.tif")
