"""What users of similar pipelines have reported as bugs."""

from __future__ import annotations

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from geosod.errors import UsageError


def test_names_in_other_scripts(pipeline, pixels, tmp_path) -> None:
    path = tmp_path / "小目标 检测" / "港口 1.v2.JPG"
    path.parent.mkdir()
    Image.fromarray(pixels).save(path, quality=95)
    (result,) = pipeline.predict(path.parent, threshold=0.6)
    for save in (result.save_to_img, result.save_to_json, result.save_to_parquet):
        save(tmp_path / "结果")
    names = sorted(p.name for p in (tmp_path / "结果").iterdir())
    assert names == ["港口 1.v2_res.JPG", "港口 1.v2_res.json", "港口 1.v2_res.parquet"]
    assert "港口" in (tmp_path / "结果/港口 1.v2_res.json").read_text(encoding="utf-8")
    assert result["input_path"] == str(path)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK"])
def test_kinds_of_pictures(mode, pipeline, pixels, tmp_path) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    picture = Image.fromarray(pixels).convert("L" if mode == "LA" else "RGB").convert(mode)
    picture.save(path)
    (result,) = pipeline.predict(path)
    shown = np.asarray(result.img["res"])
    assert result["boxes"] and shown.shape == (200, 300, 3)
    if mode in ("L", "LA"):
        (grey,) = pipeline.predict(np.asarray(picture.convert("L")))
        assert result["boxes"] == grey["boxes"]
    result.save_to_img(tmp_path / "out")


def test_transparent_pixels_are_not_searched(pipeline, pixels, tmp_path) -> None:
    alpha = np.full((200, 300, 1), 255, np.uint8)
    alpha[:, :150] = 0
    Image.fromarray(np.concatenate([pixels, alpha], axis=2), "RGBA").save(tmp_path / "a.png")
    (result,) = pipeline.predict(tmp_path / "a.png")
    assert result["boxes"] and min(box["coordinate"][2] for box in result["boxes"]) > 150
    (plain,) = pipeline.predict(tmp_path / "a.png", threshold=1)
    shown = np.asarray(plain.img["res"])
    assert (shown[:, :150] == 0).all() and np.array_equal(shown[:, 150:], pixels[:, 150:])


def test_one_pipeline_in_several_threads_and_generators(pipeline, pixels) -> None:
    images = [np.roll(pixels, k * 30, axis=1) for k in range(6)]
    expected = [dict(next(pipeline.predict(image, threshold=0.4))) for image in images]
    with ThreadPoolExecutor(3) as pool:
        found = pool.map(lambda image: dict(next(pipeline.predict(image, threshold=0.4))), images)
        assert list(found) == expected
    low, high = pipeline.predict(images, threshold=0.4), pipeline.predict(images, threshold=0.7)
    for one, a, b in zip(expected, low, high, strict=True):
        assert dict(a) == one and b["boxes"] == [box for box in b["boxes"] if box["score"] >= 0.7]


def test_results_can_be_copied_and_sent_to_other_processes(pipeline, photo, tmp_path) -> None:
    (result,) = pipeline.predict(photo, threshold=0.6)
    for other in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert dict(other) == dict(result) and len(other.to_geopandas()) == len(result["boxes"])
        other.save_to_json(tmp_path / "out")
    assert json.loads(json.dumps(result)) == dict(result)


def test_no_objects(pipeline, photo, tmp_path) -> None:
    (result,) = pipeline.predict(photo, threshold=1.0)
    for save in (result.save_to_img, result.save_to_json, result.save_to_parquet):
        save(tmp_path / "out")
    assert json.loads((tmp_path / "out/photo_res.json").read_text())["boxes"] == []
    assert len(result.to_geopandas()) == 0


@pytest.mark.parametrize("size", [(1, 1), (2, 500), (31, 33)])
def test_tiny_images(size, pipeline) -> None:
    (result,) = pipeline.predict(np.full((*size, 3), 100, np.uint8))
    assert result.img["res"].size == size[::-1]


def test_files_that_only_look_like_images(pipeline, tmp_path) -> None:
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    (tmp_path / "empty.png").touch()
    for name in ("page.jpg", "empty.png"):
        with pytest.raises(UsageError, match=name):
            list(pipeline.predict(tmp_path / name))
