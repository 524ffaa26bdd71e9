"""From a finished training run to a bundle: ``python -m geosod.training.bundle RUN BUNDLE``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from geosod.demo.layout import CLASSES
from geosod.demo.scene import GSD
from geosod.detectors.bundle import Bundle, write_bundle
from geosod.detectors.card import ModelCard

TILE, OVERLAP = 1024, 96


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
        tile=TILE,
        overlap=OVERLAP,
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


def make_bundle(run: Path, folder: Path) -> Bundle:
    """Write a bundle from the folder of a run of `geosod.training.harbour`."""
    record = json.loads((run / "training.json").read_text())
    return write_bundle(folder, harbour_card(record), load_file(run / "model.safetensors"))


def main() -> None:
    """Read the command line and write the bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder that geosod.training.harbour wrote")
    parser.add_argument("bundle", type=Path, help="folder to write")
    args = parser.parse_args()
    print(make_bundle(args.run, args.bundle).digest)


if __name__ == "__main__":
    main()
