"""Augmentation for data sets of small objects, off by default: mosaic, and pasted copies of small objects.

Shape letters: H and W an image's sides, S the input's, n and k boxes and crowd boxes of one image.

Stages of the input pipeline (pipeline.py); their random numbers come from the sample's seed alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from tinydet_tf.data.augment import FILL_RGB, Sample

Arrays = tuple[np.ndarray, ...]

#: A mosaic's seam lies in the middle half of the canvas.
SEAM = (0.25, 0.75)
#: Objects below 32 x 32 pixels of the input are small (COCO's limit). Boxes with a side below 2 pixels are not copied.
SMALL_SIDE, LEAST_SIDE = 32.0, 2.0
#: How many places are tried for a copy, and the pixels that it keeps from every box.
PLACES, MARGIN = 20, 2.0

# Folded into a sample's seed; augment.py uses numbers up to 18.
_MOSAIC_SEED, _PASTE_SEED = 32, 33


def mosaic_of(
    sample: Sample, load: Callable[[np.ndarray | int], Arrays], num_images: int, size: int, share: float
) -> Sample:
    """With the probability `share`, put the image and three others into the quarters of a canvas of 2S x 2S pixels.

    Each quarter is filled with its whole image, stretched: an object becomes as large as it would be at the input's
    resolution, or smaller, and what follows (crop, resize) chooses what is seen of it.

    Args:
      sample: behind the load stage.
      load: index -> image, boxes, classes, crowd_boxes, image_id.
      num_images: of the data set.
      size: S.
      share: 0 to 1.
    """

    def arrays(
        seed: np.ndarray, image: np.ndarray, boxes: np.ndarray, classes: np.ndarray, crowd_boxes: np.ndarray
    ) -> Arrays:
        rng = np.random.default_rng(seed.astype(np.uint32))
        if rng.random() >= share:
            return image, boxes, classes, crowd_boxes
        others = [load(int(index))[:4] for index in rng.integers(0, num_images, 3)]
        return tile([(image, boxes, classes, crowd_boxes), *others], size, rng)

    seed = tf.random.experimental.stateless_fold_in(sample["seed"], _MOSAIC_SEED)
    inputs = [sample[key] for key in ("image", "boxes", "classes", "crowd_boxes")]
    dtypes = (tf.uint8, tf.float32, tf.int32, tf.float32)
    image, boxes, classes, crowd_boxes = tf.numpy_function(arrays, [seed, *inputs], dtypes, stateful=False)
    return sample | {
        "image": tf.ensure_shape(image, [None, None, 3]),
        "boxes": tf.ensure_shape(boxes, [None, 4]),
        "classes": tf.ensure_shape(classes, [None]),
        "crowd_boxes": tf.ensure_shape(crowd_boxes, [None, 4]),
    }


def tile(images: list[Arrays], size: int, rng: np.random.Generator) -> Arrays:
    """Four images with their boxes, classes and crowd boxes as one of 2S x 2S pixels."""
    seam_x, seam_y = (int(2 * size * rng.uniform(*SEAM)) for _ in range(2))
    canvas = np.empty([2 * size, 2 * size, 3], np.uint8)
    canvas[:] = FILL_RGB
    boxes: list[np.ndarray] = []
    classes: list[np.ndarray] = []
    crowds: list[np.ndarray] = []
    quarters = [
        (left, top, right, bottom)
        for top, bottom in ((0, seam_y), (seam_y, 2 * size))
        for left, right in ((0, seam_x), (seam_x, 2 * size))
    ]
    for (left, top, right, bottom), (pixels, own_boxes, own_classes, own_crowds) in zip(quarters, images, strict=True):
        width, height = right - left, bottom - top
        part = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
        canvas[top:bottom, left:right] = np.asarray(part)
        scale = np.array([width / pixels.shape[1], height / pixels.shape[0]] * 2, np.float32)
        origin, last = np.array([left, top] * 2, np.float32), np.array([width - 1, height - 1] * 2, np.float32)
        for target, values in ((boxes, own_boxes), (crowds, own_crowds)):
            target.append(np.clip(values * scale, np.float32(0), last) + origin)
        classes.append(own_classes)
    return canvas, np.concatenate(boxes), np.concatenate(classes), np.concatenate(crowds)


def paste_copies(sample: Sample, most: int) -> Sample:
    """Paste up to `most` copies of the image's small objects at places without an object.

    `image` is uint8 [S, S, 3]; copies stay inside of `content`, the part that is no filling.
    """

    def arrays(
        seed: np.ndarray,
        image: np.ndarray,
        boxes: np.ndarray,
        classes: np.ndarray,
        crowd_boxes: np.ndarray,
        content: np.ndarray,
    ) -> Arrays:
        rng = np.random.default_rng(seed.astype(np.uint32))
        return paste(image, boxes, classes, crowd_boxes, content, most, rng)

    seed = tf.random.experimental.stateless_fold_in(sample["seed"], _PASTE_SEED)
    inputs: list[Any] = [sample[key] for key in ("image", "boxes", "classes", "crowd_boxes", "content")]
    image, boxes, classes = tf.numpy_function(arrays, [seed, *inputs], (tf.uint8, tf.float32, tf.int32), stateful=False)
    return sample | {
        "image": tf.ensure_shape(image, sample["image"].shape),
        "boxes": tf.ensure_shape(boxes, [None, 4]),
        "classes": tf.ensure_shape(classes, [None]),
    }


def paste(
    image: np.ndarray,
    boxes: np.ndarray,
    classes: np.ndarray,
    crowd_boxes: np.ndarray,
    content: np.ndarray,
    most: int,
    rng: np.random.Generator,
) -> Arrays:
    """An image, its boxes and classes with copies of small objects.

    Args:
      image: uint8 [S, S, 3].
      boxes, classes, crowd_boxes: [n, 4] inclusive, [n], [k, 4].
      content: int32 [4], x2 and y2 exclusive: where copies may lie.
      most: of them.

    A copy is the box's rectangle of pixels, moved by whole pixels and mirrored never (a mirrored 2 is no 2).
    """
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    small = np.flatnonzero((np.prod(sides, 1) < SMALL_SIDE**2) & (sides.min(1, initial=np.inf) >= LEAST_SIDE))
    if not len(small) or most < 1:
        return image, boxes, classes
    left, top, right, bottom = (int(v) for v in content)
    pasted = image.copy()
    all_boxes, all_classes = list(boxes), list(classes)
    for source in rng.choice(small, int(rng.integers(0, most + 1))):
        # The whole pixels that the box touches, from the image without copies.
        x1, y1 = np.floor(boxes[source, :2]).astype(int)
        x2, y2 = np.minimum(np.ceil(boxes[source, 2:]).astype(int) + 1, [right, bottom])
        if x1 < left or y1 < top:  # by a rounding
            continue
        taken = np.concatenate([np.reshape(all_boxes, (-1, 4)), crowd_boxes])
        for _ in range(PLACES):
            move_x = int(rng.integers(left - x1, right - x2 + 1))
            move_y = int(rng.integers(top - y1, bottom - y2 + 1))
            copy = boxes[source] + np.array([move_x, move_y] * 2, np.float32)
            apart = (copy[:2] > taken[:, 2:] + MARGIN).any(1) | (copy[2:] + MARGIN < taken[:, :2]).any(1)
            if apart.all():
                pasted[y1 + move_y : y2 + move_y, x1 + move_x : x2 + move_x] = image[y1:y2, x1:x2]
                all_boxes.append(copy)
                all_classes.append(classes[source])
                break
    return pasted, np.stack(all_boxes).astype(np.float32), np.array(all_classes, np.int32)
