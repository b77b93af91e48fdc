"""Shared fixtures."""

from __future__ import annotations

import functools
import hashlib
import os
import signal
import time
from pathlib import Path

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

from commands import Command, run_script, run_tinydet

ROOT = Path(__file__).resolve().parents[1]

# A shell that starts something in the background has it ignore Ctrl-C, and every child inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that processes that share the files end together.

    With TINYDET_TESTS_TURN, a commit, the files behind the first two, which learn, are in an order that follows from
    it: where time ends before the tests do, each commit leaves out others.
    """
    longest = (
        "test_learning_digits.py", "test_learning_photographs.py", "test_commands.py", "test_quantize.py",
        "test_rewrites.py", "test_api.py", "test_published.py", "test_madds.py", "test_weights.py", "test_augment.py",
        "test_qat.py", "test_seeing.py", "test_losses.py", "test_start.py", "test_properties.py", "test_tasks.py",
    )  # fmt: skip
    turn = os.environ.get("TINYDET_TESTS_TURN")
    first = longest if turn is None else longest[:2]

    def place(item: pytest.Item) -> tuple[int, str]:
        name = item.path.name
        if name in first:
            return first.index(name), ""
        return len(first), "" if turn is None else hashlib.sha256(f"{turn}/{name}".encode()).hexdigest()

    items.sort(key=place)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Where a run has to end in time, what cannot begin any more is named instead of ending all of it."""
    last = os.environ.get("TINYDET_TESTS_BEGIN_UNTIL")
    if last is not None and time.time() > float(last):
        pytest.skip("NOT RUN for want of time")


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """The folder of real COCO images; the test is skipped, and says so, where it is absent."""
    folder = Path(os.environ.get("TINYDET_COCO_MINI", ROOT.parent / "shared" / "data" / "coco_mini"))
    if not (folder / "dev_train" / "instances.json").is_file():
        pytest.skip(f"no real images: {folder} is absent (TINYDET_COCO_MINI names another place)")
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """command("train.py", "--variant", "S") -> Done."""
    return functools.partial(run_script, monkeypatch, capfd)


@pytest.fixture
def tinydet(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """tinydet("train", "--variant", "S") -> Done."""
    return functools.partial(run_tinydet, monkeypatch, capfd)
