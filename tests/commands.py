"""What a command of scripts/ did when it was run in this process (the fixture `command` in conftest.py)."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


class Done(NamedTuple):
    code: int
    out: str
    err: str

    def assert_refused(self, *words: str) -> None:
        """Exit 2, one line that says all of `words`, no traceback."""
        assert self.code == 2, self
        last = self.err.strip().splitlines()[-1]
        assert ": error: " in last and "Traceback" not in self.err, self.err
        for word in words:
            assert word in last, last

    def assert_refused_alone(self, *words: str) -> None:
        """As `assert_refused`, and nothing else is printed."""
        self.assert_refused(*words)
        assert self.out == "" and len(self.err.splitlines()) == 1, self


Command = Callable[..., Done]


def run_script(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], script: str, *arguments: object
) -> Done:
    """Runs scripts/`script` as a user does, but for TensorFlow, which is loaded already."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    capfd.readouterr()
    try:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    return Done(code, *capfd.readouterr())
