"""A process that forks ingesters on request, each of which notes what it commits."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import geosod.ingest.destination as destination
import geosod.ingest.run as run
import geosod.output.commit as commit
from geosod.config import RunConfig
from geosod.ingest.config import IngestConfig
from geosod.storage.local_place import LocalPlace


def main() -> None:
    values = json.loads(sys.argv[1])
    assert destination and run
    import geosod.running.local_engine  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            ingest(values)
        print(pid, flush=True)


def ingest(values: dict[str, Any]) -> None:
    """Go on until a signal comes; never returns."""
    put_item = commit._put_item

    def noting(folder: Any, files: Any, staged: Any, item: Any) -> None:
        put_item(folder, files, staged, item)
        with open(values["log"], "a") as log:  # noqa: PTH123
            log.write(f"{item['properties']['geosod:ingest_key']}\n")
        with open(f"{values['log']}.pids", "a") as log:  # noqa: PTH123
            log.write(f"{os.getpid()}\n")

    commit._put_item = noting  # type: ignore[assignment]
    _slow_down(values["flush_seconds"])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.stdin.close()
    try:
        run.LOOK_SECONDS = 0.2
        ingester = run.Ingester(IngestConfig(**values["settings"]), RunConfig(**values["run"]))
        ingester.follow(on_cycle=_show)
    except KeyboardInterrupt:
        os._exit(0)
    finally:
        os._exit(1)


def _slow_down(seconds: float) -> None:
    """Let the disk take its time whenever files are made durable."""
    flush = LocalPlace.flush

    def slow(self: LocalPlace, *files: Path) -> None:
        time.sleep(seconds)
        flush(self, *files)

    LocalPlace.flush = slow  # type: ignore[method-assign]


def _show(result: run.IngestResult) -> None:
    for problem in result.problems:
        print(problem, file=sys.stderr)


if __name__ == "__main__":
    main()
