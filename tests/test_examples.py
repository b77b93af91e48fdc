"""The scripts in examples/, run as their first lines say, on a few digits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinydet_tf.data.digits import digits_folder

ROOT = Path(__file__).resolve().parents[1]


def example(name: str, folder: Path, *arguments: object) -> str:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tflite")])
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name, *map(str, arguments)],
        cwd=folder, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_from_a_folder_to_every_format(tmp_path: Path) -> None:
    data = digits_folder(tmp_path, num_train=4, num_val=2)
    small = ("--epochs", 1, "--batch-size", 4, "--input-size", 128)
    out = example("train_on_your_folder.py", tmp_path, data, *small, "--output", "run")
    assert "IoU 0.50:0.95, all sizes" in out
    assert len(list((tmp_path / "run").glob("*_detected.png"))) == 2

    out = example("quantize_and_compare.py", tmp_path, "run", "--output", "exported", "--limit", 1)
    rows = [line.split() for line in out.splitlines() if line.startswith(("float", "dynamic", "int8"))]
    assert [row[0] for row in rows] == ["float32", "float16", "dynamic", "int8"]
    sizes = [float(row[1]) for row in rows]
    assert sizes[0] > 1.8 * sizes[1] and sizes[0] > 3 * sizes[3]  # 4, 2 and 1 byte a weight
    assert all(len(row) == 5 and float(row[2]) > 0 for row in rows)


def test_every_example_is_in_the_index() -> None:
    index = (ROOT / "examples" / "README.md").read_text()
    for path in (ROOT / "examples").iterdir():
        assert path.name == "README.md" or f"]({path.name}" in index, path
