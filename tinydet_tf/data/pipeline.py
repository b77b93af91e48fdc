"""From a data set to batches of the network's input.

Shape letters: B images of a batch, S the input's side, H and W a source image's sides, n and k boxes and crowd boxes of
one image, G and K the same padded to the largest numbers that a sample can have: those of the data set's images, four
times as many with mosaic, and the pasted copies.

A sample is a dict. Each stage is a function from sample to sample, which works eagerly and inside tf.data alike:

    image        uint8 [H, W, 3] RGB, from the resize on [S, S, 3]
    boxes        float32 [n, 4] inclusive pixels x1, y1, x2, y2 of `image`
    classes      int32 [n], 0..C-1
    crowd_boxes  float32 [k, 4] inclusive pixels
    image_id     int64 []
    seed         int32 [2], of this image in this epoch; a stage folds in a constant of its own
    window       float32 [4], before the resize: the part of `image` that becomes the input (augment.py); it may reach
                 outside of the image
    content      int32 [4], from the resize to the flip: where the image lies in the input, x2 and y2 exclusive

Order: load, mosaic, expand, crop, resize, photometric distortion, pasted copies, flip, pad. Boxes are
handled as in mmdetection 1.x: they become inclusive at the source's resolution, are moved into the window, scaled by S
over the window's sides, then clipped to 0..S-1.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from tinydet_lite.boxes import to_inclusive
from tinydet_lite.errors import UserError
from tinydet_lite.preprocess import resize_to
from tinydet_tf.config import AUGMENTATIONS
from tinydet_tf.data.augment import EXPAND_SHARE, FILL_RGB, Sample, expand, min_iou_crop, photometric, whole_window
from tinydet_tf.data.coco import CocoDataset, CocoImage
from tinydet_tf.data.opening import NextUsable, load_pixels, usable
from tinydet_tf.data.small_objects import mosaic_of, paste_copies

Stage = Callable[[Sample], Sample]

# Folded into a sample's seed by the stages here; augmentations fold in constants from 16 on.
_FLIP_SEED = 1


def build_pipeline(
    dataset: CocoDataset,
    *,
    input_size: int,
    batch_size: int,
    training: bool,
    seed: int = 0,
    horizontal_flip: bool = True,
    augmentation: str = "none",
    expand_share: float = EXPAND_SHARE,
    mosaic: float = 0.0,
    copy_paste: int = 0,
    num_parallel_calls: int = tf.data.AUTOTUNE,
    cache: bool = False,
    first_epoch: int = 0,
    part: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """Batches of images and ground truth; iterating once is one epoch.

    Images that cannot be used are left out beforehand (opening.py). Training shuffles the indices of the others anew
    every epoch, flips, and replaces an image that only now turns out damaged by the next one in the file (the epoch
    keeps its length), with one warning for each. Otherwise the order is the file's and such an image raises. The order
    and the flips of epoch e depend on (seed, e) alone, whatever the number of parallel calls; each iteration of the
    returned object counts as the next epoch.

    Args:
        dataset: what `load_coco` gives.
        input_size: S, in pixels.
        batch_size: B.
        training: see above. Also drops the last, smaller batch, so that all shapes are static.
        seed: at least 0.
        horizontal_flip: mirror half of the training images.
        augmentation: "none" or "ssd" (augment.py); for training only.
        expand_share: of "ssd", the share of training images that are put on a larger canvas, 0..1.
        mosaic: the share of training images that become four images in one (small_objects.py).
        copy_paste: how many copies of small objects may be pasted into a training image (small_objects.py).
        num_parallel_calls: how many samples are made at a time.
        cache: keep decoded and resized images in memory, S*S*3 bytes each, from their first use on. For small sets;
            what augments an image then works on the resized one, at its resolution.
        part: (index, count): load only the index-th of count equal parts of each batch. batch_size stays that of the
            whole batch; the batches of the dataset have B / count images.
        first_epoch: number of the first iteration's epoch; a resumed run gives the number of finished epochs.

    Returns:
        A dataset of dicts: images uint8 [B, S, S, 3]; gt_boxes float32 [B, G, 4], inclusive pixels, and gt_classes
        int32 [B, G], padded with zeros and -1; gt_mask bool [B, G], False where padded; crowd_boxes float32 [B, K, 4]
        and crowd_mask bool [B, K]; image_ids int64 [B]; seeds int32 [B, 2], by (seed, epoch, image). G and K are at
        least 1. Its cardinality is known.

    Raises:
        UserError: an argument is out of range, the batch is larger than the data set, or too many images cannot be
            used. While iterating: where these turn out too many, or one does and training is off,
            tf.errors.InvalidArgumentError, whose message has the UserError's line (tf.data has no way to pass an
            exception on).
    """
    dataset = usable(dataset)
    num_images = len(dataset)
    for name, value, least in (
        ("input_size", input_size, 1),
        ("batch_size", batch_size, 1),
        ("seed", seed, 0),
        ("first_epoch", first_epoch, 0),
    ):
        if value < least:
            raise UserError(f"{name} is {value}, expected at least {least}")
    if training and batch_size > num_images:
        raise UserError(
            f"batch_size {batch_size} is larger than the {num_images} images of {dataset.annotation_file}; "
            f"give a batch_size of at most {num_images}"
        )
    if augmentation not in AUGMENTATIONS:
        raise UserError(f"augmentation is {augmentation!r}; choose one of {', '.join(map(repr, AUGMENTATIONS))}")

    stages = make_stages(
        dataset,
        input_size=input_size,
        training=training,
        horizontal_flip=horizontal_flip,
        augmentation=augmentation,
        expand_share=expand_share,
        mosaic=mosaic,
        copy_paste=copy_paste,
        cache=cache,
    )
    rows = image_rows(num_images, seed, first_epoch, shuffle=training)
    index, count = part
    if count > 1:
        size = batch_size // count
        rows = rows.batch(batch_size, drop_remainder=True).map(lambda batch: batch[index * size : (index + 1) * size])
        rows = rows.unbatch().apply(tf.data.experimental.assert_cardinality(num_images // batch_size * size))
        batch_size = size
    samples = make_samples(rows, list(stages.values()), num_parallel_calls)
    return samples.batch(batch_size, drop_remainder=training).prefetch(tf.data.AUTOTUNE)


def make_stages(
    dataset: CocoDataset,
    *,
    input_size: int,
    training: bool,
    horizontal_flip: bool = True,
    augmentation: str = "none",
    expand_share: float = EXPAND_SHARE,
    mosaic: float = 0.0,
    copy_paste: int = 0,
    cache: bool = False,
) -> dict[str, Stage]:
    """The stages by name, in the order they run; the arguments are those of `build_pipeline`."""
    dataset = usable(dataset)
    box_rows, crowd_rows = _most_boxes(dataset)
    loader = _Loader(dataset, skip_broken=training, cached_size=input_size if cache else None)
    stages: dict[str, Stage] = {"load": loader.load}
    if training and mosaic:
        stages["mosaic"] = lambda sample: mosaic_of(sample, loader.arrays, len(dataset), input_size, mosaic)
        box_rows, crowd_rows = 4 * box_rows, 4 * crowd_rows
    ssd = training and augmentation == "ssd"
    if ssd:
        stages["expand and crop"] = lambda sample: min_iou_crop(expand(whole_window(sample), expand_share))
    stages["resize"] = lambda sample: resize(sample, input_size)
    if ssd:
        stages["photometric"] = photometric
    if training and copy_paste:
        stages["paste"] = lambda sample: paste_copies(sample, copy_paste)
        box_rows += copy_paste
    if training and horizontal_flip:
        stages["flip"] = flip_half
    stages["pad"] = lambda sample: pad(sample, box_rows, crowd_rows)
    return stages


def make_samples(rows: tf.data.Dataset, stages: Sequence[Stage], num_parallel_calls: int) -> tf.data.Dataset:
    """A dataset of single samples after the given stages (the first so many of all). rows: see `image_rows`."""

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert, and looking takes seconds
    def prepare(row: tf.Tensor) -> Sample:  # row int64 [3]
        sample: Sample = {"index": row[0], "seed": tf.cast(row[1:], tf.int32)}
        for stage in stages:
            sample = stage(sample)
        return sample

    return rows.map(prepare, num_parallel_calls=num_parallel_calls)


@contextmanager
def one_line() -> Iterator[None]:
    """Raises a UserError again where tf.data has turned one into an error of its own, see `line_of_user_error`."""
    try:
        yield
    except tf.errors.OpError as error:
        line = line_of_user_error(error)
        if line is None:
            raise
        raise UserError(line) from error


def line_of_user_error(error: BaseException) -> str | None:
    """The message of the UserError that a stage raised, from the text that tf.data keeps of it; None: no UserError."""
    _, found, text = str(error).partition("UserError: ")
    return text.splitlines()[0] if found else None


def resize(sample: Sample, size: int) -> Sample:
    """Stretch the window, or without one the image, to size x size, without keeping its aspect.

    A whole image becomes the same pixels as in `tinydet_lite.preprocess`. Parts of a window outside of the image are
    filled with the mean.
    """
    sample = dict(sample if "window" in sample else whole_window(sample))
    window = sample.pop("window")
    image, content = tf.numpy_function(
        lambda pixels, part: render(pixels, part, size), [sample["image"], window], (tf.uint8, tf.int32), stateful=False
    )
    origin = tf.tile(window[:2], [2])
    scale = tf.tile(float(size) / (window[2:] - window[:2]), [2])

    def move(boxes: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value((boxes - origin) * scale, 0.0, size - 1.0)

    return sample | {
        "image": tf.ensure_shape(image, [size, size, 3]),
        "boxes": move(sample["boxes"]),
        "crowd_boxes": move(sample["crowd_boxes"]),
        "content": tf.ensure_shape(content, [4]),
    }


def render(pixels: np.ndarray, window: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Stretch a window of an image to the input.

    Args:
        pixels: uint8 [H, W, 3].
        window: float32 [4], corners in the image's pixels, x2 and y2 exclusive; it may reach outside of the image.
        size: S.

    Returns:
        uint8 [S, S, 3], filled with the mean where the window shows no image; and int32 [4], the corners of the part
        that shows the image, x2 and y2 exclusive.
    """
    height, width = pixels.shape[:2]
    origin, sides = window[:2].astype(np.float64), (window[2:] - window[:2]).astype(np.float64)
    scale = size / sides
    # The whole pixels of the input that show the image, then the exact part of the image that they show.
    low = np.clip(np.ceil((0.0 - origin) * scale - 1e-6), 0, size - 1)
    high = np.clip(np.floor((np.array([width, height]) - origin) * scale + 1e-6), low + 1, size)
    box = np.concatenate([low / scale + origin, high / scale + origin])
    box = np.clip(box, 0, [width, height, width, height])
    canvas = np.empty([size, size, 3], np.uint8)
    canvas[:] = FILL_RGB
    (x1, y1), (x2, y2) = low.astype(int), high.astype(int)
    part = Image.fromarray(pixels).resize((x2 - x1, y2 - y1), Image.Resampling.BILINEAR, box=tuple(box))
    canvas[y1:y2, x1:x2] = np.asarray(part)
    return canvas, np.array([x1, y1, x2, y2], np.int32)


def _resize_arrays(
    pixels: np.ndarray, boxes: np.ndarray, crowd_boxes: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uint8 [H, W, 3] and inclusive boxes [n, 4], [k, 4] -> uint8 [S, S, 3] and boxes of the same shapes."""
    height, width = pixels.shape[:2]
    scale = np.array([size / width, size / height] * 2, np.float32)
    last = np.float32(size - 1)
    return (
        resize_to(pixels, size),
        np.clip(boxes * scale, np.float32(0), last),
        np.clip(crowd_boxes * scale, np.float32(0), last),
    )


def flip_half(sample: Sample) -> Sample:
    """Mirror half of the samples; the seed decides which."""
    seed = tf.random.experimental.stateless_fold_in(sample["seed"], _FLIP_SEED)
    mirrored = tf.random.stateless_uniform([], seed) < 0.5
    changed = {key: sample[key] for key in ("image", "boxes", "crowd_boxes")}
    return sample | tf.cond(mirrored, lambda: flip(changed), lambda: changed)


def flip(sample: Sample) -> Sample:
    """Mirror left and right. An inclusive x becomes W-1-x, so x1 and x2 change places."""
    last = tf.cast(tf.shape(sample["image"])[1] - 1, tf.float32)

    def mirror(boxes: tf.Tensor) -> tf.Tensor:
        x1, y1, x2, y2 = tf.unstack(boxes, axis=-1)
        return tf.stack([last - x2, y1, last - x1, y2], axis=-1)

    return sample | {
        "image": tf.reverse(sample["image"], [1]),
        "boxes": mirror(sample["boxes"]),
        "crowd_boxes": mirror(sample["crowd_boxes"]),
    }


def pad(sample: Sample, box_rows: int, crowd_rows: int) -> dict[str, tf.Tensor]:
    """The batch's form of a sample: boxes filled up to box_rows (G) and crowd_rows (K), and masks of the real ones.

    Raises:
        tf.errors.InvalidArgumentError: there are more boxes than rows. None is ever left out.
    """
    num_boxes, num_crowds = tf.shape(sample["boxes"])[0], tf.shape(sample["crowd_boxes"])[0]

    def fill(values: tf.Tensor, rows: int, filler: float) -> tf.Tensor:
        missing = [[0, rows - tf.shape(values)[0]]] + [[0, 0]] * (values.shape.rank - 1)
        filled = tf.pad(values, missing, constant_values=tf.cast(filler, values.dtype))
        return tf.ensure_shape(filled, [rows, *values.shape[1:]])

    return {
        "images": sample["image"],
        "gt_boxes": fill(sample["boxes"], box_rows, 0.0),
        "gt_classes": fill(sample["classes"], box_rows, -1),
        "gt_mask": tf.range(box_rows) < num_boxes,
        "crowd_boxes": fill(sample["crowd_boxes"], crowd_rows, 0.0),
        "crowd_mask": tf.range(crowd_rows) < num_crowds,
        "image_ids": sample["image_id"],
        "seeds": sample["seed"],
    }


def load_arrays(image: CocoImage) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Decode one image: pixels uint8 [H, W, 3], inclusive boxes [n, 4], classes [n], inclusive crowd boxes [k, 4].

    Raises:
        UserError: it cannot be used, see `load_pixels`.
    """
    real = ~image.is_crowd
    return (
        load_pixels(image.path, image.width, image.height, as_stored=image.as_stored),
        to_inclusive(image.boxes[real]),
        image.classes[real],
        to_inclusive(image.boxes[image.is_crowd]),
    )


def image_rows(num_images: int, seed: int, first_epoch: int, *, shuffle: bool) -> tf.data.Dataset:
    """A dataset with one row int64 [3] for each image: its index and the two halves of its seed in this epoch."""
    epochs: Iterator[int] = itertools.count(first_epoch)

    def epoch_rows(_: Any) -> np.ndarray:
        rng = np.random.default_rng([seed, next(epochs)])
        order = rng.permutation(num_images) if shuffle else np.arange(num_images)
        seeds = rng.integers(0, 2**31, (num_images, 2))
        return np.column_stack([order, seeds]).astype(np.int64)

    def flat(start: tf.Tensor) -> tf.data.Dataset:
        # One call of Python makes a whole epoch. tf.data's own shuffle has a state that a resumed run cannot set.
        rows = tf.numpy_function(epoch_rows, [start], tf.int64)
        return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(rows, [num_images, 3]))

    rows = tf.data.Dataset.from_tensors(np.int64(0)).flat_map(flat)
    return rows.apply(tf.data.experimental.assert_cardinality(num_images))


def _most_boxes(dataset: CocoDataset) -> tuple[int, int]:
    """The largest numbers of boxes and of crowd boxes of an image, at least 1."""
    crowds = [int(image.is_crowd.sum()) for image in dataset.images]
    counts = [len(image.boxes) - crowd for image, crowd in zip(dataset.images, crowds, strict=True)]
    return max(1, *counts), max(1, *crowds)


class _Loader:
    """The first stage: makes a sample from an index.

    dataset: what `usable` gives.
    skip_broken: the next image takes the place of one that turns out damaged.
    cached_size: side in pixels; the loader then keeps images of this size in memory and gives resized samples.
    """

    def __init__(self, dataset: CocoDataset, *, skip_broken: bool, cached_size: int | None) -> None:
        self._images = dataset.images
        assert dataset.skipped is not None
        paths = [image.path for image in dataset.images]
        self._decodable = NextUsable(self._cached, paths, dataset.skipped) if skip_broken else self._cached
        self._cached_size = cached_size
        self._cache: dict[int, tuple[np.ndarray, ...]] = {}

    def load(self, sample: Sample) -> Sample:
        """Add image, boxes, classes, crowd_boxes and image_id to a sample that has index and seed."""
        dtypes = (tf.uint8, tf.float32, tf.int32, tf.float32, tf.int64)
        # stateful=False: otherwise tf.data would run this map on one thread to keep the order.
        image, boxes, classes, crowd_boxes, image_id = tf.numpy_function(
            self.arrays, [sample["index"]], dtypes, stateful=False
        )
        return {
            "image": tf.ensure_shape(image, [None, None, 3]),
            "boxes": tf.ensure_shape(boxes, [None, 4]),
            "classes": tf.ensure_shape(classes, [None]),
            "crowd_boxes": tf.ensure_shape(crowd_boxes, [None, 4]),
            "image_id": tf.ensure_shape(image_id, []),
            "seed": sample["seed"],
        }

    def arrays(self, index: np.ndarray | int) -> tuple[np.ndarray, ...]:
        """Image, boxes, classes, crowd_boxes and image_id of one image, or of the next that decodes."""
        return self._decodable(int(index))

    def _cached(self, index: int) -> tuple[np.ndarray, ...]:
        kept = self._cache.get(index)
        if kept is not None:
            return kept
        image = self._images[index]
        pixels, boxes, classes, crowd_boxes = load_arrays(image)
        image_id = np.array(image.id, np.int64)
        if self._cached_size is None:
            return pixels, boxes, classes, crowd_boxes, image_id
        # The same as the resize stage does; that stage then changes nothing.
        pixels, boxes, crowd_boxes = _resize_arrays(pixels, boxes, crowd_boxes, self._cached_size)
        kept = (pixels, boxes, classes, crowd_boxes, image_id)
        self._cache[index] = kept
        return kept
