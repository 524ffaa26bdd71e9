"""Whole commands by size of the scene, start-up included, and what the start of a command consists of.

All have the same network behind them, with the same weights, tiles, precision and cores. What the plain loop and SAHI
import is what they need, and no more.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.detect_run import GEOSOD, durations, run_detect
from benchmarks.options import Options, UnavailableError, say
from benchmarks.peers.environments import python_of
from benchmarks.processes import Ended, call, command
from benchmarks.scenes import demo_scene
from benchmarks.table import Row, Table
from benchmarks.timing import alternate

PEERS = {"plain loop": ("plain-loop", "plain_loop"), "SAHI": ("sahi", "sahi_slices")}


def run(options: Options) -> list[Table]:
    sizes = options.pick((1024, 4096, 8192, 16384), (1024,))
    rows = [by_size(size, options) for size in sizes]
    return [
        Table.of("startup", "Whole commands by size of the scene, seconds", rows),
        Table.of("startup-parts", "What a command takes before there is a result", parts(options)),
    ]


def by_size(size: int, options: Options) -> Row:
    """A row for a drawn scene: seconds, and those of peers relative to geosod's."""
    scene = demo_scene(options, size)
    say(f"{size} x {size} pixels")
    detect = [*GEOSOD, "detect", scene, "-m", options.model, "-o", options.folder / "out", "--overwrite", "-q"]
    ways: dict[str, Callable[[], Ended]] = {"geosod detect": partial(command, detect)}
    for name, (peer, module) in PEERS.items():
        try:
            python = python_of(peer)
        except UnavailableError as reason:
            say(str(reason))
            continue
        given: dict[str, Any] = {
            "scene": scene,
            "model": options.model,
            "out": options.folder / "peer.npz",
            "settings": {},
        }
        ways[name] = partial(call, f"benchmarks.peers.{module}:run", python=python, **given)
    seconds = {
        name: statistics.median([run.seconds for run in runs]) for name, runs in alternate(ways, options.rounds).items()
    }
    row: dict[str, str | float | None] = {"scene": f"{size} × {size}", "Mpx": round(size**2 / 1e6)}
    for name, each in seconds.items():
        row[name] = each
        if name != "geosod detect":
            row[f"{name}, relative to geosod"] = each / seconds["geosod detect"]
    return row


def parts(options: Options) -> list[Row]:
    """Seconds of commands that detect nothing, and until the first tile of a scene is detected."""
    scene, missing = demo_scene(options, options.pick(4096, 1024)), Path("no-such-scene.tif")
    refused = [*GEOSOD, "detect", missing, "-m", options.model, "-o", options.folder / "out"]
    ways: dict[str, Callable[[], Ended]] = {
        "geosod --version": partial(command, [*GEOSOD, "--version"]),
        "geosod --help": partial(command, [*GEOSOD, "--help"]),
        "a scene that does not exist is refused": partial(command, refused, code=2),
        "first tile": partial(run_detect, scene, options.model, options.folder / "out"),
    }
    found = alternate(ways, options.rounds)
    until_first = durations(found.pop("first tile"))["to first"]
    seconds = {name: statistics.median([run.seconds for run in runs]) for name, runs in found.items()}
    seconds["geosod.detect, until the first tile is done"] = until_first
    return [{"": name, "seconds": each} for name, each in seconds.items()]
