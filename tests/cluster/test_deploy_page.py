"""What docs/deploy.md shows works as shown: its file of settings, its commands, the files that it names."""

from __future__ import annotations

import re
from pathlib import Path

from typer.testing import CliRunner

from geosod.cli.job_file import read_job
from geosod.cli.main import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text()


def test_the_file_of_settings_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "june.yaml"
    file.write_text(text)
    scenes, config = read_job(str(file))
    assert scenes == ["s3://my-scenes/2024/06/"] and config.out == "s3://my-outputs/geosod/june"


def test_files_that_are_named_exist() -> None:
    named = set(re.findall(r"cluster/[\w./-]*\w", PAGE))
    assert len(named) > 8 and all((ROOT / name).exists() for name in named), named


def test_options_of_geosod_submit_exist() -> None:
    shown = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["submit", "--help"]).output
    used = {word for line in re.findall(r"geosod submit (.*)", PAGE) for word in re.findall(r"--[\w-]+", line)}
    assert {"--address"} <= used and all(word in shown for word in used - {"--config"})


def test_the_job_script_is_short() -> None:
    assert all(len(path.read_text().splitlines()) < 60 for path in (ROOT / "pipelines").glob("*.py"))
