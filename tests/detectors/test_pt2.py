"""Programs of torch.export as detectors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.export import Dim

import geosod
from geosod.detectors.packing import pack
from geosod.detectors.packing.options import PackOptions
from geosod.errors import ConfigError, ModelError
from geosod.testing import check_detector
from tests.rasters import write_tif
from tests.running.helpers import PLAIN

CLASSES = ("red", "green", "blue")
TRUST = PackOptions(trust=True, classes=CLASSES)
GEOSOD = (sys.executable, "-c", "from geosod.cli.main import run; run()")
ANY_BATCH = {0: Dim("batch", min=1, max=64)}
ANY_SIZE = {**ANY_BATCH, 2: 32 * Dim("h", min=2, max=20), 3: 32 * Dim("w", min=2, max=20)}


class Cells(torch.nn.Module):
    """One box in each cell of 16 px, as large as its band is bright: the best band is the class."""

    def __init__(self, form: str = "dict") -> None:
        super().__init__()
        self.form = form

    def forward(self, images: Tensor) -> Any:
        mean = torch.nn.functional.avg_pool2d(images, 16)
        rows, cols = mean.shape[2:]
        y = torch.arange(rows)[:, None].expand(rows, cols) * 16.0
        x = torch.arange(cols)[None].expand(rows, cols) * 16.0
        left = torch.stack([x, y], dim=-1).reshape(1, -1, 2).expand(images.shape[0], -1, 2)
        scores = mean.flatten(2).transpose(1, 2)
        best, labels = scores.max(dim=-1)
        size = torch.stack([4 + 8 * best, 2 + 4 * best], dim=-1)
        boxes = torch.cat([left + 1, left + 1 + size], dim=-1)
        match self.form:
            case "dict":
                return {"scores": best, "labels": labels, "boxes": boxes}
            case "tuple":
                return boxes, best, labels
            case "from 1":
                return boxes, best, labels + 1
            case "yolov8":
                return torch.cat([left + 1 + size / 2, size, scores], dim=-1).transpose(1, 2)
            case "best four":
                top, at = best.topk(4, dim=1)
                rows = at[..., None].expand(-1, -1, 4)
                return {"scores": top, "labels": labels.gather(1, at), "boxes": boxes.gather(1, rows)}
            case "no single image":
                return boxes, best + 0 * images[1].sum(), labels
            case "list of one":
                return boxes[0], best[0], labels[0]
            case "eleven":
                return (best[..., None, None],) * 11
        return best * 3


def program(path: Path, form: str = "dict", *, batch: int = 2, size: int = 128, dynamic: Any = ANY_BATCH) -> Path:
    shapes = None if dynamic is None else {"images": dynamic}
    example = (torch.rand(batch, 3, size, size + 32),)
    torch.export.save(torch.export.export(Cells(form).eval(), example, dynamic_shapes=shapes), path)
    return path


def image(height: int = 128, width: int = 160) -> np.ndarray:
    pixels = np.zeros((3, height, width), np.uint8)
    pixels[0, 32:48, 64:80] = 255
    pixels[1, :16, 16:32] = 204
    pixels[2, 96:112, 144:160] = 153
    return pixels


#: What is in `image`: label → box, score.
EXPECTED = {0: ([65, 33, 77, 39], 1.0), 1: ([17, 1, 27.4, 6.2], 0.8), 2: ([145, 97, 153.8, 101.4], 0.6)}


def found_in(detector: geosod.Detector, pixels: np.ndarray) -> dict[int, tuple[list[float], float]]:
    found = detector.detect(pixels)
    assert len(found) == len(set(found.labels.tolist()))
    rows = zip(found.labels.tolist(), found.boxes.tolist(), found.scores.tolist(), strict=True)
    return {label: (pytest.approx(box, abs=1e-4), pytest.approx(score, abs=1e-5)) for label, box, score in rows}


def loaded(path: Path, options: PackOptions = TRUST, **settings: Any) -> geosod.Detector:
    pack(path, path.parent / "bundle", options)
    return geosod.load_model(path.parent / "bundle", trust=True, **PLAIN | settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["dict", "tuple", "yolov8", "best four"])
def test_boxes_scores_and_labels_of_every_form(form, tmp_path) -> None:
    detector = loaded(program(tmp_path / "net.pt2", form))
    assert detector.card.adapter == "pt2" and detector.card.tile_size == (160, 128)
    assert detector.card.parameters["layout"] == ("yolov8" if form == "yolov8" else "labelled")
    assert found_in(detector, image()) == EXPECTED
    check_detector(detector, np.stack([image(), image()[:, ::-1], image()[::-1]]))


def test_labels_that_count_the_background(tmp_path) -> None:
    path = program(tmp_path / "net.pt2", "from 1")
    options = PackOptions(trust=True, classes=CLASSES, layout="torchvision")
    assert found_in(loaded(path, options), image()) == EXPECTED


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_batch_that_is_fixed(batch, tmp_path) -> None:
    """Batches of geosod are divided, and filled up."""
    detector = loaded(program(tmp_path / "net.pt2", batch=2, dynamic=None), batch=batch)
    assert detector.execution.batch == batch
    tiles = np.stack([image(), np.zeros_like(image()), image()])
    assert [len(found) for found in detector.detect(tiles)] == [3, 0, 3]
    check_detector(detector, np.stack([image(), image()[:, ::-1], image()[::-1]]))


def test_a_batch_with_a_limit(tmp_path) -> None:
    path = program(tmp_path / "net.pt2", dynamic={0: Dim("batch", min=1, max=3)})
    detector = loaded(path, batch=8)
    assert [len(found) for found in detector.detect(np.stack([image()] * 8))] == [3] * 8


def test_sides_that_are_open(tmp_path) -> None:
    path = program(tmp_path / "net.pt2", dynamic=ANY_SIZE)
    card = pack(path, tmp_path / "a", TRUST).bundle.card
    assert card.tile_size == (160, 128) and card.input.size is None
    wide = pack(path, tmp_path / "b", PackOptions(trust=True, classes=CLASSES, tile=(320, 256))).bundle
    detector = geosod.load_model(wide.folder, trust=True, **PLAIN)  # type: ignore[arg-type]
    pixels = np.zeros((3, 256, 320), np.uint8)
    pixels[:, :128, 160:] = image()
    expected = {label: ([x0 + 160, y0, x1 + 160, y1], s) for label, ([x0, y0, x1, y1], s) in EXPECTED.items()}
    assert found_in(detector, pixels) == expected
    with pytest.raises(ModelError, match="takes sides of 64 to 640 pixels, not of 704"):
        pack(path, tmp_path / "c", PackOptions(trust=True, classes=CLASSES, tile=(704, 704)))


def test_sides_that_are_fixed(tmp_path) -> None:
    """Other tiles are letterboxed or stretched to them."""
    path = program(tmp_path / "net.pt2")
    stretch = {"resize": "stretch"}
    options = PackOptions(trust=True, classes=CLASSES, tile=(320, 256), input=stretch)
    large = image().repeat(2, 1).repeat(2, 2)
    expected = {label: ([2 * value for value in box], score) for label, (box, score) in EXPECTED.items()}
    assert found_in(loaded(path, options), large) == expected
    with pytest.raises(ModelError, match="takes images of 160 x 128 only"):
        pack(path, tmp_path / "other", PackOptions(trust=True, classes=CLASSES, input={"size": (64, 64)}))


def test_a_scene_from_the_command_line(tmp_path) -> None:
    path = program(tmp_path / "net.pt2")
    write_tif(tmp_path / "scene.tif", image())
    for command, code in (
        (f"model pack {path} -o {tmp_path}/b --classes red,green,blue", 2),
        (f"model pack {path} -o {tmp_path}/b --classes red,green,blue --trust", 0),
        (f"detect {tmp_path}/scene.tif --model {tmp_path}/b -o {tmp_path}/out", 2),
        (f"detect {tmp_path}/scene.tif --model {tmp_path}/b -o {tmp_path}/out --trust --precision fp32", 0),
    ):
        done = subprocess.run([*GEOSOD, *command.split()], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert code == 0 or ("add --trust" in done.stderr and not (tmp_path / "out").exists())
    import geopandas

    frame = geopandas.read_parquet(next((tmp_path / "out/detections").rglob("scene.parquet")))
    assert sorted(zip(frame.label, frame.px_xmin, strict=True)) == [("blue", 145), ("green", 17), ("red", 65)]


@pytest.mark.parametrize(
    ("form", "options", "message"),
    [
        ("list of one", TRUST, r"output output0 is \[80, 4\] for 1 images; it must return one tensor, a tuple"),
        ("scores", TRUST, r"returns output0 \[1, 80\], which are no boxes"),
        ("eleven", TRUST, r"add --layout \(what its outputs mean; its outputs .* fit none"),
        ("dict", PackOptions(trust=True), "--classes"),
        ("dict", PackOptions(trust=True, classes=CLASSES, bands=("a",)), "names 1 bands, but the network has 3"),
        ("yolov8", PackOptions(trust=True, classes=("a",)), "but the network has 3"),
        ("dict", PackOptions(trust=True, classes=CLASSES, layout="yolo"), "layout 'yolo' is unknown"),
    ],
)
def test_programs_that_do_not_fit(form, options, message, tmp_path) -> None:
    path = program(tmp_path / "net.pt2", form)
    with pytest.raises(ModelError, match=message):
        pack(path, tmp_path / "b", options)
    assert not (tmp_path / "b").exists()


def test_files_that_are_no_programs_of_images(tmp_path) -> None:
    (tmp_path / "a.pt2").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be loaded as a program"):
        pack(tmp_path / "a.pt2", tmp_path / "b", TRUST)
    other = torch.export.export(torch.nn.Linear(3, 2), (torch.rand(4, 3),))
    torch.export.save(other, tmp_path / "c.pt2")
    with pytest.raises(ModelError, match=r"takes \[4, 3\] torch.float32; it must take one tensor"):
        pack(tmp_path / "c.pt2", tmp_path / "b", TRUST)


def test_a_card_that_does_not_fit_the_program(tmp_path) -> None:
    loaded(program(tmp_path / "net.pt2"))
    card = tmp_path / "bundle/model.json"
    item = json.loads(card.read_text())
    item["properties"]["geosod:input"] = {"size": [64, 64]}
    card.write_text(json.dumps(item))
    with pytest.raises(ModelError, match=r"takes images of 3 x 128 x 160 .* but the card makes them 3 x 64 x 64"):
        geosod.load_model(tmp_path / "bundle", trust=True, **PLAIN)  # type: ignore[arg-type]


def test_it_runs_in_the_precision_of_its_export(tmp_path) -> None:
    """Which is what the results record."""
    pack(program(tmp_path / "net.pt2"), tmp_path / "b", TRUST)
    execution = geosod.load_model(tmp_path / "b", trust=True, device="cpu").execution
    assert (execution.backend, execution.precision) == ("eager", "fp32")
    with pytest.raises(ConfigError, match="backend 'compile' cannot run this model"):
        geosod.load_model(tmp_path / "b", trust=True, device="cpu", backend="compile")


def test_values_that_are_not_numbers_are_refused(tmp_path) -> None:
    """Also where some boxes of the tile are sound."""

    class Broken(Cells):
        def forward(self, images: Tensor) -> Any:
            found = super().forward(images)
            first = (torch.arange(80) == 0) & (images.amax(dim=(1, 2, 3)) > 0.9)[:, None]
            return found | {"scores": torch.where(first, torch.nan, found["scores"])}

    net = torch.export.export(Broken().eval(), (torch.rand(2, 3, 128, 160),), dynamic_shapes={"images": ANY_BATCH})
    torch.export.save(net, tmp_path / "net.pt2")
    detector = loaded(tmp_path / "net.pt2")
    assert len(detector.detect(image() // 2)) == 3
    with pytest.raises(ModelError, match="not a number on 1 of 1 tiles"):
        detector.detect(image())


def test_programs_that_take_no_single_image(tmp_path) -> None:
    """Exports state a minimum of 2 for others, too; see pytorch/pytorch issue 181097."""
    path = program(tmp_path / "net.pt2", "no single image", batch=4, dynamic={0: Dim("batch", min=2, max=64)})
    detector = loaded(path, batch=1)
    assert detector.card.parameters["min_batch"] == 2 and detector.execution.batch == 1
    assert found_in(detector, image()) == EXPECTED
    (tmp_path / "other").mkdir()
    other = program(tmp_path / "other/net.pt2", batch=4, dynamic={0: Dim.AUTO})
    assert loaded(other).card.parameters["min_batch"] == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_program_on_a_gpu(tmp_path) -> None:
    detector = loaded(program(tmp_path / "net.pt2"), device="cuda")
    assert found_in(detector, image()) == EXPECTED
    check_detector(detector, np.stack([image(), image()[:, ::-1], image()[::-1]]))
