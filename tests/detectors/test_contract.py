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
from geosod.testing import BrightSpots, check_detector, fake_card, fake_detector
from tests.rasters import noise, random_bundle, write_tif
from tests.running.helpers import PLAIN, tables

DOCUMENT = Path(__file__).parents[2] / "docs" / "adapters.md"
CPU = Execution("cpu", "eager", "fp32", 2, 1)


def random_rgb(folder: Path) -> Detector:
    return geosod.load_model(random_bundle(folder / "m", bands=("r", "g", "b")), **PLAIN)  # type: ignore[arg-type]


#: Every adapter there is, by what makes a detector of it.
DETECTORS: dict[str, Callable[[Path], Detector]] = {
    "zoo, small-fpn": lambda _: geosod.load_model("demo-harbour", precision="fp32", backend="eager", tile=256, batch=2),
    "zoo, centre-unet": lambda _: geosod.load_model("trees-naip-60cm", precision="fp32", backend="eager", batch=1),
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
    with pytest.raises(ConfigError, match="object has no method predict"):
        Detector(fake_card(), object())  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"shapes \(2, 4\), \(1,\), \(2,\), \(2,\)"):
        RawBoxes(torch.zeros(2, 4), torch.zeros(1), torch.zeros(2), torch.zeros(2))
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
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=150 << 20)
    try:
        geosod.detect(scene, model=stranger, out=tmp_path / "ray", engine="ray", workers=2, **settings)
    finally:
        ray.shutdown()
    written = tables(tmp_path / "serial")
    assert written == tables(tmp_path / "ray") and len(written) == 2
    import geopandas

    read = geopandas.read_parquet(tmp_path / "serial/detections/acq_date=unknown/spots.parquet")
    assert in_memory.to_geopandas().drop(columns="geometry").equals(read.drop(columns="geometry"))


def test_the_command_line_runs_trusted_code_only(stranger, tmp_path) -> None:
    scene = spots(tmp_path)
    command = [sys.executable, "-c", "from geosod.cli.main import app; app()", "detect", str(scene), "-m", stranger]
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
