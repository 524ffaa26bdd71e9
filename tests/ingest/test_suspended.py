"""Ingesters into an object store that are suspended by a signal, longer than their lease, in the middle of a commit."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.ingest.conftest import image
from tests.remote.conftest import aws, s3, s3_service
from tests.running.helpers import PLAIN

assert aws and s3 and s3_service
DATES = {"earlier": "2024-05-02T00:00:00Z", "same": "2024-05-01T10:00:00Z"}


@pytest.fixture
def suspended(s3, api, files, tiny_bundle, tmp_path) -> Callable[[str, str], subprocess.Popen[str]]:
    """Starts an ingester that suspends itself before it calls a method for a path, and waits until it has."""

    def start(method: str, path: str) -> subprocess.Popen[str]:
        settings = {"source": api.url, "asset_hosts": [files.url], "ledger": str(tmp_path / "ledger"), "lease": 1}
        run = {"model": str(tiny_bundle), "out": "s3://images/out", "engine": "serial"} | PLAIN
        values = json.dumps({"settings": settings, "run": run, "method": method, "path": path})
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.ingest.suspended", values],
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "it was to be suspended in a commit"
        return process

    return start


def resumed(process: subprocess.Popen[str]) -> dict[str, Any]:
    os.kill(process.pid, signal.SIGCONT)
    said, _ = process.communicate(timeout=60)
    found: dict[str, Any] = json.loads(said)
    return found


def objects(s3: Any, prefix: str = "") -> dict[str, bytes]:
    listed = s3.list_objects_v2(Bucket="images", Prefix=f"out/{prefix}").get("Contents", [])
    return {e["Key"]: s3.get_object(Bucket="images", Key=e["Key"])["Body"].read() for e in listed}


@pytest.mark.slow
@pytest.mark.parametrize("date", ["earlier", "same"])
@pytest.mark.parametrize(
    ("method", "path"), [("put", "detections/"), ("change", "items/"), ("create", ".commits/")], ids=lambda v: v
)
def test_what_wakes_up_late_replaces_nothing_newer(
    method, path, date, suspended, s3, api, files, ingester, tmp_path
) -> None:
    """The first version is there; the second is suspended in its commit; the third is committed meanwhile."""
    api.put("c", "a", image(files, "1.tif"), datetime=DATES["same"])
    ledger = str(tmp_path / "ledger")
    other = ingester(api.url, hosts=(files.url,), ledger=ledger, out="s3://images/out", lease=1)
    assert other.once().committed == 1
    api.put("c", "a", image(files, "2.tif", seed=2), datetime=DATES[date])
    process = suspended(method, path)
    api.put("c", "a", image(files, "3.tif", seed=3), datetime=DATES["same"])
    assert other.once().committed == 1
    newest = objects(s3)
    assert resumed(process) == {"committed": 0, "problems": []}
    assert objects(s3) == newest
    check_whole(s3)


@pytest.mark.slow
def test_the_same_version_is_committed_once_though_its_ingester_wakes_up(
    suspended, s3, api, files, ingester, tmp_path
) -> None:
    """Its lease ends, another ingester commits, and only then it goes on."""
    api.put("c", "a", image(files, "1.tif"))
    process = suspended("change", "items/")
    time.sleep(1.1)
    other = ingester(api.url, hosts=(files.url,), ledger=str(tmp_path / "ledger"), out="s3://images/out", lease=1)
    assert other.once().committed == 1
    first = objects(s3)
    assert resumed(process)["committed"] == 0 and objects(s3) == first
    check_whole(s3)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), [("change", "items/"), ("change", "index.parquet")], ids=lambda v: v)
def test_what_a_killed_ingester_left_is_removed_by_the_next(
    method, path, suspended, s3, api, files, ingester, tmp_path
) -> None:
    """Killed before its item, whose files nothing names, and after it, when the earlier files are still there."""
    api.put("c", "a", image(files, "1.tif"), datetime=DATES["earlier"])
    ledger = str(tmp_path / "ledger")
    other = ingester(api.url, hosts=(files.url,), ledger=ledger, out="s3://images/out", lease=1)
    assert other.once().committed == 1
    api.put("c", "a", image(files, "2.tif", seed=2), datetime=DATES["same"])
    process = suspended(method, path)
    assert len(objects(s3, "detections/")) == 2, "both versions have their files"
    process.kill()
    process.communicate()
    time.sleep(1.1)
    assert other.once().committed == 1
    check_whole(s3)


def check_whole(s3: Any) -> None:
    """One item, its files and no others, and an index that names them."""
    found = objects(s3)
    (item_path,) = [key for key in found if key.startswith("out/items/")]
    item = json.loads(found[item_path])
    named = {f"out/{asset['href'].removeprefix('../')}" for asset in item["assets"].values()}
    assert {key for key in found if key.startswith(("out/detections/", "out/coverage/"))} == named
    (row,) = pq.read_table(io.BytesIO(found["out/index.parquet"])).to_pylist()
    assert row["geosod:ingest_key"] == item["properties"]["geosod:ingest_key"]
    assert {f"out/{asset['href'].removeprefix('./')}" for asset in row["assets"].values()} == named
    assert not [key for key in found if ".commits" in key]
