"""TinyDet as one Keras model: features -> proposals -> RoI features -> class probabilities and boxes.

B images of S x S pixels, L pyramid levels finest first, P proposals an image, R rois of a batch, C classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tinydet_tf.anchors import all_anchors
from tinydet_tf.boxes import RCNN_STDS, clip, decode
from tinydet_tf.config import ModelConfig, model_config
from tinydet_tf.layers.blocks import BatchNorm
from tinydet_tf.layers.psroi_align import psroi_align
from tinydet_tf.model.backbone import backbone, normalize
from tinydet_tf.model.fpn import tiny_fpn
from tinydet_tf.model.proposals import select_proposals
from tinydet_tf.model.rcnn import rcnn_head
from tinydet_tf.model.rpn import tiny_rpn


@contextmanager
def layer_precision(policy: str) -> Iterator[None]:
    """Sets the Keras precision policy for the layers that are made inside the `with` block."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


class TinyDet(keras.Model):
    """The detector. Build it with `build_detector`.

    Args:
      precision: Keras' policy for the layers: "float32", "mixed_bfloat16" or "mixed_float16". Weights, batch
        normalization's statistics, logits, deltas and boxes are float32 in each.

    Attributes:
      config: the architecture.
      num_classes: without the background.
      pyramid, rpn_head, rcnn_head: functional models of plain layers.
      anchors: for each level float32 [A, 4], inclusive pixels.
    """

    def __init__(
        self, config: ModelConfig, num_classes: int, *, batch_norm: BatchNorm | None = None, precision: str = "float32"
    ) -> None:
        super().__init__(name="tinydet")
        self.config, self.num_classes = config, num_classes
        with layer_precision(precision):
            self._build(batch_norm or BatchNorm())
        self.anchors = all_anchors(config.level_sizes, config.strides, config.anchor_scale, config.anchor_ratios)
        self.built = True

    def _build(self, batch_norm: BatchNorm) -> None:
        config = self.config
        images = keras.Input([config.input_size, config.input_size, 3], name="normalized_images")
        taps = backbone(
            images,
            config.backbone,
            batch_norm,
            align=config.align,
            align_stem=config.align_stem,
            squeeze_excite=config.squeeze_excite,
        )
        levels = tiny_fpn(taps, config.channels, config.fpn_groups, config.pyramid_conv)
        self.pyramid = keras.Model(images, levels, name="pyramid")
        self.rpn_head = tiny_rpn(config.channels, config.rpn_groups, config.num_ratios, config.pyramid_conv)
        self.rcnn_head = rcnn_head(config.channels, config.rcnn_hidden, self.num_classes)

    def get_config(self) -> dict[str, Any]:
        """Plain values; `from_config` builds an equal detector with fresh weights."""
        return {"config": dataclasses.asdict(self.config), "num_classes": self.num_classes}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> TinyDet:
        return cls(ModelConfig(**config["config"]), config["num_classes"])

    def named_layers(self) -> dict[str, Any]:
        """The layers of the three parts by name; no two have the same."""
        parts = (self.pyramid, self.rpn_head, self.rcnn_head)
        return {layer.name: layer for part in parts for layer in part.layers}

    def backbone_model(self) -> Any:
        """The backbone alone, sharing these layers: normalized images [B, S, S, 3] -> its taps, finest first."""
        # A method and not an attribute, whose layers Keras would save a second time.
        taps = [self.pyramid.get_layer(f"lateral{level}").input for level in range(len(self.config.strides))]
        return keras.Model(self.pyramid.input, taps, name="backbone")

    def features(self, images: tf.Tensor, training: bool = False) -> list[tf.Tensor]:
        """The pyramid: RGB float32 or uint8 0-255 [B, S, S, 3] -> a list of [B, H, W, 245], finest level first."""
        return list(self.pyramid(normalize(images), training=training))

    def rpn(self, features: Sequence[tf.Tensor], training: bool = False) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Two lists, finest level first: logits [B, H, W, 3] and deltas [B, H, W, 12].

        `training` changes nothing here: the layers are convolutions. A detector with int8's rounding needs it.
        """
        outputs = [self.rpn_head(level) for level in features]
        return [o[0] for o in outputs], [o[1] for o in outputs]

    def proposals(
        self,
        logits: Sequence[tf.Tensor],
        deltas: Sequence[tf.Tensor],
        *,
        nms_pre: int | None = None,
        max_proposals: int | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The proposals of each image.

        Args:
          logits, deltas: what `rpn` gives.
          nms_pre, max_proposals: None takes the config's numbers for test time.

        Returns:
          rois float32 [B, P, 4] inclusive pixels, best first, and valid float32 [B, P], 0 for padding.
        """
        config = self.config
        options: dict[str, Any] = {
            "image_size": config.input_size,
            "nms_pre": nms_pre or config.nms_pre_test,
            "max_proposals": max_proposals or config.proposals_test,
            "iou_threshold": config.proposal_nms_iou,
        }
        return select_proposals(logits, deltas, self.anchors, **options)

    def pool(self, features: Sequence[tf.Tensor], rois: tf.Tensor) -> tf.Tensor:
        """PSRoIAlign: rois [R, 5] (batch index, x1, y1, x2, y2) -> [R, 245] in (channel, row, column) order."""
        levels = self.config.roi_levels
        return psroi_align(
            list(features)[:levels],
            rois[:, 1:],
            tf.cast(rois[:, 0], tf.int32),
            strides=self.config.strides[:levels],
            finest=self.config.roi_finest,
            reduce=self.config.psroi_reduce,
        )

    def rcnn(
        self, features: Sequence[tf.Tensor], rois: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """(class_logits [R, C+1], deltas [R, 4]) for rois float32 [R, 5] = (batch index, x1, y1, x2, y2).

        Index 0 is the background; deltas are in units of the stds 0.1, 0.1, 0.2, 0.2. `training`: as `rpn`.
        """
        logits, deltas = self.rcnn_head(self.pool(features, rois))
        return logits, deltas

    def call(self, images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """Detections before class-wise suppression.

        Args:
          images: RGB 0-255 [B, S, S, 3].

        Returns:
          rois float32 [B, P, 4] and boxes float32 [B, P, 4], inclusive input pixels; class_probs float32 [B, P, C+1],
          index 0 the background. Padded proposals are background with probability 1.
        """
        features = self.features(images, training=training)
        rois, valid = self.proposals(*self.rpn(features, training=training))
        batch, count = tf.shape(rois)[0], self.config.proposals_test
        indices = tf.repeat(tf.range(batch), count)
        flat = tf.concat([tf.cast(indices, tf.float32)[:, None], tf.reshape(rois, [-1, 4])], -1)  # [R, 5]
        logits, deltas = self.rcnn(features, flat, training=training)
        return self.finish(rois, valid, logits, deltas)

    def finish(self, rois: tf.Tensor, valid: tf.Tensor, logits: tf.Tensor, deltas: tf.Tensor) -> dict[str, tf.Tensor]:
        """From the head's outputs to what `call` gives: rois [B, P, 4], valid [B, P], logits [B * P, C+1], deltas."""
        count, classes = self.config.proposals_test, self.num_classes + 1
        probs = tf.reshape(tf.nn.softmax(logits), [-1, count, classes])
        background = tf.one_hot(0, classes)
        probs = probs * valid[..., None] + background * (1.0 - valid)[..., None]
        boxes = decode(rois, tf.reshape(deltas, [-1, count, 4]), RCNN_STDS)
        return {"rois": rois, "class_probs": probs, "boxes": clip(boxes, self.config.input_size)}


def build_detector(
    variant: str, num_classes: int = 80, *, batch_norm: BatchNorm | None = None, **overrides: Any
) -> TinyDet:
    """A TinyDet with fresh weights.

    Args:
      variant: 'S', 'M' or 'L'.
      num_classes: without the background.
      batch_norm: how batch normalization is built; synchronized across replicas in distributed training.
      **overrides: values of `ModelConfig`, for example input_size=256.

    Raises:
      UserError: no such variant or key, or values that do not fit together.
    """
    return TinyDet(model_config(variant, **overrides), num_classes, batch_norm=batch_norm)
