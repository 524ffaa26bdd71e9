"""Images that are held out to validate on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from geosod.errors import ConfigError
from geosod.training.config import TrainConfig
from geosod.training.data import read_run_labels
from tests.training.sets import labelled


@pytest.mark.parametrize(("images", "few"), [(0, "no image"), (1, "one image"), (3, "3 tiles of one scene")])
def test_too_few_images_to_hold_one_out(tmp_path: Path, images: int, few: str) -> None:
    labels = labelled(tmp_path, images=3, crs=None)
    content = json.loads(labels.read_text())
    content["images"] = [image | {"geosod": {"scene": "a"}} for image in content["images"][:images]]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in kept]
    labels.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=f"the labels are of {few}; give others with --val"):
        read_run_labels(TrainConfig(labels=str(labels)))
    assert len(read_run_labels(TrainConfig(labels=str(labels), val=str(labels))).val.images) == images
