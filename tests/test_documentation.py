"""What the pages point at exists: links between files, and the tests that docs/reference.md names."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from documented_commands import (
    BEFORE,
    INSTEAD,
    LEFT_OUT,
    LEFT_OUT_INSTALLED,
    LIMITS,
    OTHER_MACHINES,
    changed,
    steps,
)

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "tflite" / "README.md"])


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


def test_the_index_has_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").as_posix()
        assert name == "README.md" or f"]({name})" in index, f"docs/README.md does not lead to {name}"


def test_the_generated_pages_are_of_this_code() -> None:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert {path.name for path in module.FOLDER.iterdir()} == set(module.PAGES)
    for name, make in module.PAGES.items():
        page = make()
        assert (module.FOLDER / name).read_text(encoding="utf-8") == page, f"docs/reference/{name}: run make reference"
        # Every option and every key says what it is.
        for line in page.splitlines():
            assert not re.search(r"^\| `.*\|\s*(\((required|default: [^)]*)\))?\s*\|$", line), f"{name}: {line}"


def test_every_page_can_be_run_by_the_listed_script() -> None:
    """Each shell block is one that bash takes; what is listed as changed or left out is still written somewhere."""
    written = [step for page in PAGES for step in steps(page.read_text())]
    texts = [step.text for step in written]
    assert sum(step.kind == "sh" for step in written) > 60 and sum(step.kind == "python" for step in written) >= 8
    for beginning in (*LEFT_OUT, *LEFT_OUT_INSTALLED):
        assert any(text.startswith(beginning) for text in texts), beginning
    for part in (*INSTEAD, *BEFORE):
        assert any(part in text for text in texts), part
    assert {step.section for step in written} >= set(OTHER_MACHINES)


def test_what_the_listed_script_runs() -> None:
    limits = f" {LIMITS['evaluate']}"
    command = "python scripts/evaluate.py --model mine.tflite --data DIR"
    assert changed(command, installed=False) == command + limits
    assert changed(command, installed=True) == "tinydet evaluate --model mine.tflite --data DIR" + limits
    lines = "python scripts/train.py --data DIR \\\n  --output runs/a"
    assert changed(lines, installed=False) == f"{lines} {LIMITS['train']}"
    assert changed("python scripts/train.py --resume", installed=False) == "python scripts/train.py --resume"
    page = "# A\n```sh\n# why\nfor v in S M; do\n    a $v   # each\ndone\nb \\\n  c\n```\n"
    assert [step.text for step in steps(page)] == ["for v in S M; do\na $v\ndone", "b \\\nc"]
