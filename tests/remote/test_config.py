"""Files of settings in a bucket and at a web address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from geosod.cli.job_file import read_job
from geosod.errors import ConfigError

TEXT = "scenes: [s3://images/a.tif]\nmodel: demo-harbour\nthreshold: 0.25\n"


def test_a_file_of_settings_in_a_bucket(s3: Any) -> None:
    s3.put_object(Bucket="images", Key="runs/june.yaml", Body=TEXT.encode())
    scenes, config = read_job("s3://images/runs/june.yaml")
    assert scenes == ["s3://images/a.tif"] and config.threshold == 0.25
    with pytest.raises(ConfigError, match=r"^config s3://images/runs/july.yaml"):
        read_job("s3://images/runs/july.yaml")
    s3.put_object(Bucket="images", Key="runs/bad.yaml", Body=b"thresold: 1")
    with pytest.raises(ConfigError, match=r"config s3://images/runs/bad.yaml, line 1: thresold: unknown setting"):
        read_job("s3://images/runs/bad.yaml")


def test_a_file_of_settings_at_a_web_address(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(TEXT)
    server = serve(tmp_path)
    assert read_job(f"{server.url}/run.yaml")[0] == ["s3://images/a.tif"]
    with pytest.raises(ConfigError, match="is not there"):
        read_job(f"{server.url}/none.yaml")


@pytest.mark.parametrize("name", ["ftp://host/run.yaml", "https:///run.yaml"])
def test_other_addresses_are_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        read_job(name)


def test_a_remote_file_cannot_allow_code(s3: Any) -> None:
    s3.put_object(Bucket="images", Key="run.yaml", Body=b"trust: true")
    with pytest.raises(ConfigError, match="trust cannot be set in a file"):
        read_job("s3://images/run.yaml")
