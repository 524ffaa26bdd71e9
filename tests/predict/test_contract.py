"""PaddleX's contract: signatures, fields, defaults, files, and its snippet with only the import changed."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import geosod
from geosod.detectors import open_bundle, shipped_models
from geosod.errors import ConfigError, OutputError
from geosod.predict.configuration import SMALL_OBJECT_MODEL, SMALL_OBJECTS, pipeline_names, write_config
from geosod.predict.pipeline import Pipeline
from geosod.predict.result import DetectionResult
from tests import conftest


def defaults(function: object) -> dict[str, object]:
    parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
    return {p.name: p.default for p in positional}


def annotations(function: object) -> dict[str, str]:
    return {p.name: str(p.annotation) for p in inspect.signature(function).parameters.values()}  # type: ignore[arg-type]


NEEDED = inspect.Parameter.empty


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (geosod.create_pipeline, {"pipeline": None, "config": None, "device": None, "use_hpip": False}),
        (Pipeline.predict, {"input": NEEDED, "device": None, "threshold": None}),
        (DetectionResult.print, {"format_json": True, "indent": 4, "ensure_ascii": False}),
        (DetectionResult.save_to_json, {"save_path": None, "indent": 4, "ensure_ascii": False}),
        (DetectionResult.save_to_img, {"save_path": None}),
        (DetectionResult.save_to_parquet, {"save_path": None}),
    ],
)
def test_parameters_and_defaults(function, expected) -> None:
    found = defaults(function)
    assert list(found.items()) == list(expected.items())


def test_types_of_parameters() -> None:
    types = annotations(geosod.create_pipeline)
    assert types["device"] == "str | None" and types["use_hpip"] == "bool"
    assert "str" in types["pipeline"] and "Mapping[str, Any]" in types["config"]
    assert "float | Mapping[int, float]" in annotations(Pipeline.predict)["threshold"]
    assert list(annotations(DetectionResult.print).values())[1:] == ["bool", "int", "bool"]
    assert list(annotations(DetectionResult.save_to_json).values())[2:] == ["int", "bool"]


def test_fields_and_their_types(pipeline, photo) -> None:
    (result,) = pipeline.predict(str(photo), threshold=0.5)
    assert isinstance(result, dict) and list(result) == ["input_path", "page_index", "boxes"]
    assert result["input_path"] == str(photo) and result["page_index"] is None
    assert isinstance(result["boxes"], list) and len(result["boxes"]) > 5
    for box in result["boxes"]:
        assert list(box) == ["cls_id", "label", "score", "coordinate"]
        assert type(box["cls_id"]) is int and type(box["label"]) is str and type(box["score"]) is float
        assert type(box["coordinate"]) is list and [type(v) for v in box["coordinate"]] == [float] * 4
        x0, y0, x1, y1 = box["coordinate"]
        assert 0 <= x0 < x1 <= 300 and 0 <= y0 < y1 <= 200 and box["score"] >= 0.5
        assert box["label"] == ("ship", "car")[box["cls_id"]]
    scores = [box["score"] for box in result["boxes"]]
    assert scores == sorted(scores, reverse=True)


def test_the_result_is_what_detect_finds(pipeline, photo, rgb_bundle) -> None:
    (result,) = pipeline.predict(photo, threshold=0.5)
    run = geosod.detect(photo, model=rgb_bundle, threshold=0.5, device="cpu", backend="eager", precision="fp32")
    frame = run.to_geopandas().sort_values(["score", "px_xmin"], ascending=[False, True])
    expected = frame[["px_xmin", "px_ymin", "px_xmax", "px_ymax"]].to_numpy()
    assert len(expected) == len(result["boxes"])
    found = np.array([box["coordinate"] for box in result["boxes"]])
    assert np.array_equal(np.sort(found, axis=0), np.sort(expected, axis=0))
    assert [box["score"] for box in result["boxes"]] == frame.score.astype(float).tolist()


def test_print(pipeline, photo, capsys) -> None:
    (result,) = pipeline.predict(str(photo), threshold=0.6)
    result.print()
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"res": dict(result)} == result.json
    assert '\n    "res": {\n        "input_path"' in printed
    result.print(indent=1)
    assert '\n "res": {\n  "input_path"' in capsys.readouterr().out
    result.print(format_json=False)
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and line.startswith(
        f"{{'res': {{'input_path': '{photo}', 'page_index': None, 'boxes': [{{"
    )


def test_print_where_the_terminal_has_no_such_letters(pipeline, pixels, tmp_path, monkeypatch) -> None:
    path = tmp_path / "écluse.png"
    Image.fromarray(pixels).save(path)
    (result,) = pipeline.predict(str(path), threshold=0.6)
    for as_json in (True, False):
        out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr("sys.stdout", out)
        result.print(format_json=as_json)
        out.flush()
        assert b"\\xe9cluse" in (text := out.buffer.getvalue()) or b"\\u00e9cluse" in text


def test_files_in_a_folder(pipeline, photo, tmp_path, pixels) -> None:
    (result,) = pipeline.predict(str(photo), threshold=0.6)
    result.save_to_json(str(tmp_path / "out") + "/")
    result.save_to_img(tmp_path / "out")
    result.save_to_parquet(tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "photo_res.json", "photo_res.parquet", "photo_res.png"
    ]  # fmt: skip
    text = (tmp_path / "out/photo_res.json").read_text()
    assert json.loads(text) == dict(result), "the inner dictionary"
    assert text.startswith('{\n    "input_path"')
    picture = Image.open(tmp_path / "out/photo_res.png")
    assert picture.size == (300, 200) and not np.array_equal(np.asarray(picture), pixels)


def test_named_files_and_the_current_folder(pipeline, photo, tmp_path, monkeypatch) -> None:
    (result,) = pipeline.predict(str(photo), threshold=0.6)
    result.save_to_json(tmp_path / "a.json", indent=0, ensure_ascii=True)
    result.save_to_img(tmp_path / "b.JPG")
    assert json.loads((tmp_path / "a.json").read_text()) == dict(result)
    assert Image.open(tmp_path / "b.JPG").format == "JPEG"
    monkeypatch.chdir(tmp_path)
    result.save_to_json()
    result.save_to_img()
    assert Path("photo_res.json").is_file() and Path("photo_res.png").is_file()
    for wrong in ("x.parquet", "x.png", " "):
        with pytest.raises(OutputError, match=r"is the name of|is empty"):
            result.save_to_json(wrong)


def test_json_and_img_attributes(pipeline, photo) -> None:
    (result,) = pipeline.predict(str(photo), threshold=0.6)
    assert list(result.json) == ["res"] and result.json["res"] == dict(result)
    result.json["res"]["boxes"][0]["coordinate"][0] = -1.0
    assert result["boxes"][0]["coordinate"][0] != -1.0
    assert list(result.img) == ["res"] and isinstance(result.img["res"], Image.Image)


def test_files_may_be_written_again(pipeline, photo, tmp_path) -> None:
    for _ in range(2):
        for result in pipeline.predict(str(photo), threshold=0.6):
            result.save_to_json(tmp_path / "out")
            result.save_to_json(tmp_path / "out")


# --- configuration

DOCUMENTED = {
    "pipeline_name": "small_object_detection",
    "SubModules": {
        "SmallObjectDetection": {
            "module_name": "small_object_detection",
            "model_name": SMALL_OBJECT_MODEL,
            "model_dir": None,
            "batch_size": 1,
            "threshold": 0.5,
        }
    },
}


def test_the_yaml_file_of_a_pipeline(tmp_path) -> None:
    path = write_config(SMALL_OBJECTS, tmp_path / "my_path")
    assert path == tmp_path / "my_path/small_object_detection.yaml"
    found = yaml.safe_load(path.read_text())
    assert found == DOCUMENTED and list(found["SubModules"]["SmallObjectDetection"]) == list(
        DOCUMENTED["SubModules"]["SmallObjectDetection"]
    )
    write_config(SMALL_OBJECTS, tmp_path / "my_path")
    path.write_text(path.read_text().replace("0.5", "0.4"))
    with pytest.raises(OutputError, match="was changed"):
        write_config(SMALL_OBJECTS, tmp_path / "my_path")
    assert "0.4" in path.read_text()


def test_the_small_object_model_is_a_shipped_rgb_one() -> None:
    card = open_bundle(SMALL_OBJECT_MODEL).card
    assert SMALL_OBJECT_MODEL in shipped_models() and card.bands == ("red", "green", "blue") and card.dtype == "uint8"
    others = [n for n in shipped_models() if open_bundle(n).card.bands == card.bands and n != SMALL_OBJECT_MODEL]
    # One for trees, and one that was trained on drawn scenes only.
    known = ["crowns-10cm", "demo-harbour"]
    assert others == known, f"is one of {others} better for photographs? then the pipeline should run it"


@pytest.mark.parametrize("name", [SMALL_OBJECTS, *shipped_models()])
def test_every_shipped_model_is_a_pipeline(name, tmp_path) -> None:
    assert name in pipeline_names()
    by_name = geosod.create_pipeline(name, device="cpu")
    by_path = geosod.create_pipeline(str(write_config(name, tmp_path)), device="cpu")
    assert by_name.config == by_path.config and by_name.job.class_rules == by_path.job.class_rules
    if name != SMALL_OBJECTS:
        assert by_name.job.class_rules == by_name.job.model.rules


def config(**module: object) -> dict[str, object]:
    base = DOCUMENTED["SubModules"]["SmallObjectDetection"]  # type: ignore[index]
    return {**DOCUMENTED, "SubModules": {"SmallObjectDetection": base | module}}


def test_config_wins_over_the_pipeline_and_names_must_agree(tmp_path) -> None:
    made = geosod.create_pipeline(SMALL_OBJECTS, config(threshold=0.8), device="cpu")
    assert made.job.class_rules.thresholds == (0.8,)
    file = write_config(SMALL_OBJECTS, tmp_path)
    assert geosod.create_pipeline(str(file), config(threshold=0.8)).job.class_rules.min_score == 0.8
    assert geosod.create_pipeline(config=config(threshold={0: 0.7})).job.class_rules.thresholds[0] == 0.7
    with pytest.raises(ConfigError, match="names agree"):
        geosod.create_pipeline("demo-harbour", config())
    other = write_config("demo-harbour", tmp_path)
    with pytest.raises(ConfigError, match="names agree"):
        geosod.create_pipeline(str(other), config())


def test_fine_tuned_weights_by_model_dir(rgb_bundle, photo) -> None:
    made = geosod.create_pipeline(
        config=config(model_dir=str(rgb_bundle), model_name="PP-YOLOE_plus_SOD-L"), device="cpu"
    )
    (result,) = made.predict(str(photo))
    assert {box["label"] for box in result["boxes"]} <= {"ship", "car"} and result["boxes"]


@pytest.mark.parametrize(
    ("pipeline", "given", "message"),
    [
        (None, None, "no pipeline is given"),
        ("small_objects", None, "use small_object_detection, crowns-10cm, demo-harbour, trees-naip-60cm"),
        ("missing.yaml", None, "cannot be read"),
        (3, None, "is a int"),
        (None, [], "config is a list"),
        (None, {}, "pipeline_name is None"),
        (None, {"pipeline_name": "x"}, "SubModules is NoneType"),
        (None, config() | {"sub": 1}, "unknown key 'sub'"),
        (None, config(treshold=0.5), "unknown key 'treshold'"),
        (None, config(model_name="PP-YOLOE_plus_SOD-S"), "no such model; use crowns-10cm, demo-harbour"),
        (None, config(model_dir=""), "model_dir is ''"),
        (None, config(model_dir="nowhere"), "no such folder"),
        (None, config(batch_size=0), "batch_size 0"),
        (None, config(batch_size=True), "batch_size True"),
        (None, config(threshold=1.5), "threshold 1.5"),
        (None, config(threshold=True), "threshold True"),
        (None, config(threshold="x"), "threshold 'x'"),
        (None, config(threshold={"boat": 0.5}), "boat"),
        (None, config(module_name="object_detection"), "has small_object_detection only"),
    ],
)
def test_unusable_configurations(pipeline, given, message) -> None:
    with pytest.raises(geosod.GeosodError, match=re.escape(message)):
        geosod.create_pipeline(pipeline, given, device="cpu")


@pytest.mark.parametrize(
    ("device", "message"),
    [("npu:0", "torch_npu"), ("mlu:0", "torch_mlu"), ("xpu:0", "Kunlunxin"), ("tpu", "gpu means cuda")],
)
def test_devices_that_are_not_there(device, message, pipeline, photo) -> None:
    with pytest.raises(ConfigError, match=message):
        geosod.create_pipeline(SMALL_OBJECTS, device=device)
    with pytest.raises(ConfigError, match=message):
        pipeline.predict(str(photo), device=device)


@pytest.mark.parametrize(
    ("settings", "message"), [({"out": "x"}, "save_to_json"), ({"tyle": 3}, "tyle"), ({"engine": "ray"}, "ray")]
)
def test_unusable_settings(settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        geosod.create_pipeline(SMALL_OBJECTS, **settings)


# --- the document's own words

SNIPPET = """
from geosod import create_pipeline
pipeline = create_pipeline(pipeline={pipeline!r})
output = pipeline.predict(input="small_object_detection.jpg", threshold=0.5)
for res in output:
    res.print()
    res.save_to_img(save_path="./output/")
    res.save_to_json(save_path="./output/")
"""


def run(snippet: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(snippet, {})
    return out.getvalue()


@pytest.fixture
def beside_a_photo(tmp_path, monkeypatch) -> Path:
    from geosod.demo.layout import make_layout
    from geosod.demo.render import render
    from geosod.scene import Window

    # Enlarged, since drawn vehicles are of 8 pixels, and the model knows them with 30.
    drawn, _ = render(make_layout(1024, 7), Window(160, 160, 213, 160))
    photo = Image.fromarray(np.moveaxis(drawn, 0, 2)).resize((640, 480), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "small_object_detection.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    write_config(SMALL_OBJECTS, "my_path")
    return tmp_path


def check_outputs(printed: str) -> None:
    found = json.loads(printed)["res"]
    assert found["input_path"].endswith("small_object_detection.jpg") and found["page_index"] is None
    assert json.loads(Path("output/small_object_detection_res.json").read_text()) == found
    assert Image.open("output/small_object_detection_res.jpg").size == (640, 480)
    assert found["boxes"] and all(box["score"] >= 0.5 for box in found["boxes"])


@pytest.mark.parametrize("name", [SMALL_OBJECTS, "./my_path/small_object_detection.yaml"])
def test_the_documented_steps(name, beside_a_photo) -> None:
    check_outputs(run(SNIPPET.format(pipeline=name)))


def test_the_snippets_of_the_document(beside_a_photo) -> None:
    """Both of them, with only the import changed (and the indents that the text has lost)."""
    document = conftest.SHARED / "sources" / "paddlex.txt"
    if not document.is_file():
        pytest.skip("the document is not beside the project")
    text = document.read_text()
    blocks = re.findall(r"from paddlex import create_pipeline\n(?:.*\n)*?res\.save_to_json\(.*\)", text)
    assert len(blocks) == 2 and ".yaml" in blocks[1]
    for block in blocks:
        lines = [("    " + line if line.startswith("res.") else line) for line in block.splitlines()]
        check_outputs(run("\n".join(lines).replace("from paddlex import", "from geosod import")))
