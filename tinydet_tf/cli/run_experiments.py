"""Train the rows of a plan, each with every seed, one after the other, and print AP by row with its spread.

It can be stopped at any time, also with SIGKILL: called again, it goes on from the last whole epoch.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tinydet_lite.files import atomic_write


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", type=Path, help="a YAML file, or the name of one in configs/experiments/")
    parser.add_argument("--data", metavar="DIR", help="what every row is trained on, in place of the plan's")
    parser.add_argument("--output", type=Path, metavar="DIR", help="the runs' folder (default: runs/NAME)")
    parser.add_argument("--only", action="append", metavar="ROW", help="this row alone (may be repeated)")
    parser.add_argument("--table", action="store_true", help="train nothing: the table of what is finished")
    return parser.parse_args()


def main() -> None:
    args = parse()

    from tinydet_tf.training.run.plans import load_plan, results, run_plan, table

    plan = load_plan(args.plan, only=args.only, data=args.data)
    output = args.output or Path("runs") / args.plan.stem
    if not args.table:
        run_plan(plan, output)
    found = results(plan, output)
    print(table(plan, found))
    if output.is_dir():
        atomic_write(output / "results.json", (json.dumps(found, indent=2) + "\n").encode())
