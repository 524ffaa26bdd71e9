"""The contract that every adapter keeps, and a stranger's adapter, written from the documentation alone."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

import geosod
from geosod.detectors import write_bundle
from geosod.detectors.contract import RawBoxes
from geosod.detectors.detector import Detector
from geosod.errors import ConfigError, ModelError
from geosod.results import Execution
from geosod.scene import TileBatch
from geosod.testing import BrightSpots, check_detector, fake_card, fake_detector
from tests.rasters import noise, random_bundle, write_tif
from tests.running.helpers import PLAIN, RAY, tables

DOCUMENT = Path(__file__).parents[2] / "docs" / "adapters.md"
CPU = Execution("cpu", "eager", "fp32", 2, 1)


def random_rgb(folder: Path) -> Detector:
    return geosod.load_model(random_bundle(folder / "m", bands=("r", "g", "b")), **PLAIN)  # type: ignore[arg-type]


#: Every adapter there is, by what makes a detector of it.
DETECTORS: dict[str, Callable[[Path], Detector]] = {
    "zoo, small-fpn": lambda _: geosod.load_model("demo-harbour", precision="fp32", backend="eager", tile=256, batch=2),
    "zoo, centre-unet": lambda _: geosod.load_model(
        "trees-naip-60cm", precision="fp32", backend="eager", batch=1, threshold=0.05
    ),
    "zoo, random weights": random_rgb,
    "fake": lambda _: fake_detector(CPU),
    "fake, three bands of uint16": lambda _: fake_detector(CPU, bands=("a", "b", "c"), dtype="uint16", tile="128x96"),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_every_adapter_keeps_the_contract(name, tmp_path) -> None:
    images = np.stack([noise(4, 192, 192, seed=i) for i in range(3)]) if "unet" in name else None
    check_detector(DETECTORS[name](tmp_path), images)


class Broken(BrightSpots):
    """`BrightSpots` with one fault."""

    def __init__(self, fault: str) -> None:
        self.fault, self.calls = fault, 0

    def predict(self, images: torch.Tensor) -> RawBoxes:
        raw, self.calls = super().predict(images), self.calls + 1
        boxes, scores, labels, tile = raw.boxes, raw.scores, raw.labels, raw.tile
        match self.fault:
            case "label":
                labels = labels + 1
            case "tile":
                tile = tile + len(images)
            case "batch":
                boxes = boxes + torch.tensor([0, 0, 1, 0]) * float(images[1:].mean() > 0.05)
            case "place":
                boxes = boxes + torch.tensor([0, 0, 2, 0]) * tile[:, None]
            case "random":
                boxes = boxes + torch.tensor([0, 0, 1, 0]) * self.calls
            case "threads":
                torch.set_num_threads(3 if torch.get_num_threads() != 3 else 2)
            case "nothing":
                scores = scores * 0
            case "tuple":
                return boxes, scores, labels  # type: ignore[return-value]
        return RawBoxes(boxes, scores, labels, tile)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("label", "label 1, but the card has classes 0 to 0"),
        ("tile", "returned a box of tile 2, but the batch has 2"),
        ("batch", "other boxes in a batch of"),
        ("place", "other boxes in a batch of"),
        ("random", "gave other boxes when it was detected again"),
        ("nothing", "nothing was found"),
    ],
)
def test_the_contract_catches_an_adapter_that_breaks_it(fault, message) -> None:
    with pytest.raises(AssertionError, match=message):
        check_detector(Detector(fake_card(), Broken(fault), CPU))


def test_torchs_threads_are_the_callers() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        check_detector(Detector(fake_card(), Broken("threads"), CPU))
        geosod.load_model("demo-harbour", precision="fp32", backend="eager", threads=1, tile=128)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_an_adapter_that_returns_something_else() -> None:
    image = np.full((1, 64, 64), 200, np.uint8)
    with pytest.raises(ModelError, match="returned tuple; it must return RawBoxes"):
        Detector(fake_card(), Broken("tuple")).detect(image)
    with pytest.raises(ConfigError, match="adapter is a object; pass an object with a method predict"):
        Detector(fake_card(), object())  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"shapes \(2, 4\), \(1,\), \(2,\), \(2,\)"):
        RawBoxes(torch.zeros(2, 4), torch.zeros(1), torch.zeros(2), torch.zeros(2))
    with pytest.raises(ConfigError, match="adapter is the class BrightSpots"):
        Detector(fake_card(), BrightSpots)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"threshold 1\.5"):
        fake_detector().with_threshold(1.5)


@pytest.fixture
def stranger(tmp_path, monkeypatch) -> str:
    """The module of docs/adapters.md, where every process finds it."""
    code = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[0]
    assert len(code.splitlines()) < 40
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "bright_blocks.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder))
    path = ":".join([str(folder), *filter(None, [__import__("os").environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", path)
    yield "bright_blocks:make"
    sys.modules.pop("bright_blocks", None)


def spots(folder: Path) -> Path:
    """A scene of dark noise with bright squares, some of them across tile borders."""
    pixels, rng = noise(1, 600, 700) // 4, np.random.default_rng(3)
    for x, y in rng.integers(0, 560, (40, 2)):
        pixels[0, y : y + 30, x : x + 40] = 240
    return write_tif(folder / "spots.tif", pixels)


def test_a_strangers_adapter_passes_and_runs_in_every_engine(stranger, tmp_path) -> None:
    import bright_blocks

    detector = geosod.Detector(bright_blocks.CARD, bright_blocks.BrightBlocks(), CPU)
    check_detector(detector)
    scene = spots(tmp_path)
    in_memory = geosod.detect(scene, model=detector)["spots"]
    assert len(in_memory.detections) > 40
    settings = PLAIN | {"batch": 2, "trust": True, "unit": (1, 2)}
    geosod.detect(scene, model=stranger, out=tmp_path / "serial", engine="serial", **settings)
    ray.init(**RAY)
    try:
        geosod.detect(scene, model=stranger, out=tmp_path / "ray", engine="ray", workers=1, **settings)
    finally:
        ray.shutdown()
    written = tables(tmp_path / "serial")
    assert written == tables(tmp_path / "ray") and len(written) == 2
    import geopandas

    read = geopandas.read_parquet(tmp_path / "serial/detections/acq_date=unknown/spots.parquet")
    assert in_memory.to_geopandas().drop(columns="geometry").equals(read.drop(columns="geometry"))


def test_the_command_line_runs_trusted_code_only(stranger, tmp_path) -> None:
    scene = spots(tmp_path)
    command = [sys.executable, "-c", "from geosod.cli.main import run; run()", "detect", str(scene), "-m", stranger]
    command += ["--engine", "serial", "-o", str(tmp_path / "out")]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "add --trust" in refused.stderr and not (tmp_path / "out").exists()
    trusted = subprocess.run([*command, "--trust"], capture_output=True, text=True, check=False)
    assert trusted.returncode == 0, trusted.stderr
    assert (tmp_path / "out/items/spots.json").exists()


def test_ray_refuses_an_object_in_one_line(tmp_path) -> None:
    scene = spots(tmp_path)
    with pytest.raises(ConfigError, match="module:function") as caught:
        geosod.detect(scene, model=fake_detector(), out=tmp_path / "out", engine="ray")
    assert "\n" not in str(caught.value) and not ray.is_initialized() and not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="loaded with batch 1"):
        geosod.detect(scene, model=fake_detector(), batch=4)


def test_a_bundle_may_name_trusted_code(tmp_path, monkeypatch) -> None:
    """The weights that the code gets are those that the card's digest was computed of."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "spotty.py").write_text(
        "from geosod.testing import BrightSpots\n"
        "def load(bundle, execution, *, threshold):\n"
        "    assert bundle.read_weights() == b'weights' and threshold == 0.1\n"
        "    return BrightSpots()\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    card = fake_card(adapter="spotty:load", weights_file="net.bin", artifact_type="other", license="MIT")
    made = write_bundle(tmp_path / "b", card, b"weights")
    assert made.card.adapter == "spotty:load" and made.weights.name == "net.bin"
    with pytest.raises(ModelError, match="asks to run the code spotty:load; add --trust"):
        geosod.load_model(tmp_path / "b")
    check_detector(geosod.load_model(tmp_path / "b", trust=True, **PLAIN))  # type: ignore[arg-type]
    (tmp_path / "b/net.bin").write_bytes(b"altered")
    with pytest.raises(ModelError, match="its card states"):
        made.read_weights()
    with pytest.raises(ModelError, match="its card states"):
        geosod.load_model(tmp_path / "b", trust=True)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nowhere_at_all:make", "cannot be imported"),
        ("geosod.testing:no_such", "has no function 'no_such'"),
        ("geosod.testing:BRIGHT", "is a float, not a function"),
        ("geosod.testing:fake_card", "fake_card"),
    ],
)
def test_factories_that_make_nothing(model, message) -> None:
    with pytest.raises((ModelError, TypeError), match=message):
        geosod.load_model(model, trust=True)


def test_a_model_of_another_kind() -> None:
    with pytest.raises(ConfigError, match=r"model is a int; pass a name"):
        geosod.detect("x.tif", model=3)  # type: ignore[arg-type]


def images_of(count: int) -> np.ndarray:
    """Dark tiles, of which every second one has a bright square."""
    images = np.zeros((count, 1, 256, 256), np.uint8)
    images[::2, 0, 100:140, 30:90] = 250
    return images


class Answers(BrightSpots):
    """`BrightSpots` that answers in a form of its own."""

    def __init__(self, form: str) -> None:
        self.form = form

    def predict(self, images: torch.Tensor) -> RawBoxes:
        raw = super().predict(images)
        rows = [raw.tile == i for i in range(len(images))]
        entries = [(raw.boxes[r].numpy(), raw.scores[r].numpy(), raw.labels[r].numpy()) for r in rows]
        match self.form:
            case "only tiles with boxes":
                entries = [entry for entry in entries if len(entry[0])] or entries[:1]
            case "label 1":
                entries = [(boxes, scores, labels + 1) for boxes, scores, labels in entries]
            case "nan":
                entries = [(boxes * np.nan, scores, labels) for boxes, scores, labels in entries]
            case "scrambled":
                entries = [(boxes.T, scores, labels) for boxes, scores, labels in entries]
            case "lengths":
                entries = [(boxes, scores[:-1], labels) for boxes, scores, labels in entries]
            case "strides":
                entries = [
                    (boxes[::-1, [1, 0, 3, 2]][:, [1, 0, 3, 2]], scores[::-1], labels[::-1])
                    for boxes, scores, labels in entries
                ]
            case "half":
                return RawBoxes(raw.boxes.half(), raw.scores.double(), raw.labels.int(), raw.tile.int())
        return RawBoxes.per_tile(entries)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("only tiles with boxes", "an answer for . tiles of a batch of 4"),
        ("label 1", "returned label 1, but the card has classes 0 to 0; .* subtract 1"),
        ("nan", "not a number on 2 of 4 tiles"),
        ("scrambled", r"boxes of shape \(4, 1\)"),
        ("lengths", "returned 1, 0, 1 boxes, scores and labels for tile 0"),
    ],
)
def test_answers_that_would_put_boxes_in_wrong_places(form, message, tmp_path) -> None:
    """Each is refused in the first batch, by the contract suite, and costs its ground in a run."""
    detector = Detector(fake_card(), Answers(form), Execution("cpu", "eager", "fp32", 4, 1))
    with pytest.raises(ModelError, match=message):
        detector.detect(images_of(4))
    with pytest.raises((ModelError, AssertionError)):
        check_detector(detector)
    result = geosod.detect(images_of(1)[0], model=detector)
    assert result.exit_code == 3 and not len(result["array"].detections)
    assert "failed" in set(result["array"].coverage_to_geopandas().status)


@pytest.mark.parametrize("form", ["strides", "half"])
def test_answers_in_unusual_forms(form) -> None:
    expected = fake_detector(CPU).detect(images_of(4))
    found = Detector(fake_card(), Answers(form), CPU).detect(images_of(4))
    assert [f.boxes.tolist() for f in found] == [e.boxes.tolist() for e in expected]


def test_padded_answers_are_checked() -> None:
    boxes, scores, labels = torch.zeros(2, 4, 9), torch.zeros(2, 9), torch.zeros(2, 9)
    with pytest.raises(ModelError, match=r"shapes \(2, 4, 9\), \(2, 9\), \(2, 9\)"):
        RawBoxes.padded(boxes, scores, labels)
    raw = RawBoxes.padded(boxes.transpose(1, 2).numpy()[:, ::-1], scores.numpy(), labels.numpy())
    assert raw.tiles == 2 and raw.labels.dtype == torch.int64


def test_the_threshold_of_a_detector_is_that_of_its_run() -> None:
    image = np.zeros((256, 256), np.uint8)
    image[10:20, 10:20], image[100:195, 100:195] = 250, 250
    detector = fake_detector().with_threshold(0.8)
    assert len(detector.detect(image[None])) == 1
    outputs = geosod.detect(image, model=detector)["array"]
    assert len(outputs.detections) == 1 and outputs.provenance.options["threshold"] == 0.8
    assert len(geosod.detect(image, model=detector, threshold=0.1)["array"].detections) == 2


def test_a_network_of_the_zoo_is_not_lowered_below_what_it_was_loaded_with(tmp_path) -> None:
    detector = geosod.load_model(random_bundle(tmp_path / "m", bands=("r", "g", "b")), threshold=0.6, **PLAIN)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"threshold 0\.1 is below the 0\.6"):
        detector.with_threshold(0.1)
    assert detector.with_threshold(0.7).threshold == 0.7


def test_changed_code_is_another_model(tmp_path, monkeypatch) -> None:
    """A committed scene is not skipped because the card is the same."""
    monkeypatch.syspath_prepend(str(tmp_path))
    code = "from geosod.testing import BrightSpots\n\n"
    code += "def load(bundle, execution, *, threshold):\n    return BrightSpots()\n"
    (tmp_path / "mine.py").write_text(code)
    write_bundle(tmp_path / "b", fake_card(adapter="mine:load", weights_file="w", license="MIT"), b"x")
    from geosod.detectors import find_model

    first = find_model(tmp_path / "b", trust=True).digest
    assert find_model(tmp_path / "b", trust=True).digest == first
    (tmp_path / "mine.py").write_text(code + "# changed\n")
    assert find_model(tmp_path / "b", trust=True).digest != first
    assert find_model(fake_detector()).digest == find_model(fake_detector()).digest

    local = type("Local", (BrightSpots,), {"__module__": "nowhere"})
    digests = {find_model(Detector(fake_card(), local())).digest for _ in range(2)}
    assert len(digests) == 2, "code that cannot be read equals nothing"


def test_trust_is_not_taken_from_a_file(tmp_path) -> None:
    (tmp_path / "c.yaml").write_text("model: geosod.testing:fake_detector\ntrust: true\n")
    with pytest.raises(ConfigError, match="trust cannot be set in a file"):
        geosod.detect(np.zeros((64, 64), np.uint8), config=tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("model: geosod.testing:fake_detector\ntrust: false\n")
    with pytest.raises(ModelError, match="add --trust"):
        geosod.detect(np.zeros((64, 64), np.uint8), config=tmp_path / "c.yaml")
    assert geosod.detect(np.zeros((64, 64), np.uint8), config=tmp_path / "c.yaml", trust=True).exit_code == 0


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil-weights", "", "model.json", ".hidden", "x" * 300])
def test_a_bundle_writes_inside_its_folder(name, tmp_path) -> None:
    with pytest.raises(ModelError, match="must be a plain file name"):
        write_bundle(tmp_path / "b", fake_card(adapter="geosod.testing:x", weights_file=name, license="MIT"), b"x")
    assert not list(tmp_path.iterdir())
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    with pytest.raises(ModelError, match="is not empty and holds no bundle"):
        write_bundle(tmp_path / "other", fake_card(adapter="geosod.testing:x", weights_file="w", license="MIT"), b"x")


def test_threads_of_detectors_that_overlap_and_fail() -> None:
    from geosod.detectors.detector import torch_threads

    before = torch.get_num_threads()
    first, second = torch_threads(before + 1), torch_threads(before + 2)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert torch.get_num_threads() == before
    with pytest.raises(ModelError):
        Detector(fake_card(), Broken("tuple"), Execution("cpu", "eager", "fp32", 1, before + 3)).detect(images_of(1))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    "fields",
    [
        {"classes": "spot"}, {"classes": ("a", "a")}, {"bands": "gray"}, {"minimum": 0.0}, {"dtype": "banana"},
        {"gsd": -1.0},
        {"gsd_range": (2.0, 1.0)}, {"gsd_range": (1.0,)}, {"nms_iou": 5.0}, {"nms_iou": -1.0}, {"name": ""},
    ],
)  # fmt: skip
def test_cards_with_unusable_values(fields) -> None:
    with pytest.raises(ModelError, match="fix its card"):
        fake_card(**fields)


def test_errors_of_a_users_code_cost_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "failing.py").write_text(
        "def make(execution):\n    raise RuntimeError('no weights')\ndef none():\n    pass\n"
    )
    with pytest.raises(ModelError, match="'failing:make': raised RuntimeError: no weights"):
        geosod.load_model("failing:make", trust=True)
    with pytest.raises(ModelError, match="'failing:none': raised TypeError"):
        geosod.load_model("failing:none", trust=True)


def test_a_folder_may_have_the_name_of_a_function(tmp_path, monkeypatch) -> None:
    """What is there is opened as a bundle, and no code is imported."""
    monkeypatch.chdir(tmp_path)
    random_bundle(tmp_path / "geosod.testing:fake_detector", bands=("r", "g", "b"))
    detector = geosod.load_model("geosod.testing:fake_detector", **PLAIN)  # type: ignore[arg-type]
    assert detector.card.bands == ("r", "g", "b")


class Values(BrightSpots):
    """Keeps what the network is given."""

    def predict(self, images: torch.Tensor) -> RawBoxes:
        self.images = images.clone()
        return super().predict(images)


def test_invalid_pixels_and_padding_are_0_to_the_network() -> None:
    adapter = Values()
    detector = Detector(fake_card(minimum=(-50.0,), maximum=(205.0,)), adapter, Execution("cpu", "eager", "fp32", 3, 1))
    pixels, valid = np.full((2, 1, 32, 32), 100, np.uint8), np.ones((2, 32, 32), bool)
    valid[0, :, :9] = False
    windows, size = np.array([[0, 0, 32, 32]] * 2), np.array([[64, 64]] * 2)
    detector.detect(TileBatch(pixels, windows, valid, size))
    assert adapter.images.shape == (3, 1, 32, 32)
    assert not adapter.images[0, :, :, :9].any() and torch.all(adapter.images[0, :, :, 9:] == 150 / 255)


def test_the_card_of_tiles_that_are_not_square(tmp_path) -> None:
    """MLM's shape is batch, bands, height, width; the card's own order is width, height."""
    import json

    card = fake_card(tile="96x64", overlap=0.25, adapter="geosod.testing:x", weights_file="w", license="MIT")
    bundle = write_bundle(tmp_path / "b", card, b"x")
    properties = json.loads((bundle.folder / "model.json").read_text())["properties"]
    assert properties["mlm:input"][0]["input"]["shape"] == [-1, 1, 64, 96]
    assert (properties["geosod:tile"], properties["geosod:overlap"]) == ([96, 64], 0.25)
    assert bundle.card.overlap_px == (24, 16) and bundle.card.tile_size == (96, 64)


def test_keywords_override_settings_already_made(tmp_path) -> None:
    config = geosod.RunConfig(threshold=0.9, tile=256)
    outputs = geosod.detect(images_of(1)[0], model=fake_detector(), config=config, threshold=0.2)["array"]
    assert (outputs.provenance.options["threshold"], outputs.provenance.options["tile"]) == (0.2, 256)
