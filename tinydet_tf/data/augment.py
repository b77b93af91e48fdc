"""SSD's augmentation as mmdetection 1.x runs it (docs/reference.md, "Training"): stages of the input pipeline.

Shape letters: H and W a source image's sides, S the input's, n and k boxes and crowd boxes of one image, T tries.

A stage is a function from sample to sample (see pipeline.py) that works eagerly and inside tf.data alike. Its random
numbers come from the sample's seed alone. Expanding and cropping only choose the `window` of the image that the resize
stretches to the input, so that no canvas of sixteen times the image is filled. The photometric distortion follows the
resize, where it has S*S pixels to change; the result differs from the paper's order only in that the resize does not
interpolate between distorted pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

Sample = dict[str, Any]

#: A share of the images, in the paper half, is put on a canvas whose sides are up to this many times the image's.
EXPAND_SHARE, EXPAND_RATIO = 0.5, 4.0
#: What a crop may demand: at least this IoU between the crop and every box. Two further choices are no demand, and no
#: crop.
MIN_IOUS = (0.1, 0.3, 0.5, 0.7, 0.9)
#: The least side of a crop as a share of the window's, and the limits of its height : width.
MIN_CROP, ASPECTS = 0.3, (0.5, 2.0)
#: Crops tried for one demand before another is drawn, as in mmdetection; and how many demands are drawn. (mmdetection
#: draws demands without end.)
TRIES, ROUNDS = 50, 10
BRIGHTNESS, CONTRAST, SATURATION, HUE_DEGREES = 32.0, (0.5, 1.5), (0.5, 1.5), 18.0
#: The colour around an expanded image: the mean that normalization subtracts, rounded.
FILL_RGB = (124, 116, 104)

# Folded into a sample's seed; pipeline.py's own stages use numbers below 16.
_EXPAND_SEED, _CROP_SEED, _PHOTOMETRIC_SEED = 16, 17, 18


def whole_window(sample: Sample) -> Sample:
    """Add `window`, float32 [4], the whole image: corners in its pixels, whole numbers, x2 and y2 exclusive."""
    height, width = tf.unstack(tf.cast(tf.shape(sample["image"])[:2], tf.float32))
    return sample | {"window": tf.stack([0.0, 0.0, width, height])}


def expand(sample: Sample, share: float = EXPAND_SHARE) -> Sample:
    """For a share of the images, 0..1, replace the window by a larger one around it, up to EXPAND_RATIO times (SSD's
    zooming out)."""
    uniform = _generator(sample["seed"], _EXPAND_SEED)
    x1, y1, x2, y2 = tf.unstack(sample["window"])
    width, height = x2 - x1, y2 - y1
    ratio = uniform([], 1.0, EXPAND_RATIO)
    left = tf.floor(uniform([], 0.0, 1.0) * width * (ratio - 1.0))
    top = tf.floor(uniform([], 0.0, 1.0) * height * (ratio - 1.0))
    corner = tf.stack([x1 - left, y1 - top])
    larger = tf.concat([corner, corner + tf.floor(tf.stack([width, height]) * ratio)], 0)
    return sample | {"window": tf.where(uniform([], 0.0, 1.0) < share, larger, sample["window"])}


def min_iou_crop(sample: Sample) -> Sample:
    """SSD's crop: draw a demand (one of MIN_IOUS, none, or 1: no crop) and take the first random crop that meets it.

    A crop meets a demand if its IoU with every box is at least the demand's and the centre of a box lies in it. Boxes
    whose centre lies outside are dropped, the others, and every crowd, are cut at its border. An image without boxes
    stays as it is.
    """
    uniform = _generator(sample["seed"], _CROP_SEED)
    x1, y1, x2, y2 = tf.unstack(sample["window"])
    width, height = x2 - x1, y2 - y1
    shape = [ROUNDS, TRIES]
    crop_w = uniform(shape, MIN_CROP, 1.0) * width
    crop_h = uniform(shape, MIN_CROP, 1.0) * height
    left, top = x1 + uniform(shape, 0.0, 1.0) * (width - crop_w), y1 + uniform(shape, 0.0, 1.0) * (height - crop_h)
    crops = tf.floor(tf.stack([left, top, left + crop_w, top + crop_h], -1))  # [ROUNDS, T, 4]
    aspect = crop_h / crop_w
    fits = (aspect >= ASPECTS[0]) & (aspect <= ASPECTS[1])

    boxes = sample["boxes"]  # [n, 4]
    demands = tf.constant([*MIN_IOUS, 0.0])
    which = tf.cast(uniform([ROUNDS], 0.0, float(len(MIN_IOUS) + 2)), tf.int32)  # the last: the window stays
    demand = tf.gather(demands, tf.minimum(which, len(MIN_IOUS)))[:, None]
    lowest = tf.reduce_min(_iou(crops, boxes), -1)  # [ROUNDS, T]; infinity without boxes
    fits &= (lowest >= demand) & tf.reduce_any(_centre_inside(crops, boxes), -1)
    stays = which > len(MIN_IOUS)

    # The first round that finds a crop or draws "no crop".
    ends = stays | tf.reduce_any(fits, 1)
    chosen = tf.argmax(tf.cast(ends, tf.int32))
    keep_all = ~tf.reduce_any(ends) | tf.gather(stays, chosen) | (tf.shape(boxes)[0] == 0)
    first = tf.argmax(tf.cast(tf.gather(fits, chosen), tf.int32))
    window = tf.where(keep_all, sample["window"], crops[chosen, first])
    cropped = sample | {"window": window}
    crowds = sample["crowd_boxes"]
    # A crowd is kept even if its centre lies outside: the part of it that is visible is not background.
    visible = tf.reduce_all((crowds[:, :2] < window[2:]) & (crowds[:, 2:] >= window[:2]), -1)
    for name, kept in (("boxes", _centre_inside(window, boxes)), ("crowd_boxes", visible)):
        inside = keep_all | kept
        cut = tf.where(keep_all, sample[name], _cut(sample[name], window))
        cropped[name] = tf.boolean_mask(cut, inside)
        if name == "boxes":
            cropped["classes"] = tf.boolean_mask(sample["classes"], inside)
    return cropped


def photometric(sample: Sample) -> Sample:
    """Brightness, contrast, saturation, hue, and the order of the channels, each half of the time.

    `image` is uint8 [S, S, 3]. `content`, int32 [4], has the corners of the picture in it, x2 and y2 exclusive; the
    pixels outside are filling and stay the mean.
    """
    uniform = _generator(sample["seed"], _PHOTOMETRIC_SEED)

    def coin() -> tf.Tensor:
        return uniform([], 0.0, 1.0) < 0.5

    def contrast(image: tf.Tensor) -> tf.Tensor:
        return image * tf.where(coin(), uniform([], *CONTRAST), 1.0)

    image = tf.cast(sample["image"], tf.float32)
    # Hue and saturation are not defined below zero.
    image = tf.maximum(image + tf.where(coin(), uniform([], -BRIGHTNESS, BRIGHTNESS), 0.0), 0.0)
    contrast_first = coin()
    changed = contrast(image)
    image = tf.where(contrast_first, changed, image)
    # Saturation and hue are most of this stage's time, so they run only for the images that the coin chooses.
    factor, turn = uniform([], *SATURATION), uniform([], -HUE_DEGREES, HUE_DEGREES) / 360.0
    image = tf.cond(coin(), lambda: tf.image.adjust_saturation(image, factor), lambda: image)
    image = tf.cond(coin(), lambda: tf.image.adjust_hue(image, turn), lambda: image)
    changed = contrast(image)
    image = tf.where(contrast_first, image, changed)
    order = tf.argsort(uniform([3], 0.0, 1.0))
    image = tf.cond(coin(), lambda: image @ tf.one_hot(order, 3, axis=0), lambda: image)  # gather is ten times slower
    image = tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.uint8)

    x1, y1, x2, y2 = tf.unstack(sample["content"])
    rows, columns = tf.range(tf.shape(image)[0])[:, None], tf.range(tf.shape(image)[1])[None]
    inside = (rows >= y1) & (rows < y2) & (columns >= x1) & (columns < x2)
    return sample | {"image": tf.where(inside[..., None], image, tf.constant(FILL_RGB, tf.uint8))}


def _generator(seed: tf.Tensor, constant: int) -> Callable[..., tf.Tensor]:
    """A function uniform(shape, low, high) that draws anew at each call; calls are counted while the graph is made."""
    state = {"seed": tf.random.experimental.stateless_fold_in(seed, constant), "calls": 0}

    def uniform(shape: list[int], low: float, high: float) -> tf.Tensor:
        state["calls"] += 1
        own = tf.random.experimental.stateless_fold_in(state["seed"], state["calls"])
        return tf.random.stateless_uniform(shape, own, low, high)

    return uniform


def _iou(crops: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
    """IoU of crops [..., 4], exclusive corners, with inclusive boxes [n, 4]: [..., n]."""
    boxes = boxes + tf.constant([0.0, 0.0, 1.0, 1.0])
    crops = crops[..., None, :]
    sides = tf.minimum(crops[..., 2:], boxes[:, 2:]) - tf.maximum(crops[..., :2], boxes[:, :2])
    overlap = tf.reduce_prod(tf.maximum(sides, 0.0), -1)
    areas = [tf.reduce_prod(b[..., 2:] - b[..., :2], -1) for b in (crops, boxes)]
    return overlap / tf.maximum(areas[0] + areas[1] - overlap, 1.0)


def _centre_inside(crops: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
    """Whether each crop [..., 4], exclusive corners, holds the centre of each inclusive box [n, 4]: bool [..., n]."""
    centre = (boxes[:, :2] + boxes[:, 2:] + 1.0) / 2.0
    crops = crops[..., None, :]
    return tf.reduce_all((centre > crops[..., :2]) & (centre < crops[..., 2:]), -1)


def _cut(boxes: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Inclusive boxes [n, 4] cut at the window's border."""
    # Every corner is clipped to both borders: with one border each, a tiny box at the edge would turn inside out.
    return tf.clip_by_value(boxes, tf.tile(window[:2], [2]), tf.tile(window[2:] - 1.0, [2]))
