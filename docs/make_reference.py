"""Writes the pages in docs/reference/ from the code: `make reference`.

commands.md has every command with its options, configuration.md every configuration key, python.md the public functions
and classes, tflite.md what a .tflite of ours takes and gives. tests/test_documentation.py fails when they are stale.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import tinydet_lite
from tinydet_lite import detections, detector, forms, metadata, tiles
from tinydet_lite.media import drawing
from tinydet_tf import api, config
from tinydet_tf.commands import COMMANDS, module_of

FOLDER = Path(__file__).resolve().parent / "reference"
NOTE = "Made from the code by `make reference`; change the code, not this page."


class _Parser(Exception):
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def _parser(name: str) -> argparse.ArgumentParser:
    """A command's parser, before it parses anything."""

    def stop(self: argparse.ArgumentParser, *_: Any) -> None:
        raise _Parser(self)

    command = importlib.import_module(f"tinydet_tf.cli.{module_of(name)}")
    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", stop),
        mock.patch.object(sys, "argv", [f"tinydet {name}"]),
    ):
        try:
            command.main()
        except _Parser as found:
            return found.parser
    raise AssertionError(f"{name} parsed nothing")


def commands() -> str:
    lines = [
        "# Commands", "", NOTE, "",
        "Every command is `tinydet NAME` where tinydet-tf is installed, and `python scripts/NAME.py` in a checkout "
        "(with underscores; `profile` is `profile_tflite.py`). Exit codes: 0 done, 2 wrong input, which one line on "
        "stderr names, 130 Ctrl-C, 143 SIGTERM.", "",
        "| command | what it does |", "|---|---|",
        *(f"| [{name}](#{name}) | {text} |" for name, text in COMMANDS.items()),
    ]  # fmt: skip
    for name in COMMANDS:
        lines += ["", f"## {name}", "", *_command(_parser(name))]
    return "\n".join(lines) + "\n"


def _command(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield _sentence(parser.description or "")
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    if actions:
        yield from ("", "| option | what it is |", "|---|---|")
    for action in actions:
        name = ", ".join(action.option_strings) or action.metavar or action.dest
        value = "" if action.nargs == 0 or not action.option_strings else _value(action)
        text = " ".join((action.help or "").split())
        if "%(default)s" in text:
            text = text.replace("%(default)s", str(action.default))
        if action.required and action.option_strings:
            text += " (required)"
        elif "default" not in text and action.default not in (None, False, [], argparse.SUPPRESS):
            text += f" (default: {action.default})"
        yield f"| {_code(f'{name}{value}')} | {_cell(text)} |"
    if parser.epilog:
        yield from ("", _sentence(parser.epilog))


def _value(action: argparse.Action) -> str:
    if action.choices is not None and action.metavar is None:
        return " " + "|".join(map(str, action.choices))
    metavar = action.metavar or action.dest.upper()
    several = action.nargs in ("+", "*")
    return f" {metavar}" + (" ..." if several else "")


def configuration() -> str:
    lines = [
        "# Configuration", "", NOTE, "",
        "Keys of the YAML files in `configs/`, of a run's `config.yaml`, and of `--set SECTION.KEY=VALUE`. "
        "The defaults are those of `--variant S`; an unknown key is an error that names the nearest. "
        "What M and L have otherwise:", "",
        "| key | M | L |", "|---|---|---|", *_variants(),
    ]  # fmt: skip
    sections = (
        ("", config.Config), ("model", config.ModelConfig), ("data", config.DataConfig), ("train", config.TrainConfig),
    )  # fmt: skip
    for section, kind in sections:
        meanings = _comments(kind)
        lines += ["", f"## {section or 'top'}", "", _sentence(inspect.getdoc(kind) or ""), ""]
        lines += ["| key | type | default | range | meaning |", "|---|---|---|---|---|"]
        for field in dataclasses.fields(kind):
            if field.name in ("model", "data", "train"):
                continue
            key = f"{section}.{field.name}".lstrip(".")
            ranges = [text for text, names in config.RANGES.get(section, {}).items() if field.name in names]
            cells = [
                f"`{key}`", _type(str(field.type)), _code(_yaml(field.default)), ", ".join(ranges),
                _cell(meanings[field.name]),
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _variants() -> Iterator[str]:
    small = config.VARIANTS["S"]
    for field in dataclasses.fields(config.ModelConfig):
        values = [getattr(config.VARIANTS[name], field.name) for name in "ML"]
        if any(value != getattr(small, field.name) for value in values):
            yield f"| `model.{field.name}` | " + " | ".join(_code(_yaml(value)) for value in values) + " |"


def _comments(kind: type) -> dict[str, str]:
    """The meaning of each field: the comment behind it, or those with #: above it."""
    lines = textwrap.dedent(inspect.getsource(kind)).splitlines()
    found = {}
    for node in ast.parse("\n".join(lines)).body[0].body:  # type: ignore[attr-defined]
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        assert node.end_lineno is not None and node.end_col_offset is not None
        behind = lines[node.end_lineno - 1][node.end_col_offset :].partition("#")[2].strip()
        above, row = list[str](), node.lineno - 2
        while row >= 0 and lines[row].strip().startswith("#:"):
            above.insert(0, lines[row].strip()[2:].strip())
            row -= 1
        found[node.target.id] = " ".join(filter(None, [*above, behind]))
    return found


def _type(text: str) -> str:
    names = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}
    text = re.sub(r"tuple\[(\w+), \.\.\.\]", r"list of \1", text).replace(" | None", " or null")
    return re.sub(r"\b(str|int|float|bool)\b", lambda match: names[match[1]], text)


def _yaml(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


PYTHON: dict[str, tuple[str, list[Any]]] = {
    "tinydet_lite": (
        "What runs on the edge: numpy, Pillow and a TFLite runtime, never TensorFlow.",
        [
            detector.Detector, detector.Timing, detections.Detections, detections.Detection, tiles.TiledDetector,
            metadata.ModelInfo, metadata.NmsSettings, drawing.draw, tinydet_lite.load_image, tinydet_lite.UserError,
        ],
    ),
    "tinydet_tf.api": ("The commands as functions.", [getattr(api, name) for name in api.__all__]),
}  # fmt: skip


def python() -> str:
    from tinydet_tf.model.detector import TinyDet, build_detector

    lines = ["# Python", "", NOTE]
    rooms = {**PYTHON, "tinydet_tf": ("The network.", [build_detector, TinyDet])}
    for room, (text, things) in rooms.items():
        lines += ["", f"## {room}", "", text]
        for thing in things:
            lines += ["", f"### {_public_name(room, thing)}", "", *_documented(thing)]
            for name, method in vars(thing).items() if inspect.isclass(thing) else ():
                method = getattr(method, "__func__", method)
                shown = not name.startswith("_") or name == "__call__"
                if shown and inspect.isfunction(method) and inspect.getdoc(method):
                    lines += ["", f"**{name}**", "", *_documented(method)]
    return "\n".join(lines) + "\n"


def _public_name(room: str, thing: Any) -> str:
    module = sys.modules[room]
    return next((name for name in getattr(module, "__all__", ()) if getattr(module, name) is thing), thing.__name__)


def _documented(thing: Any) -> Iterator[str]:
    signature = ""
    made = inspect.isclass(thing) and "__init__" in vars(thing) and not issubclass(thing, Exception)
    if made or inspect.isfunction(thing):
        signature = f"{thing.__name__}{inspect.signature(thing)}".replace("'", "")
        signature = signature.removesuffix(" -> None") if made else signature
    yield "```text"
    if signature:
        yield from (*textwrap.wrap(re.sub(r"\(self(, )?", "(", signature), 100, subsequent_indent="    "), "")
    yield from (inspect.getdoc(thing) or "").splitlines()
    if made and thing.__init__.__doc__:
        yield from ("", *(inspect.getdoc(thing.__init__) or "").splitlines())
    yield "```"


def tflite() -> str:
    lines = [
        "# The .tflite", "", NOTE, "",
        "One file with one signature. Its input is `image`, uint8 [1, S, S, 3]: RGB, the whole picture stretched to "
        "S x S with Pillow's bilinear filter. Builtin operators only. Its outputs depend on `--postprocess`:", "",
    ]  # fmt: skip
    for form, kind in forms._FORMS.items():
        lines += [f"## --postprocess {form}", "", _sentence(inspect.getdoc(kind) or ""), ""]
        info = metadata.ModelInfo("S", 320, 80, tuple(range(1, 81)), "", postprocess=form)
        shapes = kind(info, tuple(map(str, range(80))), info.nms).expected()
        letter = {"host": "P", "tasks": "N"}[form]
        lines += ["| output | float32, 80 classes |", "|---|---|"]
        lines += [
            f"| `{name}` | [{', '.join(letter if side is None else str(side) for side in shape)}] |"
            for name, shape in shapes.items()
        ]
        lines.append("")
    lines += [
        "## What travels inside", "",
        "Behind the flatbuffer is a zip archive, which runtimes do not see: "
        f"`{metadata.LABELS_MEMBER}`, a class name a line, and `{metadata.INFO_MEMBER}`:", "",
        "```text", *(inspect.getdoc(metadata.ModelInfo) or "").splitlines(), "```",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _sentence(text).replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


#: Name of the page -> what makes it.
PAGES = {"commands.md": commands, "configuration.md": configuration, "python.md": python, "tflite.md": tflite}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, make in PAGES.items():
        (FOLDER / name).write_text(make(), encoding="utf-8")
        print(f"Written: {FOLDER / name}")


if __name__ == "__main__":
    main()
