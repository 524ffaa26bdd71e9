"""A process that forks ingesters on request, each of which suspends itself once before it writes to an object store."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from geosod.config import RunConfig
from geosod.ingest.config import IngestConfig
from geosod.ingest.run import Ingester
from geosod.storage.object_place import ObjectPlace


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                ingest(json.loads(line))
            finally:
                os._exit(0)
        print(pid, flush=True)


def ingest(values: dict[str, Any]) -> None:
    """Ingest once, and write what came of it."""
    os.environ |= values["environment"]
    suspend_before(values["method"], values["path"])
    with closing(Ingester(IngestConfig(**values["settings"]), RunConfig(**values["run"]))) as one:
        result = one.once()
    said = Path(values["result"])
    said.with_suffix(".new").write_text(json.dumps({"committed": result.committed, "problems": result.problems}))
    said.with_suffix(".new").rename(said)


def suspend_before(method: str, part: str) -> None:
    """Suspend this process before a method of the place is first called for a path that has a part in it."""
    original, done = getattr(ObjectPlace, method), []

    def suspending(self: ObjectPlace, first: Any, *rest: Any) -> Any:
        paths = first.values() if isinstance(first, dict) else [first]
        if not done and any(part in path for path in paths):
            done.append(1)
            os.kill(os.getpid(), signal.SIGSTOP)
        return original(self, first, *rest)

    setattr(ObjectPlace, method, suspending)


if __name__ == "__main__":
    main()
