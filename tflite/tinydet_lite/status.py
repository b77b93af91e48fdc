"""One line at the end of a terminal's output that changes while a command works."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class StatusLine:
    """Shows nothing where the stream is no terminal: a log wants lines that stay. Behind a `with` block it is gone."""

    def __init__(self, stream: TextIO | None) -> None:
        """Take the stream, sys.stdout or sys.stderr; None where there is none."""
        self._stream = stream
        self._width = 0  # of what stands there
        self.visible = stream is not None and stream.isatty()

    def show(self, text: str) -> None:
        """Put `text`, one line, in the place of what stands there."""
        if not self.visible:
            return
        text = text[: max(1, shutil.get_terminal_size().columns - 1)]
        print("\r" + text.ljust(self._width), end="", file=self._stream, flush=True)
        self._width = len(text)

    def clear(self) -> None:
        """Take the line away; before other text."""
        if self._width:
            print("\r" + " " * self._width + "\r", end="", file=self._stream, flush=True)
            self._width = 0

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()


@contextmanager
def doing(what: str, *, tell: bool = True) -> Iterator[None]:
    """Say on stderr's terminal what takes a while, until it is done; with `tell=False` nothing is said."""
    with StatusLine(sys.stderr if tell else None) as line:
        line.show(f"{what} ...")
        yield
