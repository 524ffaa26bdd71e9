"""Every reader against every writer, and against other programs."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from itertools import product
from pathlib import Path

import geopandas
import numpy as np
import pytest

from geosod.datasets.class_map import rename_classes
from geosod.datasets.formats import FORMATS, find_format
from geosod.datasets.labels import ANY_CLASS, Labels
from geosod.datasets.read import read_labels
from geosod.datasets.scale import write_scaled
from geosod.datasets.slice import Slicing, write_slices
from geosod.datasets.write import write_labels, write_parts
from geosod.errors import LabelError, OutputError
from tests.datasets.samples import NAMES, XVIEW_NAMES, rows, sample_labels, sizes

VECTOR = ("geojson", "geoparquet", "gpkg")
#: Formats that leave out boxes that do not count.
WITHOUT_IGNORED = ("yolo", "xview")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Labels:
    return sample_labels(tmp_path_factory.mktemp("images") / "images")


def linked(labels: Labels, folder: Path) -> Path:
    """A folder with links to the images, as xView has them."""
    for image in labels.images:
        path = folder / f"{image.id}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(Path(image.uri).resolve())
    return folder


def renamed(labels: Labels, old: tuple[str, ...], new: tuple[str, ...]) -> Labels:
    return rename_classes(labels, {a: b for a, b in zip(old, new, strict=True) if a in labels.classes})


def written(labels: Labels, name: str, folder: Path) -> tuple[Labels, tuple[str, ...]]:
    """Labels as a format gives them back, with the class names of `NAMES`."""
    if name == "xview":
        labels = renamed(labels, NAMES, XVIEW_NAMES)
    path = folder / f"{name}{FORMATS[name].suffix}"
    notes = write_labels(labels, path, format=name, image_files="link" if FORMATS[name].folder else None)
    scenes = [image.uri for image in labels.images] if name in VECTOR else ()
    images = linked(labels, folder / "images") if name == "xview" else None
    assert find_format(path).name == name
    reading = read_labels(path, scenes=scenes, images=images)
    assert not reading.problems.count
    found = reading.labels
    if name == "xview":
        found = renamed(found, XVIEW_NAMES, NAMES)
    return found, notes


def expected(labels: Labels, name: str) -> list[tuple[object, ...]]:
    """What a format can express of labels; vector files have the names of scenes, without folders."""
    if name in VECTOR:
        labels = labels.with_columns(images=[replace(one, id=Path(one.id).name) for one in labels.images])
    kept = labels[~labels.ignore] if name in WITHOUT_IGNORED else labels
    found = rows(kept)
    if name == "citypersons":
        found = sorted((image, "any" if skip else label, skip, *box) for image, label, skip, *box in found)
    return found


@pytest.fixture(scope="module")
def first_trip(sample: Labels, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Labels]:
    """The sample as a format gives it back, without classes that it has besides."""

    @lru_cache
    def trip(name: str) -> Labels:
        found, _ = written(sample, name, tmp_path_factory.mktemp(name))
        return rename_classes(found, {other: None for other in found.classes if other not in NAMES})

    return trip


@pytest.mark.parametrize(("first", "second"), list(product(FORMATS, FORMATS)))
def test_every_reader_round_trips_through_every_writer(
    sample: Labels, first_trip: Callable[[str], Labels], first: str, second: str, tmp_path: Path
) -> None:
    once = first_trip(first)
    assert rows(once) == expected(sample, first)
    twice, _ = written(once, second, tmp_path)
    assert rows(twice) == expected(once, second)
    # xView names images by their objects alone.
    named = {image for image, *_ in rows(once)} if second == "xview" else set(sizes(once))
    assert sorted(sizes(twice).values()) == sorted(size for id_, size in sizes(once).items() if id_ in named)


@pytest.mark.parametrize("name", FORMATS)
def test_images_without_boxes_stay_in_the_set(sample: Labels, name: str, tmp_path: Path) -> None:
    found, _ = written(sample, name, tmp_path)
    assert ("b" in sizes(found)) == (name != "xview")


@pytest.mark.parametrize("name", ["coco", "tinyperson", *VECTOR])
def test_what_these_formats_keep_besides(sample: Labels, name: str, tmp_path: Path) -> None:
    found, notes = written(sample, name, tmp_path)
    order = np.argsort(found.ids)
    assert not notes
    assert found.ids[order].tolist() == sample.ids.tolist()
    assert found.truncated[order].tolist() == sample.truncated.tolist()
    assert found.area[order] == pytest.approx(sample.area, rel=1e-6)
    if name not in VECTOR:
        assert found.images == sample.images and found.class_ids == sample.class_ids


def test_crowds_supercategories_and_numbers_survive_coco(sample: Labels, tmp_path: Path) -> None:
    labels = sample.with_columns(
        crowd=np.arange(len(sample)) == 3,
        supercategories=("motor", "", "thing"),
        class_ids=(7, 3, 90),
        ids=sample.ids + 10**9,
    )
    found, _ = written(labels, "coco", tmp_path)
    assert found.crowd.tolist() == labels.crowd.tolist() and found.supercategories == labels.supercategories
    assert found.class_ids == (7, 3, 90) and found.ids.tolist() == labels.ids.tolist()


def test_pycocotools_reads_the_same_boxes(sample: Labels, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    write_labels(sample, tmp_path / "a.json")
    with contextlib.redirect_stdout(io.StringIO()):
        oracle = coco.COCO(str(tmp_path / "a.json"))
    for row in range(len(sample)):
        (annotation,) = oracle.loadAnns([int(sample.ids[row])])
        x, y, w, h = annotation["bbox"]
        assert [x, y, x + w, y + h] == sample.boxes[row].tolist()
        (image,) = oracle.loadImgs([annotation["image_id"]])
        assert Path(image["file_name"]).stem == Path(sample.images[int(sample.image[row])].uri).stem
        if sample.labels[row] != ANY_CLASS:
            (category,) = oracle.loadCats([annotation["category_id"]])
            assert category["name"] == NAMES[int(sample.labels[row])]


def test_points_survive_where_a_format_has_them(tmp_path: Path) -> None:
    points = sample_labels(tmp_path / "images", points=True, flags=False)
    for name in ("coco", *VECTOR):
        found, notes = written(points, name, tmp_path)
        assert found.points and not notes and rows(found, decimals=4) == expected(points, name)
    found, notes = written(points, "voc", tmp_path)
    assert not found.points and any("points" in note for note in notes)


def test_voc_counts_pixels_from_one(tmp_path: Path) -> None:
    """A box of the whole image is 1, 1, width, height."""
    labels = sample_labels(tmp_path / "images")
    whole = Labels(images=labels.images[:1], classes=["a & b"], image=[0], boxes=[[0, 0, 96, 64]], labels=[0])
    write_labels(whole, tmp_path / "voc", format="voc")
    text = (tmp_path / "voc/Annotations/a.xml").read_text()
    corners = [text.partition(f"<{tag}>")[2].partition("<")[0] for tag in ("xmin", "ymin", "xmax", "ymax")]
    assert corners == ["1", "1", "96", "64"] and "a &amp; b" in text


def test_ground_coordinates_are_those_of_geopandas(sample: Labels, tmp_path: Path) -> None:
    write_labels(sample, tmp_path / "a.gpkg", crs="EPSG:32631")
    frame = geopandas.read_file(tmp_path / "a.gpkg").sort_values("annotation_id")
    place = np.array([500_000 + 200 * k for k in range(3)])[sample.image]
    left, top = place + 0.5 * sample.boxes[:, 0], 5_800_000 - 0.5 * sample.boxes[:, 1]
    assert frame.bounds["minx"].to_numpy() == pytest.approx(left) and frame.bounds["maxy"].to_numpy() == pytest.approx(
        top
    )
    assert frame.crs.to_epsg() == 32631


def test_yolo_links_images_or_copies_them(sample: Labels, tmp_path: Path) -> None:
    write_labels(sample, tmp_path / "links", format="yolo")
    write_labels(sample, tmp_path / "copies", format="yolo", image_files="copy")
    assert (tmp_path / "links/images/a.tif").is_symlink()
    copied = tmp_path / "copies/images/sub/c.tif"
    assert not copied.is_symlink() and copied.read_bytes() == Path(sample.images[2].uri).read_bytes()
    write_labels(sample, tmp_path / "none", format="yolo", image_files="none")
    found = read_labels(tmp_path / "none", images=Path(sample.images[0].uri).parent)
    # Labels lie beside their images there, not in a folder of their own.
    assert len(found.labels.images) == 3


def test_yolo_subsets_lists_and_outlines(tmp_path: Path) -> None:
    sample_labels(tmp_path / "train" / "images")
    sample_labels(tmp_path / "valid" / "images")
    for part in ("train", "valid"):
        (tmp_path / part / "labels").mkdir()
        (tmp_path / part / "labels" / "a.txt").write_text("1 0.5 0.5 0.25 0.5\n")
        (tmp_path / part / "labels" / "b.txt").write_text("0 0 0 0.5 0 0.5 0.5\n")
    # Exports name folders from one below their own.
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 2\nnames: [x, y]\n")
    whole, part = read_labels(tmp_path), read_labels(tmp_path / "data.yaml", subset="val")
    assert len(whole.labels.images) == 6 and len(part.labels.images) == 3
    assert {image.id for image in part.labels.images} == {"valid/a", "valid/b", "valid/sub/c"}
    assert part.labels.boxes.tolist() == [[36, 16, 60, 48], [0, 0, 32, 32]]
    assert part.labels.area.tolist() == [24 * 32, 512] and part.labels.labels.tolist() == [1, 0]
    with pytest.raises(LabelError, match="no subset 'test', but train, val"):
        read_labels(tmp_path, subset="test")


def test_a_devkit_subset_of_voc(sample: Labels, tmp_path: Path) -> None:
    write_labels(sample, tmp_path / "voc", format="voc")
    (tmp_path / "voc/ImageSets/Main").mkdir(parents=True)
    (tmp_path / "voc/ImageSets/Main/val.txt").write_text("a\nsub/c\nmissing\n")
    reading = read_labels(tmp_path / "voc", subset="val", invalid="skip")
    assert [image.id for image in reading.labels.images] == ["a", "sub/c"]
    assert "Main/val.txt, missing: there is no missing.xml" in str(reading.problems.found[0])


def test_dota_takes_the_ground_sample_distance_and_upright_boxes(tmp_path: Path) -> None:
    sample_labels(tmp_path / "images")
    (tmp_path / "labelTxt").mkdir()
    lines = "imagesource:GoogleEarth\ngsd:0.25\n10 0 20 10 10 20 0 10 ship 1\n0.0 0.0 4 0 4 2 0 2 large-vehicle 0\n"
    (tmp_path / "labelTxt/a.txt").write_text(lines)
    labels = read_labels(tmp_path).labels
    assert labels.boxes.tolist() == [[0, 0, 20, 20], [0, 0, 4, 2]] and labels.area.tolist() == [200, 8]
    assert labels.classes == ("large-vehicle", "ship") and labels.ignore.tolist() == [True, False]
    # The file's own georeference comes first.
    assert labels.images[0].metres_per_pixel == pytest.approx((0.5, 0.5), rel=1e-2)


def test_visdrone_has_ignored_regions_and_objects(tmp_path: Path) -> None:
    sample_labels(tmp_path / "images")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/a.txt").write_text("1,2,3,4,1,4,1,2\n5,6,7,8,0,0,0,0,\n5,6,7,8,0,11,0,0\n")
    labels = read_labels(tmp_path).labels
    assert labels.labels.tolist() == [3, ANY_CLASS, 10] and labels.ignore.tolist() == [False, True, True]
    assert labels.truncated.tolist() == [True, False, False] and labels.boxes[0].tolist() == [1, 2, 4, 6]
    assert labels.supercategories[labels.classes.index("van")] == "car"


def test_tinyperson_ignores_what_is_uncertain(tmp_path: Path) -> None:
    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2], "uncertain": False, "logo": False}
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 10, "height": 10}],
        "categories": [{"id": 1, "name": "sea_person"}],
        "annotations": [entry, entry | {"id": 2, "uncertain": True}, entry | {"id": 3, "ignore": True}],
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    reading = read_labels(tmp_path / "a.json")
    assert reading.format == "tinyperson" and reading.labels.ignore.tolist() == [False, True, True]
    document["images"][0]["corner"] = [0, 0, 10, 10]
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(LabelError, match="image 1: is a part of a larger image"):
        read_labels(tmp_path / "a.json")


def test_citypersons_groups_are_crowds(tmp_path: Path) -> None:
    folder = tmp_path / "gtBboxCityPersons/train/ulm"
    folder.mkdir(parents=True)
    objects = [{"instanceId": 9, "bbox": [1, 1, 2, 4], "bboxVis": [1, 1, 2, 2], "label": "pedestrian"}]
    objects += [
        {"instanceId": 10, "bbox": [5, 1, 9, 4], "label": "person group"},
        {"bbox": [0, 0, 9, 9], "label": "ignore"},
    ]
    text = json.dumps({"imgHeight": 64, "imgWidth": 96, "objects": objects})
    (folder / "ulm_1_gtBboxCityPersons.json").write_text(text)
    labels = read_labels(tmp_path).labels
    assert labels.images[0].id == "train/ulm/ulm_1" and labels.ids.tolist() == [9, 10, 3]
    assert labels.crowd.tolist() == [False, True, False] and labels.ignore.tolist() == [False, False, True]


def test_nothing_is_overwritten_unasked_and_nothing_is_left_half(sample: Labels, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(OutputError, match="exists; use --overwrite"):
        write_labels(sample, tmp_path / "mine", format="voc")
    with pytest.raises(OutputError, match="was not written by geosod"):
        write_labels(sample, tmp_path / "mine", format="voc", overwrite=True)
    write_labels(sample, tmp_path / "ours", format="voc")
    write_labels(sample, tmp_path / "ours", format="yolo", overwrite=True)
    assert not (tmp_path / "ours/Annotations").exists() and (tmp_path / "ours/data.yaml").exists()
    with pytest.raises(LabelError, match="class 'car' is none of xView's"):
        write_labels(sample, tmp_path / "x.geojson", format="xview")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "ours"]


def test_a_folder_with_the_images_of_the_labels_is_not_replaced(sample: Labels, tmp_path: Path) -> None:
    write_labels(sample, tmp_path / "set", format="yolo", image_files="copy")
    own = read_labels(tmp_path / "set").labels
    slicing = Slicing((32, 32), (0, 0))
    for write in (
        lambda: write_labels(own, tmp_path / "set", format="voc", overwrite=True),
        lambda: write_parts({"a": own}, tmp_path / "set", overwrite=True),
        lambda: write_slices(own, tmp_path / "set", slicing, overwrite=True),
        lambda: write_scaled(own, tmp_path / "set", 0.5, overwrite=True),
    ):
        with pytest.raises(OutputError, match="which would be lost"):
            write()
    assert (tmp_path / "set/images/a.tif").is_file()


def test_an_identifier_cannot_lead_out_of_the_output(sample: Labels, tmp_path: Path) -> None:
    images = [sample.images[0].__class__("../../evil", sample.images[0].uri, 96, 64), *sample.images[1:]]
    for name in ("voc", "yolo", "dota", "visdrone", "citypersons"):
        with pytest.raises(LabelError, match="cannot name a file"):
            write_labels(sample.with_columns(images=images), tmp_path / "out", format=name)
    assert not list(tmp_path.iterdir())
