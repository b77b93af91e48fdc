"""What is traced for the edge: the detector, batch 1, static shapes, uint8 in, normalization inside."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from tinydet_lite.detector import BOXES, CLASS_PROBS, INPUT
from tinydet_tf.layers.grouped_conv import GroupedConv2D
from tinydet_tf.model.detector import TinyDet


@contextlib.contextmanager
def grouped_convs_as_one_op(detector: TinyDet) -> Iterator[None]:
    """Grouped convolutions are traced as one op, also on a machine that cannot train them so: TFLite runs it fast."""
    layers = [
        layer
        for model in (detector.pyramid, detector.rpn_head)
        for layer in model.layers
        if isinstance(layer, GroupedConv2D)
    ]
    before = [layer.native for layer in layers]
    for layer in layers:
        layer.native = True
    try:
        yield
    finally:
        for layer, native in zip(layers, before, strict=True):
            layer.native = native


class HostGraph(tf.Module):
    """The form whose soft-NMS runs on the host: image -> 200 boxes and their class probabilities.

    Signature `serving_default`: image uint8 [1, S, S, 3] RGB -> boxes float32 [1, P, 4] inclusive input pixels,
    class_probs float32 [1, P, C+1], index 0 the background.
    """

    def __init__(self, detector: TinyDet) -> None:
        super().__init__(name="tinydet")
        size = detector.config.input_size
        # Only the variables are tracked: a SavedModel of the Keras model itself would trace every layer once more.
        self.variables_of_detector = list(detector.variables)

        def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
            with grouped_convs_as_one_op(detector):
                outputs = detector.detect_one(image)
            return {name: outputs[name] for name in (BOXES, CLASS_PROBS)}

        spec = tf.TensorSpec([1, size, size, 3], tf.uint8, name=INPUT)
        self.serve = tf.function(serve, input_signature=[spec], autograph=False)
