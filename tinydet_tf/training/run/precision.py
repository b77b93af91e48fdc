"""Whether this machine can train in a precision, asked before training starts.

A CPU's kernels for bfloat16 and float16 depend on its instructions. Where TensorFlow takes a kernel that the processor
does not support, a convolution raises an error and a matrix product ends the whole process, so the question is put to a
process of its own: `python -m tinydet_tf.training.run.precision mixed_float16`.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys

import tensorflow as tf
import tf_keras as keras

from tinydet_lite.errors import UserError, shortened
from tinydet_tf.config import model_config
from tinydet_tf.model.detector import TinyDet

_TIMEOUT_SECONDS = 300.0
_UNABLE = 3  # the child's exit code where a kernel raises an error


def check_precision(precision: str) -> None:
    """Sees that the processor has all kernels that training in a precision needs. A GPU has them, and is not asked.

    Args:
      precision: a value of `train.precision`.

    Raises:
      UserError: it has not.
    """
    if precision == "float32" or tf.config.list_physical_devices("GPU"):
        return
    reason = missing_kernel(precision)
    if reason is not None:
        raise UserError(
            f"train.precision is {precision}, but TensorFlow cannot train in {precision.removeprefix('mixed_')} "
            f"on this processor ({reason}); --set train.precision=float32"
        )


@functools.cache
def missing_kernel(precision: str) -> str | None:
    """What a small detector's step in this precision fails with, in a few words; None where it passes.

    Tried once a process, in a child, which takes about ten seconds.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tinydet_tf.training.run.precision", precision],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
            timeout=_TIMEOUT_SECONDS, env=environment,
        )  # fmt: skip
    except OSError:
        return None  # this system cannot start a process; training itself shows whether the precision works
    except subprocess.TimeoutExpired:
        return f"a step was not done after {_TIMEOUT_SECONDS:.0f} seconds"
    if done.returncode == 0:
        return None
    if done.returncode == _UNABLE:
        return done.stdout.strip().splitlines()[-1]
    if done.returncode < 0:
        return "a kernel that it does not support ended the process"
    raise RuntimeError(f"the trial of {precision} failed:\n{done.stderr}")


def try_step(precision: str) -> None:
    """Forward and backward through every kind of layer that a detector has.

    Raises:
      tf.errors.OpError: a kernel is missing. Some end the process instead.
    """
    detector = TinyDet(model_config("S", input_size=64, backbone="shallow"), 2, precision=precision)

    @tf.function(autograph=False)
    def gradients(images: tf.Tensor, rois: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            features = detector.features(images, training=True)
            logits, deltas = detector.rpn(features)
            outputs = [*logits, *deltas, *detector.rcnn(features, rois)]
            loss = tf.add_n([tf.reduce_sum(tf.square(output)) for output in outputs])
        return tape.gradient(loss, detector.trainable_variables)

    gradients(tf.random.uniform([2, 64, 64, 3], maxval=255.0), tf.constant([[0, 4, 4, 40, 30], [1, 9, 0, 20, 60.0]]))


def _main() -> None:
    keras.utils.set_random_seed(0)
    try:
        try_step(sys.argv[1])
    except tf.errors.OpError as error:
        node = re.search(r"Detected at node (\S+)", str(error.message))
        print(f"no kernel for {node[1]}" if node else shortened(error.message))
        sys.exit(_UNABLE)


if __name__ == "__main__":
    _main()
