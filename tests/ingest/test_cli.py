"""`geosod ingest` as operators use it: once, as a daemon, dry, its state, replay and backfill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from geosod.cli.main import app
from tests.ingest.conftest import image
from tests.ingest.test_api import items
from tests.running.helpers import PLAIN


@pytest.fixture
def config(api, files, tiny_bundle, tmp_path) -> Path:
    for i in range(2):
        api.put("c", f"i{i}", image(files, f"i{i}.tif", seed=i), datetime=f"2024-0{i + 5}-01T00:00:00Z")
    values: dict[str, Any] = {
        "source": api.url, "asset-hosts": [files.url], "model": str(tiny_bundle), "out": str(tmp_path / "out"),
        "attempts": 1, "engine": "serial", **PLAIN,
    }  # fmt: skip
    (tmp_path / "ingest.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "ingest.yaml"


def call(*args: object, code: int = 0) -> Any:
    done = CliRunner().invoke(app, ["ingest", *map(str, args)])
    assert done.exit_code == code, (done.output, done.stderr, done.exception)
    return done


def test_once_status_replay_and_dry_run(config, api, files, tmp_path) -> None:
    dry = call("run", "--config", config, "--dry-run")
    assert "2 scenes would be processed" in dry.stderr and not (tmp_path / "out").exists()
    call("status", "--config", config, code=2)
    done = json.loads(call("run", "--config", config, "--once", "--json").stdout)
    assert (done["discovered"], done["committed"], done["exit_code"]) == (2, 2, 0)
    api.put("c", "bad", f"{files.url}/bad.tif")
    assert "1 scene would be" in call("run", "--config", config, "--dry-run").stderr
    assert "1 dead" in call("run", "--config", config, code=3).stderr
    state = json.loads(call("status", "--config", config, "--json").stdout)
    assert state["counts"]["committed"] == 2 and state["counts"]["dead"] == 1 and state["lag"] == 0
    assert "404" in state["problems"][0]["error"]
    beyond = call("status", "--config", config, "--max-dead", 0, code=3)
    assert "dead scenes: 1, over 0" in beyond.stderr and "1 dead" in beyond.stdout
    call("status", "--config", config, "--max-lag", 5, "--max-poll-age", 600)
    image(files, "bad.tif", seed=4)
    assert "1 scene will be tried again" in call("replay", "--config", config, "--error", "404").stderr
    assert call("status", "--config", config, "--max-lag", 0, code=3)
    call("run", "--config", config, "--quiet")
    assert len(items(tmp_path / "out")) == 3


def test_a_backfill_enters_a_range_of_dates(config, api, tmp_path) -> None:
    call("run", "--config", config, "--since", "2025-01-01T00:00:00Z")
    assert items(tmp_path / "out") == {}
    dates = ("--from", "2024-05-15T00:00:00Z", "--to", "2024-06-15T00:00:00Z", "--since", "2025-01-01T00:00:00Z")
    assert "1 scene would be" in call("backfill", "--config", config, *dates, "--dry-run").stderr
    assert "1 scene entered" in call("backfill", "--config", config, *dates).stderr
    assert "0 scenes entered, 1 known" in call("backfill", "--config", config, *dates).stderr
    call("run", "--config", config, "--since", "2025-01-01T00:00:00Z")
    assert [name[:2] for name in items(tmp_path / "out")] == ["i1"]
    call("backfill", "--config", config, "--from", "2024-05-02T00:00:00Z", "--to", "2024-05-01T00:00:00Z", code=2)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--once", "--follow"], "exclude each other"),
        (["--out", "s3://bucket/x"], "add --ledger PATH"),
        (["--out", "x.parquet"], "give a folder or an address"),
        (["--at-once", "0"], "at_once"),
    ],
)
def test_bad_usage_ends_with_2(more, message, config) -> None:
    assert message in call("run", "--config", config, *more, code=2).stderr


def test_a_daemon_ends_cleanly_on_sigterm(config, api, files, tmp_path) -> None:
    """What is in progress is free at once, and nothing is half-written."""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "geosod", "ingest", "run", "--config", str(config), "--follow", "--interval", "1"]
    process = subprocess.Popen([*command, "--at-once", "1"], env=env, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while len(items(tmp_path / "out")) < 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and "geosod: stopped" in said, said
    assert "Traceback" not in said
    state = json.loads(call("status", "--config", config, "--json").stdout)
    assert state["counts"]["leased"] == 0 and state["counts"]["failed"] == 0
    call("run", "--config", config)
    assert len(items(tmp_path / "out")) == 2
    assert not list((tmp_path / "out").glob(".staging-*"))
