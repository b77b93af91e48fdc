"""What the pages point at exists: links between files, and the tests that docs/reference.md names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "tflite" / "README.md"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        target = link.partition("#")[0]
        if target and "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), link


def test_the_tests_of_the_reference_exist() -> None:
    """The page writes tests/FOLDER/test_NAME.py without tests/, and a further test of the same file as `::NAME`."""
    tests = ROOT / "tests"
    found, source = 0, ""
    for file, name in re.findall(
        r"`([\w/]*test_\w+\.py)?(?:::)?(test_\w+)?`", (ROOT / "docs" / "reference.md").read_text()
    ):
        if file:
            assert (tests / file).is_file(), file
            source = (tests / file).read_text()
        if name:
            assert f"def {name}(" in source, name
        found += bool(file or name)
    assert found > 40
