"""A service that changes, two ingesters that are killed at random, and a reader, all at once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from geosod.ingest.found import instant
from geosod.ingest.ledger import Ledger
from geosod.ingest.status import ingest_status
from tests.ingest.conftest import image
from tests.ingest.reader import Reader
from tests.ingest.test_api import by_item, items
from tests.remote.server import Server
from tests.running.helpers import PLAIN

SEED = int(os.environ.get("GEOSOD_INGEST_SEED", "1"))
#: Items that may wait before more come, so that many of those that change are committed by then.
MAX_BEHIND = 4


class Workers:
    """Ingesters in processes of their own, forked from one that has imported everything."""

    def __init__(self, settings: dict[str, Any], run: dict[str, Any], log: Path, *, flush_seconds: float = 0) -> None:
        about = {"settings": settings, "run": run, "log": str(log), "flush_seconds": flush_seconds}
        values = json.dumps(about)
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


class Killer:
    """Keeps two ingesters alive, of which it kills one now and then, from a thread.

    Attributes:
        done: number of kills.
        kills: how many there will be.
    """

    def __init__(self, workers: Workers, *, kills: int) -> None:
        self.kills, self.done, self._workers, self._ended = kills, 0, workers, threading.Event()
        self._thread = threading.Thread(target=self._kill, daemon=True)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _kill(self) -> None:
        rng, alive = random.Random(SEED), [self._workers.start(), self._workers.start()]
        while not self._ended.wait(rng.uniform(0.3, 2)):
            if self.done < self.kills:
                os.kill(alive.pop(rng.randrange(2)), signal.SIGKILL)
                alive.append(self._workers.start())
                self.done += 1
        for pid in alive:
            os.kill(pid, signal.SIGTERM)


def run_with_kills(
    api: Any, files: Server, tmp_path: Path, *, bundle: Path, items: int, settings: dict[str, Any]
) -> None:
    """Add, change and withdraw items while two ingesters run and are killed, and see what came of it.

    Args:
        api: has `url`, `items`, `put` and `remove`.
        files: has the images.
        tmp_path: for the dataset and the log of commits.
        bundle: the model.
        items: number of items.
        settings: of the ingestion, with its ledger.
    """
    out, log = tmp_path / "out", tmp_path / "commits"
    own = {
        "source": api.url, "asset_hosts": [files.url], "lease": 1.5, "interval": 0.3, "attempts": 100,
        "retry_seconds": 0.1, "at_once": 3,
    } | settings  # fmt: skip
    run = {"model": str(bundle), "out": str(out), "engine": "local", "workers": 1} | PLAIN
    workers, reader = Workers(own, run, log), Reader(out)
    killer = Killer(workers, kills=3 + items // 5)
    try:
        with reader, killer:
            gone = _change(api, files, items, out)
            _wait_until_done(own["ledger"], out, api, killer, 60 + items)
    finally:
        workers.end()
    assert reader.looks > 5 and reader.wrong == [], reader.wrong[:3]
    commits = Counter(log.read_text().split())
    kept = sum("geosod:withdrawn" in item["properties"] for item in by_item(out).values())
    print(
        f"{items} items, {len(gone)} gone and {kept} of these marked, {len(commits)} versions committed, "
        f"{killer.done} kills, {reader.looks} looks"
    )
    assert max(commits.values()) == 1, commits
    _check_dataset(out, api, gone)


def _change(api: Any, files: Server, count: int, out: Path) -> set[int]:
    """Change what the service has, no faster than it is ingested; which items were withdrawn."""
    rng, gone = random.Random(SEED), set()
    for i in range(count):
        api.put("c", f"i{i}", image(files, f"i{i}.tif", seed=i))
        time.sleep(rng.uniform(0, 0.1))
        while len({name for _, name in api.items} - _ingested(out)) > MAX_BEHIND:
            time.sleep(0.2)
        j = rng.randrange(i + 1)
        if rng.random() < 0.3 and j not in gone:
            name, date = f"u{i}-{j}.tif", f"2024-05-{i % 28 + 1:02}T00:00:00Z"
            api.put("c", f"i{j}", image(files, name, seed=1000 + i), datetime=date)
        if rng.random() < 0.08 and j not in gone:
            gone.add(j)
            api.remove("c", f"i{j}")
    return gone


def _items_now(out: Path) -> Iterator[dict[str, Any]]:
    """The items of a dataset that others write; one that is just being replaced is left out."""
    for path in out.glob("items/*.json"):
        with suppress(FileNotFoundError):
            yield json.loads(path.read_text())


def _ingested(out: Path) -> set[str]:
    """Identifiers of the source's items that have been committed."""
    return {path.stem.rpartition("-")[0] for path in out.glob("items/*.json")}


def _check_dataset(out: Path, api: Any, gone: set[int]) -> None:
    """Every item is there as it is now, once, and no file beside; the index has the same."""
    found = by_item(out)
    for key, item in api.items.items():
        assert found[key]["properties"]["geosod:ingest_updated"] == instant(item["properties"]["updated"])
    for i in gone:
        assert ("c", f"i{i}") not in found or "geosod:withdrawn" in found["c", f"i{i}"]["properties"]
    on_disk = sorted(path.stem for path in (out / "detections").rglob("*.parquet"))
    assert on_disk == sorted(items(out))
    rows = pq.read_table(out / "index.parquet").to_pylist()
    assert {row["id"]: row["geosod:ingest_key"] for row in rows} == {
        name: item["properties"]["geosod:ingest_key"] for name, item in items(out).items()
    }


def _wait_until_done(ledger_at: str, out: Path, api: Any, killer: Killer, seconds: float) -> None:
    """Until the killer is done, every version is committed, everything gone is marked, and nothing waits."""
    ledger, deadline = Ledger(ledger_at, str(out)), time.monotonic() + seconds
    wanted = {(name, instant(item["properties"]["updated"])) for (_, name), item in api.items.items()}
    try:
        while True:
            status = ingest_status(ledger)
            there = [item["properties"] for item in _items_now(out)]
            done = {(p["geosod:ingest_item"], p["geosod:ingest_updated"]) for p in there if "geosod:withdrawn" not in p}
            waiting = sum(status.counts[state] for state in ("discovered", "leased", "failed"))
            idle = not waiting and not ledger.upkeep.unindexed()
            if idle and done == wanted and killer.done == killer.kills:
                return
            assert time.monotonic() < deadline, (status, wanted - done, done - wanted)
            time.sleep(0.3)
    finally:
        ledger.close()
