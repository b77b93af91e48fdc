"""A training run: data and configuration in, a run folder out.

The folder holds config.yaml (every value), best.weights.h5 and last.weights.h5, metrics.json (an entry an epoch), logs/
for TensorBoard, and backup/ with the optimizer's state, from which `resume` goes on.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf
import tf_keras as keras

from tinydet_lite.detector import Detector
from tinydet_lite.errors import UserError
from tinydet_tf.commands import command_text
from tinydet_tf.config import Config, DataConfig, TrainConfig
from tinydet_tf.data.coco import CocoDataset
from tinydet_tf.data.copies import in_both
from tinydet_tf.data.locating import some
from tinydet_tf.data.pipeline import build_pipeline, line_of_user_error
from tinydet_tf.data.splits import absolute, load_split, named, preparation
from tinydet_tf.evaluation import match_classes
from tinydet_tf.keras_detector import keras_detector
from tinydet_tf.layers.blocks import BatchNorm
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.training.qat.quantized_detector import OBSERVED, QuantizedDetector
from tinydet_tf.training.qat.start import check_qat
from tinydet_tf.training.run.board import CANDIDATES_OF, IMAGES, OHEM, STEPS, CandidateLosses, Pictures, StepScalars
from tinydet_tf.training.run.callbacks import (
    DIVERGED,
    CocoValidation,
    FreezeBackbone,
    History,
    KeepBest,
    StopEarly,
    StopOnNaN,
    TakeCopy,
    literal,
)
from tinydet_tf.training.run.console import Console
from tinydet_tf.training.run.distribution import (
    PlainCopy,
    check_batch_size,
    is_chief,
    split_batches,
    wait_for_all,
    worker,
)
from tinydet_tf.training.run.folder import (
    BACKUP,
    LOGS,
    METRICS,
    check_folder,
    clear_folder,
    finished_epochs,
    plain_path,
    prepare_folder,
)
from tinydet_tf.training.run.precision import check_precision
from tinydet_tf.training.run.schedule import WarmupCosine
from tinydet_tf.training.run.start import begin, weights_to_start_from
from tinydet_tf.training.step.trainer import Batch, Trainer
from tinydet_tf.weights import BEST, LAST, save_weights

if TYPE_CHECKING:
    from tinydet_tf.export.kept_calibration import Int8Form

_LOG = logging.getLogger(__name__)


def train(
    config: Config,
    folder: Path,
    *,
    init: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    strategy: Any = None,
    verbose: int = 1,
) -> dict[str, Any]:
    """Trains and leaves a run folder.

    Killed at any moment and resumed, a run ends with the weights of one that was not: everything random depends on
    (seed, epoch, image), and backup/ always holds the last whole epoch. To the last bit where sums are always added in
    the same order, see `add_in_order`; otherwise as close as two runs are.

    Args:
      config: the experiment; of a run that is resumed what `resumed_config` gives.
      folder: the run folder.
      init: a weights file, also of a backbone alone or of other classes: what matches is what the detector starts from.
      resume: go on from the last whole epoch.
      overwrite: replace a run that is there.
      strategy: what `open_strategy` gives; None: one device. All workers call this with the same arguments, and the
        folder is one that all of them see: the chief writes it, and everybody resumes from it.
      verbose: 0: print nothing; 1: the chief prints a line an epoch and, on a terminal, shows a bar (console.py).

    Returns:
      The last line of metrics.json's history and the best one: {"last": {...}, "best": {...}}.

    Raises:
      UserError: wrong data or configuration, a folder that is taken or cannot be written, a precision that this
        processor cannot train in, a loss that is no number, or another worker that is gone. A new run that has not
        finished an epoch by then leaves nothing behind.
    """
    run = TrainingRun(
        config,
        folder,
        init=init,
        resume=resume,
        overwrite=overwrite,
        strategy=strategy or tf.distribute.get_strategy(),
        verbose=verbose,
    )
    return run.train()


@dataclasses.dataclass(frozen=True)
class Networks:
    """The forms of the one detector of a run.

    Attributes:
      detector: whose weights are trained.
      copy: of its weights, what is saved.
      trained: what computes the losses: the detector, or with --qat the detector with int8's rounding.
      shown: what pictures and histograms are of: the copy's detector, or with --qat that with int8's rounding.
      int8: with --qat what is evaluated, the copy's .tflite.
    """

    detector: TinyDet
    copy: PlainCopy
    trained: TinyDet
    shown: TinyDet
    int8: Int8Form | None = None


class TrainingRun:
    """A run from its checked beginning to its folder; `train` has the arguments.

    Everything that can be refused without a detector is refused in the constructor, which writes nothing.

    Attributes:
      config: the experiment, with the classes of its data.
      history: of the epochs so far.
      steps: of an epoch.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        *,
        init: Path | None,
        resume: bool,
        overwrite: bool,
        strategy: Any,
        verbose: int,
    ) -> None:
        self.folder, self.resume, self.strategy, self.verbose = folder, resume, strategy, verbose
        self.replicas, self.chief = strategy.num_replicas_in_sync, is_chief(strategy)
        self.worker, self.workers = worker(strategy)
        check_batch_size(config.train.batch_size, self.replicas)
        if config.data.limit is not None and config.train.batch_size > config.data.limit:
            raise UserError(
                f"train.batch_size is {config.train.batch_size}, more than the images that data.limit leaves, "
                f"{config.data.limit}; lower the one or raise the other"
            )
        if self.chief and not resume:
            check_folder(folder, overwrite=overwrite)
        self.train_data, self.val_data = _load_data(config.data)
        names = self.train_data.class_names
        if resume and config.class_names != names:
            raise UserError(
                f"the classes of {self.train_data.annotation_file} are no longer the run's; start a new run"
            )
        match_classes(names, self.val_data)
        config = dataclasses.replace(config, data=absolute(named(config.data)))
        if init is not None:
            # Kept with the run: what is killed in its first epoch starts from the same.
            recipe = dataclasses.replace(config.train, start=str(init.absolute()))
            config = dataclasses.replace(config, train=recipe)
        self.config = dataclasses.replace(config, class_names=names, category_ids=self.train_data.category_ids)
        self.recipe = self.config.train
        self.steps = len(self.train_data.images) // self.recipe.batch_size
        self.finished = finished_epochs(folder, self.steps) if resume else 0
        check_qat(self.config, finished=self.finished, replicas=self.replicas)
        self._warn_of_freezing()
        self.history = History(folder / METRICS, finished=self.finished, write=self.chief)

    def train(self) -> dict[str, Any]:
        """Trains what is left to train; what `train` returns and raises.

        The order of what is built decides which random numbers each part gets, and with them the weights of a seed.
        """
        if self.history.should_stop(self.recipe.early_stopping_patience):
            _LOG.info("this run has stopped early; --set a higher train.early_stopping_patience to go on")
            return self.history.summary()
        check_precision(self.recipe.precision)
        keras.utils.set_random_seed(self.recipe.seed)
        add_in_order()
        pipeline = self._pipeline()
        networks = self._networks()
        if self.chief:
            prepare_folder(self.folder, self.config, resume=self.resume)
        with self.strategy.scope():
            trainer = RunTrainer(networks.trained, self.config, networks.copy)
            trainer.compile(optimizer=make_optimizer(self.recipe, make_schedule(self.recipe, self.steps)))
        console = self._console()
        try:
            with plain_path(self.folder) as plain:
                self._fit(trainer, pipeline, self._callbacks(networks, console, plain / BACKUP))
        finally:
            if console is not None:
                console.close()
        return self.history.summary()

    def _warn_of_freezing(self) -> None:
        freeze, epochs = self.recipe.freeze_backbone, self.recipe.epochs
        if freeze and not self.resume and weights_to_start_from(self.config) is None:
            _LOG.warning("train.freeze_backbone without --init trains on a backbone that has learnt nothing")
        if freeze >= epochs:
            _LOG.warning("train.freeze_backbone is %d of %d epochs: it stays frozen", freeze, epochs)

    def _pipeline(self) -> tf.data.Dataset:
        """This worker's part of the batches, from the first epoch that is not finished."""
        return build_pipeline(
            self.train_data,
            input_size=self.config.model.input_size,
            batch_size=self.recipe.batch_size,
            training=True,
            seed=self.recipe.seed,
            **preparation(self.config.data),
            first_epoch=self.finished,
            part=(self.worker, self.workers),
        )

    def _networks(self) -> Networks:
        config, recipe = self.config, self.recipe
        with self.strategy.scope():
            batch_norm = BatchNorm(synchronized=self.replicas > 1)
            detector = TinyDet(config.model, len(config.class_names), batch_norm=batch_norm, precision=recipe.precision)
        if not self.finished:
            begin(detector, config)
        copy = PlainCopy(detector, self.strategy, averaged=recipe.ema is not None)
        if not recipe.qat:
            return Networks(detector, copy, trained=detector, shown=copy.detector)
        trained = QuantizedDetector(detector)
        shown = QuantizedDetector(copy.detector, trained.ranges)
        if not self.finished:  # a resumed run gets its ranges from the backup
            trained.observe(batch["images"] for batch in first_batches(config, self.train_data, OBSERVED))
        from tinydet_tf.export.kept_calibration import Int8Form  # only --qat needs the exporter

        return Networks(detector, copy, trained, shown, Int8Form(copy.detector, config, self.train_data))

    def _console(self) -> Console | None:
        if not (self.verbose and self.chief):
            return None
        return Console(self.recipe.epochs, self.finished, self.steps, self.recipe.batch_size)

    def _callbacks(self, networks: Networks, console: Console | None, backup: Path) -> list[Any]:
        """What happens between the steps. Keras' own stand behind the one that measures AP: they read its numbers."""
        recipe, names = self.recipe, self.config.class_names
        detect = keras_detector(networks.shown, self.config, score_threshold=0.0)
        return [
            StopOnNaN(),
            FreezeBackbone(networks.detector, recipe.freeze_backbone),
            TakeCopy(networks.copy),
            CocoValidation(
                networks.int8.renew if networks.int8 is not None else lambda: detect,
                names,
                self.val_data,
                every=recipe.validate_every,
                epochs=recipe.epochs,
                strategy=self.strategy,
            ),
            *(self._chiefs_callbacks(networks, detect) if self.chief else []),
            self.history,
            *([] if console is None else [console]),
            StopEarly(self.history, recipe.early_stopping_patience),
            # The last one, so that the others have written an epoch before it is recorded as done. All workers take
            # part in the backup; only the chief's file stays.
            keras.callbacks.BackupAndRestore(str(backup), delete_checkpoint=False),
        ]

    def _chiefs_callbacks(self, networks: Networks, detect: Detector) -> list[Any]:
        """Weights, and what TensorBoard shows: files, which are the chief's alone."""
        logs = self.folder / LOGS
        kept = None if networks.int8 is None else functools.partial(networks.int8.keep, self.folder)
        callbacks = [
            KeepBest(self.folder / BEST, self.history.best.get("val_AP"), kept),
            keras.callbacks.ModelCheckpoint(literal(self.folder / LAST), save_weights_only=True),
            keras.callbacks.TensorBoard(str(logs), write_graph=False, profile_batch=0),
            StepScalars(logs / STEPS, self.steps),
            Pictures(logs / IMAGES, detect, self.val_data),
        ]
        if self.recipe.rcnn_sampling == "ohem":
            trainer = Trainer(networks.shown, self.recipe)
            load_batch = functools.partial(fixed_batch, self.config, self.train_data)
            callbacks.append(CandidateLosses(logs / OHEM, trainer, load_batch))
        return callbacks

    def _fit(self, trainer: Trainer, pipeline: tf.data.Dataset, callbacks: list[Any]) -> None:
        """Trains; where that fails, takes away a new run that has not finished an epoch.

        Raises:
          UserError: what the user can do something about.
        """
        try:
            wait_for_all(self.strategy)  # so that no worker looks for a backup while the chief clears the folder
            trainer.fit(
                split_batches(pipeline, self.strategy, self.recipe.batch_size),
                epochs=self.recipe.epochs,
                steps_per_epoch=None if self.replicas == 1 else self.steps,
                callbacks=callbacks,
                verbose=0,
            )
        except (UserError, tf.errors.OpError) as error:
            if self.chief and not self.resume and not self.history.entries:
                clear_folder(self.folder)
            reason = _what_went_wrong(error, self.folder, self.workers)
            if reason is None:
                raise
            raise UserError(reason) from error


def _load_data(config: DataConfig) -> tuple[CocoDataset, CocoDataset]:
    """What is trained on, and what is validated on, which may be the same.

    Raises:
      UserError: one of them cannot be read, or both are one file by mistake.
    """
    train_data = load_split(config, "train")
    if missing := train_data.classes_without_boxes():
        _LOG.warning("no box to learn from: %s%s", ", ".join(missing[:10]), " ..." if len(missing) > 10 else "")
    if config.validate_on_train:
        return train_data, train_data
    val_data = load_split(config, "val")
    shared = {image.id for image in train_data.images} & {image.id for image in val_data.images}
    if val_data.annotation_file == train_data.annotation_file and shared:
        raise UserError(
            f"{train_data.annotation_file} would be train and val at once; give --val-json and --val-images, "
            f"divide it with {command_text('convert-dataset')} --val-fraction 0.2, or --set data.validate_on_train=true"
        )
    paths = [[image.path for image in data.images] for data in (val_data, train_data)]
    if copies := in_both(*paths):
        _LOG.warning(
            "%d of val's %d images are in train too (%s): its figures will be too good; take them out of one",
            len(copies), len(paths[0]), some([path.name for path in copies]),
        )  # fmt: skip
    return train_data, val_data


def fixed_batch(config: Config, train_data: CocoDataset) -> Batch:
    """A batch of the first epoch's images, at most CANDIDATES_OF, as they are trained on; the same in every process."""
    size = min(config.train.batch_size, CANDIDATES_OF)
    return next(iter(first_batches(config, train_data, size, batch_size=size)))


def first_batches(
    config: Config, train_data: CocoDataset, images: int, *, batch_size: int | None = None
) -> Iterator[Batch]:
    """The first epoch's batches, of `images` images or all, as they are trained on; the same in every process."""
    size = batch_size or config.train.batch_size
    pipeline = build_pipeline(
        train_data,
        input_size=config.model.input_size,
        batch_size=size,
        training=True,
        seed=config.train.seed,
        **{**preparation(config.data), "cache": False},
    )
    yield from map(dict, pipeline.take(-(-images // size)))


def add_in_order() -> None:
    """Without a GPU, has TensorFlow add in the same order always.

    On CPU threads the gradient of crop_and_resize, and with it PSRoIAlign's, otherwise loses summands now and then: an
    eighth of it in one call of six where 512 equal boxes meet (tests/training/test_order.py). Order costs a CPU 1% of a
    step (docs/performance.md). A GPU adds atomically, and would pay more.
    """
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()


#: TensorFlow's words for the operating system's errors ENOSPC, EDQUOT and EFBIG.
_FULL = ("No space left on device", "Disk quota exceeded", "File too large")
#: The errors that a collective operation raises when a worker is gone.
_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)


def _what_went_wrong(error: Exception, folder: Path, workers: int) -> str | None:
    """One line for an error of the user's making that TensorFlow wraps; None for any other."""
    if isinstance(error, UserError):
        return str(error)
    line = line_of_user_error(error)
    if line is not None:
        return line
    text = str(error)
    for full in _FULL:
        if full in text:
            return f"{folder} cannot be written: {full}; make room and go on with --resume"
    if workers > 1 and isinstance(error, _LOST):
        return f"one of the {workers} workers is gone; start all of them again with --resume"
    if "finite" in text:  # crop_and_resize refuses boxes that are no numbers
        return DIVERGED
    return None


class RunTrainer(Trainer):
    """A Trainer whose `save_weights`, which Keras' ModelCheckpoint calls, writes the detector's own file.

    Attributes:
      threshold: the score threshold that was best for the weights as they are; None: not measured (CocoValidation).
    """

    def __init__(self, detector: TinyDet, config: Config, copy: PlainCopy) -> None:
        super().__init__(detector, config.train)
        self._run_config = config
        self._plain = copy
        self.threshold: float | None = None

    def save_weights(self, filepath: str, overwrite: bool = True, **_: Any) -> None:
        save_weights(self._plain.detector, self._run_config, Path(filepath), threshold=self.threshold)


def make_optimizer(recipe: TrainConfig, schedule: WarmupCosine) -> Any:
    """SGD with momentum as the paper (its weight decay is in the train step), or AdamW."""
    average: dict[str, Any] = {} if recipe.ema is None else {"use_ema": True, "ema_momentum": recipe.ema}
    if recipe.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay, **average)
    else:
        optimizer = keras.optimizers.SGD(schedule, momentum=recipe.momentum, **average)
    if recipe.precision == "mixed_float16":
        # float16 has no numbers below 6e-8: losses are scaled up, and a step whose gradient is not finite is left out.
        return keras.mixed_precision.LossScaleOptimizer(optimizer)
    return optimizer


def make_schedule(recipe: TrainConfig, steps: int) -> WarmupCosine:
    """The learning rate of a recipe with so many steps an epoch."""
    scale = 1.0 if recipe.reference_batch is None else recipe.batch_size / recipe.reference_batch
    if scale != 1.0:
        _LOG.info("learning rate %g, scaled to the batch of %d", recipe.learning_rate * scale, recipe.batch_size)
    return WarmupCosine(
        recipe.learning_rate * scale,
        recipe.final_learning_rate,
        steps * recipe.epochs,
        recipe.warmup_steps,
        recipe.warmup_start,
    )
