"""Both wheels in an environment of their own, outside any checkout: what an installed user has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from environments import ROOT, python_with_wheels
from environments import run_apart as run


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return python_with_wheels(tmp_path_factory.mktemp("wheels"))


@pytest.mark.slow
def test_train_export_and_detect_from_the_wheels(installed: Path, tmp_path: Path) -> None:
    for name in ("tinydet_tf", "tinydet_lite"):
        file = Path(run(tmp_path, installed, "-c", f"import {name}; print({name}.__file__)").strip())
        assert file.is_relative_to(installed.parents[1]), file
    tinydet = installed.with_name("tinydet")
    assert "count-madds" in run(tmp_path, tinydet, "--help")
    settings = [
        "data.digits_train_images=4", "data.digits_val_images=1", "train.epochs=1", "train.batch_size=2",
        "train.nms_pre=300", "train.proposals=100", "train.rcnn_samples=32",
    ]  # fmt: skip
    options = [part for setting in settings for part in ("--set", setting)]
    out = run(tmp_path, tinydet, "train", "--config", "digits_s", "--output", "run", *options)
    assert "\n  tinydet evaluate --model run" in out and "\n  tinydet export --model run" in out
    out = run(tmp_path, tinydet, "export", "--model", "run", "--output", "x.tflite")
    assert "\n  tinydet detect --model x.tflite" in out
    numbers = ("--train-images", 4, "--val-images", 1)
    run(tmp_path, tinydet, "make-digits", *numbers, "--sample", "digits.jpg")
    run(tmp_path, tinydet, "detect", "--model", "x.tflite", "--source", "digits.jpg", "--output", "found")
    assert {path.name for path in (tmp_path / "found").iterdir()} >= {"detections.json"}


@pytest.mark.slow
def test_the_wheel_has_every_configuration(installed: Path, tmp_path: Path) -> None:
    program = "from tinydet_tf.recipes import CONFIGS as c; print(*[p.relative_to(c) for p in c.rglob('*.yaml')])"
    found = run(tmp_path, installed, "-c", program).split()
    assert sorted(found) == sorted(str(path.relative_to(ROOT / "configs")) for path in ROOT.glob("configs/**/*.yaml"))
    assert os.path.join("ablations", "table6_a.yaml") in found
    # The defaults without any option, and a plan, by name.
    run(tmp_path, installed.with_name("tinydet"), "run-experiments", "digits", "--table")
