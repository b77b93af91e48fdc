"""Shared fixtures, and a closing line that names what was left out."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

ROOT = Path(__file__).resolve().parents[1]
_LEFT_OUT: list[str] = []


def pytest_deselected(items: list[pytest.Item]) -> None:
    _LEFT_OUT.extend(item.nodeid for item in items)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _LEFT_OUT:
        terminalreporter.section("left out here, run by .ci/run and by `make test-all`")
        for name in _LEFT_OUT:
            terminalreporter.write_line(name)


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """The folder of real COCO images; the test is skipped, and says so, where it is absent."""
    folder = Path(os.environ.get("TINYDET_COCO_MINI", ROOT.parent / "shared" / "data" / "coco_mini"))
    if not (folder / "dev_train" / "instances.json").is_file():
        pytest.skip(f"no real images: {folder} is absent (TINYDET_COCO_MINI names another place)")
    return folder
