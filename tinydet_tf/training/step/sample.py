"""Which of the assigned boxes are trained on: a fixed number, at most so many of them positive.

B images, N boxes an image, S samples an image.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

#: Constants that are folded into an image's seed, so that both stages draw different numbers. The stages of the input
#: pipeline use other constants.
RPN_SEED, RCNN_SEED = 1000, 1001


class SampledBoxes(NamedTuple):
    """index: int32 [B, S] into the boxes; weight: float32 [B, S], 0 where the image had too few; positive: bool."""

    index: tf.Tensor
    weight: tf.Tensor
    positive: tf.Tensor


def sample(
    positive: tf.Tensor, negative: tf.Tensor, priority: tf.Tensor, *, count: int, max_positive: int
) -> SampledBoxes:
    """Takes up to `max_positive` positives and fills up with negatives, each by the highest priority.

    Args:
      positive, negative: bool [B, N].
      priority: float32 [B, N], at least 0: random numbers, or a loss (OHEM).
      count: S; fewer where N is smaller.
      max_positive: of S.
    """
    available = priority.shape[1]
    count = min(count, available) if available is not None else count
    max_positive = min(max_positive, count)

    def best(mask: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
        values, index = tf.math.top_k(tf.where(mask, priority, -1.0), k)
        return index, values >= 0.0

    positive_index, is_positive = best(positive, max_positive)
    negative_index, is_negative = best(negative, count)
    room = count - tf.reduce_sum(tf.cast(is_positive, tf.int32), 1, keepdims=True)  # [B, 1]
    is_negative &= tf.range(count)[None] < room
    index = tf.concat([positive_index, negative_index], 1)
    taken = tf.cast(tf.concat([is_positive, is_negative], 1), tf.float32)
    weight, order = tf.math.top_k(taken, count)  # the taken ones first
    index = tf.gather(index, order, batch_dims=1)
    return SampledBoxes(index, weight, (order < max_positive) & (weight > 0.0))


def random_priority(seeds: tf.Tensor, count: int | tf.Tensor, stage: int) -> tf.Tensor:
    """Random numbers of [0, 1) that depend on an image's seed alone: int32 [B, 2] -> float32 [B, count].

    Whatever the number of devices, the kind of device, or what ran before.

    Args:
      stage: RPN_SEED or RCNN_SEED.
    """
    length = count if isinstance(count, int) else None

    def one(seed: tf.Tensor) -> tf.Tensor:
        seed = tf.random.experimental.stateless_fold_in(seed, stage, alg="philox")
        return tf.random.stateless_uniform([count], seed, alg="philox")

    return tf.map_fn(one, seeds, fn_output_signature=tf.TensorSpec([length], tf.float32))
