"""Quantization-aware training: a detector whose networks round as the int8 .tflite will, around a plain detector.

Backbone, FPN, RPN and R-CNN head are fake-quantized (fake_quantization.py); anchors, boxes, scores and the pooling of
RoIs stay in float, as in the .tflite. Batch normalization is folded with the statistics that it has.

B images of S x S pixels, R rois.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import tensorflow as tf
import tf_keras as keras

from tinydet_tf.model.backbone import normalize
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.training.qat.fake_quantization import FakeQuantized, Ranges

_POOLED = "pooled"

#: The number of training images whose activations give the ranges to start from.
OBSERVED = 64


class QuantizedDetector(TinyDet):
    """`TinyDet` with the rounding of its int8 form; it has the variables of the plain detector and those of the ranges.

    Args:
      detector: the plain one. Training this one trains its weights.
      ranges: of another QuantizedDetector, to share them; None: its own, to be set by `observe`.
      rounding: False computes what the plain detector does.

    Raises:
      UserError: TFMOT is not installed.
    """

    def __init__(self, detector: TinyDet, ranges: Ranges | None = None, *, rounding: bool = True) -> None:
        keras.Model.__init__(self, name="quantized_tinydet")
        self.config, self.num_classes, self.anchors = detector.config, detector.num_classes, detector.anchors
        self.pyramid, self.rpn_head, self.rcnn_head = detector.pyramid, detector.rpn_head, detector.rcnn_head
        self._pyramid, self._rpn, self._rcnn = (
            FakeQuantized(model) for model in (self.pyramid, self.rpn_head, self.rcnn_head)
        )
        # The RPN is one for all levels; in the .tflite each level has tensors of its own.
        self._levels = [f"rpn{level}/" for level in range(len(self.config.strides))]
        names = [
            *self._pyramid.names(),
            *(level + name for level in self._levels for name in self._rpn.names()),
            _POOLED,
            *self._rcnn.names(),
        ]
        self.ranges = (ranges or Ranges(names)) if rounding else None
        self.built = True

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert, and looking takes seconds
    def features(self, images: tf.Tensor, training: bool = False) -> list[tf.Tensor]:
        """As the plain one's. Here and in `rpn` and `rcnn`, `training` has the ranges follow the batch."""
        if self.ranges is not None:
            images = tf.round(images)  # whole numbers of 0 to 255 are exact in int8
        return self._pyramid(normalize(images), self.ranges, training=training)

    @tf.autograph.experimental.do_not_convert
    def rpn(self, features: Sequence[tf.Tensor], training: bool = False) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        outputs = [
            self._rpn(feature, self.ranges, prefix=level, training=training)
            for level, feature in zip(self._levels, features, strict=True)
        ]
        return [o[0] for o in outputs], [o[1] for o in outputs]

    @tf.autograph.experimental.do_not_convert
    def rcnn(
        self, features: Sequence[tf.Tensor], rois: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        pooled = self._quantize(_POOLED, self.pool(features, rois), training=training)
        logits, deltas = self._rcnn(pooled, self.ranges, training=training)
        return logits, deltas

    def observe(self, batches: Iterable[tf.Tensor]) -> None:
        """Sets the ranges to what images RGB 0-255 [B, S, S, 3] need, without rounding anything but pixels."""
        if self.ranges is None:
            raise ValueError("this detector does not round; there are no ranges to set")
        self.ranges.clear()
        self.ranges.observing = True
        try:
            run = tf.function(self.call)  # traced while observing
            for images in batches:
                run(images)
        finally:
            self.ranges.observing = False

    def _quantize(self, name: str, x: tf.Tensor, *, training: bool) -> tf.Tensor:
        return x if self.ranges is None else self.ranges.quantize(name, x, training=training)
