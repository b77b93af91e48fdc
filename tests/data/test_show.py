"""The drawn batch: every image in its place, its boxes on it; and the command."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinydet_lite.drawing import class_colour
from tinydet_tf.data.digits import digits_folder
from tinydet_tf.data.show import draw_batch

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "show_batch.py"


def test_images_and_boxes_are_where_they_belong() -> None:
    images = np.zeros((5, 100, 100, 3), np.uint8)
    images[:, ..., 2] = 50 * np.arange(5, dtype=np.uint8)[:, None, None]
    boxes = np.zeros((5, 2, 4), np.float32)
    boxes[:, 0] = [20, 30, 79, 69]
    mask = np.array([[True, False]] * 4 + [[False, False]])
    batch = {"images": images, "gt_boxes": boxes, "gt_classes": np.zeros((5, 2), np.int32), "gt_mask": mask}
    pixels = np.asarray(draw_batch(batch, ("thing",), columns=3))
    assert pixels.shape == (204, 308, 3)
    for index in range(5):
        left, top = (index % 3) * 104, (index // 3) * 104
        assert pixels[top + 5, left + 95, 2] == 50 * index
        edge = pixels[top + 50, left + 18 : left + 23].astype(int)
        drawn = np.abs(edge - class_colour(0)).sum(-1).min() < 60
        assert drawn == mask[index, 0]


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = digits_folder(tmp_path, num_train=3, num_val=1)

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["show_batch.py", "--data", str(folder), *map(str, arguments)])
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    output = tmp_path / "batch.png"
    # More images than there are.
    assert run("--images", 5, "--columns", 2, "--set", "data.augmentation=ssd", "--output", output) == 0
    with Image.open(output) as picture:
        assert picture.size == (2 * 320 + 4, 3 * 320 + 8)
    assert "5 images" in capsys.readouterr().out
    for arguments, message in (
        (("--images", 0, "--output", output), "--images is 0"),
        (("--output", tmp_path / "x.gif"), "does not end in .jpg or .png"),
        (("--output", tmp_path / "no" / "x.png"), "there is no folder"),
        (("--set", "data.augmentation=yes", "--output", output), "data.augmentation is"),
    ):
        assert run(*arguments) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
