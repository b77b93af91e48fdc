"""As in training: sums in the same order always (tinydet_tf.training.run.train.add_in_order)."""

from __future__ import annotations

import pytest
import tf_keras as keras

from tinydet_tf.training.run.train import add_in_order


@pytest.fixture(scope="session", autouse=True)
def same_order() -> None:
    keras.utils.set_random_seed(0)
    add_in_order()
