"""Training a backbone as an image classifier, so that a detector need not start from noise.

Shape letters: B images, S the input's side, C classes.

The paper's backbones start from ImageNet (section 4.1). The classifier is the detector's own backbone, behind the
detector's own normalization, and on its coarsest tap a global average, dropout and a fully connected layer, which are
thrown away. The folder holds backbone.weights.h5, of the epoch with the best accuracy on the validation split, and
metrics.json.
"""

from __future__ import annotations

import json
import math
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tf_keras as keras

from tinydet_lite.errors import UserError, os_reason
from tinydet_lite.files import atomic_write
from tinydet_tf.config import Config
from tinydet_tf.data.class_folders import ClassFolders, class_batches
from tinydet_tf.data.pipeline import one_line
from tinydet_tf.model.backbone import normalize
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.training.run.folder import METRICS
from tinydet_tf.training.run.schedule import WarmupCosine
from tinydet_tf.weights import SUFFIX, save_backbone

BACKBONE = f"backbone{SUFFIX}"


@dataclass(frozen=True)
class Recipe:
    """How a backbone is trained; AdamW with warm-up and one cosine."""

    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 0.002
    final_learning_rate: float = 1e-6
    warmup_steps: int = 500  # at most a fifth of the run
    weight_decay: float = 0.02
    label_smoothing: float = 0.1
    dropout: float = 0.2
    horizontal_flip: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, positive in (("epochs", True), ("batch_size", True), ("learning_rate", True), ("seed", False)):
            value = getattr(self, name)
            if not (value > 0 if positive else value >= 0) or not math.isfinite(value):
                option = "--" + name.replace("_", "-")
                raise UserError(f"{option} is {value}; it must be {'positive' if positive else 'zero or more'}")
        if self.learning_rate < self.final_learning_rate:
            raise UserError(
                f"--learning-rate is {self.learning_rate:g}, below the {self.final_learning_rate:g} that it falls to; "
                "give a higher one"
            )


def pretrain(
    config: Config, data: ClassFolders, folder: Path, recipe: Recipe, *, input_size: int, verbose: int | None = None
) -> dict[str, Any]:
    """Trains the backbone of a detector on image classes and leaves its weights in a folder.

    Args:
      config: of the detector that the backbone is for; its data and recipe are not looked at.
      data: what `read_class_folders` gives.
      folder: new or empty.
      recipe: how.
      input_size: S, a multiple of the coarsest stride.
      verbose: Keras': 0 silent, 1 a progress bar, 2 a line an epoch; None: the bar on a terminal, else the line.

    Returns:
      The entry of metrics.json's history with the best val_accuracy.

    Raises:
      UserError: a size that does not fit, a folder that is taken or cannot be written, too many images that cannot be
        used, or a loss that is no number. A run that has not finished an epoch by then leaves nothing.
    """
    model = replace(config.model, input_size=input_size)
    _check_folder(folder)
    data = data.usable()
    keras.utils.set_random_seed(recipe.seed)
    num_classes = len(data.class_names)
    train, val = (
        class_batches(
            images,
            num_classes,
            input_size=input_size,
            batch_size=recipe.batch_size,
            training=images is data.train,
            seed=recipe.seed,
            horizontal_flip=recipe.horizontal_flip,
        )
        for images in (data.train, data.val)
    )
    detector = TinyDet(model, 1)
    network = classifier(detector, num_classes, dropout=recipe.dropout)
    steps = len(data.train.paths) // recipe.batch_size * recipe.epochs
    schedule = WarmupCosine(recipe.learning_rate, recipe.final_learning_rate, steps, recipe.warmup_steps, 0.1)
    network.compile(
        optimizer=keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay, clipnorm=10.0),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing),
        metrics=["accuracy"],
    )
    if verbose is None:
        verbose = 1 if sys.stdout.isatty() else 2
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder} cannot be written: {os_reason(error)}") from error
    keeper = _KeepBest(detector, config, data, folder)
    try:
        with one_line():
            network.fit(train, validation_data=val, epochs=recipe.epochs, callbacks=[keeper], verbose=verbose)
    finally:
        if not keeper.entries:
            with suppress(OSError):
                folder.rmdir()
    return keeper.best


def classifier(detector: TinyDet, num_classes: int, *, dropout: float) -> Any:
    """Images uint8 or float32 0-255 [B, S, S, 3] -> logits [B, C]. Its backbone is the detector's, layers and all."""
    size = detector.config.input_size
    images = keras.Input([size, size, 3], name="images")
    coarsest = detector.backbone_model()(normalize(images))[-1]
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(coarsest)
    logits = keras.layers.Dense(num_classes, name="classes")(keras.layers.Dropout(dropout, name="dropout")(pooled))
    return keras.Model(images, logits, name="classifier")


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder} is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"--output {folder} is not empty; give a new folder")


class _KeepBest(keras.callbacks.Callback):
    """Writes the metrics after every epoch and the backbone's weights after the best; the lower loss among equals."""

    def __init__(self, detector: TinyDet, config: Config, data: ClassFolders, folder: Path) -> None:
        super().__init__()
        self._detector, self._config, self._data, self._folder = detector, config, data, folder
        self.entries: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        values = {name: float(value) for name, value in (logs or {}).items()}
        if not all(map(math.isfinite, values.values())):
            raise UserError(
                f"the loss is no longer a number in epoch {epoch + 1}; lower --learning-rate and start anew"
            )
        rate = float(self.model.optimizer.learning_rate.numpy())
        entry: dict[str, Any] = {"epoch": epoch + 1, **values, "learning_rate": rate}
        if not self.best or _rank(entry) > _rank(self.best):
            save_backbone(self._detector, self._config, self._folder / BACKBONE)
            self.best = entry
        self.entries.append(entry)
        content = {
            "classes": self._data.class_names,
            "train_images": len(self._data.train.paths),
            "val_images": len(self._data.val.paths),
            "history": self.entries,
            "best": self.best,
        }
        atomic_write(self._folder / METRICS, (json.dumps(content, indent=2) + "\n").encode())


def _rank(entry: dict[str, Any]) -> tuple[float, float]:
    return entry["val_accuracy"], -entry["val_loss"]
