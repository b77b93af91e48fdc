"""What TensorBoard shows beside Keras' own scalars: numbers between epochs, validation images, OHEM's losses.

Each has a folder of its own in the run's logs/, because TensorBoard reads one file a folder while it grows. A step is
that of the optimizer in logs/steps, an epoch, from 0 as Keras counts it, elsewhere. An epoch that runs again after a
kill is written again, with the same step and the same values.

B images, H, W a picture's height and width.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from PIL import Image

from tinydet_lite.detections import Detections
from tinydet_lite.errors import UserError
from tinydet_lite.media.drawing import draw
from tinydet_tf.data.coco import CocoDataset, CocoImage
from tinydet_tf.data.pipeline import load_arrays
from tinydet_tf.evaluation import ImageDetector
from tinydet_tf.training.step.trainer import Batch, Trainer

#: Folders in logs/. Keras' are called train and validation.
STEPS, IMAGES, OHEM = "steps", "images", "ohem"
#: Steps between two points of logs/steps.
EVERY = 10
#: Validation images that are drawn.
PICTURES = 6
#: The most images in the batch whose candidate losses are shown. One device computes them all, in float32.
CANDIDATES_OF = 16
#: Detections below this score are not drawn. It is tinydet_lite.Detector's default, so people see what that gives.
_SCORE = 0.3
_LONG_SIDE = 480  # pixels of one of the two halves of a picture
_GAP = 8
#: Pictures are JPEG: a fraction of the size of tf.summary.image's PNG, and a run has hundreds of epochs.
_JPEG_QUALITY = 85


class _Board(keras.callbacks.Callback):
    """Writes into a folder of event files."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._writer = tf.summary.create_file_writer(str(folder))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._writer.close()


class StepScalars(_Board):
    """Losses, counts and the learning rate every so many steps, means of the steps since the last point.

    In short epochs once an epoch.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        """
        Args:
          steps: of an epoch.
        """
        super().__init__(folder)
        self._steps, self._every = steps, min(EVERY, steps)
        self._first = 0
        self._sums: dict[str, float] = {}
        self._written = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._first, self._sums, self._written = epoch * self._steps, {}, 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        done = batch + 1
        if logs is None or done % self._every:
            return
        # Keras gives the mean of all steps since the epoch began.
        sums = {name: float(mean) * done for name, mean in logs.items()}
        with self._writer.as_default(step=self._first + done):
            for name, total in sums.items():
                tf.summary.scalar(name, (total - self._sums.get(name, 0.0)) / (done - self._written))
            tf.summary.scalar("learning_rate", self.model.optimizer.learning_rate.numpy())
        self._sums, self._written = sums, done

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._writer.flush()


class Pictures(_Board):
    """A few validation images at every validation, the same ones always: ground truth left, detections right."""

    def __init__(self, folder: Path, detect: ImageDetector, data: CocoDataset) -> None:
        """
        Args:
          detect: uint8 RGB [H, W, 3] -> Detections, with the weights of the moment.
          data: the validation images.
        """
        super().__init__(folder)
        self._detect, self._data = detect, data
        self._chosen: list[tuple[CocoImage, np.ndarray]] | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is None or "val_AP" not in logs:
            return
        if self._chosen is None:
            self._chosen = list(chosen_images(self._data, PICTURES))
        with self._writer.as_default(step=epoch):
            for image, pixels in self._chosen:
                found = self._detect(pixels).above(_SCORE)
                picture = side_by_side(pixels, ground_truth(image, self._data.class_names), found)
                _write_jpeg(f"validation/{image.id}", picture)
        self._writer.flush()


def chosen_images(data: CocoDataset, count: int) -> Iterator[tuple[CocoImage, np.ndarray]]:
    """Up to `count` images from all over the file, with boxes where there are such, and their pixels uint8 [H, W, 3].

    One that does not decode is replaced by the next.
    """
    images = [image for image in data.images if not image.is_crowd.all()] or list(data.images)
    bounds = np.linspace(0, len(images), min(count, len(images)) + 1).astype(int)
    for first, end in itertools.pairwise(bounds.tolist()):
        for image in images[first:end]:
            try:
                yield image, load_arrays(image)[0]
            except UserError:
                continue  # the evaluation has already warned about this image
            break


def ground_truth(image: CocoImage, class_names: tuple[str, ...]) -> Detections:
    """The boxes of an image, without those of crowds."""
    real = ~image.is_crowd
    classes = image.classes[real]
    names = tuple(class_names[c] for c in classes)
    return Detections(image.boxes[real], np.ones(len(classes), np.float32), classes, names)


def side_by_side(pixels: np.ndarray, truth: Detections, found: Detections) -> Image.Image:
    """Two drawings of one image uint8 [H, W, 3], beside each other."""
    factor = min(1.0, _LONG_SIDE / max(pixels.shape[:2]))
    if factor < 1.0:
        height, width = (max(1, round(side * factor)) for side in pixels.shape[:2])
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
        truth, found = (
            dataclasses.replace(one, boxes=(one.boxes * factor).astype(np.float32)) for one in (truth, found)
        )
    left = draw(pixels, truth, min_long_side=_LONG_SIDE, show_scores=False)
    right = draw(pixels, found, min_long_side=_LONG_SIDE)
    both = Image.new("RGB", (2 * left.width + _GAP, left.height), (255, 255, 255))
    both.paste(left, (0, 0))
    both.paste(right, (left.width + _GAP, 0))
    return both


def _write_jpeg(tag: str, picture: Image.Image) -> None:
    """As tf.summary.image, which knows PNG alone: a string tensor of width, height and the file."""
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=_JPEG_QUALITY)
    values = tf.constant([str(picture.width).encode(), str(picture.height).encode(), content.getvalue()])
    plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="images")
    tf.summary.write(tag, values, metadata=tf.compat.v1.SummaryMetadata(plugin_data=plugin))


class CandidateLosses(_Board):
    """Histograms of OHEM's losses at every epoch's end: of all candidates of one training batch, and of the chosen.

    The batch is the same always, and the network is run as in evaluation: nothing of the training is touched, and its
    step does no more than without.
    """

    def __init__(self, folder: Path, trainer: Trainer, load_batch: Callable[[], Batch]) -> None:
        """
        Args:
          trainer: of the detector to look at, on one device.
          load_batch: gives the batch; called once, at the first epoch's end.
        """
        super().__init__(folder)
        self._losses = tf.function(trainer.candidate_losses, autograph=False)
        self._load_batch = load_batch
        self._batch: Batch | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._batch is None:
            self._batch = self._load_batch()
        candidates, chosen = self._losses(self._batch)
        with self._writer.as_default(step=epoch):
            tf.summary.histogram("rcnn_score/candidates", candidates)
            tf.summary.histogram("rcnn_score/chosen", chosen)
        self._writer.flush()
