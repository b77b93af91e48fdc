"""Quantization-aware training: a detector whose networks round as the int8 .tflite will, around a plain detector.

Backbone, FPN, RPN and R-CNN head are fake-quantized (fake_quantization.py); anchors, boxes, scores and the pooling of
RoIs stay in float, as in the .tflite. Batch normalization is folded with the statistics that it has.

B images of S x S pixels, R rois.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tinydet_lite.errors import UserError
from tinydet_tf.config import Config, load_config
from tinydet_tf.model.backbone import normalize
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.training.qat.fake_quantization import FakeQuantized, Ranges, load_tfmot
from tinydet_tf.weights import CONFIG, Initialized, read_config, weights_file

_LOG = logging.getLogger(__name__)

_INPUT, _POOLED = "normalized_images", "pooled"

#: Training images that the ranges start from.
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
            _INPUT,
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
        images = self._quantize(_INPUT, normalize(images), training=training)
        return self._pyramid(images, self.ranges, training=training)

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
        """Sets the ranges to what images RGB 0-255 [B, S, S, 3] need, without rounding anything meanwhile."""
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


def qat_config(init: Any, *, other_data: bool = False) -> Config:
    """The configuration of `--init RUN --qat` without a config of its own: the run's, with a tenth of its epochs at a
    tenth of its learning rate (docs/qat.md), validated after each.

    Args:
      init: RUN or WEIGHTS.
      other_data: leave out where its data lies: the caller says where else.

    Raises:
      UserError: no such file, or it does not say its configuration.
    """
    file, told = weights_file(init), Path(init) / CONFIG
    # A run's config.yaml first: it is where somebody says that the data lies elsewhere by now.
    config = load_config(told) if told.is_file() else read_config(file)
    if config is None:
        raise UserError(f"{file} does not say how it was trained; give --config F with its architecture beside --qat")
    recipe = config.train
    changed = dataclasses.replace(
        recipe,
        qat=True,
        epochs=math.ceil(recipe.epochs / 10),
        learning_rate=recipe.learning_rate / 10,
        final_learning_rate=min(recipe.final_learning_rate, recipe.learning_rate / 10),
        validate_every=1,
        early_stopping_patience=None,
        freeze_backbone=0,
    )
    data = config.data
    if other_data:
        data = dataclasses.replace(
            data, root=None, train_json=None, train_images=None, val_json=None, val_images=None, limit=None
        )
    return dataclasses.replace(config, data=data, train=changed)


def check_qat(config: Config, *, init: Any, resumed_epochs: int | None, replicas: int) -> None:
    """Makes sure that a quantization-aware run can begin.

    Args:
      resumed_epochs: whole epochs of the run that is resumed; None: a new run.

    Raises:
      UserError: it cannot.
    """
    if not config.train.qat:
        return
    load_tfmot()
    if importlib.util.find_spec("ai_edge_quantizer") is None:
        raise UserError(
            "--qat ends with measuring ranges for the int8 export through ai-edge-quantizer, which is not installed; "
            "pip install 'tinydet-tf[quantize]'"
        )
    if replicas > 1:
        raise UserError(f"--qat trains on one device, and there are {replicas}; leave --strategy out")
    if resumed_epochs is None and init is None:
        raise UserError("--qat goes on from trained weights; give --init RUN (train without --qat first)")
    if resumed_epochs == 0:
        raise UserError("this --qat run has no whole epoch to resume; start it again with --init RUN --qat --overwrite")


def check_qat_weights(config: Config, result: Initialized, init: Any) -> None:
    """Makes sure that a quantization-aware run starts from weights that are this detector's, all of them.

    Raises:
      UserError: they are not.
    """
    remedy = "--qat needs a trained detector of the same architecture and classes; leave --config out to take its own"
    if result.left:
        count, shown = len(result.left), ", ".join(result.left[:3]) + (", ..." if len(result.left) > 3 else "")
        raise UserError(f"{init} does not match: {count} layers are not in it or of another shape ({shown}); {remedy}")
    trained = read_config(weights_file(init))
    if trained is None:
        return
    if trained.class_names and trained.class_names != config.class_names:
        ours, theirs = (", ".join(c.class_names[:3]) + ", ..." for c in (config, trained))
        raise UserError(f"{init} does not match: trained on the classes {theirs}; the data has {ours}; {remedy}")
    different = [
        name
        for name, value in dataclasses.asdict(trained.model).items()
        if value != getattr(config.model, name) and name not in _FREE
    ]
    if different:
        raise UserError(f"{init} does not match: another model.{different[0]}; {remedy}")


#: What of the architecture may change without the weights meaning something else.
_FREE = ("nms_pre_test", "proposals_test", "proposal_nms_iou")
