"""An ingester that suspends itself once, where it is told to, before it writes to an object store."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import closing
from typing import Any

from geosod.config import RunConfig
from geosod.ingest.config import IngestConfig
from geosod.ingest.run import Ingester
from geosod.storage.object_place import ObjectPlace


def main() -> None:
    values = json.loads(sys.argv[1])
    suspend_before(values["method"], values["path"])
    with closing(Ingester(IngestConfig(**values["settings"]), RunConfig(**values["run"]))) as one:
        result = one.once()
    print(json.dumps({"committed": result.committed, "problems": result.problems}))


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
