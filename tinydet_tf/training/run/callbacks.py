"""What happens between the steps of a run: AP, files, early stopping, the backup that a resumed run goes on from.

What people see of it is in board.py and console.py.

All workers of a distributed run have the same callbacks in the same order, because some of them are a conversation
between workers (evaluation, the backup). Files are the chief's alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tf_keras as keras

from tinydet_lite.errors import UserError
from tinydet_lite.files import atomic_write
from tinydet_tf.data.coco import CocoDataset
from tinydet_tf.evaluation import ImageDetector, evaluate
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.training.run.distribution import PlainCopy, gather_rows, worker

DIVERGED = "the loss is no longer a number; lower train.learning_rate (or train.clip_norm) and start anew"


class StopOnNaN(keras.callbacks.Callback):
    """Ends the run as soon as the loss is no number. (Keras' own would still write the epoch's checkpoints.)"""

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None and not math.isfinite(float(logs["loss"])):
            raise UserError(DIVERGED)


class FreezeBackbone(keras.callbacks.Callback):
    """For the first epochs the backbone stays as it is, its normalization too; the rest is trained."""

    def __init__(self, detector: TinyDet, epochs: int) -> None:
        super().__init__()
        self._layers = detector.backbone_model().layers if epochs else []
        self._epochs = epochs

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        trainable = epoch >= self._epochs
        if all(layer.trainable == trainable for layer in self._layers):
            return
        for layer in self._layers:
            layer.trainable = trainable
        self.model.make_train_function(force=True)  # the old one was traced with other variables


class TakeCopy(keras.callbacks.Callback):
    """Brings the plain copy up to date, for those behind it."""

    def __init__(self, copy: PlainCopy) -> None:
        super().__init__()
        self._copy = copy

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._copy.update(self.model.optimizer)


class CocoValidation(keras.callbacks.Callback):
    """Adds val_AP, val_AP50, val_APs, ... to the logs every so many epochs and after the last.

    Also val_F1, the best F1 over all classes, and val_threshold, the score from which it is reached (none where no
    object was found), which the trainer saves with the weights that it was measured with.

    Workers share the images. The replicas of one worker do not: its evaluation runs on one device.
    """

    def __init__(
        self,
        detector: Callable[[], ImageDetector],
        class_names: tuple[str, ...],
        data: CocoDataset,
        *,
        every: int,
        epochs: int,
        strategy: Any,
    ) -> None:
        """
        Args:
          detector: gives what is to be evaluated, with the weights as they are when it is called.
          every: so many epochs, of `epochs`.
        """
        super().__init__()
        self._detector, self._class_names, self._data = detector, class_names, data
        self._every, self._epochs, self._strategy = every, epochs, strategy

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.model.threshold = None  # of weights that are not validated nobody knows it
        if logs is None or ((epoch + 1) % self._every and epoch + 1 != self._epochs):
            return
        index, workers = worker(self._strategy)
        evaluation = evaluate(
            self._detector(),
            self._class_names,
            self._data,
            part=slice(index, None, workers),
            gather=lambda rows: gather_rows(rows, self._strategy),
        )
        logs.update({f"val_{name}": value for name, value in evaluation.metrics.items()})
        logs["val_F1"] = 0.0
        if evaluation.best is not None:
            logs["val_F1"], logs["val_threshold"] = evaluation.best.f1, evaluation.best.threshold
            self.model.threshold = evaluation.best.threshold


def literal(path: Path) -> str:
    """A path for Keras' ModelCheckpoint, which puts numbers in the place of braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


class KeepBest(keras.callbacks.ModelCheckpoint):
    """Writes the weights of the best val_AP so far, and says nothing of epochs that are not validated.

    Of equal ones the last counts: while nothing is found yet, AP is 0, and the network still learns.
    """

    def __init__(self, path: Path, best: float | None, kept: Callable[[], None] | None = None) -> None:
        """
        Args:
          best: the val_AP to beat; None: of a new run.
          kept: called when the weights have been written.
        """
        super().__init__(
            literal(path),
            monitor="val_AP",
            mode="max",
            save_best_only=True,
            save_weights_only=True,
            initial_value_threshold=best,
        )
        self.monitor_op = np.greater_equal
        self._kept = kept

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None and self.monitor in logs:
            better = self.monitor_op(logs[self.monitor], self.best)
            super().on_epoch_end(epoch, logs)
            if self._kept is not None and better:
                self._kept()


class StopEarly(keras.callbacks.Callback):
    """Ends the run after so many validations without a better AP.

    Keras' EarlyStopping keeps its count to itself, and a resumed run would begin at zero; the history is in a file.
    """

    def __init__(self, history: History, patience: int | None) -> None:
        super().__init__()
        self._history, self._patience = history, patience

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._history.should_stop(self._patience):
            self.model.stop_training = True


class History(keras.callbacks.Callback):
    """metrics.json: {"history": [{"epoch": 1, "loss": ...}, ...], "best": the last entry with the highest val_AP}.

    Attributes:
      entries: of the epochs so far.
      best: the entry of the epoch that best.weights.h5 is from, empty before the first validation. It stays after a
        resume although its epoch may run a second time.
    """

    def __init__(self, path: Path, *, finished: int = 0, write: bool = True) -> None:
        """
        Args:
          path: the file; its entries of the epochs that are finished are gone on from.
          finished: epochs; 0 for a new run. An epoch that was noted and is not in the backup runs again.
          write: False in workers that are not the chief.

        Raises:
          UserError: the file is damaged.
        """
        super().__init__()
        self._path, self._write = path, write
        self.entries: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        if finished and path.is_file():
            try:
                content = json.loads(path.read_text())
                self.entries = [entry for entry in content["history"] if entry["epoch"] <= finished]
                self.best = dict(content["best"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path} is damaged; remove it to resume without the history") from error

    def should_stop(self, patience: int | None) -> bool:
        """Whether the AP has not risen for `patience` validations; None: never."""
        measured = [entry["val_AP"] for entry in self.entries if "val_AP" in entry]
        if patience is None or not measured:
            return False
        return len(measured) - 1 - measured.index(max(measured)) >= max(patience, 1)

    def summary(self) -> dict[str, Any]:
        return {"last": self.entries[-1] if self.entries else {}, "best": self.best}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        rate = self.model.optimizer.learning_rate.numpy()
        values = {name: float(value) for name, value in {**(logs or {}), "learning_rate": rate}.items()}
        # json has no NaN
        entry: dict[str, Any] = {
            "epoch": epoch + 1,
            **{name: v if math.isfinite(v) else None for name, v in values.items()},
        }
        self.entries.append(entry)
        if "val_AP" in entry and (not self.best or entry["val_AP"] >= self.best["val_AP"]):
            self.best = entry
        if self._write:
            content = {"history": self.entries, "best": self.best}
            atomic_write(self._path, (json.dumps(content, indent=2) + "\n").encode())
