"""Train and measure the studies: ``python -m benchmarks.studies NAME ... --data FOLDER``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.runner import Results
from benchmarks.studies.measure import Runner
from benchmarks.studies.study import NAMES, Study, read_study
from benchmarks.table import Table
from benchmarks.update_docs import DOCS, update_docs


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", choices=NAMES, help=f"what to measure: {', '.join(NAMES)}")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="the labelled images, by track")
    parser.add_argument("--work", type=Path, default=Path(".bench/studies"), metavar="FOLDER", help="runs and results")
    parser.add_argument("--device", default="auto", help="for training and detection")
    parser.add_argument("--effort", type=float, default=1.0, help="factor of the number of steps; small ones for a try")
    parser.add_argument(
        "--docs", type=Path, nargs="?", const=DOCS, metavar="FOLDER", help="update the tables of the documentation"
    )
    args = parser.parse_args()
    results = Results(machine())
    for name in args.names:
        results.tables[name] = _tables(read_study(name), args)
    if args.docs:
        update_docs(args.docs, results)
    return 0


def _tables(study: Study, args: argparse.Namespace) -> list[Table]:
    """A table for each scale."""
    runner = Runner(study, args.data, args.work, args.device, args.effort, lambda line: print(line, flush=True))
    tables = []
    for scale in study.scales:
        title = study.title if len(study.scales) == 1 else f"{study.title}, at scale {scale:g}"
        tables.append(Table.of(study.table(scale), title, runner.rows(scale)))
        print(f"\n{title}\n{tables[-1].as_markdown()}\n", flush=True)
    return tables


if __name__ == "__main__":
    sys.exit(main())
