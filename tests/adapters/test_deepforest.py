"""DeepForest's models in bundles find what DeepForest itself finds."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import geosod
from geosod.detections import Detections
from geosod.detectors.packing import pack
from geosod.detectors.packing.options import PackOptions
from geosod.testing import check_detector
from tests.detectors.torchvision_samples import Found, calibrate, difference, image, network

pytest.importorskip("deepforest")
pytestmark = pytest.mark.filterwarnings("ignore")


@cache
def pretrained() -> dict[str, torch.Tensor]:
    """In place of torchvision's weights of COCO: the difference between an eps of 0 and of 1e-5 shows in its boxes."""
    state: dict[str, torch.Tensor] = network("retinanet_resnet50_fpn", 91).state_dict()
    for name in [name for name in state if "backbone.body" in name and name.endswith("running_var")]:
        # The same function where eps is 0, a twentieth less where it is 1e-5.
        weight = name.replace("running_var", "weight")
        state[weight] = state[weight] * (1e-4 / state[name]).sqrt()
        state[name] = torch.full_like(state[name], 1e-4)
    return state


@pytest.fixture(autouse=True)
def _no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def weights(self: Any, *args: object, **kwargs: object) -> dict[str, torch.Tensor]:
        if type(self).__name__.startswith("RetinaNet"):
            return dict(pretrained())
        body = {name: value for name, value in pretrained().items() if name.startswith("backbone.body.")}
        fc = {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
        return {name.removeprefix("backbone.body."): value for name, value in body.items()} | fc

    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", weights)


def trained(labels: dict[str, int], folder: Path) -> Any:
    """A model of DeepForest that started from torchvision's weights and finds something."""
    from deepforest.main import deepforest

    settings = {"model": {"name": None}, "label_dict": labels, "num_classes": len(labels), "log_root": str(folder)}
    model = deepforest(config_args=settings | {"score_thresh": 0.15})
    torch.manual_seed(3)
    calibrate(model.model)
    model.trainer.strategy.connect(model)
    return model


def found_by(model: Any, pixels: np.ndarray, names: tuple[str, ...]) -> Found:
    table = model.predict_image(image=pixels.transpose(1, 2, 0).astype("float32"))
    boxes = table[["xmin", "ymin", "xmax", "ymax"]].to_numpy(np.float64)
    table = table[(boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1)]
    boxes = table[["xmin", "ymin", "xmax", "ymax"]].to_numpy(np.float64)
    return Found(boxes, table.score.to_numpy(np.float64), np.array([names.index(label) for label in table.label]))


def found_in(folder: Path, pixels: np.ndarray) -> Detections:
    detector = geosod.load_model(folder, precision="fp32", backend="eager", device="cpu", batch=1, threads=1)
    return detector.detect(pixels)  # type: ignore[return-value]


def test_a_checkpoint(tmp_path) -> None:
    """As Lightning writes it; normalisation has no eps, since DeepForest started from torchvision's COCO_V1."""
    model = trained({"Tree": 0}, tmp_path)
    model.save_model(str(tmp_path / "trees.pl"))
    made = pack(tmp_path / "trees.pl", tmp_path / "bundle", PackOptions(gsd=0.1)).bundle
    card = made.card
    assert (card.classes, card.tile_size, card.threshold, card.nms_iou) == (("Tree",), (416, 416), 0.15, 0.05)
    assert card.parameters["norm_eps"] == 0 and card.parameters["min_size"] == 800 and card.top_k == 300
    pixels = image(509, 431, seed=1)
    wanted = found_by(model, pixels, ("Tree",))
    found = found_in(made.folder, pixels)
    assert max(difference(found, wanted, 0.15)) < 1e-3 and len(found) >= 10
    from deepforest.main import deepforest

    again = found_by(deepforest.load_from_checkpoint(str(tmp_path / "trees.pl"), weights_only=False), pixels, ("Tree",))
    assert max(difference(found, again, 0.15)) < 1e-3
    text = (made.folder / "model.json").read_text()
    (made.folder / "model.json").write_text(text.replace('"norm_eps": 0.0', '"norm_eps": 1e-05'))
    assert max(difference(found_in(made.folder, pixels), wanted, 0.15)) > 0.01


def test_a_folder_of_hugging_face(tmp_path) -> None:
    """As on the hub; DeepForest builds such models with torchvision's eps of 1e-5."""
    trained({"Bird": 0}, tmp_path).model.save_pretrained(tmp_path / "birds")
    from deepforest.main import deepforest

    model = deepforest(config_args={"model": {"name": str(tmp_path / "birds")}, "score_thresh": 0.15})
    made = pack(tmp_path / "birds", tmp_path / "bundle").bundle
    assert made.card.classes == ("Bird",) and made.card.name == "birds" and "norm_eps" not in made.card.parameters
    pixels = image(509, 431, seed=2)
    found = found_in(made.folder, pixels)
    assert max(difference(found, found_by(model, pixels, ("Bird",)), 0.15)) < 1e-3 and len(found) >= 10


def share_found(some: Any, others: Any) -> float:
    """Share of boxes that others have, too: within a pixel, with that label and score."""
    boxes, other = np.asarray(some.boxes), np.asarray(others.boxes)
    near = np.abs(boxes[:, None] - other[None]).max(axis=2) <= 1
    same = np.asarray(some.labels)[:, None] == np.asarray(others.labels)[None]
    scored = np.abs(np.asarray(some.scores)[:, None] - np.asarray(others.scores)[None]) < 1e-4
    return float((near & same & scored).any(axis=1).mean())


def test_several_classes(tmp_path) -> None:
    """DeepForest suppresses boxes of other classes, too, and then drops what follows the point."""
    labels = {"Live": 1, "Dead": 0, "Other": 2}
    model = trained(labels, tmp_path)
    model.save_model(str(tmp_path / "crowns.ckpt"))
    made = pack(tmp_path / "crowns.ckpt", tmp_path / "bundle").bundle
    assert made.card.classes == ("Dead", "Live", "Other") and made.card.parameters["agnostic_nms_iou"] == 0.05
    pixels = image(509, 431, seed=3)
    wanted, found = found_by(model, pixels, made.card.classes), found_in(made.folder, pixels)
    # Which of two boxes of nearly one score suppresses the other hangs on rounding, and so do those that it would have.
    assert len(found) >= 10 and len(set(found.labels)) > 1
    assert share_found(found, wanted) > 0.9 and share_found(wanted, found) > 0.9


def test_the_contract_holds(tmp_path) -> None:
    trained({"Tree": 0}, tmp_path).model.save_pretrained(tmp_path / "trees")
    options = PackOptions(tile=(160, 160), input={"upscale": 1.0}, threshold=0.2)
    folder = pack(tmp_path / "trees", tmp_path / "bundle", options).bundle.folder
    detector = geosod.load_model(folder, precision="fp32", backend="eager", device="cpu", batch=3, threads=1)
    check_detector(detector, np.stack([image(160, 160, seed) for seed in range(3)]))
