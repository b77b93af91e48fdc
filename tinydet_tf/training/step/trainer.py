"""One training step of both stages, as a Keras model around the detector, so that Keras `fit` drives it.

B images, A anchors of all levels, P proposals, G padded ground truths, S samples an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras

from tinydet_tf.boxes import RCNN_STDS, encode
from tinydet_tf.config import TrainConfig
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.training.step import losses
from tinydet_tf.training.step.assign import AssignedBoxes, assign
from tinydet_tf.training.step.replicas import sum_over_replicas
from tinydet_tf.training.step.sample import RCNN_SEED, RPN_SEED, SampledBoxes, random_priority, sample

Batch = dict[str, tf.Tensor]

_ASSIGNED = AssignedBoxes(
    tf.TensorSpec([None], tf.bool), tf.TensorSpec([None], tf.bool), tf.TensorSpec([None], tf.int32)
)


LOSSES = ("rpn_score", "rpn_box", "rcnn_score", "rcnn_box")
#: How many RPN anchors and how many RoIs are trained on: the mean number an image, positives and negatives apart.
COUNTS = ("rpn_positives", "rpn_negatives", "rcnn_positives", "rcnn_negatives")
#: The parts of the forward pass, in their order. "candidates" finds the object of each RoI and chooses RoIs (OHEM).
PARTS = ("forward", "RPN losses", "proposals", "candidates", "R-CNN losses")


class _Candidates(NamedTuple):
    """RoIs of a batch, ground truth first.

    rois: [B, G + P, 4]; assigned: bool [B, G + P], to an object or the background; matched: int32, the object's row;
    labels: int32, 0 is the background; priority: float32, of sampling: OHEM's loss; chosen: of these RoIs.
    """

    rois: tf.Tensor
    assigned: tf.Tensor
    matched: tf.Tensor
    labels: tf.Tensor
    priority: tf.Tensor
    chosen: SampledBoxes


class Trainer(keras.Model):
    """Trains a detector: `compile(optimizer)`, then `fit(batches)`.

    A batch is a dict: images [B, S, S, 3] RGB 0-255, gt_boxes [B, G, 4] inclusive input pixels, gt_classes [B, G] from
    0, gt_mask [B, G], crowd_boxes [B, K, 4], crowd_mask [B, K], seeds int32 [B, 2] (data/pipeline.py makes it). G
    and K are static.

    Made in a distribution strategy's scope it trains on all replicas: B is then a replica's part of the batch, and
    losses, clipping and metrics are those of the whole.
    """

    def __init__(self, detector: TinyDet, config: TrainConfig) -> None:
        super().__init__(name="trainer")
        self.detector, self.config = detector, config
        self.anchors = np.concatenate(detector.anchors)  # [A, 4]
        last = detector.config.input_size - 1
        # Anchors that leave the image are not trained on.
        self.anchors_inside = (self.anchors >= 0).all(1) & (self.anchors <= last).all(1)
        self.means = {name: keras.metrics.Mean(name=name) for name in ("loss", *LOSSES, *COUNTS)}
        self.built = True
        self.distribute_reduction_method = "first"  # what a step returns is the same in every replica

    @property
    def metrics(self) -> list[Any]:
        return list(self.means.values())

    def get_config(self) -> dict[str, Any]:
        # Keras asks when it saves; a trainer is rebuilt from a run's config.yaml instead.
        return {}

    def call(self, images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        return self.detector(images, training=training)

    def compute_losses(self, batch: Batch, training: bool = True) -> dict[str, tf.Tensor]:
        """The four losses, and the numbers of positives and negatives an image that both stages are trained on, each a
        float32 scalar: this replica's share, and over all replicas they sum up to the batch's."""
        *_, (_, results) = self.parts(batch, training)
        return results

    def parts(self, batch: Batch, training: bool = True) -> Iterator[tuple[str, Any]]:
        """The forward pass: the name of each of PARTS and what it computes, the last one all of `compute_losses`."""
        names = iter(PARTS)
        features = self.detector.features(batch["images"], training=training)
        logits, deltas = self.detector.rpn(features, training=training)
        yield next(names), (features, logits, deltas)
        results = self._rpn_losses(logits, deltas, batch)
        yield next(names), results
        proposals = self._proposals(logits, deltas)
        yield next(names), proposals
        candidates = self._candidates(features, *proposals, batch, training=training)
        yield next(names), candidates
        yield next(names), {**results, **self._rcnn_losses(features, candidates, batch, training=training)}

    def candidate_losses(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """What OHEM chooses by, as the network is in evaluation: the class losses of all RoIs that are assigned, and of
        those that are chosen, float32 [n] and [m]. Changes nothing."""
        features = self.detector.features(batch["images"], training=False)
        proposals = self._proposals(*self.detector.rpn(features))
        found = self._candidates(features, *proposals, batch, training=False)
        chosen = tf.gather(found.priority, found.chosen.index, batch_dims=1)
        return (
            tf.boolean_mask(found.priority, found.assigned),
            tf.boolean_mask(chosen, found.chosen.weight > 0.0),
        )

    def _rpn_losses(self, logits: list[tf.Tensor], deltas: list[tf.Tensor], batch: Batch) -> dict[str, tf.Tensor]:
        config, count = self.config, tf.shape(batch["gt_boxes"])[0]
        flat_logits = tf.concat([tf.reshape(level, [count, -1]) for level in logits], 1)  # [B, A]
        flat_deltas = tf.concat([tf.reshape(level, [count, -1, 4]) for level in deltas], 1)  # [B, A, 4]
        anchors, inside = tf.constant(self.anchors), tf.constant(self.anchors_inside)

        def one(image: tuple[tf.Tensor, ...]) -> AssignedBoxes:
            return assign(
                anchors,
                inside,
                *image,
                positive_iou=config.rpn_positive_iou,
                negative_iou=config.rpn_negative_iou,
                best_iou=config.rpn_negative_iou,
            )

        positive, negative, matched = tf.map_fn(one, _ground_truth(batch), fn_output_signature=_ASSIGNED)
        size = [len(self.anchors)]
        positive, negative, matched = (tf.ensure_shape(t, [None, *size]) for t in (positive, negative, matched))
        chosen = sample(
            positive,
            negative,
            random_priority(batch["seeds"], len(self.anchors), RPN_SEED),
            count=config.rpn_samples,
            max_positive=config.rpn_samples // 2,
        )
        gt_index = tf.gather(matched, chosen.index, batch_dims=1)
        targets = encode(tf.gather(anchors, chosen.index), tf.gather(batch["gt_boxes"], gt_index, batch_dims=1))
        return {
            "rpn_score": losses.objectness_loss(
                tf.gather(flat_logits, chosen.index, batch_dims=1), chosen.positive, chosen.weight
            ),
            "rpn_box": losses.box_loss(
                tf.gather(flat_deltas, chosen.index, batch_dims=1),
                targets,
                chosen.positive,
                chosen.weight,
                losses.RPN_BETA,
            ),
            "rpn_positives": _per_image(chosen.positive),
            "rpn_negatives": _per_image(~chosen.positive & (chosen.weight > 0.0)),
        }

    def _proposals(self, logits: list[tf.Tensor], deltas: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """[B, P, 4] and whether each is one, bool [B, P]. No gradient."""
        proposals, valid = self.detector.proposals(
            [tf.stop_gradient(level) for level in logits],
            [tf.stop_gradient(level) for level in deltas],
            nms_pre=self.config.nms_pre,
            max_proposals=self.config.proposals,
        )
        return tf.stop_gradient(proposals), valid > 0.0

    def _candidates(
        self, features: list[tf.Tensor], proposals: tf.Tensor, valid: tf.Tensor, batch: Batch, *, training: bool
    ) -> _Candidates:
        """The RoIs of a batch, and which of them the R-CNN is trained on."""
        config = self.config
        # Ground truth joins the proposals: [B, G + P, 4].
        rois = tf.concat([batch["gt_boxes"], proposals], 1)
        usable = tf.concat([batch["gt_mask"], valid], 1)

        def one(image: tuple[tf.Tensor, ...]) -> AssignedBoxes:
            return assign(
                *image, positive_iou=config.rcnn_positive_iou, negative_iou=config.rcnn_positive_iou, best_iou=None
            )

        positive, negative, matched = tf.map_fn(
            one, (rois, usable, *_ground_truth(batch)), fn_output_signature=_ASSIGNED
        )
        classes = tf.gather(batch["gt_classes"], matched, batch_dims=1) + 1
        labels = tf.where(positive, classes, 0)  # [B, G + P]

        if config.rcnn_sampling == "ohem":
            # OHEM: RoIs with a high class loss of the current head come first. No gradient flows through this. RoIs
            # that are ignored, most of them padded rows, cannot be chosen, and the head is not asked about them.
            where = tf.where(positive | negative)  # [n, 2]
            image = tf.cast(where[:, :1], tf.float32)
            still = [tf.stop_gradient(level) for level in features]
            logits, _ = self.detector.rcnn(still, tf.concat([image, tf.gather_nd(rois, where)], 1), training=training)
            hardness = losses.class_losses(tf.stop_gradient(logits), tf.gather_nd(labels, where))
            priority = tf.scatter_nd(where, hardness, tf.shape(labels, tf.int64))
        else:
            priority = random_priority(batch["seeds"], tf.shape(labels)[1], RCNN_SEED)
        chosen = sample(
            positive,
            negative,
            tf.ensure_shape(priority, [None, None]),
            count=config.rcnn_samples,
            max_positive=int(config.rcnn_samples * config.rcnn_positive_fraction),
        )
        return _Candidates(rois, positive | negative, matched, labels, priority, chosen)

    def _rcnn_losses(
        self, features: list[tf.Tensor], candidates: _Candidates, batch: Batch, *, training: bool
    ) -> dict[str, tf.Tensor]:
        chosen, labels = candidates.chosen, candidates.labels
        kept = tf.gather(candidates.rois, chosen.index, batch_dims=1)  # [B, S, 4]
        logits, deltas = self.detector.rcnn(features, _with_batch_index(kept), training=training)
        gt_index = tf.gather(candidates.matched, chosen.index, batch_dims=1)
        targets = encode(kept, tf.gather(batch["gt_boxes"], gt_index, batch_dims=1), RCNN_STDS)
        weight, is_positive = tf.reshape(chosen.weight, [-1]), tf.reshape(chosen.positive, [-1])
        kept_labels = tf.reshape(tf.gather(labels, chosen.index, batch_dims=1), [-1])
        return {
            "rcnn_score": losses.class_loss(logits, kept_labels, weight),
            "rcnn_box": losses.box_loss(deltas, tf.reshape(targets, [-1, 4]), is_positive, weight, losses.RCNN_BETA),
            "rcnn_positives": _per_image(chosen.positive),
            "rcnn_negatives": _per_image(~chosen.positive & (chosen.weight > 0.0)),
        }

    def compile(self, *args: Any, **kwargs: Any) -> None:
        super().compile(*args, **kwargs)
        # Built now: if the first step created the optimizer's variables, Keras would trace it twice (ten seconds).
        self.optimizer.build(self.detector.trainable_variables)
        self._scales_loss = hasattr(self.optimizer, "get_scaled_loss")  # a LossScaleOptimizer, for mixed_float16

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert, and looking takes seconds
    def train_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            results = self.compute_losses(batch, training=True)
            loss = results["rpn_score"] + results["rpn_box"] + results["rcnn_score"] + results["rcnn_box"]
            scaled = self.optimizer.get_scaled_loss(loss) if self._scales_loss else loss
        variables = self.detector.trainable_variables
        gradients = tape.gradient(scaled, variables)
        if self._scales_loss:
            gradients = self.optimizer.get_unscaled_gradients(gradients)
        # Summed here and not in the optimizer, because the gradient of the whole batch is what is clipped. A gradient
        # that is not finite stays so, and a LossScaleOptimizer then skips the step.
        gradients = sum_over_replicas(gradients)
        gradients, _ = tf.clip_by_global_norm(gradients, self.config.clip_norm)
        if self.config.optimizer == "sgd":
            # L2 as in the paper's optimizer: added to the clipped gradient, before the momentum. Keras' weight_decay is
            # decoupled from the gradient, and AdamW uses that.
            gradients = [g + self.config.weight_decay * v for g, v in zip(gradients, variables, strict=True)]
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True), skip_gradients_aggregation=True)
        for name, value in sum_over_replicas({"loss": loss, **results}).items():
            self.means[name].update_state(value)
        return {name: mean.result() for name, mean in self.means.items()}


def _ground_truth(batch: Batch) -> tuple[tf.Tensor, ...]:
    return batch["gt_boxes"], batch["gt_mask"], batch["crowd_boxes"], batch["crowd_mask"]


def _with_batch_index(rois: tf.Tensor) -> tf.Tensor:
    """[B, N, 4] -> [B * N, 5] with the image's index in front."""
    shape = tf.shape(rois)
    index = tf.repeat(tf.range(shape[0]), shape[1])
    return tf.concat([tf.cast(index, tf.float32)[:, None], tf.reshape(rois, [-1, 4])], 1)


def _per_image(positive: tf.Tensor) -> tf.Tensor:
    """A replica's share of the mean: all of them have equally many images."""
    mean = tf.reduce_mean(tf.reduce_sum(tf.cast(positive, tf.float32), 1))
    return mean / tf.distribute.get_strategy().num_replicas_in_sync
