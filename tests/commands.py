"""What a command did when it was run in this process (the fixtures `command` and `tinydet` in conftest.py)."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tinydet_tf.cli.main import console

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
    return _done(capfd, lambda: runpy.run_path(str(SCRIPTS / script), run_name="__main__"))


def run_tinydet(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: object) -> Done:
    """Runs `tinydet ARGUMENTS` as `run_script` does."""
    monkeypatch.setattr(sys, "argv", ["/a/folder/bin/tinydet", *map(str, arguments)])
    return _done(capfd, console)


def _done(capfd: pytest.CaptureFixture[str], program: Callable[[], object]) -> Done:
    capfd.readouterr()
    try:
        program()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    return Done(code, *capfd.readouterr())
