"""What users of other programs have reported about their labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from geosod.datasets.check import check_labels
from geosod.datasets.read import read_labels
from geosod.datasets.slice import Slicing, slice_labels
from geosod.datasets.write import write_labels
from geosod.errors import LabelError
from tests.datasets.samples import sample_labels


def coco(path: Path, **changes: Any) -> Path:
    document: dict[str, Any] = {
        "images": [{"id": 5, "file_name": "a.tif", "width": 96, "height": 64}],
        "annotations": [{"id": 1, "image_id": 5, "category_id": 1, "bbox": [1, 2, 30, 4]}],
        "categories": [{"id": 1, "name": "car"}],
    }
    path.write_text(json.dumps(document | changes))
    return path


def test_category_ids_with_gaps_become_positions(tmp_path: Path) -> None:
    """Numbers from 1, or with gaps, that are written to YOLO as they are name other classes there."""
    sample_labels(tmp_path)
    categories = [{"id": 0, "name": "x"}, {"id": 3, "name": "y"}, {"id": 90, "name": "z"}]
    annotations = [{"id": k, "image_id": 5, "category_id": k, "bbox": [1, 2, 30, 4]} for k in (0, 3, 90)]
    labels = read_labels(coco(tmp_path / "a.json", categories=categories, annotations=annotations)).labels
    write_labels(labels, tmp_path / "yolo", format="yolo")
    assert [line.split()[0] for line in (tmp_path / "yolo/labels/a.txt").read_text().splitlines()] == ["0", "1", "2"]
    assert read_labels(tmp_path / "yolo").labels.classes == ("x", "y", "z")


def test_boxes_without_height_are_reported_and_harm_nothing(tmp_path: Path) -> None:
    """Both COCO and VisDrone have some."""
    entry = {"id": 1, "image_id": 5, "category_id": 1, "bbox": [10, 20, 5.5, 0.0], "area": 0.0}
    reading = read_labels(coco(tmp_path / "a.json", annotations=[entry]))
    assert {one.kind for one in check_labels(reading, open_images=False).findings} >= {"zero_area"}
    assert len(slice_labels(reading.labels, Slicing((64, 64), (0, 0)))) == 1


def test_boxes_thinner_than_a_pixel_are_reported(tmp_path: Path) -> None:
    """yolov5#4528: a few of them spoilt the estimated anchors."""
    boxes = [[10, 20, 30, 40], [10, 20, 1e-6, 14], [50, 20, 5, 0.99], [50, 20, 1, 1]]
    entries = [{"id": k, "image_id": 5, "category_id": 1, "bbox": box} for k, box in enumerate(boxes, 1)]
    findings = check_labels(read_labels(coco(tmp_path / "a.json", annotations=entries)), open_images=False).findings
    assert [one.count for one in findings if one.kind == "thin"] == [2]


def test_numbers_and_flags_that_are_written_as_text(tmp_path: Path) -> None:
    """pylabel#6; pandas writes 1.0 where an id may be missing."""
    entry = {"id": 1, "image_id": 5, "bbox": ["1", "2", "30", "4"]}
    entries = [entry | {"category_id": id_, "iscrowd": crowd} for id_, crowd in (("1", "0"), (1.0, "1"), (1, 1.0))]
    labels = read_labels(coco(tmp_path / "a.json", annotations=entries)).labels
    assert labels.labels.tolist() == [0, 0, 0] and labels.crowd.tolist() == [False, True, True]
    ignored = [entry | {"category_id": 1, "ignore": value} for value in ("false", "0.0", "true")]
    assert read_labels(coco(tmp_path / "b.json", annotations=ignored)).labels.ignore.tolist() == [False, False, True]


def test_a_file_in_another_encoding_says_so(tmp_path: Path) -> None:
    """yolov5#3141: it is not incomplete."""
    path = coco(tmp_path / "a.json", categories=[{"id": 1, "name": "bues"}])
    path.write_bytes(path.read_bytes().replace(b"bues", "büs".encode("latin1")))
    with pytest.raises(LabelError, match=r"not text in UTF-8.*save it as UTF-8"):
        read_labels(path)


def test_images_that_differ_in_the_suffix_keep_their_boxes_in_yolo(tmp_path: Path) -> None:
    """cvat#7523: a label file belongs to all images of its stem; boxes of both were lost on reading."""
    names = ["a.tif", "a.png", "a_tif.tif"]
    for name in names:
        Image.new("RGB", (96, 64)).save(tmp_path / name)
    images = [{"id": k, "file_name": name, "width": 96, "height": 64} for k, name in enumerate(names, 1)]
    entries = [{"id": k, "image_id": k, "category_id": 1, "bbox": [1, 2, 10 * k, 4]} for k in (1, 2, 3)]
    labels = read_labels(coco(tmp_path / "a.json", images=images, annotations=entries)).labels
    write_labels(labels, tmp_path / "yolo", format="yolo")
    found = read_labels(tmp_path / "yolo").labels
    files = [Path(found.images[i].uri).resolve().name for i in found.image]
    widths = dict(zip(files, found.boxes[:, 2] - found.boxes[:, 0], strict=True))
    assert len(found.images) == 3 and widths == pytest.approx({"a.tif": 10, "a.png": 20, "a_tif.tif": 30})


@pytest.mark.parametrize("bbox", [[], None])
def test_outlines_give_a_box_where_there_is_none(tmp_path: Path, bbox: Any) -> None:
    entry = {"id": 1, "image_id": 5, "category_id": 1, "segmentation": [[1, 2, 9, 2, 9, 8], [20, 3, 21, 3, 21, 4]]}
    labels = read_labels(coco(tmp_path / "a.json", annotations=[entry | {"bbox": bbox}]))
    assert labels.labels.boxes.tolist() == [[1, 2, 21, 8]]


def test_fractions_and_other_words_in_flags_of_voc(tmp_path: Path) -> None:
    (tmp_path / "Annotations").mkdir()
    box = "<bndbox><xmin>45.7000007</xmin><ymin>1.5</ymin><xmax>60</xmax><ymax>20</ymax></bndbox>"
    flags = ["<truncated>0.0597</truncated>", "<truncated>Unspecified</truncated><difficult>true</difficult>", ""]
    objects = "".join(f"<object><name>car</name>{flag}{box}</object>" for flag in flags)
    size = "<size><width>96</width><height>64</height></size>"
    (tmp_path / "Annotations/a.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    labels = read_labels(tmp_path).labels
    assert labels.truncated.tolist() == [True, False, False] and labels.ignore.tolist() == [False, True, False]
    assert labels.boxes[0].tolist() == pytest.approx([44.7000007, 0.5, 60, 20])


def test_names_of_other_machines_in_voc(tmp_path: Path) -> None:
    """The name inside may be that of another image of the set."""
    sample_labels(tmp_path / "JPEGImages")
    (tmp_path / "Annotations").mkdir()
    for name, inside in (("a", "C:\\data\\b.tif"), ("b", "/home/x/else.jpg")):
        (tmp_path / f"Annotations/{name}.xml").write_text(f"<annotation><filename>{inside}</filename></annotation>")
    labels = read_labels(tmp_path, format="voc").labels
    assert [(Path(one.uri).name, one.width) for one in labels.images] == [("a.tif", 96), ("b.tif", 64)]


def test_images_that_differ_in_folder_or_suffix_alone(tmp_path: Path) -> None:
    names = ["x/1.png", "y/1.png", "2.png", "2.jpg"]
    images = [{"id": k, "file_name": name, "width": 9, "height": 9} for k, name in enumerate(names)]
    labels = read_labels(coco(tmp_path / "a.json", images=images, annotations=[])).labels
    assert [one.id for one in labels.images] == ["x/1", "y/1", "2.png", "2.jpg"]


@pytest.mark.parametrize("folder", ["images", "Images", "data", "images/train"])
def test_images_are_found_where_exports_have_them(tmp_path: Path, folder: str) -> None:
    sample_labels(tmp_path / folder)
    (tmp_path / "annotations").mkdir()
    labels = read_labels(coco(tmp_path / "annotations/instances_train.json")).labels
    assert labels.images[0].uri == str(tmp_path / folder / "a.tif")


def test_windows_line_ends_and_byte_order_marks(tmp_path: Path) -> None:
    sample_labels(tmp_path / "images")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_bytes(b"\xef\xbb\xbf0 .5 .5 .25 .5\r\n\r\n")
    (tmp_path / "classes.txt").write_text("car\r\nbus\r\n")
    labels = read_labels(tmp_path).labels
    assert labels.boxes.tolist() == [[36, 16, 60, 48]] and labels.classes == ("car", "bus")


def test_classes_that_differ_in_case_are_two(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "Car"}, {"id": 2, "name": "car", "supercategory": "car"}]
    labels = read_labels(coco(tmp_path / "a.json", categories=categories)).labels
    assert labels.classes == ("Car", "car") and labels.supercategories == ("", "")
