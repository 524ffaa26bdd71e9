"""ONNX graphs: layouts recognised and decoded, metadata read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import geosod
from geosod.detectors.adapters.layouts import LAYOUTS
from geosod.detectors.packing import pack
from geosod.detectors.packing.options import PackOptions
from geosod.errors import ModelError
from tests.detectors.graphs import BOXES, CLASSES, HEIGHT, LABELS, PUBLISHED, WIDTH, build, expected_scores, write

COLOUR = (204, 153, 102)


def image_of(colour: tuple[int, int, int], width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8)[:, None, None], (3, height, width)).copy()


def packed_detector(
    tmp_path: Path, layout: str, *, options: dict[str, Any] | None = None, backend: str = "onnxruntime", **graph: Any
):
    bundle = pack(
        write(tmp_path / f"{layout}.onnx", layout, **graph),
        tmp_path / "bundle",
        PackOptions(classes=CLASSES, **(options or {})),
    ).bundle
    return geosod.load_model(bundle.folder, threshold=0.2, backend=backend)


def check(
    found: geosod.Detections, layout: str, boxes: np.ndarray, colour: tuple[int, int, int], tolerance: float = 1e-4
) -> None:
    order = np.argsort(found.boxes[:, 0])
    scores = expected_scores(layout, tuple(value / 255 for value in colour))
    assert found.labels[order].tolist() == list(LABELS)
    np.testing.assert_allclose(found.boxes[order], boxes, atol=1e-3)
    np.testing.assert_allclose(found.scores[order], scores, atol=tolerance)


def test_every_layout_has_a_published_graph() -> None:
    # "labelled" is that of programs of torch.export.
    assert set(PUBLISHED) == set(LAYOUTS) - {"labelled"}


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("layout", PUBLISHED)
def test_layouts_are_recognised_and_decoded(layout, backend, tmp_path) -> None:
    detector = packed_detector(tmp_path, layout, backend=backend)
    assert detector.execution.backend == backend and detector.execution.precision == "fp32"
    assert detector.card.parameters["layout"] == layout
    # OpenVINO averages bytes less exactly than the float32 that they become.
    check(detector.detect(image_of(COLOUR)), layout, BOXES, COLOUR, 1e-3 if backend == "openvino" else 1e-4)


@pytest.mark.parametrize("layout", PUBLISHED)
def test_larger_images_of_odd_sides_are_resized_and_boxes_come_back(layout, tmp_path) -> None:
    width, height = 509, 381
    detector = packed_detector(tmp_path, layout)
    found = detector.detect(image_of(COLOUR, width, height))
    spec = detector.card.input
    if spec.resize == "stretch":
        boxes = BOXES * [width / WIDTH, height / HEIGHT, width / WIDTH, height / HEIGHT]
        check(found, layout, boxes, COLOUR)
        return
    ratio = min(WIDTH / width, HEIGHT / height)
    inner = (int(width * ratio), int(height * ratio)) if spec.corner == "top-left" else (320, round(height * ratio))
    left, top = (0, 0) if spec.corner == "top-left" else ((WIDTH - inner[0]) // 2, (HEIGHT - inner[1]) // 2)
    boxes = (BOXES - [left, top, left, top]) * np.tile([width / inner[0], height / inner[1]], 2)
    order = np.argsort(found.boxes[:, 0])
    assert found.labels[order].tolist() == list(LABELS)
    np.testing.assert_allclose(found.boxes[order], np.clip(boxes, 0, [width, height] * 2), atol=1e-3)


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("layout", ["yolov5", "yolov8", "yolox", "rtdetr", "ppyoloe", "tensorflow", "torchvision"])
def test_a_tile_does_not_depend_on_its_batch(layout, batch, tmp_path) -> None:
    """Also where the graph has a batch of its own, or is made for single images."""
    bundle = pack(
        write(tmp_path / "x.onnx", layout, batch=batch), tmp_path / "bundle", PackOptions(classes=CLASSES)
    ).bundle
    detector = geosod.load_model(bundle.folder, threshold=0.2, batch=3)
    colours = [(204, 153, 102), (90, 120, 250), (255, 255, 255), (130, 60, 70), (80, 200, 90)]
    found = detector.detect(np.stack([image_of(colour) for colour in colours]))
    for colour, boxes in zip(colours, found, strict=True):
        wanted = sorted(s for s in expected_scores(layout, tuple(v / 255 for v in colour)) if s >= 0.2)
        np.testing.assert_allclose(sorted(boxes.scores), wanted, atol=1e-3)
    from geosod.testing import check_detector

    check_detector(detector, np.stack([image_of(colour) for colour in colours]))


def test_graphs_that_take_any_size_run_on_tiles_as_they_are(tmp_path) -> None:
    detector = packed_detector(tmp_path, "yolov8", free_size=True, options={"tile": (WIDTH, HEIGHT)})
    assert detector.card.input.size is None and detector.card.tile_size == (WIDTH, HEIGHT)
    check(detector.detect(image_of(COLOUR)), "yolov8", BOXES, COLOUR)


def test_ultralytics_metadata_pack_with_no_further_question(tmp_path) -> None:
    metadata = {
        "description": "Ultralytics YOLO11n model trained on boats.yaml",
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "version": "8.4.190",
        "task": "detect",
        "stride": "32",
        "batch": "1",
        "imgsz": f"[{HEIGHT}, {WIDTH}]",
        "names": "{0: 'boat', 1: 'car', 2: 'tank', 3: 'plane'}",
        "args": "{'batch': 1, 'half': False, 'nms': False}",
    }
    source = write(tmp_path / "yolo11n.onnx", "yolov8", free_size=True, metadata=metadata)
    card = pack(source, tmp_path / "bundle").bundle.card
    assert card.classes == ("boat", "car", "tank", "plane") and card.license == "AGPL-3.0-only"
    assert card.tile_size == (WIDTH, HEIGHT) and card.nms_iou == 0.7 and "boats" in card.description
    assert card.input.fill == pytest.approx(114 / 255)
    # A model file is packed into the cache by itself.
    found = geosod.load_model(source, threshold=0.2).detect(image_of(COLOUR))
    check(found, "yolov8", BOXES, COLOUR)


def test_ultralytics_end_to_end_exports_are_not_suppressed_again(tmp_path) -> None:
    metadata = {"task": "detect", "names": "{0:'a',1:'b',2:'c',3:'d'}", "imgsz": "[256, 320]", "end2end": "True"}
    card = pack(write(tmp_path / "yolo26n.onnx", "yolov10", metadata=metadata), tmp_path / "bundle").bundle.card
    assert card.parameters["layout"] == "yolov10" and card.nms_iou == 1.0


@pytest.mark.parametrize("task", ["segment", "obb", "pose"])
def test_other_tasks_are_refused(task, tmp_path) -> None:
    source = write(tmp_path / "x.onnx", "yolov8", metadata={"task": task, "names": "{0: 'a'}"})
    with pytest.raises(ModelError, match=f"task is '{task}'"):
        pack(source, tmp_path / "bundle")


def test_deepness_metadata_pack_with_no_further_question(tmp_path) -> None:
    metadata = {
        "model_type": json.dumps("Detector"),
        "class_names": json.dumps({0: "a", 1: "b", 2: "c", 3: "d"}),
        "resolution": json.dumps(50),
        "tiles_overlap": json.dumps(40),
        "det_conf": json.dumps(0.35),
        "det_iou_thresh": json.dumps(0.55),
        "det_type": json.dumps("YOLO_Ultralytics"),
        "standardization_mean": json.dumps([0.1, 0.2, 0.3]),
        "standardization_std": json.dumps([0.5, 0.25, 1.0]),
    }
    source = write(tmp_path / "planes.onnx", "yolov8", metadata=metadata)
    card = pack(source, tmp_path / "bundle").bundle.card
    assert card.gsd == 0.5 and card.classes == CLASSES and card.overlap_px == (128, 102)
    assert (card.threshold, card.nms_iou) == (0.35, 0.55)
    found = geosod.load_model(tmp_path / "bundle", threshold=0.01).detect(image_of((255, 255, 255)))
    scores = found.scores[np.argsort(found.boxes[:, 0])]
    np.testing.assert_allclose(scores, [(1 - 0.1) / 0.5, (1 - 0.2) / 0.25, 0.7], rtol=2e-4)


def test_yolov6_of_deepness_ignores_objectness(tmp_path) -> None:
    model = build(
        "yolov5", metadata={"model_type": "Detector", "det_type": "YOLO_v6", "class_names": '["a","b","c","d"]'}
    )
    onnx.save(model, tmp_path / "x.onnx")
    assert pack(tmp_path / "x.onnx", tmp_path / "bundle").bundle.card.parameters["objectness"] is False


def test_what_cannot_be_read_is_asked_for(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"add --classes \(.*4 of them"):
        pack(write(tmp_path / "a.onnx", "yolov8"), tmp_path / "bundle")
    with pytest.raises(ModelError, match=r"add --layout \(.*detr if the last.*; --classes"):
        pack(write(tmp_path / "b.onnx", "detr"), tmp_path / "bundle")
    with pytest.raises(ModelError, match=r"3 names of classes are given, but the network has 4"):
        pack(tmp_path / "a.onnx", tmp_path / "bundle", PackOptions(classes=("a", "b", "c")))
    with pytest.raises(ModelError, match="layout 'yolov99' is unknown"):
        pack(tmp_path / "a.onnx", tmp_path / "bundle", PackOptions(classes=CLASSES, layout="yolov99"))
    with pytest.raises(ModelError, match="layout 'rtdetr' does not fit the outputs of this graph: output0"):
        pack(tmp_path / "a.onnx", tmp_path / "bundle", PackOptions(classes=CLASSES, layout="rtdetr"))
    with pytest.raises(ModelError, match="takes images of 320 x 256 only"):
        pack(tmp_path / "a.onnx", tmp_path / "bundle", PackOptions(classes=CLASSES, input={"size": (640, 640)}))
    with pytest.raises(ModelError, match="2 bands, but the network has 3"):
        pack(tmp_path / "a.onnx", tmp_path / "bundle", PackOptions(classes=CLASSES, bands=("red", "nir")))
    assert not (tmp_path / "bundle").exists(), "nothing is left of a bundle that was not made"


def test_a_folder_in_use_is_not_overwritten(tmp_path) -> None:
    source = write(tmp_path / "a.onnx", "yolov8")
    pack(source, tmp_path / "bundle", PackOptions(classes=CLASSES))
    with pytest.raises(ModelError, match="exists and is not empty"):
        pack(source, tmp_path / "bundle", PackOptions(classes=CLASSES))


def test_a_truncated_file_is_refused(tmp_path) -> None:
    source = write(tmp_path / "a.onnx", "yolov8")
    source.write_bytes(source.read_bytes()[:-500])
    with pytest.raises(ModelError, match="cannot be read as an ONNX graph"):
        pack(source, tmp_path / "bundle", PackOptions(classes=CLASSES))


def test_a_pickle_is_not_loaded(tmp_path) -> None:
    import os
    import pickle

    class Malicious:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    (tmp_path / "a.onnx").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ModelError, match="cannot be read as an ONNX graph"):
        pack(tmp_path / "a.onnx", tmp_path / "bundle", PackOptions(classes=CLASSES))
    assert not (tmp_path / "executed").exists()


def test_an_unknown_operator_is_refused(tmp_path) -> None:
    model = build("yolov8")
    model.graph.node[0].op_type, model.graph.node[0].domain = "Backdoor", "com.example"
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ModelError, match=r"cannot load the graph.*Backdoor"):
        pack(tmp_path / "a.onnx", tmp_path / "bundle", PackOptions(classes=CLASSES))


def external(tmp_path: Path, location: str) -> Path:
    """A graph in `tmp_path/model` whose weights lie where `location` says."""
    folder = tmp_path / "model"
    folder.mkdir()
    onnx.save(build("yolov8"), folder / "a.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = onnx.load(folder / "a.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    onnx.save(model, folder / "a.onnx")
    return folder


def test_weights_beside_the_graph_become_part_of_the_bundle(tmp_path) -> None:
    folder = external(tmp_path, "weights.bin")
    bundle = pack(folder / "a.onnx", tmp_path / "bundle", PackOptions(classes=CLASSES)).bundle
    (folder / "weights.bin").unlink()
    check(geosod.load_model(bundle.folder, threshold=0.2).detect(image_of(COLOUR)), "yolov8", BOXES, COLOUR)


@pytest.mark.parametrize("kind", ["above", "absolute", "link", "missing"])
def test_weights_outside_the_folder_are_refused(kind, tmp_path) -> None:
    location = {"above": "../weights.bin", "absolute": str(tmp_path / "weights.bin"), "missing": "other.bin"}
    folder = external(tmp_path, location.get(kind, "linked.bin"))
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    if kind == "link":
        (folder / "linked.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(ModelError, match="not a file in its own folder"):
        pack(folder / "a.onnx", tmp_path / "bundle", PackOptions(classes=CLASSES))


def test_changed_weights_and_cards_that_disagree_are_refused(tmp_path) -> None:
    bundle = pack(write(tmp_path / "a.onnx", "yolov8"), tmp_path / "b", PackOptions(classes=CLASSES)).bundle
    item = json.loads((bundle.folder / "model.json").read_text())
    item["properties"]["geosod:parameters"]["layout"] = "rtdetr"
    (bundle.folder / "model.json").write_text(json.dumps(item))
    with pytest.raises(ModelError, match="are not of layout 'rtdetr'"):
        geosod.load_model(bundle.folder)
    write(bundle.folder / "model.onnx", "yolov5")
    with pytest.raises(ModelError, match="its card states"):
        geosod.load_model(bundle.folder)
    with pytest.raises(ModelError, match="its card states"):
        bundle.read_weights()


def test_a_graph_with_an_unknown_input_is_refused(tmp_path) -> None:
    model = build("yolov8")
    model.graph.input.append(onnx.helper.make_tensor_value_info("prompt", onnx.TensorProto.FLOAT, [1, 4]))
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ModelError, match="an input 'prompt' besides the images"):
        pack(tmp_path / "a.onnx", tmp_path / "bundle", PackOptions(classes=CLASSES))


def test_half_precision_graphs_get_what_they_take(tmp_path) -> None:
    model = build("yolov8")
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(model, tmp_path / "a.onnx")
    bundle = pack(tmp_path / "a.onnx", tmp_path / "bundle", PackOptions(classes=CLASSES)).bundle
    found = geosod.load_model(bundle.folder, threshold=0.2).detect(image_of(COLOUR))
    np.testing.assert_allclose(sorted(found.scores), sorted(v / 255 for v in COLOUR), atol=1e-3)


def test_a_network_of_one_class(tmp_path) -> None:
    """(1, 5, N): the smallest output of a YOLO."""
    model = build("yolov8", metadata={"task": "detect", "names": "{0: 'palm'}", "imgsz": "[256, 320]"})
    names = [init.name for init in model.graph.initializer]
    for name in ("base0", "add0"):
        tensor = model.graph.initializer[names.index(name)]
        array = onnx.numpy_helper.to_array(tensor)
        rows = array.reshape((3, 8, -1) if name == "add0" else (8, -1))
        one = rows[..., :4, :], rows[..., 4:, :].max(axis=-2, keepdims=True)
        kept = np.concatenate(one, axis=-2)
        tensor.CopyFrom(onnx.numpy_helper.from_array(kept.reshape((3, -1) if name == "add0" else -1), name))
    shape = model.graph.initializer[names.index("shape0")]
    count = onnx.numpy_helper.to_array(shape)[2]
    shape.CopyFrom(onnx.numpy_helper.from_array(np.array([-1, 5, count], np.int64), "shape0"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    onnx.save(model, tmp_path / "palm.onnx")
    found = geosod.load_model(tmp_path / "palm.onnx", threshold=0.2).detect(image_of(COLOUR))
    assert len(found) == 3 and set(found.labels) == {0}


def test_a_column_that_is_no_class_must_be_named(tmp_path) -> None:
    """Some versions of RF-DETR count from 1, and some leave a column at the end: a guess would shift every label."""
    with pytest.raises(ModelError, match=r"3 names .* has 4; .*one that stands for no class included, as unused"):
        pack(write(tmp_path / "a.onnx", "rfdetr"), tmp_path / "bundle", PackOptions(classes=CLASSES[:3]))


def test_outputs_of_a_segmentation_model_are_not_taken_for_boxes(tmp_path) -> None:
    model = build("yolov8")
    model.graph.node.append(onnx.helper.make_node("Identity", ["means"], ["masks"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("masks", onnx.TensorProto.FLOAT, [None, 3]))
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ModelError, match=r"add --layout .*its outputs output0 \[1, 8, 1680\], masks \[1, 3\] fit none"):
        pack(tmp_path / "a.onnx", tmp_path / "bundle", PackOptions(classes=CLASSES))
