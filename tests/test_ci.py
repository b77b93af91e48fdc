"""What decides about a submission starts under the shell that whoever runs it has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[1] / ".ci" / "run"


@pytest.mark.parametrize("shell", [["bash"], ["sh"], []], ids=["bash", "sh", "itself"])
def test_ci_starts(shell: list[str], tmp_path: Path) -> None:
    done = subprocess.run([*shell, str(RUN), "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: .ci/run")


@pytest.mark.parametrize(("until", "word"), [("0", "1 skipped"), ("1e12", "1 passed"), (None, "1 passed")])
def test_what_cannot_begin_in_time_is_named(
    until: str | None, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(): pass")
    conftest = Path(__file__).with_name("conftest.py")
    monkeypatch.setenv("PYTHONPATH", str(conftest.parent))
    if until is not None:
        monkeypatch.setenv("TINYDET_TESTS_BEGIN_UNTIL", until)
    program = [sys.executable, "-m", "pytest", "-p", "conftest", "-rs", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert word in done.stdout, done.stdout
    assert ("NOT RUN for want of time" in done.stdout) == (until == "0")
