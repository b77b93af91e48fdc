"""Options that several commands have, and checks of what was given; nothing here waits for TensorFlow."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from tinydet_lite.errors import UserError, printable
from tinydet_lite.files import atomic_write, check_target
from tinydet_tf.config import LARGEST_INTEGER, VARIANTS, Config, assignment, load_config
from tinydet_tf.run_files import SUFFIX


def add_set(parser: argparse._ActionsContainer, example: str) -> None:
    """--set, which `load_config` takes as its `assignments`; example: key=value."""
    text = f"override a config key, for example {example} (may be repeated)"
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE", help=text)


def add_recipe(parser: argparse.ArgumentParser, example: str) -> None:
    """What is trained: --config, --data and --set; `load_recipe` reads them."""
    parser.add_argument("--config", type=Path, metavar="F", help="the recipe (default: the defaults)")
    parser.add_argument("--data", metavar="DIR", help="as in train (default: the embedded digits set)")
    add_set(parser, example)


def load_recipe(args: argparse.Namespace, *given: str, variant: str | None = None) -> Config:
    """The configuration of `add_recipe`'s options; given: assignments that --set may override."""
    data = [] if args.data is None else [assignment("data.root", args.data)]
    return load_config(args.config, variant=variant, assignments=[*given, *data, *args.assignments])


def add_model(parser: argparse.ArgumentParser, kinds: str = "RUN|WEIGHTS") -> None:
    """--model and --variant; `check_model` looks at them."""
    parser.add_argument("--model", type=Path, required=True, metavar=kinds, help="a run folder, or a file")
    parser.add_argument("--variant", help=f"one of {', '.join(VARIANTS)}; needed only for weights that do not say it")


def check_model(args: argparse.Namespace, kinds: str = "a run folder or a .weights.h5 file") -> None:
    """
    Raises:
      UserError: there is no such variant, or nothing of the model's name.
    """
    check_variant(args.variant)
    if not args.model.exists():
        raise UserError(f"model {args.model} does not exist; give {kinds}")


def check_variant(variant: str | None) -> None:
    """
    Raises:
      UserError: there is no such variant.
    """
    if variant is not None and variant not in VARIANTS:
        raise UserError(f"variant {variant!r} does not exist; choose one of {', '.join(VARIANTS)}")


def check_least(args: argparse.Namespace, **least: int) -> None:
    """
    Raises:
      UserError: the option of a keyword's name was given a number below the keyword's value.
    """
    for name, lowest in least.items():
        value = getattr(args, name)
        if value is not None and value < lowest:
            raise UserError(f"--{name.replace('_', '-')} is {value}; give at least {lowest}")


def seed(text: str) -> int:
    """'3' -> 3, as the type of an option.

    Raises:
      argparse.ArgumentTypeError: no whole number from 0 to LARGEST_INTEGER.
    """
    if not (text.isascii() and text.isdigit() and int(text) <= LARGEST_INTEGER):
        raise argparse.ArgumentTypeError(f"{text!r} is no seed; give a whole number from 0 to {LARGEST_INTEGER}")
    return int(text)


def check_outputs(*paths: Path | None) -> None:
    """
    Raises:
      UserError: one of these files could not be written when the work is done.
    """
    for path in paths:
        if path is not None:
            check_target(path)


def write_json(path: Path | None, content: Any) -> None:
    """Writes strict json, which has no NaN, and says so; nothing for None."""
    if path is not None:
        atomic_write(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
        print(f"Written: {printable(str(path))}")


def check_weights_output(path: Path) -> None:
    """
    Raises:
      UserError: Keras could not write weights to this file.
    """
    if not path.name.endswith(SUFFIX):
        raise UserError(f"--output {path} does not end in {SUFFIX}; give it that ending")
    check_target(path)


class _OneLine(logging.Formatter):
    """A message in one line, whatever the names in it hold; a traceback, where there is one, stays as it is."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


def log_to_terminal() -> None:
    """Messages of the libraries from INFO on, a line each."""
    terminal = logging.StreamHandler()
    terminal.setFormatter(_OneLine("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[terminal])
