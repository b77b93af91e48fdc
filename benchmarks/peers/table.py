#!/usr/bin/env python3
"""Prints the Markdown table of result.json files that run.py wrote, one row each, in the order given.

    python benchmarks/peers/table.py runs/peers/*/result.json --times times.json

With --times, the json of `tinydet benchmark INT8.tflite ... --json times.json` (all files in one run), each row has the
median milliseconds of its int8 file. A row is known by its file's name and size in bytes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinydet_lite.cli import run
from tinydet_lite.errors import UserError

_METRICS = ("AP", "AP50", "AP75", "APs", "APm")
_HEADER = ("", "epochs", "minutes", "GMAC", "M parameters", *_METRICS, "int8 AP", "int8 APs", "int8 MB")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULT.json")
    parser.add_argument("--times", type=Path, metavar="TIMES.json", help="what `tinydet benchmark --json` wrote")
    return parser.parse_args()


def main() -> None:
    args = parse()
    results = [read(path) for path in args.results]
    times = None if args.times is None else read(args.times)
    print(table(results, times))


def read(path: Path) -> dict[str, Any]:
    """A json that holds an object.

    Raises:
      UserError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); give a file that run.py wrote") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no result; give a file that run.py wrote")
    return content


def table(results: Sequence[dict[str, Any]], times: dict[str, Any] | None = None) -> str:
    """The table in Markdown.

    Args:
      results: what run.py wrote, of one data set and one split.
      times: what `tinydet benchmark --json` wrote, or None: no column of milliseconds.

    Raises:
      UserError: the results are of different data sets, splits or parts of them, or one is none.
    """
    for result in results:
        missing = [key for key in ("title", "data", "split", "images", "float32", "int8") if key not in result]
        if missing:
            raise UserError(f"a result has no {missing[0]!r}; give files that run.py wrote")
    sets = [(result["data"], result["split"], result["images"]) for result in results]
    if any(other != sets[0] for other in sets):
        shown = " and ".join(dict.fromkeys(f"{data} {split} ({images[split]} images)" for data, split, images in sets))
        raise UserError(f"the results are not of the same images: {shown}; give those of one data set and split")
    milliseconds = {} if times is None else _milliseconds(times)
    header = list(_HEADER) + ([] if times is None else [_time_title(times)])
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for result in results:
        floating, integer = result["float32"], result["int8"]
        cells = [
            _name(result),
            str(result["epochs"]),
            _number(result["processor_minutes"], 1),
            _number(result["macs"] and result["macs"] / 1e9, 2),
            _number(result["parameters"] / 1e6, 2),
            *(_metric(floating[name]) for name in _METRICS),
            _metric(integer["AP"]),
            _metric(integer["APs"]),
            _number(integer["bytes"] / 1e6, 2),
        ]
        if times is not None:
            cells.append(_number(milliseconds.get((integer["tflite"], integer["bytes"])), 1))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _name(result: dict[str, Any]) -> str:
    arguments = [word for word in result.get("arguments", []) if word not in ("--set", "--variant")]
    arguments = [word for word in arguments if f"TinyDet-{word}" != result["title"]]
    details = [*arguments, *([f"seed {result['seed']}"] if result["seed"] else [])]
    return result["title"] + (f" ({', '.join(details)})" if details else "")


def _milliseconds(times: dict[str, Any]) -> dict[tuple[str, int], float]:
    """(file name, bytes) -> median milliseconds, with the fewest threads that were measured."""
    entries = times.get("results", [])
    if not entries:
        raise UserError("the file of --times has no results; give what `tinydet benchmark --json` wrote")
    least = min(entry["threads"] for entry in entries)
    return {
        (Path(entry["file"]).name, entry["file_bytes"]): entry["invoke"]["median"]
        for entry in entries
        if entry["threads"] == least
    }


def _time_title(times: dict[str, Any]) -> str:
    least = min(entry["threads"] for entry in times["results"])
    return f"int8 ms, {least} thread" + ("s" if least > 1 else "")


def _metric(value: float) -> str:
    return "-" if value < 0 else f"{value:.3f}"  # pycocotools has -1 where there is no object of that size


def _number(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"


if __name__ == "__main__":
    run(main)
