"""Which files earlier runs of `detect` wrote: those may be replaced. Anything else is somebody's work, and stays.

A file is known by what is in it, not by a list that is kept elsewhere: it may be copied, and a label that was
corrected by hand is no longer `detect`'s.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

#: In annotated pictures and videos, where viewers do not show it.
SIGN = b"drawn by tinydet_lite"

# A model's name in JSON may take 6 bytes a letter.
_END_BYTES = 4096

#: How detections.json, detections.jsonl, coco.json and detections.csv begin.
REPORT = re.compile(rb'\{\s*"model": "[^\n]*",\s*"images": \[')
LINES = re.compile(rb'\{"source": "[^\n]*", "frame": \d')
COCO = re.compile(rb'\[\]\n|\[\n\{"image_id": \d+, "category_id": [^\n]*"score": [^\n]*"file_name": ')
CSV = re.compile(rb"file,frame,time,class_id,name,score,x1,y1,x2,y2\n")
_LABELS = re.compile(rb"(?:\d+(?: -?\d+\.\d{6}){5}\n)*")


def is_signed(path: Path) -> bool:
    """An annotated picture or video: near one of its ends it is signed."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_END_BYTES)
        file.seek(max(0, size - _END_BYTES))
        return SIGN in start or SIGN in file.read(_END_BYTES)


def first_foreign(paths: Iterable[Path], is_own: Callable[[Path], bool]) -> Path | None:
    """The first of the paths that exists and is not `is_own`; None if none is. One that cannot be read is foreign."""
    return next((path for path in paths if os.path.lexists(path) and not _safely(path, is_own)), None)


def foreign(path: Path, start: re.Pattern[bytes]) -> Path | None:
    """The path, where a file is there that does not begin so; an empty file is nobody's work."""

    def is_own(path: Path) -> bool:
        with path.open("rb") as file:
            beginning = file.read(_END_BYTES)
        return not beginning or start.match(beginning) is not None

    return first_foreign([path], is_own)


def first_foreign_label(paths: Iterable[Path]) -> Path | None:
    """As `first_foreign`, for YOLO's texts.

    Those of `detect` have the score in each line, which labels do not have. Where nothing was found they are empty, as
    a label file of a picture without objects is: an empty one is foreign where another text of its folder is.
    """
    there = [path for path in paths if os.path.lexists(path)]
    foreign = first_foreign(there, _is_label)
    if foreign is not None:
        return foreign
    empty = next((path for path in there if path.stat().st_size == 0), None)
    if empty is None:
        return None
    beside = (path for path in sorted(empty.parent.iterdir()) if path.suffix.lower() == ".txt")
    return empty if first_foreign(beside, _is_label) is not None else None


def _is_label(path: Path) -> bool:
    return _LABELS.fullmatch(path.read_bytes()) is not None


def _safely(path: Path, is_own: Callable[[Path], bool]) -> bool:
    try:
        return is_own(path)
    except OSError:
        return False
