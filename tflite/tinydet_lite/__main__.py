"""`python -m tinydet_lite`: the commands without their installed entry points, and a picture as the first word."""

from __future__ import annotations

import importlib
import os
import sys

from .cli import run
from .errors import UserError

COMMANDS = {
    "detect": "find objects in pictures, a video or a camera's pictures",
    "benchmark": "compare the speed of models",
    "profile": "show the time of each operator of a model",
    "doctor": "what this machine and installation can do: for a bug report",
}
HELP = "\n".join(
    [
        "usage: python -m tinydet_lite SOURCE [options of detect]",
        "       python -m tinydet_lite COMMAND ...",
        "",
        "SOURCE, an image, a folder, a video or a camera, goes to detect. Without --model the digits model that comes",
        "with tinydet-lite is taken.",
        "",
        *(f"  {name:<11}{text}" for name, text in COMMANDS.items()),
        "",
        "python -m tinydet_lite COMMAND --help says more.",
    ]
)


def main() -> None:
    """Hand the rest of sys.argv to the command that its first word names; to detect where it is a source.

    Raises:
        UserError: it is neither.
    """
    sys.argv[0] = "tinydet_lite"  # so that errors do not name __main__.py
    first = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if first in ("-h", "--help"):
        print(HELP)
        return
    if first in COMMANDS:
        command, arguments = first, sys.argv[2:]
    elif first.startswith("-") or (first.isalpha() and not os.path.exists(first)):
        raise UserError(f"{first} came; expected a picture or one of the commands {', '.join(COMMANDS)}")
    else:
        command, arguments = "detect", ["--source", first, *sys.argv[2:]]
    # The command's usage and its errors name it.
    sys.argv[:] = [f"tinydet-{command}", *arguments]
    importlib.import_module(f"tinydet_lite.commands.{command}").main()


if __name__ == "__main__":
    run(main)
