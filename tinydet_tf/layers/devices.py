"""What the layers choose their form by: where they compute, and what works there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import tensorflow as tf


@functools.cache
def on_cpu() -> bool:
    """True where TensorFlow sees no GPU."""
    return not tf.config.list_physical_devices("GPU")


def works(attempt: Callable[[], object]) -> bool:
    """Whether this machine has the kernels for `attempt`: False where it ends in an error of TensorFlow's.

    In a new thread, which is outside of any graph that the caller is building. (tf.init_scope() will not do: a trial of
    grouped convolutions succeeds there on machines where training then fails.)
    """

    def tried() -> bool:
        try:
            attempt()
        except tf.errors.OpError:
            return False
        return True

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(tried).result()
