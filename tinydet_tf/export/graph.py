"""What is traced for the edge: the detector, batch 1, static shapes, uint8 in, normalization inside.

Every tensor lies in one of the scopes of `tinydet_tf.export.scopes`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from tinydet_lite.detector import BOXES, CLASS_PROBS, INPUT
from tinydet_tf.export.rewrites import check_rewrites
from tinydet_tf.export.rewrites.detector import rewritten
from tinydet_tf.export.scopes import FINAL, HEAD, IMAGE, PROPOSALS, ROI, TRUNK, call_in_scopes, scope, trunk_scope
from tinydet_tf.layers.grouped_conv import GroupedConv2D
from tinydet_tf.layers.psroi_align import psroi_align_gather
from tinydet_tf.model.backbone import normalize
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

    Args:
      detector: the trained model.
      rewrites: of `tinydet_tf.export.rewrites.REWRITES`; none: the Keras layers traced as they are.

    Raises:
      UserError: a rewrite that does not exist.
    """

    def __init__(self, detector: TinyDet, rewrites: frozenset[str] = frozenset()) -> None:
        super().__init__(name="tinydet")
        self.rewrites = check_rewrites(rewrites)
        size = detector.config.input_size
        # Only the variables are tracked: a SavedModel of the Keras model itself would trace every layer once more.
        self.variables_of_detector = list(detector.variables)

        def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
            if self.rewrites:
                outputs = rewritten(detector, image, self.rewrites)
            else:
                with grouped_convs_as_one_op(detector):
                    outputs = as_trained(detector, image)
            return {name: outputs[name] for name in (BOXES, CLASS_PROBS)}

        spec = tf.TensorSpec([1, size, size, 3], tf.uint8, name=INPUT)
        self.serve = tf.function(serve, input_signature=[spec], autograph=False)


def as_trained(detector: TinyDet, image: tf.Tensor) -> dict[str, tf.Tensor]:
    """`TinyDet.call` for one image uint8 [1, S, S, 3] from ops that TFLite has built in, layer by layer."""
    config = detector.config
    levels = config.roi_levels
    with scope(IMAGE):
        normalized = normalize(image)
    features = call_in_scopes(detector.pyramid, normalized, trunk_scope)
    logits, deltas = [], []
    for level, feature in enumerate(features):
        outputs = call_in_scopes(detector.rpn_head, feature, lambda _, level=level: f"{TRUNK}/rpn{level}")  # type: ignore[misc]
        logits.append(outputs[0])
        deltas.append(outputs[1])
    with scope(PROPOSALS):
        rois, valid = detector.proposals(logits, deltas)
    with scope(ROI):
        pooled = psroi_align_gather(
            features[:levels],
            rois[0],
            strides=config.strides[:levels],
            finest=config.roi_finest,
            reduce=config.psroi_reduce,
        )
    class_logits, box_deltas = call_in_scopes(detector.rcnn_head, pooled, lambda _: HEAD)
    with scope(FINAL):
        return detector.finish(rois, valid, class_logits, box_deltas)
