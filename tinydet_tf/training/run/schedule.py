"""Learning rate: linear warm-up, then one cosine (section 4.1)."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf
import tf_keras as keras


@keras.utils.register_keras_serializable("tinydet_tf")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate at a step.

    Args:
      peak: after the warm-up.
      final: at `total_steps` and behind it.
      warmup_steps: steps from `warmup_start * peak` to `peak`; shortened to a fifth of a run that is shorter than five
        times this.
      warmup_start: fraction of the peak (the paper says 0, the released config 1/3).
    """

    def __init__(self, peak: float, final: float, total_steps: int, warmup_steps: int, warmup_start: float) -> None:
        self.peak, self.final, self.total_steps = peak, final, max(total_steps, 1)
        self.warmup_steps, self.warmup_start = min(warmup_steps, self.total_steps // 5), warmup_start

    def __call__(self, step: Any) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        warm = self.peak * (self.warmup_start + (1.0 - self.warmup_start) * step / max(self.warmup_steps, 1))
        span = max(self.total_steps - self.warmup_steps, 1)
        progress = tf.clip_by_value((step - self.warmup_steps) / span, 0.0, 1.0)
        cosine = self.final + 0.5 * (self.peak - self.final) * (1.0 + tf.cos(math.pi * progress))
        return tf.where(step < self.warmup_steps, warm, cosine)

    def get_config(self) -> dict[str, Any]:
        return {
            "peak": self.peak,
            "final": self.final,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "warmup_start": self.warmup_start,
        }
