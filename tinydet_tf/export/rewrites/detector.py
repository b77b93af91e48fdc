"""The whole detector, rewritten: uint8 image in, class probabilities and boxes out, the same as TinyDet.call."""

from __future__ import annotations

import tensorflow as tf

from tinydet_tf.boxes import RCNN_STDS
from tinydet_tf.export.rewrites import proposals, psroi
from tinydet_tf.export.rewrites.positions import Positions
from tinydet_tf.export.rewrites.rows import table_rows
from tinydet_tf.export.rewrites.trunk import Trunk
from tinydet_tf.export.scopes import FINAL, HEAD, PROPOSALS, scope
from tinydet_tf.model.detector import TinyDet


def rewritten(detector: TinyDet, image: tf.Tensor, *, integer: bool, positions: Positions) -> dict[str, tf.Tensor]:
    """Image uint8 [1, S, S, 3] -> boxes [P, 4] in units of `positions`, class_probs [P, C+1].

    Args:
      integer: in the forms that integer arithmetic is fast in, else in those of float.
      positions: what boxes are computed in.

    Raises:
      ValueError: the feature maps have more cells than `rows.table_rows` can number.
    """
    config = detector.config
    rows = table_rows(config)
    trunk = Trunk(detector, integer=integer)
    features, logits, deltas = trunk(image)
    with scope(PROPOSALS):
        rois, valid = proposals.select_proposals(
            logits,
            deltas,
            detector.anchors,
            ratios=config.num_ratios,
            image_size=config.input_size,
            nms_pre=config.nms_pre_test,
            max_proposals=config.proposals_test,
            iou_threshold=config.proposal_nms_iou,
            positions=positions,
        )
    hidden = trunk.trained.convolution("rcnn_fc")
    pooled = psroi.pool(features[: config.roi_levels], rois, config, rows, positions)
    with scope(HEAD):
        x = tf.nn.relu(tf.matmul(pooled, psroi.head_kernel(hidden.kernel, rows)) + hidden.shift)
        score, box = trunk.trained.convolution("rcnn_score"), trunk.trained.convolution("rcnn_box")
        class_logits = tf.matmul(x, score.kernel) + score.shift
        box_deltas = tf.matmul(x, box.kernel) + box.shift
    with scope(FINAL):
        valid = tf.reshape(valid, [-1, 1])
        background = tf.one_hot(0, detector.num_classes + 1)
        probs = tf.nn.softmax(class_logits) * valid + background * (1.0 - valid)
        return {"class_probs": probs, "boxes": positions.decode(rois, box_deltas, RCNN_STDS)}
