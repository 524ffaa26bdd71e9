"""A simulated month of ingestion: new, changed and withdrawn items every day, a slow disk, and a node that dies.

Days follow one another as soon as what came is ingested, so a second here is no second of a month. Two ingesters are
processes of this machine. The one that dies is killed with the leases that it holds, and is away for three days.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq

from benchmarks.options import Options, say
from benchmarks.table import Table
from geosod.config import RunConfig
from geosod.ingest.config import IngestConfig
from geosod.ingest.found import instant
from geosod.ingest.ledger import Ledger
from geosod.ingest.run import Ingester
from geosod.ingest.status import ingest_status
from tests.ingest.api_server import Api, serving_api
from tests.ingest.killed import Workers
from tests.rasters import noise, random_bundle, write_tif
from tests.remote.server import serving
from tests.running.helpers import PLAIN

#: Days, and items that are new on one; with each CHANGED-th an earlier one changes, with each GONE-th one is withdrawn.
DAYS, A_DAY, CHANGED, GONE = 30, 200, 20, 50
#: The day on which an ingester dies, and the one on which it is back.
DEAD, BACK = 10, 13
#: Seconds that the disk takes to make files durable, and after which leases end.
FLUSH_SECONDS, LEASE_SECONDS = 0.02, 5.0
#: Seconds after which a day is given up.
MAX_DAY = 1200
EMPTY_POLLS, IMAGES, TILE = 20, 16, 64


@dataclass(frozen=True, slots=True)
class Day:
    """What a day came to: versions that were committed, seconds until all were, and the longest lag that was seen."""

    number: int
    versions: int
    seconds: float
    max_lag: float


@dataclass(slots=True)
class Month:
    """The service with the items, the log of commits, the ledger and the ingesters."""

    api: Api
    images: list[str]
    log: Path
    ledger: Ledger
    workers: Workers
    alive: list[int]

    def day(self, number: int, items: int, *, dies: bool) -> Day:
        """Let items come and wait until they are ingested; `dies`: one of the ingesters, in the midst of it."""
        began, before, lag = time.monotonic(), self._committed(), 0.0
        for i in range(items):
            self._put(f"{number}-{i}", i)
            if number and i % CHANGED == 0:
                self._put(f"{number - 1}-{i}", i + 1)
            if number and i % GONE == 1:
                self.api.remove("c", f"{number - 1}-{i}")
        while True:
            status = ingest_status(self.ledger)
            lag = max(lag, status.lag)
            if dies and status.counts["leased"] and self._committed() > before:
                self._kill_the_busy_one()
                dies = False
            waiting = sum(status.counts[state] for state in ("discovered", "leased", "failed"))
            if not waiting and not dies and self._missing() == 0 and not self.ledger.upkeep.unindexed():
                return Day(number + 1, self._committed() - before, time.monotonic() - began, lag)
            if time.monotonic() > began + MAX_DAY:
                raise RuntimeError(f"day {number + 1} does not end: {status}, {self._missing()} versions are missing")
            time.sleep(0.25)

    def _kill_the_busy_one(self) -> None:
        """Kill the ingester that committed last: leases are taken by the batch, so it is the one that holds some."""
        pid = int(self.log.with_name(f"{self.log.name}.pids").read_text().split()[-1])
        self.alive.remove(pid)
        os.kill(pid, signal.SIGKILL)

    def _put(self, name: str, i: int) -> None:
        self.api.put("c", name, self.images[i % len(self.images)], datetime=f"2024-05-{i % 28 + 1:02}T00:00:00Z")

    def _committed(self) -> int:
        return len(self.log.read_text().split()) if self.log.exists() else 0

    def _missing(self) -> int:
        """Items whose version is not that of the ledger's committed one, and withdrawn ones that are not marked."""
        present = {(one.found.item, one.found.updated) for one in self.ledger.upkeep.present(self._source)}
        wanted = {(name, instant(item["properties"]["updated"])) for (_, name), item in self.api.items.items()}
        return len(wanted ^ present)

    @property
    def _source(self) -> str:
        return IngestConfig(**settings(self.api.url, self.images)).source_digest


def settings(url: str, images: list[str]) -> dict[str, Any]:
    """Settings of the ingestion; the service's clock goes on by a second with each change."""
    return {
        "source": url, "asset_hosts": [images[0].rsplit("/", 1)[0]], "lease": LEASE_SECONDS, "interval": 1.0,
        "at_once": 20, "poll_overlap": 60, "list_hours": 10 / 3600, "retry_seconds": 1,
    }  # fmt: skip


def run(options: Options) -> list[Table]:
    days, items = options.pick(DAYS, 5), options.pick(A_DAY, 10)
    dead, back = options.pick((DEAD, BACK), (2, 4))
    site, out = options.folder / "site", options.folder / "out"
    site.mkdir()
    model = random_bundle(options.folder / "tiny", bands=("red", "green", "blue"), tile=TILE, top_k=5)
    with serving_api() as api, serving(site) as files:
        for i in range(IMAGES):
            write_tif(site / f"{i}.tif", noise(3, TILE, TILE, seed=i), block=TILE)
        images = [f"{files.url}/{i}.tif" for i in range(IMAGES)]
        config = settings(api.url, images)
        detect = {"model": str(model), "out": str(out), "engine": "serial"} | PLAIN
        log = options.folder / "commits"
        workers = Workers(config, detect, log, flush_seconds=FLUSH_SECONDS)
        Ingester(IngestConfig(**config), RunConfig(**detect)).close()  # makes the ledger
        ledger = Ledger(str(out / ".ingest" / "ledger.sqlite"), str(out))
        month = Month(api, images, log, ledger, workers, [workers.start(), workers.start()])
        found = []
        try:
            for number in range(days):
                if number == back - 1:
                    month.alive.append(workers.start())
                found.append(month.day(number, items, dies=number == dead - 1))
                say(f"day {found[-1]}")
        finally:
            for pid in month.alive:
                os.kill(pid, signal.SIGTERM)
            workers.end()
            ledger.close()
        summary = _checked(api, out, log) | _cost_of_polls(api, IngestConfig(**config), RunConfig(**detect))
    phases = {
        "two ingesters": [day for day in found if not dead <= day.number < back],
        "the day one of them dies": [day for day in found if day.number == dead],
        "one ingester": [day for day in found if dead < day.number < back],
    }
    rows = [_phase(name, of) for name, of in phases.items() if of]
    return [
        Table.of("ingest", f"A month of {days} × {items} items on a slow disk", rows),
        Table.of("ingest-total", "The whole month, and polls of it", [summary]),
    ]


def _phase(name: str, days: list[Day]) -> dict[str, Any]:
    return {
        "days": name,
        "number": len(days),
        "versions": sum(day.versions for day in days),
        "ms a version": 1e3 * sum(day.seconds for day in days) / sum(day.versions for day in days),
        "longest lag, seconds": max(day.max_lag for day in days),
    }


def _checked(api: Api, out: Path, log: Path) -> dict[str, Any]:
    """What is wrong with the dataset, which should be nothing: versions lost or committed twice, files left over."""
    rows = pq.read_table(out / "index.parquet").to_pylist()
    live = {(row["geosod:ingest_item"], row["geosod:ingest_updated"]) for row in rows if not row["geosod:withdrawn"]}
    wanted = {(name, instant(item["properties"]["updated"])) for (_, name), item in api.items.items()}
    files = {path.stem for path in (out / "detections").rglob("*.parquet")}
    commits = log.read_text().split()
    return {
        "items": len(wanted),
        "marked as withdrawn": len(rows) - len(live),
        "lost": len(wanted - live),
        "not removed": len(live - wanted) + len(files ^ {row["id"] for row in rows}),
        "committed twice": len(commits) - len(set(commits)),
    }


def _cost_of_polls(api: Api, config: IngestConfig, detect: RunConfig) -> dict[str, Any]:
    """What it costs to ask where nothing is new: requests and milliseconds of a poll, and of a listing of all."""
    with closing(Ingester(config.model_copy(update={"list_hours": 24.0}), detect)) as one:
        began, before = time.monotonic(), len(api.requests)
        one.discover(everything=True)
        listing = {"requests": len(api.requests) - before, "ms": 1e3 * (time.monotonic() - began)}
        one.once()  # the first one also asks how times are compared
        times, before = [], len(api.requests)
        for _ in range(EMPTY_POLLS):
            began = time.monotonic()
            assert one.once().discovered == 0
            times.append(1e3 * (time.monotonic() - began))
    return {
        "requests, empty poll": (len(api.requests) - before) / EMPTY_POLLS,
        "ms, empty poll": median(times),
        "requests, listing of all": listing["requests"],
        "ms, listing of all": listing["ms"],
    }
