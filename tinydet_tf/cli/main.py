"""`tinydet`: hands its arguments to the command that the first of them names, and imports that command alone."""

from __future__ import annotations

import difflib
import importlib
import sys

import tinydet_lite
import tinydet_tf
from tinydet_lite.cli import run
from tinydet_lite.errors import UserError
from tinydet_tf.commands import COMMANDS, MODULE, module_of


def main(program: str = "tinydet") -> None:
    """Run the command that sys.argv[1] names; its usage and its errors then begin with `program` and its name.

    Raises:
      UserError: there is no such command; or what the command raises.
    """
    first, *rest = sys.argv[1:] or ["--help"]
    if first in ("-h", "--help"):
        print(usage(program))
        return
    if first == "--version":
        print(f"tinydet-tf {tinydet_tf.__version__}, tinydet-lite {tinydet_lite.__version__}")
        return
    if first not in COMMANDS:
        near = difflib.get_close_matches(first, COMMANDS, n=1, cutoff=0.5)
        advice = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
        raise UserError(f"{first} is not a command; {advice}")
    sys.argv[:] = [f"{program} {first}", *rest]
    importlib.import_module(f"tinydet_tf.cli.{module_of(first)}").main()


def usage(program: str) -> str:
    """What --help prints."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            f"usage: {program} COMMAND ...",
            f"       {program} --version",
            "",
            "TinyDet, a detector for small objects: train it, evaluate it, export it to one .tflite, run that.",
            "",
            *(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()),
            "",
            f"{program} COMMAND --help says more.",
        ]
    )


def console() -> None:
    """The entry point `tinydet`."""
    sys.argv[0] = "tinydet"  # so that errors do not name the file that an installer made
    run(main)


def module() -> None:
    """The entry point `python -m tinydet_tf`."""
    sys.argv[0] = MODULE
    run(lambda: main(MODULE))
