"""`profile`: the time of each operator of a .tflite; print tables, write JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..cli import run
from ..errors import printable, shortened
from ..files import atomic_write, check_target
from ..lab.cycles import CycleCount, read_cycles
from ..lab.operators import Group, Profile, profile
from ..models import model_file
from ..preprocess import as_rgb_array
from .tables import table

_NAME_WIDTH = 60


def main(argv: Sequence[str] | None = None) -> None:
    """Parse `argv` (sys.argv without the program's name if None), profile, print and write.

    Raises:
        UserError: something given is wrong, or there is no profiler.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.top < 0 or arguments.depth < 1:
        parser.error("--top takes 0 or more, --depth 1 or more")
    if arguments.json is not None:
        check_target(arguments.json)
    counts = [] if arguments.cycles is None else read_cycles(arguments.cycles, arguments.model)
    image = None if arguments.image is None else as_rgb_array(arguments.image)
    found = profile(arguments.model, image, arguments.runs, arguments.warmup, arguments.threads)
    print("\n".join([*_lines(found, arguments.top, arguments.depth), *_cycle_lines(counts)]))
    if arguments.json is not None:
        atomic_write(arguments.json, (json.dumps(_report(found, arguments.depth, counts), indent=2) + "\n").encode())


def console() -> None:
    """The entry point `tinydet-profile`."""
    run(main)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Time each operator of a .tflite, inside the XNNPACK delegate too, with LiteRT's profiler."
    )
    parser.add_argument("model", type=model_file, metavar="X.tflite", help="any, not only TinyDet's")
    parser.add_argument("--image", metavar="IMG", help="default: a synthetic picture")
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="the median counts; default: %(default)s")
    parser.add_argument("--warmup", type=int, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--top", type=int, default=20, metavar="N", help="list the N slowest operators, 0 for all; default: %(default)s"
    )
    parser.add_argument(
        "--depth", type=int, default=1, metavar="N", help="sum by N parts of the name scope; default: %(default)s"
    )
    parser.add_argument(
        "--cycles", metavar="COUNT.json",
        help="also show a count of the file's cycles on other processors, which was made elsewhere",
    )  # fmt: skip
    parser.add_argument("--json", metavar="OUT", help="also write everything there")
    return parser


def _lines(found: Profile, top: int, depth: int) -> list[str]:
    threads = "1 thread" if found.threads == 1 else f"{found.threads} threads"
    lines = [
        f"{printable(Path(found.file).name)}: {found.invoke_ms:.2f} ms under the profiler, "
        f"{found.operators_ms:.2f} of them in {len(found.operators)} operators "
        f"(medians of {found.runs} runs, {threads}, {found.runtime})",
        *found.delegation,
    ]
    if not found.matched_partitions:
        lines.append("the profiler's partitions are not those of the interpreter: XNNPACK's operators have no scopes")
    lines += ["", "By scope", _group_table(found.by_scope(depth))]
    lines += ["", "By kind (XNNPACK's kernels in mixed case)", _group_table(found.by_kind())]
    slowest = sorted(found.operators, key=lambda operator: -operator.milliseconds)
    shown = slowest[: top or None]
    lines += ["", f"The slowest {len(shown)} of {len(slowest)} operators" if top else "All operators"]
    total = found.operators_ms or 1.0
    rows = [
        [
            f"{operator.milliseconds:.3f}",
            f"{100 * operator.milliseconds / total:.1f}",
            _rate(operator.macs, operator.milliseconds),
            "" if operator.partition is None else str(operator.partition),
            printable(operator.name),
            operator.operator,
            shortened(printable(operator.tensor), _NAME_WIDTH),
        ]
        for operator in shown
    ]
    header = ["ms", "%", "GMAC/s", "part.", "kernel", "operator", "tensor"]
    lines.append(table(header, rows, left={"kernel", "operator", "tensor"}))
    return lines


def _cycle_lines(counts: Sequence[CycleCount]) -> list[str]:
    """What the file costs on other processors, estimated: in all, and by kind of kernel."""
    if not counts:
        return []
    header = ["processor", "M instructions", "M cycles", "ms on a board"]
    rows = [
        [
            printable(count.cpu),
            f"{count.instructions / 1e6:.1f}",
            f"{count.cycles / 1e6:.1f}",
            f"{count.board_milliseconds:.0f}",
        ]
        for count in counts
    ]
    lines = ["", "On other processors, estimated, one thread", table(header, rows, left={"processor"})]
    kinds = dict.fromkeys(kind for count in counts for kind in count.code)
    header = ["M cycles by kind of kernel", *(printable(count.cpu) for count in counts)]
    rows = [[printable(kind), *(f"{count.code.get(kind, 0.0) / 1e6:.1f}" for count in counts)] for kind in kinds]
    return [*lines, "", table(header, rows, left={header[0]})]


def _group_table(groups: Sequence[Group]) -> str:
    rows = [
        [
            printable(group.name),
            str(group.count),
            f"{group.milliseconds:.3f}",
            f"{100 * group.share:.1f}",
            f"{group.macs / 1e6:.1f}" if group.macs else "",
            _rate(group.macs, group.milliseconds),
        ]
        for group in groups
    ]
    return table(["name", "count", "ms", "%", "MMACs", "GMAC/s"], rows, left={"name"})


def _rate(macs: int, milliseconds: float) -> str:
    # A kernel under some microseconds has no rate: the profiler counts whole ones.
    return f"{macs / milliseconds / 1e6:.1f}" if macs and milliseconds >= 0.01 else ""


def _report(found: Profile, depth: int, counts: Sequence[CycleCount]) -> dict[str, Any]:
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        **dataclasses.asdict(found),
        "operators_ms": found.operators_ms,
        "by_scope": [dataclasses.asdict(group) for group in found.by_scope(depth)],
        "by_kind": [dataclasses.asdict(group) for group in found.by_kind()],
        "cycles": [dataclasses.asdict(count) for count in counts],
    }
