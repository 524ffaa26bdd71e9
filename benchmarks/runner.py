"""Runs benchmarks one after another, each in a process of its own, prints their tables and writes them as JSON."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import described, machine
from benchmarks.options import Options, UnavailableError
from benchmarks.processes import ROOT
from benchmarks.table import Table

#: Every benchmark is a module of this name, whose function `run` takes `Options` and returns tables.
NAMES = (
    "read", "forward", "backends", "pipeline", "merge", "write", "startup", "memory", "small", "many", "peers", "gpu",
    "resnet18", "borders", "deduplicate", "aoi", "remote", "profile", "scale", "serve", "zoo", "ingest", "view",
)  # fmt: skip
#: Drawn scenes and results; git ignores it.
WORK = ROOT / ".bench"


@dataclass(slots=True)
class Results:
    """What a run measured.

    Attributes:
        machine: what it ran on.
        tables: by benchmark.
        unavailable: why a benchmark could not run here, by name.
        failed: names of those that ended with an error.
    """

    machine: dict[str, Any]
    tables: dict[str, list[Table]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def measure(
    names: Sequence[str],
    *,
    quick: bool,
    rounds: int | None,
    model: str,
    docs: Path | None,
    work: Path,
    json_file: Path | None,
) -> Results:
    """Run benchmarks; one that cannot run, or fails, does not stop the others."""
    work = work.resolve()
    file = json_file or work / "results" / f"{time.strftime('%Y-%m-%dT%H-%M-%S')}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    results = Results(machine())
    print(described(results.machine), flush=True)
    common = {
        "scenes": str(work / "scenes"),
        "quick": quick,
        "rounds": rounds or (1 if quick else 3),
        "model": model,
        "docs": docs and str(docs.resolve()),
    }
    (work / "tmp").mkdir(parents=True, exist_ok=True)
    for name in names:
        print(f"\n== {name}", flush=True)
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=work / "tmp") as folder:
            _measure_one(name, Path(folder), common, results)
        results.seconds[name] = round(time.monotonic() - started, 1)
        # After each, so that what was measured is not lost where a later one is stopped.
        file.write_text(json.dumps(asdict(results), indent=1) + "\n")
    print(f"\nresults: {file}")
    return results


def _measure_one(name: str, folder: Path, common: dict[str, Any], results: Results) -> None:
    scratch = folder / "scratch"
    scratch.mkdir()
    answer = folder / "answer.json"
    words = json.dumps({"name": name, "options": {"folder": str(scratch), **common}})
    line = [sys.executable, "-m", "benchmarks.child", "benchmarks.runner:benchmark", words, str(answer)]
    # Whatever the libraries print goes where progress goes.
    returned = subprocess.run(line, cwd=ROOT, check=False, stdout=sys.stderr).returncode
    if returned:
        results.failed.append(name)
        print(f"{name} failed with exit code {returned}", flush=True)
        return
    found = json.loads(answer.read_text())
    if "unavailable" in found:
        results.unavailable[name] = found["unavailable"]
        print(found["unavailable"], flush=True)
        return
    results.tables[name] = [Table.from_json(values) for values in found["tables"]]
    show(results.tables[name])


def show(tables: Sequence[Table]) -> None:
    """Print tables."""
    for table in tables:
        print(f"\n{table.title}\n{table.as_text()}", flush=True)


def benchmark(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """What one benchmark measures; runs in a process of its own."""
    paths = {key: Path(options[key]) for key in ("folder", "scenes", "docs") if options[key] is not None}
    try:
        tables = importlib.import_module(f"benchmarks.{name}").run(Options(**(options | paths)))
    except UnavailableError as reason:
        return {"unavailable": str(reason)}
    return {"tables": [asdict(table) for table in tables]}


def load_results(file: Path, names: Sequence[str]) -> Results:
    """Results of an earlier run, of some benchmarks or all, which are printed."""
    values = json.loads(file.read_text())
    chosen = {name: tables for name, tables in values["tables"].items() if not names or name in names}
    results = Results(values["machine"], {n: [Table.from_json(t) for t in tables] for n, tables in chosen.items()})
    print(described(results.machine))
    for tables in results.tables.values():
        show(tables)
    return results
