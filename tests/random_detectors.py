"""Detectors of random weights that find something, and pictures for them: for what needs a file, not a training."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def noise(count: int, size: int) -> NDArray[np.uint8]:
    """Pictures [count, size, size, 3] with structure of several sizes."""
    import tensorflow as tf

    generator = np.random.default_rng(1)
    layers = [
        np.asarray(tf.image.resize(generator.uniform(0, 255, [count, side, side, 3]), [size, size]))
        for side in (5, 20, 80)
    ]
    return np.clip(sum(layers) / 3, 0, 255).astype(np.uint8)


def spread_detector(pictures: NDArray[np.uint8], num_classes: int, *, steps: int = 20) -> Any:
    """A TinyDet-S whose scores are spread and whose batch normalization fits the pictures.

    Args:
      pictures: [N, S, S, 3]; S becomes the input size.
      steps: how often they are shown to the batch normalization.
    """
    import tensorflow as tf

    import tinydet_tf

    tf.keras.utils.set_random_seed(4)
    detector = tinydet_tf.build_detector("S", num_classes=num_classes, input_size=pictures.shape[1])
    for layer in detector.rpn_head.layers + detector.rcnn_head.layers:
        if layer.name in ("rpn_score", "rcnn_score"):
            layer.set_weights([weights * 10 for weights in layer.get_weights()])
    fit_statistics(detector, pictures, times=steps)
    return detector


def fit_statistics(detector: Any, pictures: NDArray[Any], *, times: int) -> None:
    """Moves the statistics of batch normalization as far as showing the pictures so many times does.

    In training a layer normalizes by the batch itself, so every time is the same: the statistics keep momentum ** times
    of what they were, which once with that momentum does too.

    Args:
      detector: a TinyDet.
      pictures: [N, S, S, 3] of its input size.
      times: how often they are shown.
    """
    layers = [layer for layer in detector.submodules if hasattr(layer, "moving_mean")]
    kept = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum **= times
    detector.features(pictures.astype(np.float32), training=True)
    for layer, momentum in zip(layers, kept, strict=True):
        layer.momentum = momentum


def convert(detector: Any, config: Any, *, quantization: str = "float32", **options: Any) -> bytes:
    """The whole .tflite of a detector, by a key of `schemes.FORMATS` and the options of `convert.export`."""
    from tinydet_tf.export.convert import export
    from tinydet_tf.export.schemes import scheme_named

    return export(detector, config, scheme_named(quantization), **options).model
