"""Ground truth without pictures: the boxes and sizes of images, of a COCO json alone or of a loaded data set.

G ground truths of one image. Boxes are continuous corners x1, y1, x2, y2 in pixels of the source image. Crowd boxes are
left out, because training does not use them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinydet_lite.errors import UserError
from tinydet_tf.data.coco import CocoDataset, load_coco

#: Sides of squares, in pixels of the source image, whose areas are COCO's limits between small, medium and large.
SMALL_SIDE, MEDIUM_SIDE = 32, 96
SIZES = ("all", "small", "medium", "large")


@dataclass(frozen=True, eq=False)
class ImageBoxes:
    """One image. boxes: float32 [G, 4]."""

    id: int
    width: int
    height: int
    boxes: npt.NDArray[np.float32]


def is_of_size(boxes: npt.NDArray[np.float32], size: str) -> npt.NDArray[np.bool_]:
    """Which boxes are "all", "small", "medium" or "large", by the area of the box: [G, 4] -> bool [G].

    COCO's evaluation takes the area of the object's outline instead, which makes more of them small: 41% of COCO
    (section 1), where 31% of val2017's boxes are. Boxes are used here because an anchor is a box, most data sets have
    no outlines, and table 2 was computed with boxes: its columns add up to "all" with 31% of small objects.
    """
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    small, medium = area < SMALL_SIDE**2, area < MEDIUM_SIDE**2
    return {"all": np.ones(len(boxes), bool), "small": small, "medium": medium & ~small, "large": ~medium}[size]


def from_dataset(dataset: CocoDataset) -> list[ImageBoxes]:
    """The images of a loaded data set without their crowd boxes; images without a box are kept."""
    return [ImageBoxes(i.id, i.width, i.height, i.boxes[~i.is_crowd]) for i in dataset.images]


def read_annotations(path: Path) -> list[ImageBoxes]:
    """The images of a COCO-format json that gives their sizes, in the file's order. The pictures need not be there.

    Raises:
      UserError: a file that is missing, damaged or of another kind, or no box in it.
    """
    images = from_dataset(load_coco(path, None))
    if not any(len(image.boxes) for image in images):
        raise UserError(f"{path} has no boxes; expected at least one that is not a crowd's")
    return images
