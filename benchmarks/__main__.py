"""The one command of the benchmarks: ``python -m benchmarks [NAME ...]``; without a name it runs all of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.runner import NAMES, WORK, load_results, measure
from benchmarks.update_docs import DOCS, update_docs


def main() -> int:
    args = _parser().parse_args()
    unknown = [name for name in args.names if name not in NAMES]
    if unknown:
        print(f"unknown benchmark {', '.join(unknown)}; choose from {', '.join(NAMES)}", file=sys.stderr)
        return 2
    if args.setup:
        from benchmarks.peers.environments import set_up

        return set_up()
    if args.docs and args.quick and args.docs.resolve() == DOCS:
        print("figures of a quick run are not worth documenting; leave out --quick or --docs", file=sys.stderr)
        return 2
    if args.source:
        results = load_results(args.source, args.names)
    else:
        results = measure(
            args.names or NAMES, quick=args.quick, rounds=args.rounds, model=args.model, docs=args.docs,
            work=args.work, json_file=args.json,
        )  # fmt: skip
    if args.docs:
        update_docs(args.docs, results)
    return 1 if results.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to measure: {', '.join(NAMES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything works")
    parser.add_argument("--rounds", type=int, help="how often each way is timed (default: 3; with --quick 1)")
    parser.add_argument("--model", default="demo-harbour", help="model for the drawn scenes (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write results here (default: WORK/results)")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="source", help="show results of an earlier run")
    parser.add_argument(
        "--docs", type=Path, nargs="?", const=DOCS, metavar="FOLDER", help="update the tables of the documentation"
    )
    parser.add_argument(
        "--work", type=Path, default=WORK, metavar="FOLDER", help="keep drawn scenes and results here (default: .bench)"
    )
    parser.add_argument("--setup", action="store_true", help="install the peers, each in an environment of its own")
    return parser


if __name__ == "__main__":
    sys.exit(main())
