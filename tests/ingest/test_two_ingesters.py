"""Two ingesters, which are paused and killed: every version is committed once, and the index never lies."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import geosod.ingest.destination as destination
from geosod.ingest.ledger import Ledger
from geosod.ingest.status import ingest_status
from geosod.output.commit import commit_outputs
from tests.ingest.conftest import image
from tests.ingest.test_api import by_item, items

#: More items for a run by hand: 500 take some minutes.
ITEMS = int(os.environ.get("GEOSOD_INGEST_ITEMS", "14"))


def counting(log: list[str]) -> Any:
    """`commit_outputs` that notes what it has committed."""

    def commit(folder: Any, outputs: Any, **more: Any) -> Any:
        result = commit_outputs(folder, outputs, **more)
        log.append(more["amend"]["properties"]["geosod:ingest_key"])
        return result

    return commit


@pytest.fixture
def sleeper(ledger_at, api, files, ingester, monkeypatch) -> Callable[[Callable[[], None]], tuple[Any, list[str]]]:
    """An ingester that is paused before its commit for longer than its lease, while another one runs; and the log."""

    def made(meanwhile: Callable[[], None]) -> tuple[Any, list[str]]:
        api.put("c", "a", image(files, "1.tif"))
        slow = ingester(api.url, hosts=(files.url,), ledger=ledger_at, lease=1)
        other = ingester(api.url, hosts=(files.url,), ledger=ledger_at, lease=1)
        monkeypatch.setattr("geosod.ingest.batch.prolonged", _not_prolonged)
        log: list[str] = []
        commit = counting(log)
        paused: list[int] = []

        def pausing(folder: Any, outputs: Any, **more: Any) -> Any:
            if not paused:
                paused.append(1)
                meanwhile()
                time.sleep(1.1)
                assert other.once().committed == 1
            return commit(folder, outputs, **more)

        monkeypatch.setattr(destination, "commit_outputs", pausing)
        return slow, log

    return made


def test_an_ingester_that_wakes_too_late_commits_nothing(sleeper, api, files, tmp_path) -> None:
    """Meanwhile another one commits a newer version."""
    slow, log = sleeper(lambda: api.put("c", "a", image(files, "2.tif", seed=2), datetime="2024-05-03T00:00:00Z"))
    result = slow.once()
    assert result.committed == 0 and result.problems == [] and len(log) == 1
    (item,) = by_item(tmp_path / "out").values()
    assert item["properties"]["datetime"] == "2024-05-03T00:00:00Z"
    assert len(list((tmp_path / "out" / "detections").rglob("*.parquet"))) == 1


def test_an_ingester_that_wakes_too_late_does_not_commit_again(sleeper) -> None:
    slow, log = sleeper(lambda: None)
    assert slow.once().committed == 0 and len(log) == 1


def test_what_was_committed_by_one_that_died_is_not_processed_again(
    ledger_at, api, files, ingester, tmp_path, monkeypatch
) -> None:
    """It dies between the commit and the ledger."""
    api.put("c", "a", image(files, "1.tif"))
    dying = ingester(api.url, hosts=(files.url,), ledger=ledger_at, lease=1)
    log: list[str] = []
    monkeypatch.setattr(destination, "commit_outputs", counting(log))
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "committed", _dies)
        patch.setattr(Ledger, "release", lambda *_: None)
        patch.setattr(Ledger, "failed", lambda *_, **__: None)
        dying.once()
    assert len(log) == 1
    time.sleep(1.1)
    other = ingester(api.url, hosts=(files.url,), ledger=ledger_at)
    assert other.once().committed == 1 and len(log) == 1
    assert ingest_status(other.ledger).counts["committed"] == 1


def _dies(*_: Any, **__: Any) -> None:
    raise OSError("killed here")


class _not_prolonged:  # noqa: N801
    """A heartbeat of a process that is paused."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class Workers:
    """Ingesters in processes of their own, forked from one that has imported everything."""

    def __init__(self, settings: dict[str, Any], run: dict[str, Any], log: Path) -> None:
        values = json.dumps({"settings": settings, "run": run, "log": str(log)})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.ingest.worker", values],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert self.process.stdout is not None and self.process.stdout.readline() == "ready\n"

    def start(self) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("start\n")
        return int(self.process.stdout.readline())

    def end(self) -> None:
        self.process.communicate(timeout=30)


@pytest.mark.slow
def test_items_come_change_and_go_while_ingesters_are_killed(ledger_at, api, files, tiny_bundle, tmp_path) -> None:
    from tests.running.helpers import PLAIN

    out, log = tmp_path / "out", tmp_path / "commits"
    settings = {
        "source": api.url, "asset_hosts": [files.url], "ledger": ledger_at, "lease": 1.5, "interval": 0.3,
        "attempts": 100, "retry_seconds": 0.1, "at_once": 3, "list_hours": 1e-5, "page_size": 7,
    }  # fmt: skip
    run = {"model": str(tiny_bundle), "out": str(out), "engine": "local", "workers": 1} | PLAIN
    rng = random.Random(int(os.environ.get("GEOSOD_INGEST_SEED", "1")))
    workers = Workers(settings, run, log)
    alive = [workers.start(), workers.start()]
    kills, gone = 0, set()
    try:
        for i in range(ITEMS):
            api.put("c", f"i{i}", image(files, f"i{i}.tif", seed=i))
            time.sleep(rng.uniform(0, 0.2))
            if rng.random() < 0.3:
                j = rng.randrange(i + 1)
                if j not in gone:
                    name = f"u{i}-{j}.tif"
                    api.put(
                        "c", f"i{j}", image(files, name, seed=1000 + i), datetime=f"2024-05-{i % 28 + 1:02}T00:00:00Z"
                    )
            if rng.random() < 0.08 and i not in gone:
                gone.add(i)
                api.remove("c", f"i{i}")
            if rng.random() < 0.3:
                time.sleep(rng.uniform(0, 0.5))
                os.kill(alive.pop(rng.randrange(2)), signal.SIGKILL)
                alive.append(workers.start())
                kills += 1
        _wait_until_done(ledger_at, out, api, 60 + ITEMS)
    finally:
        for pid in alive:
            os.kill(pid, signal.SIGTERM)
        workers.end()
    commits = Counter(log.read_text().split())
    assert kills >= 2 and max(commits.values()) == 1, commits
    found = by_item(out)
    for key, item in api.items.items():
        assert found[key]["properties"]["geosod:ingest_updated"][:19] == item["properties"]["updated"][:19]
    for i in gone:
        assert ("c", f"i{i}") not in found or "geosod:withdrawn" in found["c", f"i{i}"]["properties"]
    on_disk = {path.stem for path in (out / "detections").rglob("*.parquet")}
    assert on_disk == set(items(out)) and len(on_disk) == len(list((out / "detections").rglob("*.parquet")))
    rows = pq.read_table(out / "index.parquet").to_pylist()
    assert {row["id"]: row["geosod:ingest_key"] for row in rows} == {
        name: item["properties"]["geosod:ingest_key"] for name, item in items(out).items()
    }


def _wait_until_done(ledger_at: str, out: Path, api: Any, seconds: float) -> None:
    """Until every version of the API is committed, everything gone is marked, and nothing waits."""
    ledger, deadline = Ledger(ledger_at, str(out)), time.monotonic() + seconds
    try:
        while True:
            status = ingest_status(ledger)
            done = {(p["geosod:ingest_item"], p["geosod:ingest_updated"][:19])
                    for item in items(out).values() if "geosod:withdrawn" not in (p := item["properties"])}  # fmt: skip
            wanted = {(name, item["properties"]["updated"][:19]) for (_, name), item in api.items.items()}
            waiting = sum(status.counts[state] for state in ("discovered", "leased", "failed"))
            if done == wanted and not waiting and not ledger.upkeep.unindexed():
                return
            assert time.monotonic() < deadline, (status, wanted - done, done - wanted)
            time.sleep(0.3)
    finally:
        ledger.close()
