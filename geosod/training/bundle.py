"""From a finished training run to a bundle: ``python -m geosod.training.bundle RUN BUNDLE``."""

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
        record: what the run wrote to ``training.json``; its validation chose the threshold.
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
        # No two of the drawn objects of a class overlap by more than a quarter of the smaller one.
        merge_metric="ios",
        merge_threshold=0.4,
        license="Apache-2.0",
        description=(
            "Vessels, vehicles and storage tanks of the scenes that `geosod demo` draws, from 6 to 60 pixels. "
            "Trained on drawn scenes only; it knows nothing of real ones."
        ),
        accuracy={"on": "12 drawn scenes of 2048 px, seeds from 2000 on, at IoU 0.5", **validation},
        provenance={key: value for key, value in record.items() if key != "validation"},
    )


_TREES_ABOUT = (
    "Single trees in 0.6 m aerial images with red, green, blue and near-infrared bands (NAIP). It finds a tree's "
    "centre; every box is 12 px (7.2 m) wide, whatever the crown. Trained on cities of Southern California; elsewhere, "
    "in forests, in other seasons and from other cameras it is untested. NAIP files call their fourth band alpha: "
    "choose it with --bands 1,2,3,4."
)
_TREES_MEASURED = {
    "on": "the 43 images of the validation split, on which nothing was trained or tuned",
    "protocol": (
        "Ventura et al. 2024: optimal one-to-one assignment of predicted to true points within 10 px (6 m) over the "
        "whole split; RMSE in metres of those matched; float32"
    ),
    "threshold_chosen": "greatest F-score on training images held out, with those that touch them",
}
_TREES_FROM = {
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
        record: what the run wrote to ``training.json``; images held out of training chose threshold and peaks.
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
        # Twice as far as the network sees and a box more, in whole blocks of its pooling: every tree stands in some
        # tile with all the ground about it that matters, and tiles show it with the same numbers.
        overlap=-(-(2 * reach + int(trees.SIDE)) // 32) * 32,
        edge_margin_px=float(reach),
        threshold=chosen["threshold"],
        weights_digest="",
        gsd=trees.GSD,
        gsd_range=(0.5, 0.7),
        # Boxes of 12 px that are 3 px apart have an IoU of 0.6, and trees that near are not labelled as two; one
        # tree seen in two tiles is off by less than a pixel.
        nms_iou=0.6,
        merge_metric="iou",
        merge_threshold=0.6,
        # A tree every 7 px; only what is found costs.
        top_k=20_000,
        license="Apache-2.0",
        description=_TREES_ABOUT,
        accuracy={
            **_TREES_MEASURED,
            **record["validation"],
            "threshold": chosen["threshold"],
            "held_out_figures": {key: value for key, value in chosen.items() if key not in (*settings, "threshold")},
        },
        provenance={
            **_TREES_FROM,
            **{key: value for key, value in record.items() if key not in ("validation", "chosen")},
        },
    )


#: What a run's record calls its network → the card of the model that the run is of.
CARDS: dict[str, Callable[[dict[str, Any]], ModelCard]] = {
    "geosod.detectors.zoo.fpn.SmallFPN": harbour_card,
    "geosod.detectors.zoo.unet.CentreUNet": trees_card,
}


def make_bundle(run: Path, folder: Path) -> Bundle:
    """Write a bundle from the folder of a run of `geosod.training.harbour` or `geosod.training.trees`.

    Raises:
        ConfigError: the folder holds no finished run of either.
    """
    path = run / "training.json"
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not the record of a training run: {error}") from error
    network = record.get("network")
    if network not in CARDS or "validation" not in record:
        known = ", ".join(CARDS)
        raise ConfigError(f"{path}: network {network!r} must be one of {known}, and the run finished")
    return write_bundle(folder, CARDS[network](record), load_file(run / "model.safetensors"))


def main() -> None:
    """Read the command line and write the bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder that geosod.training.harbour or geosod.training.trees wrote")
    parser.add_argument("bundle", type=Path, help="folder to write")
    args = parser.parse_args()
    print(make_bundle(args.run, args.bundle).digest)


if __name__ == "__main__":
    main()
