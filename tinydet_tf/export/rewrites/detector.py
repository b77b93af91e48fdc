"""The whole detector, rewritten: uint8 image in, class probabilities and boxes out, the same as TinyDet.call."""

from __future__ import annotations

import tensorflow as tf

from tinydet_tf.boxes import RCNN_STDS, clip
from tinydet_tf.export.rewrites import decoding, proposals, psroi
from tinydet_tf.export.rewrites.trunk import Trunk
from tinydet_tf.export.scopes import FINAL, HEAD, PROPOSALS, ROI, scope
from tinydet_tf.layers.psroi_align import psroi_align_gather
from tinydet_tf.model.detector import TinyDet


def table_rows(detector: TinyDet, rewrites: frozenset[str]) -> psroi.Rows | None:
    """How PSRoIAlign reads the feature maps; None: by the plain form."""
    config = detector.config
    if "gather_corners" not in rewrites or not psroi.samples_stay_inside(config):
        return None
    transposed = "rows_of_bins" in rewrites and psroi.transposing_pays(config)
    rows = (psroi.bins if transposed else psroi.single_channels)(config.channels)
    return rows if psroi.rows_fit(config, rows) else None


def rewritten(detector: TinyDet, image: tf.Tensor, rewrites: frozenset[str]) -> dict[str, tf.Tensor]:
    """Image uint8 [1, S, S, 3] -> boxes [1, P, 4], class_probs [1, P, C+1]."""
    config = detector.config
    rows = table_rows(detector, rewrites)
    trunk = Trunk(detector, rewrites)
    features, logits, deltas = trunk(image)
    with scope(PROPOSALS):
        if "decode_at_once" in rewrites:
            rois, valid = proposals.select_proposals(
                logits,
                deltas,
                detector.anchors,
                ratios=config.num_ratios,
                image_size=config.input_size,
                nms_pre=config.nms_pre_test,
                max_proposals=config.proposals_test,
                iou_threshold=config.proposal_nms_iou,
            )
        else:
            rois, valid = (t[0] for t in detector.proposals(logits, deltas))
    pooled_features = features[: config.roi_levels]
    hidden = trunk.trained.convolution("rcnn_fc")
    kernel = hidden.kernel
    if rows is None:
        with scope(ROI):
            pooled = psroi_align_gather(
                pooled_features,
                rois,
                strides=config.strides[: config.roi_levels],
                finest=config.roi_finest,
                reduce=config.psroi_reduce,
            )
    else:
        pooled = psroi.pool(pooled_features, rois, config, rows)
        kernel = psroi.head_kernel(kernel, rows)
    with scope(HEAD):
        x = tf.nn.relu(tf.matmul(pooled, kernel) + hidden.shift)
        score, box = trunk.trained.convolution("rcnn_score"), trunk.trained.convolution("rcnn_box")
        class_logits = tf.matmul(x, score.kernel) + score.shift
        box_deltas = tf.matmul(x, box.kernel) + box.shift
    with scope(FINAL):
        valid = tf.reshape(valid, [-1, 1])
        background = tf.one_hot(0, detector.num_classes + 1)
        probs = tf.nn.softmax(class_logits) * valid + background * (1.0 - valid)
        boxes = clip(decoding.decode(rois, box_deltas, RCNN_STDS), config.input_size)
        return {"class_probs": probs[None], "boxes": boxes[None]}
