"""The networks of the zoo by ONNX Runtime and OpenVINO: what torch finds, from graphs that hold everything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import geosod
from geosod.demo.layout import make_layout
from geosod.demo.render import render
from geosod.detectors import open_bundle
from geosod.detectors.adapters.zoo import boxes_of, read_network
from geosod.detectors.agreement import agreement
from geosod.detectors.contract import RawBoxes
from geosod.detectors.detector import Detector
from geosod.detectors.export import graph_of, network_images, raw_graph, with_decoding
from geosod.detectors.graph_network import MAX_SESSIONS
from geosod.detectors.quantize import quantized
from geosod.detectors.runtimes import check_runtime, open_session, require
from geosod.errors import ConfigError, ModelError
from geosod.results import Execution
from geosod.scene import TileBatch, Window
from geosod.testing import check_detector
from tests.rasters import noise

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
RUNTIMES = ("onnxruntime", "openvino")
MODELS = ("demo-harbour", "trees-naip-60cm")
SIDE = 512


def execution(backend: str, precision: str = "fp32", **fields: int) -> Execution:
    return Execution("cpu", backend, precision, **({"batch": 1, "threads": 1} | fields))


@pytest.fixture(scope="module")
def tiles() -> dict[str, np.ndarray]:
    """For each model images in which it finds something: drawn ones with all classes, and noise for trees."""
    layout = make_layout(2048, 11)
    drawn = [render(layout, Window(col, row, SIDE, SIDE))[0] for col, row in ((512, 512), (1024, 512), (1024, 1024))]
    return {
        "demo-harbour": np.stack(drawn),
        "trees-naip-60cm": np.stack([noise(4, 192, 192, seed=i) for i in range(3)]),
    }


def loaded(model: str | Path, backend: str, precision: str = "fp32", **settings: object) -> Detector:
    options = {"tile": SIDE, "batch": 2, "device": "cpu", "threshold": 0.05 if "trees" in str(model) else None}
    return geosod.load_model(model, backend=backend, precision=precision, **(options | settings))


@pytest.mark.parametrize("backend", RUNTIMES)
@pytest.mark.parametrize("model", MODELS)
def test_runtimes_find_what_torch_finds(model, backend, tiles) -> None:
    reference, found = (loaded(model, b).detect(tiles[model]) for b in ("eager", backend))
    same = agreement(reference, found)
    assert same.reference == same.found == same.matched > 20, same
    assert same.max_px <= 0.05 and same.max_score <= 1e-3, same


@pytest.mark.parametrize("backend", RUNTIMES)
@pytest.mark.parametrize("model", MODELS)
def test_runtimes_keep_the_contract(model, backend, tiles) -> None:
    check_detector(loaded(model, backend), tiles[model])


@pytest.mark.parametrize("model", MODELS)
def test_bf16_of_openvino_is_as_near_as_that_of_torch(model, tiles) -> None:
    try:
        check_runtime("openvino", "cpu", "bf16")
    except ConfigError as reason:
        pytest.skip(str(reason))
    reference = loaded(model, "eager").detect(tiles[model])
    torchs, openvinos = (
        agreement(reference, loaded(model, backend, "bf16").detect(tiles[model])) for backend in ("eager", "openvino")
    )
    assert openvinos.f1 >= torchs.f1 - 0.03 and openvinos.mean_px <= 1.5 * torchs.mean_px, (torchs, openvinos)
    check_detector(loaded(model, "openvino", "bf16"), tiles[model])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", MODELS)
def test_openvino_takes_bytes_as_it_takes_fractions(model, precision, tiles, monkeypatch) -> None:
    try:
        check_runtime("openvino", "cpu", precision)
    except ConfigError as reason:
        pytest.skip(str(reason))
    detector, given = loaded(model, "openvino", precision), []
    predict = detector.adapter.predict

    def noted(images: torch.Tensor) -> RawBoxes:
        given.append(images)
        return predict(images)

    monkeypatch.setattr(detector.adapter, "predict", noted)
    bytes_ = detector.detect(tiles[model])
    monkeypatch.setattr(detector.adapter, "takes_bytes", False)
    fractions = detector.detect(tiles[model])
    assert [images.dtype for images in given] == [torch.uint8] * 2 + [torch.float32] * 2
    same = agreement(fractions, bytes_)
    assert same.reference == same.found == same.matched > 20, same
    # One bit of bf16 is 0.4 %; it is that of a first sum at most.
    assert same.max_px <= 0.2 and same.max_score <= (1e-5 if precision == "fp32" else 0.02), same


def test_images_of_all_sizes_are_taken(tiles) -> None:
    """OpenVINO compiles for each size, and drops the code for sizes that are not used any more."""
    image = tiles["demo-harbour"][0]
    torchs, openvinos = loaded("demo-harbour", "eager"), loaded("demo-harbour", "openvino")
    for side in (*range(128, 128 + 32 * (MAX_SESSIONS + 2), 32), 128):
        same = agreement(*([detector.detect(image[:, :side, :160])] for detector in (torchs, openvinos)))
        assert same.f1 == 1 and same.max_px < 0.05, (side, same)
    assert len(openvinos.adapter.compute._sessions) == MAX_SESSIONS


def external(tmp_path: Path, *, nested: bool) -> bytes:
    """A graph that adds four numbers which lie in a file of the working folder."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    (tmp_path / "secret.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    weights = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "w")
    onnx.external_data_helper.set_external_data(weights, "secret.bin")
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    x, y = (helper.make_tensor_value_info(name, kind, [4]) for name in "xy")
    if nested:
        inner = helper.make_graph([helper.make_node("Identity", ["w"], ["z"])], "inner", [], [
            helper.make_tensor_value_info("z", kind, [4])], [weights])  # fmt: skip
        true = helper.make_node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(np.array(True)))
        branch = helper.make_node("If", ["c"], ["v"], then_branch=inner, else_branch=inner)
        nodes, initializers = [true, branch, helper.make_node("Add", ["x", "v"], ["y"])], []
    else:
        nodes, initializers = [helper.make_node("Add", ["x", "w"], ["y"])], [weights]
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


@pytest.mark.parametrize("backend", RUNTIMES)
@pytest.mark.parametrize("nested", [False, True])
def test_a_graph_that_refers_to_files_is_refused(backend, nested, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="weights 'w' lie in another file"):
        open_session(external(tmp_path, nested=nested), execution(backend))


@pytest.mark.parametrize("backend", RUNTIMES)
def test_what_is_no_graph_is_refused(backend) -> None:
    with pytest.raises(ModelError, match="model 'net': is not an ONNX graph"):
        open_session(b"PK\x03\x04 no graph", execution(backend), name="net")
    helper = onnx.helper
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Nonsense", ["x"], ["y"], domain="nowhere")], "g", [x], [y])
    with pytest.raises(ModelError, match=r"model 'net': .* cannot load the graph"):
        open_session(helper.make_model(graph).SerializeToString(), execution(backend), name="net")


def test_what_is_not_installed_is_named_with_its_extra() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'geosod\[onnx\]'"):
        require("no_such_runtime", extra="onnx")


def test_what_a_runtime_cannot_do_is_refused() -> None:
    for backend, device, precision, message in (
        ("onnxruntime", "cpu", "bf16", "not in bf16"),
        ("openvino", "cuda", "fp32", "runs on CPUs"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_runtime(backend, device, precision)
    with pytest.raises(ConfigError, match="geosod model export"):
        loaded("demo-harbour", "auto", "int8")
    with pytest.raises(ConfigError, match="eager"):
        open_session(b"", execution("eager"))


def test_a_network_is_exported_once_for_all_detectors_of_a_process() -> None:
    bundle = open_bundle("demo-harbour")
    network = read_network(bundle)
    assert graph_of(bundle.card, network, "fp32") is graph_of(bundle.card, network, "fp32")


@pytest.mark.parametrize("model", MODELS)
def test_the_boxes_of_an_exported_file_are_those_of_the_model(model, tiles) -> None:
    bundle = open_bundle(model)
    network, card = read_network(bundle), bundle.card
    threshold = 0.05 if "trees" in model else card.threshold
    # K is fixed in the graph, so images are of at least 256 px.
    images = torch.from_numpy(tiles[model][:2]).float() / 255
    images = torch.nn.functional.pad(images, (0, 320 - 192, 0, 320 - 192)) if images.shape[-1] < 320 else images
    graph = with_decoding(raw_graph(card, network), card, network, threshold=threshold)
    boxes, scores, labels = open_session(graph, execution("onnxruntime")).run(images.numpy())
    with torch.inference_mode():
        raw = boxes_of(network, network.fused()(images), card, size=images.shape[2:], threshold=threshold)
    assert (scores >= threshold).sum() > 20
    for i in range(2):
        kept = scores[i] >= threshold
        wanted = (raw.tile == i) & (raw.scores >= threshold)
        assert kept.sum() == wanted.sum()
        ours, theirs = ((b, s, k) for b, s, k in (
            (boxes[i][kept], scores[i][kept], labels[i][kept]),
            (raw.boxes[wanted].numpy(), raw.scores[wanted].numpy(), raw.labels[wanted].numpy()),
        ))  # fmt: skip
        order = [np.lexsort(b.T.round(1)) for b, *_ in (ours, theirs)]
        for a, b in zip(ours, theirs, strict=True):
            assert np.abs(a[order[0]] - b[order[1]]).max(initial=0) < 0.02


@pytest.fixture(scope="module")
def int8(tmp_path_factory, tiles) -> Path:
    """A bundle of 8-bit integers, calibrated on two of the three images."""
    from dataclasses import replace

    from geosod.detectors import write_bundle

    bundle = open_bundle("demo-harbour")
    window = np.tile(np.array([[0, 0, SIDE, SIDE]]), (2, 1))
    batch = TileBatch(tiles["demo-harbour"][:2], window, None, window[:, 2:])
    images = [network_images(batch[i : i + 1], bundle.card) for i in range(2)]
    graph = quantized(raw_graph(bundle.card, read_network(bundle)), images, name="harbour")
    card = replace(
        bundle.card,
        adapter="zoo-onnx",
        parameters={"network": bundle.card.parameters, "precision": "int8"},
        weights_file="model.onnx",
        framework="onnx",
        artifact_type="onnx",
    )
    folder = tmp_path_factory.mktemp("int8")
    write_bundle(folder, card, graph)
    return folder


@pytest.mark.parametrize("backend", RUNTIMES)
def test_int8_finds_nearly_the_same(backend, int8, tiles) -> None:
    reference = loaded("demo-harbour", "eager").detect(tiles["demo-harbour"])
    same = agreement(reference, loaded(int8, backend, "auto").detect(tiles["demo-harbour"]))
    assert same.f1 > 0.95 and 0 < same.mean_px < 0.3, same
    check_detector(loaded(int8, backend, "auto"), tiles["demo-harbour"])


def test_int8_bundles_hold_8_bit_convolutions_but_for_the_last(int8) -> None:
    graph = onnx.load_model_from_string((int8 / "model.onnx").read_bytes()).graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    plain = [node for node in convolutions if makers.get(node.input[1]) != "DequantizeLinear"]
    assert len(convolutions) > 10 and [list(node.output) for node in plain] == [["raw"]]


def test_int8_bundles_run_in_no_other_way(int8) -> None:
    with pytest.raises(ConfigError, match="int8 and runs in no other precision"):
        loaded(int8, "auto", "fp32")
    with pytest.raises(ConfigError, match="'eager' cannot run this model; use onnxruntime, openvino or auto"):
        loaded(int8, "eager", "auto")
    made = loaded(int8, "auto", "auto").execution
    assert made.precision == "int8" and made.backend in RUNTIMES
