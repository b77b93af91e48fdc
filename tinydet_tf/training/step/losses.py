"""The four losses (docs/reference.md, "Training"), each over the samples that `sample.py` chose.

B images, S samples an image, A anchors of all levels, G padded ground truths, R = B * S.
Every loss is divided by the number of samples with a weight, over the whole batch, so that padding counts for nothing.
In distributed training that is the batch of all replicas: each has its share of a loss, and their sum is the loss.
"""

from __future__ import annotations

import tensorflow as tf

from tinydet_tf.training.step.replicas import sum_over_replicas

#: The error at which smooth L1 turns from quadratic to linear.
RPN_BETA = 1.0 / 9.0
RCNN_BETA = 1.0


def smooth_l1(error: tf.Tensor, beta: float) -> tf.Tensor:
    """Elementwise 0.5 x^2 / beta below beta, |x| - 0.5 beta above."""
    size = tf.abs(error)
    return tf.where(size < beta, 0.5 * tf.square(size) / beta, size - 0.5 * beta)


def total_weight(weight: tf.Tensor) -> tf.Tensor:
    """The number of samples of the batch, of all replicas together, at least 1. A constant to the gradient."""
    return tf.maximum(sum_over_replicas(tf.stop_gradient(tf.reduce_sum(weight))), 1.0)


def objectness_loss(logits: tf.Tensor, positive: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Binary cross-entropy: logits float32 [B, S], positive bool [B, S], weight float32 [B, S] -> scalar."""
    loss = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(positive, tf.float32), logits)
    return tf.reduce_sum(loss * weight) / total_weight(weight)


def class_losses(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of each RoI: logits [R, C+1], labels int32 [R] (0 is the background) -> [R]."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def class_loss(logits: tf.Tensor, labels: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Cross-entropy over the kept RoIs: [R, C+1], [R], [R] -> scalar."""
    return tf.reduce_sum(class_losses(logits, labels) * weight) / total_weight(weight)


def box_loss(deltas: tf.Tensor, targets: tf.Tensor, positive: tf.Tensor, weight: tf.Tensor, beta: float) -> tf.Tensor:
    """Smooth L1 of the positives, divided by the number of all samples: [..., 4], [..., 4], [...], [...] -> scalar."""
    loss = tf.reduce_sum(smooth_l1(deltas - targets, beta), -1)
    return tf.reduce_sum(tf.where(positive, loss * weight, 0.0)) / total_weight(weight)
