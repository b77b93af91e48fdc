"""What a run prints while it goes: a bar over all of its steps on a terminal, and everywhere a line an epoch."""

from __future__ import annotations

import sys
import time
from typing import Any

import tf_keras as keras
from tqdm import tqdm

from tinydet_tf.training.step.trainer import LOSSES


class Console(keras.callbacks.Callback):
    """Prints `Epoch 3/100: loss ..., AP ..., images a second, the time that is left`.

    The bar goes to stderr and only to a terminal; the lines go to stdout. Speed and time left are those of this
    process: a resumed run starts to measure anew. The first step, which waits for TensorFlow to trace it, does not
    count as speed, and the first epoch does not count for the time left once there is another.
    """

    def __init__(self, epochs: int, finished: int, steps: int, batch_size: int) -> None:
        """
        Args:
          epochs: of the whole run.
          finished: of these, before this process.
          steps: of an epoch.
          batch_size: images of a step, on all devices together.
        """
        super().__init__()
        self._epochs, self._finished, self._steps, self._batch_size = epochs, finished, steps, batch_size
        self._bar: tqdm[Any] | None = None
        self._durations: list[float] = []
        self._epoch_start = self._start = self._end = 0.0
        self._counted = 0  # images between _start and _end
        self._first_step = True

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        total, done = self._epochs * self._steps, self._finished * self._steps
        # Averaged over the whole run, so that validations count in the time that is left.
        self._bar = tqdm(total=total, initial=done, unit="step", smoothing=0, leave=False, disable=None)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch_start = self._start = self._end = time.monotonic()
        self._counted = 0
        if self._bar is not None:
            self._bar.set_description(f"Epoch {epoch + 1}/{self._epochs}")

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._end = time.monotonic()
        if self._first_step:
            self._first_step, self._start = False, self._end
        else:
            self._counted += self._batch_size
        if self._bar is not None and not self._bar.disable:
            self._bar.set_postfix(loss=f"{float((logs or {}).get('loss', 0.0)):.3f}", refresh=False)
            self._bar.update()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        seconds = time.monotonic() - self._epoch_start
        self._durations.append(seconds)
        counted = self._durations[1:] or self._durations
        parts = [f"Epoch {epoch + 1}/{self._epochs}: {numbers(logs or {})}"]
        if self._counted:
            parts.append(f"{self._counted / max(self._end - self._start, 1e-9):.1f} images/s")
        parts.append(shown(seconds))
        if left := self._epochs - epoch - 1:
            parts.append(f"{shown(sum(counted) / len(counted) * left)} left")
        tqdm.write(", ".join(parts), file=sys.stdout)
        sys.stdout.flush()  # where stdout is a file, people look into it while the run goes

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.close()

    def close(self) -> None:
        """Takes the bar off the terminal."""
        if self._bar is not None:
            self._bar.close()


def numbers(logs: dict[str, Any]) -> str:
    """The losses, and the APs where they were measured."""
    parts = [f"{name} {float(logs[name]):.3f}" for name in ("loss", *LOSSES) if name in logs]
    return ", ".join([*parts, *average_precisions(logs)])


def average_precisions(entry: dict[str, Any]) -> list[str]:
    """['AP 0.387', 'AP50 0.642', 'APs none']: COCO's -1 is where no object of that size exists."""
    found = [(name, entry[f"val_{name}"]) for name in ("AP", "AP50", "APs") if f"val_{name}" in entry]
    return [f"{name} {value:.3f}" if value >= 0 else f"{name} none" for name, value in found]


def shown(seconds: float) -> str:
    """'45 s', '12 min', '3 h 05 min', '2 d 7 h'."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"
