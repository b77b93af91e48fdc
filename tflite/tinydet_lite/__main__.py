"""`python -m tinydet_lite COMMAND ...`: the commands without their installed entry points."""

from __future__ import annotations

import importlib
import sys

from .cli import run
from .errors import UserError

COMMANDS = ("detect", "benchmark", "profile")


def main() -> None:
    """Hand the rest of sys.argv to the command that its first word names.

    Raises:
        UserError: there is none, or none of that name.
    """
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        came = f"the command {sys.argv[1]!r}" if len(sys.argv) > 1 else "no command"
        raise UserError(f"{came} came; expected one of {', '.join(COMMANDS)}")
    command = sys.argv.pop(1)
    # Its usage and its errors name the command.
    sys.argv[0] = f"tinydet-{command}"
    importlib.import_module(f"tinydet_lite.commands.{command}").main()


if __name__ == "__main__":
    run(main)
