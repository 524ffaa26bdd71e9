"""Makes a model bundle from a finished training run: ``python -m geosod.training.bundle RUN BUNDLE``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from geosod.demo.layout import CLASSES
from geosod.demo.scene import GSD
from geosod.detectors.bundle import Bundle, write_bundle
from geosod.detectors.card import ModelCard
from geosod.detectors.zoo.unet import CentreUNet
from geosod.errors import ConfigError
from geosod.training import trees


def harbour_card(record: dict[str, Any]) -> ModelCard:
    """The card of the demo's network.

    Args:
        record: the contents of ``training.json``; the threshold was chosen on its validation scenes.
    """
    validation = record["validation"]
    return ModelCard(
        name="demo-harbour",
        architecture="small-fpn",
        parameters={"width": record["arguments"]["width"]},
        bands=("red", "green", "blue"),
        dtype="uint8",
        minimum=(0.0, 0.0, 0.0),
        maximum=(255.0, 255.0, 255.0),
        classes=CLASSES,
        tile=1024,
        overlap=96,
        threshold=round(validation["threshold"], 3),
        weights_digest="",
        gsd=GSD,
        gsd_range=(0.4, 0.6),
        # Drawn objects of a class never overlap by more than a quarter of the smaller one.
        merge_metric="ios",
        merge_threshold=0.4,
        license="Apache-2.0",
        description=(
            "Vessels, vehicles and storage tanks of the scenes that `geosod demo` draws, from 6 to 60 pixels. "
            "Trained on drawn scenes only; not on real images."
        ),
        accuracy={"on": "12 drawn scenes of 2048 px, seeds from 2000 on, at IoU 0.5", **validation},
        provenance={key: value for key, value in record.items() if key != "validation"},
    )


_TREES_DESCRIPTION = (
    "Single trees in 0.6 m aerial images with red, green, blue and near-infrared bands (NAIP). It finds a tree's "
    "centre; every box is 12 px (7.2 m) wide, whatever the crown. Trained on cities of Southern California; elsewhere, "
    "in forests, in other seasons and from other cameras it is untested."
)
_TREES_ACCURACY = {
    "on": "the 43 images of the validation split, on which nothing was trained or tuned",
    "protocol": (
        "Ventura et al. 2024: optimal one-to-one assignment of predicted to true points within 10 px (6 m) over the "
        "whole split; RMSE in metres of those matched; float32"
    ),
    "threshold_chosen": "highest F-score on held-out training images, together with those that touch them",
}
_TREES_PROVENANCE = {
    "data": (
        "Urban Tree Detection Data, Southern California, training split: images of 256 px from NAIP 2020 (0.6 m) with "
        "a point for every tree"
    ),
    "attribution": (
        "Weights trained on Urban Tree Detection Data by J. Ventura, C. Pawlak, M. Honsberger, C. Gonsalves, J. Rice, "
        "N. L. R. Love, S. Han, V. Nguyen, K. Sugano, J. Doremus, G. A. Fricker, J. Yost and M. Ritter "
        "(https://github.com/jonathanventura/urban-tree-detection-data), CC BY 4.0; imagery: USDA NAIP, public domain"
    ),
}


def trees_card(record: dict[str, Any]) -> ModelCard:
    """The card of the tree model.

    Args:
        record: the contents of ``training.json``; threshold and peak settings were chosen on held-out images.
    """
    chosen = record["chosen"]
    settings = {"window": chosen["window"], "refine": chosen["refine"]}
    arguments = {**record["arguments"], **settings}
    reach = CentreUNet(**arguments).reach
    return ModelCard(
        name="trees-naip-60cm",
        architecture="centre-unet",
        parameters={key: value for key, value in arguments.items() if key not in ("bands", "classes")},
        bands=trees.BANDS,
        dtype="uint8",
        minimum=(0.0,) * 4,
        maximum=(255.0,) * 4,
        classes=("tree",),
        tile=1024,
        # Twice the reach of the network plus a box, rounded up to a multiple of its pooling: every tree has its whole
        # receptive field in some tile, and tiles that show it give the same numbers.
        overlap=-(-(2 * reach + int(trees.SIDE)) // 32) * 32,
        edge_margin_px=float(reach),
        threshold=chosen["threshold"],
        weights_digest="",
        gsd=trees.GSD,
        gsd_range=(0.5, 0.7),
        # Boxes of 12 px with centres 3 px apart have an IoU of 0.6, and trees that close are labelled as one. Positions
        # of one tree in two tiles differ by less than a pixel.
        nms_iou=0.6,
        merge_metric="iou",
        merge_threshold=0.6,
        # One tree per 7 × 7 px; a high limit costs nothing unless so many are found.
        top_k=20_000,
        license="Apache-2.0",
        description=_TREES_DESCRIPTION,
        accuracy={
            **_TREES_ACCURACY,
            **record["validation"],
            "threshold": chosen["threshold"],
            "held_out_figures": {key: value for key, value in chosen.items() if key not in (*settings, "threshold")},
        },
        provenance={
            **_TREES_PROVENANCE,
            **{key: value for key, value in record.items() if key not in ("validation", "chosen")},
        },
    )


#: Name of the network in a run's record → the function that makes the model's card.
CARDS: dict[str, Callable[[dict[str, Any]], ModelCard]] = {
    "geosod.detectors.zoo.fpn.SmallFPN": harbour_card,
    "geosod.detectors.zoo.unet.CentreUNet": trees_card,
}


def make_bundle(run: Path, folder: Path) -> Bundle:
    """Write a bundle from the folder of a run of `geosod.training.harbour` or `geosod.training.trees`.

    Raises:
        ConfigError: the folder contains no finished run of either.
    """
    path = run / "training.json"
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: not the record of a training run ({error}); give the folder that a run wrote"
        ) from error
    network = record.get("network")
    if network not in CARDS or "validation" not in record:
        raise ConfigError(
            f"{path}: needs a finished run (with a validation) of one of {', '.join(CARDS)}; its network is {network!r}"
        )
    return write_bundle(folder, CARDS[network](record), load_file(run / "model.safetensors"))


def main() -> None:
    """Parse the command line and write the bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder that geosod.training.harbour or geosod.training.trees wrote")
    parser.add_argument("bundle", type=Path, help="folder to write")
    args = parser.parse_args()
    print(make_bundle(args.run, args.bundle).digest)


if __name__ == "__main__":
    main()
