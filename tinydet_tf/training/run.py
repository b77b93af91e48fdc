"""A training run: data and configuration in, a run folder out.

The folder holds config.yaml (every value), best.weights.h5 and last.weights.h5, metrics.json (an entry an epoch), logs/
for TensorBoard, and backup/ with the optimizer's state, from which `resume` goes on.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tinydet_lite.errors import UserError
from tinydet_lite.files import atomic_write, remove_leftovers
from tinydet_tf.config import Config, DataConfig, TrainConfig, load_config, save_config
from tinydet_tf.data.coco import CocoDataset, load_coco, locate_split
from tinydet_tf.data.digits import digits_folder
from tinydet_tf.data.pipeline import build_pipeline
from tinydet_tf.evaluation import KerasDetector, evaluate, match_classes
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.training.schedule import WarmupCosine
from tinydet_tf.training.trainer import Trainer
from tinydet_tf.weights import BEST, LAST, Initialized, initialize, save_weights, with_classes

log = logging.getLogger(__name__)

CONFIG, METRICS, LOGS, BACKUP = "config.yaml", "metrics.json", "logs", "backup"
#: What a resumed run may change.
RESUMABLE = ("train.epochs", "train.validate_every", "train.early_stopping_patience")
_DIVERGED = "the loss is no longer a number; lower train.learning_rate (or train.clip_norm) and start anew"
_OURS = (CONFIG, METRICS, LOGS, BACKUP, BEST, LAST)


def load_split(data: DataConfig, split: str) -> CocoDataset:
    """The 'train' or 'val' split that a configuration names; the embedded digits where it names none.

    Raises:
      UserError: a file that is missing or not COCO's.
    """
    given = {
        "train": (data.train_json, data.train_images),
        "val": (data.val_json, data.val_images),
    }[split]
    if any(given):
        if not all(given):
            raise UserError(f"--{split}-json and --{split}-images belong together; give both")
        dataset = load_coco(Path(str(given[0])), Path(str(given[1])))
    elif data.root is not None:
        dataset = load_coco(*locate_split(Path(data.root), split))
    elif not uses_digits(data):
        raise UserError(f"--{split}-json is missing; give --{split}-json and --{split}-images too")
    else:
        folder = digits_folder(
            seed=data.digits_seed, num_train=data.digits_train_images, num_val=data.digits_val_images
        )
        dataset = load_coco(*locate_split(folder, split))
    return dataset.subset(data.limit) if data.limit is not None else dataset


def uses_digits(data: DataConfig) -> bool:
    return data.root is None and data.train_json is None and data.val_json is None


def flips(data: DataConfig) -> bool:
    """Whether training mirrors images: as configured, else wherever the images are not digits."""
    return not uses_digits(data) if data.horizontal_flip is None else data.horizontal_flip


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Makes sure that a new run may use the folder; writes nothing.

    Raises:
      UserError: the folder is taken.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder} is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / CONFIG).is_file():
            raise UserError(f"--output {folder} is not empty and not a run; give a new folder")
        if not overwrite:
            raise UserError(f"{folder} already holds a run; add --resume to go on, --overwrite to start anew")


def resumed_config(folder: Path, assignments: Sequence[str] = ()) -> Config:
    """The configuration of the run in a folder, with what may change in between.

    Args:
      assignments: `key=value` of RESUMABLE keys.

    Raises:
      UserError: there is no run, or another key is to change.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} holds no run to resume (no {CONFIG}); start it without --resume")
    for assignment in assignments:
        if assignment.partition("=")[0] not in RESUMABLE:
            raise UserError(f"--resume keeps the run's configuration; only {', '.join(RESUMABLE)} may be --set")
    return load_config(folder / CONFIG, assignments=assignments)


def train(
    config: Config,
    folder: Path,
    *,
    init: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    verbose: int | None = None,
) -> dict[str, Any]:
    """Trains and leaves a run folder.

    Args:
      config: the experiment; of a run that is resumed what `resumed_config` gives.
      folder: the run folder.
      init: a weights file, also of a backbone alone or of other classes: what matches is what the detector starts from.
      resume: go on from the last whole epoch.
      overwrite: replace a run that is there.
      verbose: Keras': 0 silent, 1 a progress bar, 2 a line an epoch; None: the bar on a terminal, else the line.

    Returns:
      The last line of metrics.json's history and the best one: {"last": {...}, "best": {...}}.

    Raises:
      UserError: wrong data or configuration, a folder that is taken or cannot be written, or a loss that is no number.
        A run that has not finished an epoch by then leaves nothing behind.
    """
    if not resume:
        check_folder(folder, overwrite=overwrite)
    train_data = load_split(config.data, "train")
    val_data = train_data if config.data.validate_on_train else load_split(config.data, "val")
    if val_data.annotation_file == train_data.annotation_file and not config.data.validate_on_train:
        raise UserError(
            f"{train_data.annotation_file} would be train and val at once; give --val-json and --val-images, or "
            "--set data.validate_on_train=true"
        )
    if resume and config.class_names != train_data.class_names:
        raise UserError(f"the classes of {train_data.annotation_file} are no longer the run's; start a new run")
    match_classes(train_data.class_names, val_data)
    config = with_classes(config, train_data.class_names, train_data.category_ids)
    recipe = config.train
    keras.utils.set_random_seed(recipe.seed)
    pipeline = build_pipeline(
        train_data,
        input_size=config.model.input_size,
        batch_size=recipe.batch_size,
        training=True,
        seed=recipe.seed,
        horizontal_flip=flips(config.data),
        cache=config.data.cache,
        first_epoch=finished_epochs(folder) if resume else 0,
    )
    detector = TinyDet(config.model, len(config.class_names))
    if init is not None and not resume:
        report_start(initialize(detector, init, variant=config.variant), init)

    prepare_folder(folder, config, resume=resume)
    trainer = RunTrainer(detector, recipe, config)
    steps = len(train_data.images) // recipe.batch_size
    schedule = WarmupCosine(
        recipe.learning_rate,
        recipe.final_learning_rate,
        steps * recipe.epochs,
        recipe.warmup_steps,
        recipe.warmup_start,
    )
    trainer.compile(optimizer=make_optimizer(recipe, schedule))
    history = History(folder / METRICS, resume=resume)
    if verbose is None:
        verbose = 1 if sys.stdout.isatty() else 2
    callbacks = make_callbacks(folder, recipe, val_data, detector, config.class_names, history)
    try:
        trainer.fit(pipeline, epochs=recipe.epochs, callbacks=callbacks, verbose=verbose)
    except (UserError, tf.errors.OpError) as error:
        if not history.entries:
            clear_folder(folder)
        reason = _what_went_wrong(error, folder)
        if reason is None:
            raise
        raise UserError(reason) from error
    return {"last": history.entries[-1] if history.entries else {}, "best": history.best()}


def report_start(result: Initialized, init: Path) -> None:
    """Logs which layers a run does not start from its --init."""
    count = len(result.taken) + len(result.left)
    log.info("%d of %d layers start from %s", len(result.taken), count, init)
    if result.left:
        shown = ", ".join(result.left[:8]) + (f" and {len(result.left) - 8} more" if len(result.left) > 8 else "")
        log.info("not in it, or of another shape, and therefore fresh: %s", shown)


def _what_went_wrong(error: Exception, folder: Path) -> str | None:
    """One line for an error of the user's making that TensorFlow wraps; None for any other."""
    if isinstance(error, UserError):
        return str(error)
    text = str(error)
    _, found, line = text.partition("UserError: ")  # the input pipeline passes an exception's text on, no more
    if found:
        return line.splitlines()[0]
    if "finite" in text:  # crop_and_resize refuses boxes that are no numbers
        return _DIVERGED
    if isinstance(error, tf.errors.ResourceExhaustedError) and "space" in text:
        return f"{folder} cannot be written: no space left on the device"
    return None


def finished_epochs(folder: Path) -> int:
    """How many epochs the backup of a run holds; 0 where there is none yet.

    Raises:
      UserError: it is damaged. All of it is read here, because Keras would only find out in the middle of restoring.
    """
    checkpoint = tf.train.latest_checkpoint(str(folder / BACKUP / "chief"))
    if checkpoint is None:
        return 0
    try:
        reader = tf.train.load_checkpoint(checkpoint)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
        saved = reader.get_tensor("ckpt_saved_epoch/.ATTRIBUTES/VARIABLE_VALUE")
    except (tf.errors.OpError, IndexError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder / BACKUP} is damaged; start a new run with --init {folder / LAST}") from error
    return int(saved) + 1


class RunTrainer(Trainer):
    """A Trainer whose `save_weights`, which Keras' ModelCheckpoint calls, writes the detector's own file."""

    def __init__(self, detector: TinyDet, recipe: TrainConfig, config: Config) -> None:
        super().__init__(detector, recipe)
        self._run_config = config

    def save_weights(self, filepath: str, overwrite: bool = True, **_: Any) -> None:
        save_weights(self.detector, self._run_config, Path(filepath))


def make_optimizer(recipe: TrainConfig, schedule: WarmupCosine) -> Any:
    """SGD with momentum as the paper (its weight decay is in the train step), or AdamW."""
    if recipe.optimizer == "adamw":
        return keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay)
    return keras.optimizers.SGD(schedule, momentum=recipe.momentum)


def prepare_folder(folder: Path, config: Config, *, resume: bool) -> None:
    """Makes the run folder and writes config.yaml; an old run's files are removed first unless it is resumed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        # First: whatever happens next, the folder is known as a run's.
        atomic_write(folder / CONFIG, save_config(config).encode())
        if not resume:
            _remove(folder, keep=CONFIG)
    except OSError as error:
        raise UserError(f"the run folder {folder} cannot be written: {error.strerror}") from error


def clear_folder(folder: Path) -> None:
    """Removes a run's files, and the folder where nothing else is in it."""
    _remove(folder)
    if not any(folder.iterdir()):
        folder.rmdir()


def _remove(folder: Path, *, keep: str | None = None) -> None:
    for name in _OURS:
        path = folder / name
        if name == keep:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def make_callbacks(
    folder: Path,
    recipe: TrainConfig,
    val_data: CocoDataset,
    detector: TinyDet,
    class_names: tuple[str, ...],
    history: History,
) -> list[Any]:
    """Keras' own, behind the one that measures AP (they read its numbers)."""
    best = history.best().get("val_AP")
    callbacks = [
        StopOnNaN(),
        CocoValidation(detector, class_names, val_data, every=recipe.validate_every, epochs=recipe.epochs),
        IfMeasured(
            keras.callbacks.ModelCheckpoint(
                str(folder / BEST),
                monitor="val_AP",
                mode="max",
                save_best_only=True,
                save_weights_only=True,
                initial_value_threshold=best,
            ),
            "val_AP",
        ),
        keras.callbacks.ModelCheckpoint(str(folder / LAST), save_weights_only=True),
        keras.callbacks.TensorBoard(str(folder / LOGS), write_graph=False, profile_batch=0),
        history,
        # Last: what it records as done, the others have written.
        keras.callbacks.BackupAndRestore(str(folder / BACKUP), delete_checkpoint=False),
    ]
    if recipe.early_stopping_patience is not None:
        stop = keras.callbacks.EarlyStopping("val_AP", mode="max", patience=recipe.early_stopping_patience)
        callbacks.insert(2, IfMeasured(stop, "val_AP"))
    return callbacks


class StopOnNaN(keras.callbacks.Callback):
    """Ends the run as soon as the loss is no number. (Keras' own would still write the epoch's checkpoints.)"""

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None and not math.isfinite(float(logs["loss"])):
            raise UserError(_DIVERGED)


class CocoValidation(keras.callbacks.Callback):
    """Adds val_AP, val_AP50, val_APs, ... to the logs every so many epochs and after the last."""

    def __init__(
        self, detector: TinyDet, class_names: tuple[str, ...], data: CocoDataset, *, every: int, epochs: int
    ) -> None:
        super().__init__()
        self._detect, self._class_names, self._data = KerasDetector(detector, class_names), class_names, data
        self._every, self._epochs = every, epochs

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is None or ((epoch + 1) % self._every and epoch + 1 != self._epochs):
            return
        evaluation = evaluate(self._detect, self._class_names, self._data, skip_broken=True)
        logs.update({f"val_{name}": value for name, value in evaluation.metrics.items()})


class IfMeasured(keras.callbacks.Callback):
    """Passes an epoch's end on only where the metric was measured: Keras' callbacks complain where it was not."""

    def __init__(self, callback: Any, metric: str) -> None:
        super().__init__()
        self._callback, self._metric = callback, metric

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        self._callback.set_model(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._callback.on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._callback.on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None and self._metric in logs:
            self._callback.on_epoch_end(epoch, logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._callback.on_train_end(logs)


class History(keras.callbacks.Callback):
    """metrics.json: {"history": [{"epoch": 1, "loss": ...}, ...], "best": the entry with the highest val_AP}."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        super().__init__()
        self._path = path
        self.entries: list[dict[str, Any]] = []
        if resume and path.is_file():
            try:
                self.entries = list(json.loads(path.read_text())["history"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path} is damaged; remove it to resume without the history") from error

    def best(self) -> dict[str, Any]:
        measured = [entry for entry in self.entries if "val_AP" in entry]
        return max(measured, key=lambda entry: entry["val_AP"], default={})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # An epoch that ran again after a resume replaces what was noted of it.
        self.entries = [entry for entry in self.entries if entry["epoch"] <= epoch]
        values = {name: _finite(float(value)) for name, value in (logs or {}).items()}
        values["learning_rate"] = float(self.model.optimizer.learning_rate)
        self.entries.append({"epoch": epoch + 1, **values})
        content = {"history": self.entries, "best": self.best()}
        atomic_write(self._path, (json.dumps(content, indent=2) + "\n").encode())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # json has no NaN
