"""Train and measure the studies: ``python -m benchmarks.studies NAME ... --data FOLDER``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.studies.measure import Runner
from benchmarks.studies.study import NAMES, read_study
from benchmarks.table import Table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", choices=NAMES, help=f"what to measure: {', '.join(NAMES)}")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="the labelled images, by track")
    parser.add_argument("--work", type=Path, default=Path(".bench/studies"), metavar="FOLDER", help="runs and results")
    parser.add_argument("--device", default="auto", help="for training and detection")
    parser.add_argument("--effort", type=float, default=1.0, help="factor of the number of steps; small ones for a try")
    args = parser.parse_args()
    for name in args.names:
        study = read_study(name)
        runner = Runner(study, args.data, args.work, args.device, args.effort, lambda line: print(line, flush=True))
        for scale in study.scales:
            rows = runner.rows(scale)
            title = study.title if scale == 1 else f"{study.title}, at scale {scale:g}"
            print(f"\n{title}\n{Table.of(name, title, rows).as_markdown()}\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
