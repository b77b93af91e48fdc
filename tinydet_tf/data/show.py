"""Draws a training batch for people: its images in a grid, with their boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from tinydet_lite.boxes import to_continuous
from tinydet_lite.detections import Detections
from tinydet_lite.media.drawing import draw

#: Pixels between two images.
_GAP = 4


def draw_batch(batch: dict[str, Any], class_names: tuple[str, ...], *, columns: int) -> Image.Image:
    """A picture of a training batch.

    Args:
        batch: of `build_pipeline`, as numpy arrays: images uint8 [B, S, S, 3], gt_boxes [B, G, 4], ...
        class_names: of the data set.
        columns: images in a row.
    """
    count, size = len(batch["images"]), batch["images"].shape[1]
    rows = -(-count // columns)
    canvas = Image.new("RGB", (columns * (size + _GAP) - _GAP, rows * (size + _GAP) - _GAP), (255, 255, 255))
    for index in range(count):
        real = batch["gt_mask"][index]
        classes = batch["gt_classes"][index][real]
        boxes = to_continuous(batch["gt_boxes"][index][real])
        names = tuple(class_names[c] for c in classes)
        truth = Detections(boxes, np.ones(len(boxes), np.float32), classes, names)
        picture = draw(batch["images"][index], truth, min_long_side=None, show_scores=False)
        canvas.paste(picture, ((index % columns) * (size + _GAP), (index // columns) * (size + _GAP)))
    return canvas
