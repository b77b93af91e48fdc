"""Pictures that two splits have in common: where val shares some with train, its figures are too good."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

#: Bytes at each end of a file that are compared before all of it: sizes alone say little of bitmaps.
_END = 1 << 14


def in_both(ours: Iterable[Path], theirs: Iterable[Path]) -> list[Path]:
    """Those of `ours` that are in `theirs`, as the same file or as another one with the same bytes, in order.

    A file that cannot be read is in neither.
    """
    first, second = list(dict.fromkeys(ours)), list(dict.fromkeys(theirs))
    for read in (os.path.getsize, _ends, _whole):
        first_keys, second_keys = _keys(read, first), _keys(read, second)
        shared = set(first_keys.values()) & set(second_keys.values())
        first = [path for path, key in first_keys.items() if key in shared]
        second = [path for path, key in second_keys.items() if key in shared]
    return first


def _keys(read: Callable[[Path], object], paths: list[Path]) -> dict[Path, object]:
    found = {}
    for path in paths:
        try:
            found[path] = read(path)
        except OSError:
            continue
    return found


def _ends(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(_END)
        file.seek(-min(_END, os.fstat(file.fileno()).st_size), os.SEEK_END)
        return start + file.read(_END)


def _whole(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
