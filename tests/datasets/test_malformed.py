"""Files that are not what they should be: named with file and entry, refused or skipped, never a crash."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geosod.datasets.read import read_labels
from geosod.errors import LabelError
from tests.datasets.samples import sample_labels

COCO: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "a.tif", "width": 96, "height": 64},
        {"id": 2, "file_name": "b.tif", "width": 64, "height": 64},
    ],
    "annotations": [
        {"id": 17, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]},
        {"id": 18, "image_id": 2, "category_id": 1, "bbox": [1, 2, 3, 4]},
    ],
    "categories": [{"id": 1, "name": "car"}],
}


def changed(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    document = copy.deepcopy(COCO)
    target = document
    for key in path[:-1]:
        target = target[key]
    if value is None:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "message", "left"),
    [
        (
            ("annotations", 0, "bbox"),
            [1, 2, float("nan"), 4],
            "annotation 17: bbox is [1, 2, nan, 4], and must be finite",
            1,
        ),
        (("annotations", 0, "bbox"), [1, 2, float("inf"), 4], "annotation 17: bbox is [1, 2, inf, 4], and must be", 1),
        (("annotations", 0, "bbox"), [1, 2, -3, 4], "annotation 17: box has the size -3 x 4, which is negative", 1),
        (("annotations", 0, "bbox"), [1, 2, 3], "annotation 17: bbox is [1, 2, 3], expected 4 numbers", 1),
        (("annotations", 0, "bbox"), None, "annotation 17: bbox is None, expected 4 numbers", 1),
        (("annotations", 0, "bbox"), [1, 2, "x", 4], "annotation 17: bbox is [1, 2, 'x', 4], expected 4 numbers", 1),
        (("annotations", 0, "bbox"), [1e308, 0, 1e308, 1], "annotation 17: box 1e+308, 0, inf, 1 is too large", 1),
        (("annotations", 0, "area"), -4, "annotation 17: area is -4, which is negative", 1),
        (("annotations", 0, "image_id"), 99, "annotation 17: image_id is 99, which is none of the images", 1),
        (("annotations", 0, "image_id"), [1], "annotation 17: image_id is None", 1),
        (("annotations", 0, "category_id"), 5, "annotation 17: category_id is 5, which is none of the categories", 1),
        (("annotations", 0), 7, "annotation 'number 1': is 7, expected an object", 1),
        (("images", 1, "id"), 1, "image 1: 'a.tif' has the id of another image, too", 0),
        (("images", 1, "file_name"), "../../b.tif", "image 2: image name '../../b.tif' leads out of the folder", 1),
        (("images", 1, "file_name"), "a.tif", "image 2: has the file_name 'a.tif' of another image, too", 1),
        (("images", 1, "width"), 0, "image 2: has 0 x 64 pixels", 1),
        (("images", 1, "width"), "wide", "image 2: width is 'wide', expected a number", 1),
        (("categories", 0, "name"), 3, "category number 1: is {'id': 1, 'name': 3}, expected an id and a name", 0),
    ],
)
def test_coco(tmp_path: Path, path: tuple[Any, ...], value: Any, message: str, left: int) -> None:
    file = tmp_path / "a.json"
    if path[-1] == "image_id" and value == [1]:
        message = "annotation 17: image_id is [1], which is none"
    file.write_text(json.dumps(changed(path, value)))
    with pytest.raises(LabelError) as error:
        read_labels(file, format="coco")
    assert f"{file}, {message}" in str(error.value) and "--invalid skip" in str(error.value)
    reading = read_labels(file, format="coco", invalid="skip")
    assert reading.problems.count >= 1 and message in str(reading.problems.found[0])
    assert len(reading.labels) == left


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [', "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ('[{"image_id": 1, "score": 0.5}]', "is a list, as of detections"),
        ('{"images": [], "annotations": []}', "has no list of categories"),
        ("", "is not valid JSON"),
    ],
)
def test_files_that_are_not_coco(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(LabelError, match=message):
        read_labels(tmp_path / "a.json", format="coco", invalid="skip")


def yolo(text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "labels").mkdir()
        (folder / "labels/a.txt").write_bytes(text.encode("latin-1"))
        (folder / "data.yaml").write_text("train: images\nnames: {0: car, 1: bus}\n")
        return folder

    return write


def in_folder(name: str, file: str, text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).mkdir(parents=True)
        (folder / name / file).write_text(text)
        return folder

    return write


def voc(entry: str, size: str = "<size><width>96</width><height>64</height></size>") -> Callable[[Path], Path]:
    good = "<object><name>car</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>"
    return in_folder("Annotations", "a.xml", f"<annotation><filename>a.tif</filename>{size}{good}{entry}</annotation>")


def box(xmin: str, xmax: str, name: str = "car") -> str:
    corners = f"<xmin>{xmin}</xmin><ymin>1</ymin><xmax>{xmax}</xmax><ymax>5</ymax>"
    return f"<object><name>{name}</name><bndbox>{corners}</bndbox></object>"


def feature(**properties: Any) -> Callable[[Path], Path]:
    good = {"bounds_imcoords": "1,1,5,5", "image_id": "a.tif", "type_id": 18, "feature_id": 4}
    features = [
        {"type": "Feature", "properties": good},
        {"type": "Feature", "properties": good | {"feature_id": 5} | properties},
    ]

    def write(folder: Path) -> Path:
        (folder / "x.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        return folder / "x.geojson"

    return write


def person(**values: Any) -> Callable[[Path], Path]:
    good = {"instanceId": 1, "bbox": [1, 1, 4, 4], "label": "pedestrian"}
    document = {"imgHeight": 64, "imgWidth": 96, "objects": [good, good | values]}
    return in_folder("gtBboxCityPersons", "a_gtBboxCityPersons.json", json.dumps(document))


def ground(geometry: str, label: str = '"car"') -> Callable[[Path], Path]:
    good = '{"type": "Point", "coordinates": [3.00029, 52.35016]}'
    features = [
        f'{{"type": "Feature", "properties": {{"label": {text}}}, "geometry": {shape}}}'
        for text, shape in (('"car"', good), (label, geometry))
    ]

    def write(folder: Path) -> Path:
        (folder / "x.geojson").write_text(f'{{"type": "FeatureCollection", "features": [{",".join(features)}]}}')
        return folder / "x.geojson"

    return write


GOOD = {"yolo": "0 .5 .5 .1 .1\n", "visdrone": "1,1,4,4,1,4,0,0\n", "dota": "1 1 5 1 5 5 1 5 car 0\n"}


def visdrone(line: str) -> Callable[[Path], Path]:
    return in_folder("annotations", "a.txt", GOOD["visdrone"] + line)


def dota(line: str) -> Callable[[Path], Path]:
    return in_folder("labelTxt", "a.txt", GOOD["dota"] + line)


CASES: dict[str, list[tuple[Callable[[Path], Path], str]]] = {
    "yolo": [
        (yolo(GOOD["yolo"] + "0 .5 .5 .1"), "labels/a.txt, line 2: has 4 values"),
        (yolo(GOOD["yolo"] + "0 nan .5 .1 .1"), "labels/a.txt, line 2: box is ['nan', '.5', '.1', '.1'], and must be"),
        (yolo(GOOD["yolo"] + "0 .5 .5 -.1 .1"), "labels/a.txt, line 2: box has the size -0.1 x 0.1, which is negative"),
        (yolo(GOOD["yolo"] + "2 .5 .5 .1 .1"), "labels/a.txt, line 2: class 2 is none of the 2 classes"),
        (yolo(GOOD["yolo"] + "0.5 .5 .5 .1 .1"), "labels/a.txt, line 2: class is '0.5', expected a whole number"),
        (
            yolo(GOOD["yolo"] + "0 50 50 10 10"),
            "labels/a.txt, line 2: box is [50.0, 50.0, 10.0, 10.0]; values are relative",
        ),
        (yolo(GOOD["yolo"] + "0 .5 .5 .1 .1 .9"), "labels/a.txt, line 2: has 6 values"),
    ],
    "voc": [
        (voc(box("9", "2")), "Annotations/a.xml, object 2: box 8, 0, 2, 5 has a negative size"),
        (voc(box("nan", "2")), "Annotations/a.xml, object 2: bndbox is ['nan', '1', '2', '5'], and must be finite"),
        (voc(box("", "2")), "Annotations/a.xml, object 2: bndbox is ['', '1', '2', '5'], expected 4 numbers"),
        (voc(box("1", "2", name="")), "Annotations/a.xml, object 2: has no name"),
        (voc("<object><name>car</name></object>"), "Annotations/a.xml, object 2: has no bndbox"),
    ],
    "visdrone": [
        (visdrone("1,1,4"), "annotations/a.txt, line 2: has 3 values"),
        (visdrone("1,1,-4,4,1,4,0,0"), "annotations/a.txt, line 2: box has the size"),
        (visdrone("1,1,nan,4,1,4,0,0"), "annotations/a.txt, line 2: line is"),
        (visdrone("1,1,4,4,1,12,0,0"), "annotations/a.txt, line 2: category is 12"),
    ],
    "dota": [
        (dota("1 1 5 1 5 5 1"), "labelTxt/a.txt, line 2: has 7 values"),
        (dota("1 1 5 1 5 5 1 inf car 0"), "labelTxt/a.txt, line 2: corners is"),
        (dota("1 1 5 1 5 5 1 5 car x"), "labelTxt/a.txt, line 2: difficult is 'x'"),
    ],
    "xview": [
        (feature(type_id=75), "x.geojson, feature 5: type_id is 75, which is none of xView's classes"),
        (feature(bounds_imcoords="1,2,3"), "x.geojson, feature 5: bounds_imcoords is ['1', '2', '3'], expected 4"),
        (feature(bounds_imcoords="9,2,3,8"), "x.geojson, feature 5: box 9, 2, 3, 8 has a negative size"),
        (feature(bounds_imcoords="1,nan,3,8"), "x.geojson, feature 5: bounds_imcoords is"),
        (feature(image_id="1395.tif"), "x.geojson, feature 5: image_id is '1395.tif', and there is no"),
        (feature(image_id="../a.tif"), "x.geojson, feature 5: image name '../a.tif' leads out"),
    ],
    "citypersons": [
        (person(bbox=[1, 1, -4, 4]), "a_gtBboxCityPersons.json, object 2: box has the size -4 x 4"),
        (person(bbox=[1, 1, float("nan"), 4]), "a_gtBboxCityPersons.json, object 2: bbox is"),
        (person(label=None), "a_gtBboxCityPersons.json, object 2: is {"),
    ],
    "geojson": [
        (ground("null"), "x.geojson, feature 2: has no geometry"),
        (
            ground('{"type": "Point", "coordinates": [3.00029, 52.35016]}', label="null"),
            "x.geojson, feature 2: has no class",
        ),
        (
            ground('{"type": "LineString", "coordinates": [[3, 52], [3.1, 52]]}'),
            "x.geojson, feature 2: is neither a polygon",
        ),
    ],
}


@pytest.mark.parametrize(
    ("name", "write", "message"), [(name, *case) for name, cases in CASES.items() for case in cases]
)
def test_entries_that_cannot_be_used(tmp_path: Path, name: str, write: Callable[[Path], Path], message: str) -> None:
    folder = tmp_path / "images" if name not in ("xview", "geojson") else tmp_path
    labels = sample_labels(folder)
    if name not in ("geojson",):
        for image in labels.images[1:]:
            Path(image.uri).unlink()
    path = write(tmp_path)
    scenes = [labels.images[0].uri] if name == "geojson" else ()
    with pytest.raises(LabelError) as error:
        read_labels(path, format=name, scenes=scenes)
    assert message in str(error.value)
    reading = read_labels(path, format=name, scenes=scenes, invalid="skip")
    assert reading.problems.count == 1 and message in str(reading.problems.found[0]) and len(reading.labels) == 1


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("voc", in_folder("Annotations", "a.xml", "<annotation><object>"), "a.xml: is not well-formed XML"),
        (
            "voc",
            in_folder("Annotations", "a.xml", "<!DOCTYPE x [<!ENTITY a 'b'>]><annotation/>"),
            "a.xml: declares a document type",
        ),
        ("voc", in_folder("Annotations", "a.xml", "<html/>"), "a.xml: is XML with the root 'html'"),
        ("voc", voc("", size="").__call__, ""),
        ("visdrone", in_folder("annotations", "gone.txt", GOOD["visdrone"]), "gone.txt: there is no image"),
        ("dota", in_folder("labelTxt", "gone.txt", GOOD["dota"]), "gone.txt: there is no image"),
        (
            "citypersons",
            in_folder("x", "a_gtBboxCityPersons.json", '{"objects": ['),
            "a_gtBboxCityPersons.json: is not valid JSON",
        ),
        ("citypersons", in_folder("x", "a_gtBboxCityPersons.json", '{"objects": []}'), "imgWidth is None"),
    ],
)
def test_files_that_cannot_be_used_take_their_image_with_them(
    tmp_path: Path, name: str, write: Callable[[Path], Path], message: str
) -> None:
    """Without its labels an image would count as background."""
    sample_labels(tmp_path / "images")
    path = write(tmp_path)
    if not message:  # no size in the file, but an image that has one
        assert read_labels(path, format=name).labels.images[0].width == 96
        return
    reading = read_labels(path, format=name, invalid="skip")
    assert not reading.labels.images and message in str(reading.problems.found[0])
    with pytest.raises(LabelError):
        read_labels(path, format=name)


def test_yolo_folders_that_cannot_be_used(tmp_path: Path) -> None:
    sample_labels(tmp_path / "images")
    with pytest.raises(LabelError, match=r"has no data\.yaml and no classes\.txt"):
        read_labels(tmp_path, format="yolo")
    (tmp_path / "data.yaml").write_text("train: images\nnc: 3\nnames: [a, b]\n")
    with pytest.raises(LabelError, match="nc is 3, but there are 2 names"):
        read_labels(tmp_path)
    (tmp_path / "data.yaml").write_text("train: images\nnames: [a, b]\n")
    with pytest.raises(LabelError, match="has no labels for the images"):
        read_labels(tmp_path)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text(GOOD["yolo"])
    (tmp_path / "labels/lost.txt").write_text(GOOD["yolo"])
    with pytest.raises(LabelError, match=r"labels/lost\.txt: there is no image of that name"):
        read_labels(tmp_path)
    (tmp_path / "data.yaml").write_text("train: [images, none]\nnames: [a, b]\n")
    with pytest.raises(LabelError, match=r"data\.yaml, none: there is no such folder"):
        read_labels(tmp_path)


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names: !!python/object/apply:os.system ['touch /tmp/owned']\n")
    with pytest.raises(LabelError, match="cannot be read as YAML"):
        read_labels(tmp_path)


def test_vector_files_that_cannot_be_used(tmp_path: Path) -> None:
    labels = sample_labels(tmp_path / "images")
    scenes = [image.uri for image in labels.images]
    path = ground('{"type": "Point", "coordinates": [3.00029, 52.35016]}')(tmp_path)
    with pytest.raises(LabelError, match="give the scenes that it labels with --scenes"):
        read_labels(path)
    with pytest.raises(LabelError, match="no column 'kind'; its columns are label"):
        read_labels(path, scenes=scenes, label_column="kind")
    text = path.read_text()
    path.write_text(text.replace("52.35016", "12.35026"))
    with pytest.raises(LabelError, match="none of its 2 objects lies in the scenes"):
        read_labels(path, scenes=scenes)
    path.write_text(text[: len(text) // 2])
    with pytest.raises(LabelError, match="cannot be read as a vector file"):
        read_labels(path, scenes=scenes)
