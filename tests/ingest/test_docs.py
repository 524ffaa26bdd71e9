"""What docs/ingestion.md shows works as shown."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from geosod.cli.main import app
from geosod.ingest.config import split_config
from geosod.ingest.notify import signature

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ingestion.md").read_text()


def test_the_files_of_settings_are_some() -> None:
    whole, notices = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    own, run = split_config(yaml.safe_load(whole) | yaml.safe_load(notices), "ingest.yaml")
    assert own.bbox == (3.9, 51.8, 4.7, 52.2) and run.model == "trees-naip-60cm" and own.notify_url
    assert own.asset_hosts == ("https://data.example.org", "s3://example-scenes")


def test_commands_and_options_exist() -> None:
    used = re.findall(r"geosod ingest (run|status|replay|backfill)((?: --[\w-]+| [^\s`|#]+)*)", PAGE)
    assert {name for name, _ in used} == {"run", "status", "replay", "backfill"}
    for name, rest in used:
        shown = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["ingest", name, "--help"]).output
        assert all(option in shown for option in re.findall(r"--[\w-]+", rest)), (name, rest)


def test_the_settings_that_are_named_exist_with_their_defaults() -> None:
    own, _ = split_config({}, None)
    stated = dict(re.findall(r"`(\w+)` \((\d+)\)", PAGE))
    assert {"attempts", "lease", "lookback_days", "list_hours"} <= stated.keys()
    for name, value in stated.items():
        assert getattr(own, name) == float(value), name
    assert own.poll_overlap == 3600


def test_signatures_are_checked_as_shown() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(code, scope)
    now = int(time.time())
    assert scope["is_genuine"](b"key", b"{}", signature(b"key", b"{}", now))
    assert not scope["is_genuine"](b"key", b"{ }", signature(b"key", b"{}", now))
    assert not scope["is_genuine"](b"key", b"{}", signature(b"key", b"{}", now - 999))
    assert hmac and hashlib


def test_files_that_are_named_exist() -> None:
    named = set(re.findall(r"(?:cluster|pipelines)/[\w./-]*\w", PAGE))
    assert len(named) >= 5 and all((ROOT / name).exists() for name in named), named
