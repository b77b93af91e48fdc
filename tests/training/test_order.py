"""PSRoIAlign's gradient adds up whole, also where many RoIs meet (tinydet_tf.training.run.train.add_in_order)."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tinydet_tf.layers.psroi_align import psroi_align


def gradient(count: int) -> np.ndarray:
    """Of the sum over so many times the same RoI."""
    features = [tf.constant(np.random.default_rng(0).normal(size=[1, 20, 20, 245]).astype(np.float32))]
    rois = tf.tile(tf.constant([[20.0, 20.0, 110.0, 120.0]]), [count, 1])
    with tf.GradientTape() as tape:
        tape.watch(features)
        pooled = psroi_align(features, rois, tf.zeros([count], tf.int32), strides=(8,), finest=30.0, reduce="mean")
        total = tf.reduce_sum(pooled)
    return tape.gradient(total, features)[0].numpy()


def test_no_summand_is_lost() -> None:
    one = gradient(1)
    for _ in range(5):
        # 512 additions, each rounding a sum of at most 512 * one; a lost summand is off by a whole `one`, and without
        # the order, on two threads, one call in six was off by an eighth of it all.
        np.testing.assert_allclose(gradient(512), 512 * one, atol=512 * 2.0**-24 * 512 * np.abs(one).max())
