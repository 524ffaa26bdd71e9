"""Pictures of large scenes, and nodata in them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from geosod.predict import picture as module
from tests.rasters import noise, write_tif


@pytest.fixture
def small_limit(monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 100_000)


@pytest.fixture
def sheets(monkeypatch) -> dict[str, list]:
    """What a picture is put together from."""
    seen: dict[str, list] = {"crops": [], "captions": [], "density": [], "overview": []}
    crop, sheet, dense, over = module.draw_crop, module.contact_sheet, module.draw_density, module.draw_overview
    monkeypatch.setattr(module, "draw_crop", lambda *a, **k: seen["crops"].append(a) or crop(*a, **k))
    monkeypatch.setattr(module, "contact_sheet", lambda i, **k: seen["captions"].extend(k["captions"]) or sheet(i, **k))
    monkeypatch.setattr(module, "draw_density", lambda *a, **k: seen["density"].append(a) or dense(*a, **k))
    monkeypatch.setattr(module, "draw_overview", lambda *a, **k: seen["overview"].append(a) or over(*a, **k))
    return seen


def test_large_scenes_are_an_overview_and_crops(pipeline, tmp_path, small_limit, sheets, monkeypatch) -> None:
    pixels = noise(3, 1000, 1400)
    pixels[:, :, :300] = 0
    path = write_tif(tmp_path / "scene.tif", pixels, nodata=0)
    monkeypatch.setattr(module, "OVERVIEW", 350)
    (result,) = pipeline.predict(path)
    result.save_to_img(tmp_path / "out")
    assert Image.open(tmp_path / "out/scene_res.png").width > 350
    assert [c.partition(":")[0] for c in sheets["captions"]] == ["best"] * 3 + ["worst"] * 3 + ["random"] * 3
    ((image, boxes),) = [a[:2] for a in sheets["density"]]
    assert image.shape == (250, 350, 3) and len(boxes) == len(result["boxes"])
    assert np.allclose(np.sort(boxes[:, 0] * 4), np.sort([b["coordinate"][0] for b in result["boxes"]]))
    assert (image[:, :74] == 0).all(), "nodata is black"
    places = [tuple(int(v[2:].replace(",", "")) for v in c.partition(": ")[2].split(", ")) for c in sheets["captions"]]
    for (col, row), (shown, inside, *_) in zip(places, sheets["crops"], strict=True):
        assert np.array_equal(shown, np.moveaxis(pixels[:, row : row + 256, col : col + 256], 0, 2))
        meets = [
            b["coordinate"]
            for b in result["boxes"]
            if b["coordinate"][2] > col and b["coordinate"][0] < col + 256
            and b["coordinate"][3] > row and b["coordinate"][1] < row + 256
        ]  # fmt: skip
        assert len(meets) == len(inside)
    best, worst = result["boxes"][0]["coordinate"], result["boxes"][-1]["coordinate"]
    for box, (col, row) in ((best, places[0]), (worst, places[3])):
        assert col <= box[0] and box[2] <= col + 256 and row <= box[1] and box[3] <= row + 256
    assert all(col + 256 > 300 for col, _ in places[6:]), "random places show ground that was inspected"


def test_large_scenes_without_objects(pipeline, tmp_path, small_limit, sheets) -> None:
    path = write_tif(tmp_path / "scene.tif", noise(3, 400, 900), crs=None)
    (result,) = pipeline.predict(path, threshold=1)
    assert result["boxes"] == [] and result.img["res"].width >= 900
    assert [c.partition(":")[0] for c in sheets["captions"]] == ["random"] * len(sheets["captions"])
    assert len(sheets["overview"]) == 1 and not sheets["density"]


def test_large_scenes_without_valid_pixels(pipeline, tmp_path, small_limit) -> None:
    path = write_tif(tmp_path / "scene.tif", np.zeros((3, 400, 900), np.uint8), nodata=0)
    (result,) = pipeline.predict(path)
    assert result["boxes"] == [] and result.img["res"].width >= 900
