"""Calls a function of the benchmarks in a process of its own; see `benchmarks.processes`.

It imports nothing but what that function imports, so that start-up can be measured.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path


def main() -> None:
    target, arguments, result = sys.argv[1:]
    module, _, name = target.partition(":")
    value = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    Path(result).write_text(json.dumps(value))


if __name__ == "__main__":
    main()
