"""Ingesters into an object store that are suspended by a signal, longer than their lease, in the middle of a commit."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.ingest.conftest import image
from tests.remote.conftest import aws, s3, s3_service
from tests.running.helpers import PLAIN

assert aws and s3 and s3_service
DATES = {"earlier": "2024-05-02T00:00:00Z", "same": "2024-05-01T10:00:00Z"}


@pytest.fixture(scope="module")
def forker() -> Iterator[subprocess.Popen[str]]:
    """Has imported everything, once for all tests."""
    command = [sys.executable, "-m", "tests.ingest.suspended"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, bufsize=1, cwd=Path(__file__).parents[2]) as late:
        yield late
        assert late.stdin is not None
        late.stdin.close()


@dataclass
class Suspended:
    """An ingester that has suspended itself in a commit."""

    pid: int
    result: Path

    def resume(self) -> dict[str, Any]:
        """Let it go on to its end; what it says then."""
        os.kill(self.pid, signal.SIGCONT)
        until(self.result.exists)
        found: dict[str, Any] = json.loads(self.result.read_text())
        return found


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def suspended(forker, s3, api, files, tiny_bundle, tmp_path) -> Iterator[Callable[[str, str], Suspended]]:
    """Starts an ingester that suspends itself before it calls a method for a path, and waits until it has."""
    made: list[Suspended] = []

    def start(method: str, path: str) -> Suspended:
        settings = {"source": api.url, "asset_hosts": [files.url], "ledger": str(tmp_path / "ledger"), "lease": 1}
        run = {"model": str(tiny_bundle), "out": "s3://images/out", "engine": "serial"} | PLAIN
        result = tmp_path / "result"
        values = {"settings": settings, "run": run, "method": method, "path": path, "result": str(result)}
        values["environment"] = {k: v for k, v in os.environ.items() if k.startswith("AWS_") or k == "HOME"}
        forker.stdin.write(f"{json.dumps(values)}\n")
        one = Suspended(int(forker.stdout.readline()), result)
        made.append(one)
        until(lambda: Path(f"/proc/{one.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        return one

    yield start
    for one in made:
        with suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGKILL)


def objects(s3: Any, prefix: str = "") -> dict[str, bytes]:
    listed = s3.list_objects_v2(Bucket="images", Prefix=f"out/{prefix}").get("Contents", [])
    return {e["Key"]: s3.get_object(Bucket="images", Key=e["Key"])["Body"].read() for e in listed}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path", "date"),
    [("put", "detections/", "same"), ("change", "items/", "earlier"), ("create", ".commits/", "same")],
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
    late = suspended(method, path)
    check_named(s3)
    api.put("c", "a", image(files, "3.tif", seed=3), datetime=DATES["same"])
    assert other.once().committed == 1
    newest = objects(s3)
    assert late.resume() == {"committed": 0, "problems": []}
    assert objects(s3) == newest
    check_whole(s3)


@pytest.mark.slow
def test_the_same_version_is_committed_once_though_its_ingester_wakes_up(
    suspended, s3, api, files, ingester, tmp_path
) -> None:
    """Its lease ends, another ingester commits, and only then it goes on."""
    api.put("c", "a", image(files, "1.tif"))
    late = suspended("change", "items/")
    time.sleep(1.1)
    other = ingester(api.url, hosts=(files.url,), ledger=str(tmp_path / "ledger"), out="s3://images/out", lease=1)
    assert other.once().committed == 1
    first = objects(s3)
    assert late.resume()["committed"] == 0 and objects(s3) == first
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
    late = suspended(method, path)
    assert len(objects(s3, "detections/")) == 2, "both versions have their files"
    check_named(s3)
    os.kill(late.pid, signal.SIGKILL)
    time.sleep(1.1)
    assert other.once().committed == 1
    check_whole(s3)


def check_named(s3: Any) -> None:
    """Whatever the index and the item name in the middle of a commit is there."""
    found = objects(s3)
    (row,) = pq.read_table(io.BytesIO(found["out/index.parquet"])).to_pylist()
    (item,) = (json.loads(content) for key, content in found.items() if key.startswith("out/items/"))
    hrefs = [asset["href"].lstrip("./") for one in (row, item) for asset in one["assets"].values()]
    assert len(hrefs) == 4 and all(f"out/{href}" in found for href in hrefs)


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
