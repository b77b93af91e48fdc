"""Runs one of this package's modules in a process of its own: what may crash, and what must be measured alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..cli import EXIT_WRONG_INPUT
from ..errors import UserError, os_reason


class ChildCrashed(UserError):
    """The process was ended by a signal, took too long, or ended with a code that means neither good nor bad input."""


class ChildTimedOut(ChildCrashed):
    """The process took too long, and was ended."""


class ChildNotStarted(UserError):
    """The system does not let this program start another."""


def run_module(
    module: str,
    arguments: Sequence[str],
    purpose: str,
    timeout: float,
    environment: Mapping[str, str] | None = None,
) -> str:
    """`python -m tinydet_lite.MODULE ARGUMENTS`.

    Args:
        module: its name in this package, "guard.trial".
        arguments: its sys.argv[1:]. Paths must be absolute, for the working directory is another one there.
        purpose: how errors begin, before a colon: "x.tflite cannot be run".
        timeout: seconds.
        environment: variables to set beside this process's.

    Returns:
        What it wrote to stdout.

    Raises:
        ChildNotStarted: it did not begin.
        ChildTimedOut: it took longer than the timeout.
        ChildCrashed: it did not end in order.
        UserError: it ended with `cli.EXIT_WRONG_INPUT`; the message is the last line of its stderr.
    """
    package_parent = str(Path(__file__).resolve().parents[2])
    inherited = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    paths = [package_parent, *map(os.path.abspath, inherited)]
    command = [sys.executable, "-m", f"tinydet_lite.{module}", *arguments]
    try:
        done = subprocess.run(
            command,
            # Python looks for modules in the working directory first, where anything may lie.
            cwd=os.path.abspath(os.sep),
            env={**os.environ, **(environment or {}), "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ChildTimedOut(f"{purpose}: took longer than {timeout:g} s") from error
    except OSError as error:
        raise ChildNotStarted(f"{purpose}: no process can be started ({os_reason(error)})") from error
    if done.returncode == 0:
        return done.stdout.decode(errors="replace")
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    last = lines[-1].strip() if lines else "none"
    if done.returncode == EXIT_WRONG_INPUT:
        # `cli.run` puts the program's name before it.
        raise UserError(f"{purpose}: {last.partition(': error: ')[2] or last}")
    raise ChildCrashed(f"{purpose}: {ending(done.returncode)} (last words: {last})")


def ending(code: int) -> str:
    """How a process ended, in words: "was ended by signal 11 (SIGSEGV)"."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        name = f" ({signal.Signals(-code).name})"
    except ValueError:
        name = ""
    return f"was ended by signal {-code}{name}"
