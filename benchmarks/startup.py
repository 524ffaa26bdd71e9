"""Whole commands by scene size, start-up included: `geosod detect`, a plain loop and SAHI, each in a new process.

All have the same network behind them, with the same weights, tiles, precision and threads; rounds alternate, and
medians are printed. What the plain loop and SAHI import is what they need, and no more.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.machine import describe_machine
from benchmarks.timing import medians
from geosod.demo.scene import write_scene


def run(command: Sequence[object]) -> None:
    """Run a command, which must succeed."""
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def commands(scene: Path, out: Path, model: str, peers: str) -> dict[str, list[object]]:
    """The commands to compare, by name."""
    alone = ["-m", "benchmarks.startup", "--model", model, "--scene", scene, "--only"]
    found: dict[str, list[object]] = {
        "geosod": [sys.executable, "-m", "geosod", "detect", scene, "-m", model, "-o", out, "--overwrite", "-q"],
        "plain loop": [sys.executable, *alone, "loop"],
    }
    if subprocess.run([peers, "-c", "import sahi"], check=False, capture_output=True).returncode == 0:
        found["SAHI"] = [peers, *alone, "sahi"]
    return found


def run_peer(name: str, scene: Path, model: str) -> None:
    """What a process of a peer does."""
    from benchmarks.end_to_end import plain_loop, sahi
    from geosod.running.detect import make_job
    from geosod.running.job import resolve_execution

    job = make_job(model)
    execution, _ = resolve_execution(job)
    (plain_loop if name == "loop" else sahi)(scene, job, execution)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096, 8192, 16384], help="sides in pixels")
    parser.add_argument("--model", default="demo-harbour")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default=sys.executable, help="Python of an environment that has geosod and SAHI")
    parser.add_argument("--only", choices=("loop", "sahi"), help=argparse.SUPPRESS)
    parser.add_argument("--scene", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        run_peer(args.only, args.scene, args.model)
        return
    print(describe_machine())
    print(f"\n{'scene':<16} {'Mpx':>7}  {'':<12} {'seconds':>8} {'of geosod':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            scene = Path(folder) / f"{size}.tif"
            write_scene(scene, size=size, seed=7)
            ways = commands(scene, Path(folder) / "out", args.model, args.peers)
            times = medians({name: partial(run, command) for name, command in ways.items()}, args.rounds)
            ours = times["geosod"]
            for name, each in times.items():
                print(
                    f"{size:>5} x {size:<8} {size**2 / 1e6:>7.0f}  {name:<12} {each:>8.2f} {each / ours:>9.2f} x",
                    flush=True,
                )


if __name__ == "__main__":
    main()
