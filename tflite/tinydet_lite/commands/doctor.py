"""`doctor`: what this machine and installation are, and whether they can detect; the text to put into a bug report."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence

import tinydet_lite

from ..cli import run
from ..lab.checkup import Finding, check_up
from ..status import doing

#: The exit code where something is wrong with the machine or the installation; 2 would be a wrong command line.
EXIT_ILL = 1


def main(argv: Sequence[str] | None = None) -> None:
    """Parse `argv` (sys.argv without the program's name if None), check and print. Exits with EXIT_ILL where something
    needs to be done."""
    parser().parse_args(argv)
    told([Finding("version", f"tinydet-lite {tinydet_lite.__version__}")], check_up())


def console() -> None:
    """The entry point `tinydet-doctor`."""
    run(main)


def parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        description="Print versions, processor and runtimes, and try the model that comes along: what a bug report "
        "needs. Exit code: 0 all is well; 1 something needs to be done, which a line says."
    )


def told(*parts: Iterable[Finding]) -> None:
    """Prints findings as they come, and exits with EXIT_ILL where one of them has advice."""
    ill = 0
    findings = itertools.chain(*parts)
    while (finding := _next(findings)) is not None:
        print(f"{finding.topic:<10} {finding.text}", flush=True)
        if finding.advice:
            ill += 1
            print(f"{'':<10} -> {finding.advice}", flush=True)
    if ill:
        print(f"{ill} of these lines need something to be done: see ->")
        sys.exit(EXIT_ILL)
    print("All is well.")


def _next(findings: Iterator[Finding]) -> Finding | None:
    """The next one, which may take seconds; None behind the last."""
    with doing("looking"):
        return next(findings, None)
