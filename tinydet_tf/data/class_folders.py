"""Data sets with one folder of images for each class: lists them and makes batches for an image classifier.

Shape letters: B images of a batch, S the input's side, C classes.

Two layouts: ROOT/CLASS/IMAGE, of which a share of each class becomes the validation split, and
ROOT/{train,val}/CLASS/IMAGE. Pixels are decoded and stretched as the detector's are (tinydet_lite.preprocess), so that
the backbone learns from the same pixels that the detector sees. Keras's image_dataset_from_directory would decode with
TensorFlow, which ignores EXIF orientation, and resize without antialiasing.
"""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from tinydet_lite.errors import UserError, os_reason
from tinydet_lite.preprocess import IMAGE_SUFFIXES, as_rgb_array, resize_to
from tinydet_tf.data.augment import Sample
from tinydet_tf.data.labelled import OTHER_PICTURES, check_class_names, file_names, val_indices
from tinydet_tf.data.locating import pass_over
from tinydet_tf.data.opening import NextUsable, Skipped, usable_paths
from tinydet_tf.data.pipeline import image_rows, make_samples, render

_LOG = logging.getLogger(__name__)

TRAIN, VAL = "train", "val"
DEFAULT_VAL_FRACTION = 0.1

#: The least share of an image's area that a training window shows, and how far it may change the ratio of the sides.
MIN_AREA, MAX_RATIO = 0.25, 4 / 3


@dataclass(frozen=True)
class ClassifiedImages:
    """Files and the class of each, 0..C-1. skipped: what is told of those left out; None: none was looked at."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    skipped: Skipped | None = None

    def usable(self) -> ClassifiedImages:
        """Those that can be used (opening.py).

        Raises:
          UserError: too many cannot be used, or none can.
        """
        if self.skipped is not None:
            return self
        kept, skipped = usable_paths(self.paths, os.path.commonpath(self.paths))
        return ClassifiedImages(tuple(self.paths[i] for i in kept), tuple(self.labels[i] for i in kept), skipped)


@dataclass(frozen=True)
class ClassFolders:
    """A data set; both splits have all classes."""

    root: Path
    class_names: tuple[str, ...]
    train: ClassifiedImages
    val: ClassifiedImages

    def usable(self) -> ClassFolders:
        """As `ClassifiedImages.usable`, of both splits."""
        return replace(self, train=self.train.usable(), val=self.val.usable())


def read_class_folders(root: Path, *, val_fraction: float | None = None, seed: int = 0) -> ClassFolders:
    """Lists a data set; no image is opened.

    Args:
      root: in one of the two layouts.
      val_fraction: share of each class's images that is for validation; None: DEFAULT_VAL_FRACTION. Used only where
        there is no val/.
      seed: decides which images.

    Returns:
      Classes by the names of their folders, sorted; hidden files and those that are no pictures are passed over, and
      pictures that are not read are named in a warning.

    Raises:
      UserError: no folder, fewer than two classes, a class without images, or splits of different classes.
    """
    if not root.is_dir():
        raise UserError(f"--data {root} is no folder; give one with a folder of images a class")
    names = _folder_names(root)
    splits = {TRAIN, VAL} & set(names)
    if splits and (splits == {TRAIN, VAL} or set(names) <= {TRAIN, VAL}):  # a test/ beside them is passed over
        if splits != {TRAIN, VAL}:
            missing = ({TRAIN, VAL} - splits).pop()
            raise UserError(
                f"{root} has {splits.pop()}/ and no {missing}/; give both, or a folder whose folders are the classes"
            )
        if val_fraction is not None:
            raise UserError(f"{root} has a {VAL}/ of its own; leave --val-fraction out")
        train, val = (_files_of_classes(root / split) for split in (TRAIN, VAL))
        if list(train) != list(val):
            alone = sorted(set(train) ^ set(val))
            raise UserError(
                f"{root}: class {alone[0]!r} is in one of {TRAIN}/ and {VAL}/ alone; both need the same classes"
            )
        return ClassFolders(root, tuple(train), _flat(train), _flat(val))
    fraction = DEFAULT_VAL_FRACTION if val_fraction is None else val_fraction
    if not 0 < fraction < 1:
        raise UserError(f"--val-fraction is {fraction}; give a number between 0 and 1")
    train, val = {}, {}
    for name, files in _files_of_classes(root).items():
        if len(files) < 2:
            raise UserError(f"{root / name} has 1 image; a class needs 2, one to train on and one to validate on")
        chosen = val_indices(files, fraction, seed)
        train[name] = [file for i, file in enumerate(files) if i not in chosen]
        val[name] = [file for i, file in enumerate(files) if i in chosen]
    return ClassFolders(root, tuple(train), _flat(train), _flat(val))


def _files_of_classes(root: Path) -> dict[str, list[Path]]:
    """Class -> its images, both sorted."""
    names = _folder_names(root)
    if len(names) < 2:
        came = f"the one class {names[0]!r}" if names else "no folder"
        raise UserError(f"{root} holds {came}; expected a folder of images for each of at least 2 classes")
    check_class_names(root, names)
    found = {}
    loose = [name for name in file_names(root) if name.lower().endswith(IMAGE_SUFFIXES + OTHER_PICTURES)]
    pass_over(root, loose, "pictures that are in no class's folder")
    for name in names:
        inside = file_names(root / name)
        unread = [file for file in inside if file.lower().endswith(OTHER_PICTURES)]
        pass_over(root / name, unread, "pictures in formats that are not read; convert them to JPEG or PNG")
        pass_over(root / name, _folder_names(root / name), "folders inside a class's folder")
        files = [root / name / file for file in inside if file.lower().endswith(IMAGE_SUFFIXES)]
        if not files:
            raise UserError(
                f"class folder {root / name} holds no image ({', '.join(IMAGE_SUFFIXES)}); fill or remove it"
            )
        found[name] = files
    return found


def _folder_names(root: Path) -> list[str]:
    try:
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"folder {root} cannot be read: {os_reason(error)}") from error


def _flat(classes: dict[str, list[Path]]) -> ClassifiedImages:
    pairs = [(file, label) for label, files in enumerate(classes.values()) for file in files]
    return ClassifiedImages(tuple(file for file, _ in pairs), tuple(label for _, label in pairs))


def class_batches(
    images: ClassifiedImages,
    num_classes: int,
    *,
    input_size: int,
    batch_size: int,
    training: bool,
    seed: int = 0,
    horizontal_flip: bool = True,
) -> tf.data.Dataset:
    """Batches for Keras: images uint8 [B, S, S, 3] RGB and one-hot float32 [B, C]; iterating once is one epoch.

    Training shuffles, shows a random window of each image (MIN_AREA, MAX_RATIO), mirrors half of them, drops the last,
    smaller batch. What happens to an image depends on (seed, epoch, image) alone. Otherwise each image is stretched
    whole, in order. Images that cannot be used are left out (opening.py); the next image takes the place of one that
    only turns out damaged when it is decoded.

    Raises:
      UserError: the batch is larger than the split, or too many images cannot be used. Where they turn out too many
        while iterating: tf.errors.InvalidArgumentError, whose message has the UserError's line.
    """
    images = images.usable()
    if training and batch_size > len(images.paths):
        raise UserError(
            f"--batch-size is {batch_size}, the training split has {len(images.paths)} images; give a smaller one"
        )
    loader = _Loader(images, input_size, training=training)

    def load(sample: Sample) -> Sample:
        # stateful=False: otherwise tf.data would run this map on one thread to keep the order.
        image, label = tf.numpy_function(
            loader.load, [sample["index"], sample["seed"]], (tf.uint8, tf.int64), stateful=False
        )
        image = tf.ensure_shape(image, [input_size, input_size, 3])
        return sample | {"image": image, "label": tf.one_hot(tf.ensure_shape(label, []), num_classes)}

    def mirror(sample: Sample) -> Sample:
        chosen = tf.random.stateless_uniform([], sample["seed"]) < 0.5
        return sample | {"image": tf.where(chosen, tf.reverse(sample["image"], [1]), sample["image"])}

    stages = [load, mirror] if training and horizontal_flip else [load]
    rows = image_rows(len(images.paths), seed, 0, shuffle=training)
    samples = make_samples(rows, stages, tf.data.AUTOTUNE)
    pairs = samples.map(lambda sample: (sample["image"], sample["label"]))
    return pairs.batch(batch_size, drop_remainder=training).prefetch(tf.data.AUTOTUNE)


def random_window(width: int, height: int, generator: np.random.Generator) -> np.ndarray:
    """A random part of an image to train on: float32 [4] corners in the image's pixels, x2 and y2 exclusive.

    Its share of the area is uniform in MIN_AREA..1 and its ratio of sides over the image's log-uniform up to MAX_RATIO,
    and neither side is longer than the image's.
    """
    area = generator.uniform(MIN_AREA, 1.0)
    ratio = math.exp(generator.uniform(-1.0, 1.0) * math.log(MAX_RATIO))
    shares = np.minimum(np.sqrt([area * ratio, area / ratio]), 1.0)
    sides = shares * (width, height)
    origin = generator.uniform(size=2) * ((width, height) - sides)
    return np.concatenate([origin, origin + sides]).astype(np.float32)


class _Loader:
    """Loads an image by its index: the network's input and the class."""

    def __init__(self, images: ClassifiedImages, size: int, *, training: bool) -> None:
        self._images, self._size, self._training = images, size, training
        assert images.skipped is not None
        self._decodable = NextUsable(self._decoded, images.paths, images.skipped)

    def load(self, index: np.ndarray, seed: np.ndarray) -> tuple[np.ndarray, np.int64]:
        pixels, label = self._decodable(int(index))
        if not self._training:
            return resize_to(pixels, self._size), np.int64(label)
        height, width = pixels.shape[:2]
        window = random_window(width, height, np.random.default_rng(seed))
        return render(pixels, window, self._size)[0], np.int64(label)

    def _decoded(self, index: int) -> tuple[np.ndarray, int]:
        return as_rgb_array(self._images.paths[index]), self._images.labels[index]
