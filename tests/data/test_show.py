"""The drawn batch: every image in its place, its boxes on it; and the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from commands import Command
from tinydet_lite.media.drawing import class_colour
from tinydet_tf.data.digits import digits_folder
from tinydet_tf.data.show import draw_batch


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


def test_command(tmp_path: Path, command: Command) -> None:
    show = ("show_batch.py", "--data", digits_folder(tmp_path, num_train=3, num_val=1))
    output = tmp_path / "batch.png"
    # More images than there are.
    done = command(*show, "--images", 5, "--columns", 2, "--set", "data.augmentation=ssd", "--output", output)
    assert done.code == 0 and "5 images" in done.out, done.err
    with Image.open(output) as picture:
        assert picture.size == (2 * 320 + 4, 3 * 320 + 8)
    for arguments, message in (
        (("--images", 0, "--output", output), "--images is 0"),
        (("--output", tmp_path / "x.gif"), "does not end in .jpg or .png"),
        (("--output", tmp_path / "no" / "x.png"), "there is no folder"),
        (("--set", "data.augmentation=yes", "--output", output), "data.augmentation is"),
    ):
        command(*show, *arguments).assert_refused(message)
