"""The file behind --config: local or remote, with or without scenes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from geosod.cli.job_file import read_job
from geosod.config import make_config
from geosod.errors import ConfigError
from geosod.running.detect import configured

SETTINGS = {
    "model": "demo-harbour", "out": "out", "bands": {"red": "B4", "green": "2", "blue": "3"}, "mask": ["cloud=c.shp:x"],
    "tile": "640x512", "overlap": "0.25x64", "levels": "1:0-,0.5:20-,full", "threshold": {"vessel": 0.4},
    "datetime": "2024-06-01", "unit": [4, 4], "device": "gpu", "merge_threshold_by_class": {"vessel": 0.3},
    "tile_gsd": "model", "aoi": "a.gpkg:layer",
}  # fmt: skip


def test_settings_survive_a_second_layer_of_settings(tmp_path: Path) -> None:
    """Flags are put on top of what a file gave; what it gave stays as it was."""
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(SETTINGS | {"scenes": ["a.tif", "s3://b/c/"]}))
    scenes, config = read_job(str(file))
    assert scenes == ["a.tif", "s3://b/c/"] and config == make_config(**SETTINGS)
    assert configured(config) == config and configured(config, workers=3).workers == 3
    assert read_job(None) == ([], make_config())


@pytest.mark.parametrize("scenes", [7, ["a.tif", 3], [""], {"a": "b"}])
def test_scenes_are_paths(tmp_path: Path, scenes: object) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"scenes": scenes}))
    with pytest.raises(ConfigError, match="scenes is"):
        read_job(str(file))


def test_a_single_scene_needs_no_list(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("scenes: a.tif\n")
    assert read_job(str(file))[0] == ["a.tif"]
