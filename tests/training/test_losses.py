"""The losses by hand, and what a batch must never do: NaN, or a gradient from padding."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tinydet_tf
from tinydet_tf.assign import PIECE
from tinydet_tf.config import TrainConfig
from tinydet_tf.training.run.schedule import WarmupCosine
from tinydet_tf.training.step import losses
from tinydet_tf.training.step.trainer import Trainer

NAMES = ("rpn_score", "rpn_box", "rcnn_score", "rcnn_box")
SIZE = 128


def test_smooth_l1() -> None:
    error = tf.constant([0.0, 0.05, -1 / 9, 1.0, -2.0])
    expected = [0.0, 0.5 * 0.05**2 * 9, 0.5 / 9, 1 - 0.5 / 9, 2 - 0.5 / 9]
    np.testing.assert_allclose(losses.smooth_l1(error, losses.RPN_BETA), expected, rtol=1e-6)


def test_losses_by_hand() -> None:
    logits, positive = tf.constant([[0.0, 2.0, 5.0]]), tf.constant([[True, False, True]])
    weight = tf.constant([[1.0, 1.0, 0.0]])
    expected = (np.log(2) + np.log1p(np.exp(2.0))) / 2
    assert float(losses.objectness_loss(logits, positive, weight)) == pytest.approx(expected, rel=1e-6)
    deltas, targets = tf.zeros([1, 3, 4]), tf.ones([1, 3, 4])
    # One positive with a weight, four coordinates each off by one, two samples.
    assert float(losses.box_loss(deltas, targets, positive, weight, 1.0)) == pytest.approx(4 * 0.5 / 2)
    class_logits = tf.math.log(tf.constant([[0.5, 0.25, 0.25], [0.2, 0.6, 0.2]]))
    loss = losses.class_loss(class_logits, tf.constant([0, 2]), tf.constant([1.0, 1.0]))
    assert float(loss) == pytest.approx(-(np.log(0.5) + np.log(0.2)) / 2, rel=1e-6)
    assert float(losses.class_loss(class_logits, tf.constant([0, 2]), tf.zeros([2]))) == 0.0


def test_schedule() -> None:
    rate = WarmupCosine(0.35, 1e-5, total_steps=10_000, warmup_steps=500, warmup_start=1 / 3)
    assert float(rate(0)) == pytest.approx(0.35 / 3, rel=1e-5)
    assert float(rate(250)) == pytest.approx(0.35 * 2 / 3, rel=1e-5)
    assert float(rate(500)) == pytest.approx(0.35, rel=1e-5)
    assert float(rate(500 + 4750)) == pytest.approx(0.175, rel=1e-3)
    assert float(rate(10_000)) == float(rate(99_999)) == pytest.approx(1e-5, rel=1e-2)
    assert float(WarmupCosine(1.0, 0.0, 100, 500, 0.0)(20)) == pytest.approx(1.0)


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    keras.utils.set_random_seed(0)
    detector = tinydet_tf.build_detector("S", num_classes=4, input_size=SIZE, backbone="shallow")
    config = TrainConfig(nms_pre=200, proposals=100, rcnn_samples=32, rpn_samples=64)
    return Trainer(detector, config)


def batch_of(boxes: list[list[list[float]]], rows: int, filler: float = 0.0) -> dict[str, tf.Tensor]:
    """A batch whose padded rows hold `filler` in every number."""
    count = len(boxes)
    pixels = np.random.default_rng(0).uniform(0, 255, [count, SIZE, SIZE, 3]).astype(np.float32)
    gt = np.full([count, rows, 4], filler, np.float32)
    classes = np.full([count, rows], -1 if filler == 0 else 2, np.int32)
    mask = np.zeros([count, rows], bool)
    for i, image in enumerate(boxes):
        for j, box in enumerate(image):
            gt[i, j], classes[i, j], mask[i, j] = box, j % 4, True
    return {
        "images": tf.constant(pixels),
        "gt_boxes": tf.constant(gt),
        "gt_classes": tf.constant(classes),
        "gt_mask": tf.constant(mask),
        "crowd_boxes": tf.fill([count, 1, 4], filler),
        "crowd_mask": tf.zeros([count, 1], tf.bool),
        "seeds": tf.stack([tf.range(count), tf.fill([count], 3)], 1),
    }


def hundred() -> list[list[float]]:
    rng = np.random.default_rng(0)
    low, side = rng.uniform(0, 100, [100, 2]), rng.uniform(0, 27, [100, 2])
    return np.concatenate([low, low + side], 1).tolist()


CASES: dict[str, list[list[list[float]]]] = {
    "empty": [[], []],
    "one box": [[[20, 20, 60, 50]], []],
    "one pixel": [[[20, 20, 20, 20], [0, 0, 0, 0], [127, 127, 127, 127]], [[64, 3, 64, 3]]],
    "hundred boxes": [hundred(), hundred()[:3]],
    "whole image": [[[0, 0, 127, 127]], [[0, 0, 127, 127]]],
}


def gradients_of(trainer: Trainer, batch: dict[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], list[Any]]:
    with tf.GradientTape() as tape:
        results = trainer.compute_losses(batch)
        loss = tf.add_n([results[name] for name in NAMES])
    return results, tape.gradient(loss, trainer.detector.trainable_variables)


@pytest.mark.parametrize("case", CASES)
def test_finite(trainer: Trainer, case: str) -> None:
    results, gradients = gradients_of(trainer, batch_of(CASES[case], rows=101))
    for name in NAMES:
        assert np.isfinite(float(results[name])), name
    assert all(bool(tf.reduce_all(tf.math.is_finite(g))) for g in gradients)
    if case == "empty":
        assert float(results["rpn_box"]) == float(results["rcnn_box"]) == 0.0
        assert float(results["rpn_positives"]) == float(results["rcnn_positives"]) == 0.0
    else:
        assert float(results["rcnn_positives"]) > 0


@pytest.mark.parametrize("filler", [50.0, -1e6, 1e6])
def test_padding_changes_nothing(trainer: Trainer, filler: float) -> None:
    """Whatever the padded rows hold: the same losses and gradients."""
    boxes = [[[20, 20, 60, 50], [5, 70, 25, 90]], [[64, 3, 90, 30]]]
    plain_results, plain = gradients_of(trainer, batch_of(boxes, rows=8))
    results, gradients = gradients_of(trainer, batch_of(boxes, rows=8, filler=filler))
    for name in NAMES:
        assert float(results[name]) == float(plain_results[name]), name
    for a, b in zip(plain, gradients, strict=True):
        # Sums over threads are not ordered: measured up to 4e-6, of gradients around 1.
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("sampling", ["ohem", "random"])
def test_the_number_of_padded_rows_changes_no_loss(trainer: Trainer, sampling: str) -> None:
    """More rows than one piece of the assignment has (tinydet_tf.assign.PIECE), all but nine of them
    padding."""
    one = Trainer(trainer.detector, dataclasses.replace(trainer.config, rcnn_sampling=sampling))
    boxes = [hundred()[:6], hundred()[6:9]]
    few, many = (one.compute_losses(batch_of(boxes, rows=rows), training=False) for rows in (6, 700))
    assert float(many["rcnn_positives"]) > 0
    for name in ("rpn_score", "rpn_box", "rpn_positives", "rcnn_positives"):
        assert float(few[name]) == float(many[name]), name
    if sampling == "ohem":  # random numbers are the rows' own, and proposals come behind the padding
        for name in ("rcnn_score", "rcnn_box"):
            assert float(few[name]) == float(many[name]), name


def graphs_within(graph: Any) -> Iterator[Any]:
    """The graph, and those of its loops and branches, recursively."""
    yield graph
    for op in graph.get_operations():
        for name in ("body", "cond", "then_branch", "else_branch", "f"):
            if name in op.node_def.attr and op.node_def.attr[name].func.name:
                yield from graphs_within(graph._get_function(op.node_def.attr[name].func.name).graph)


def test_no_table_of_all_anchors_and_all_boxes(trainer: Trainer) -> None:
    """The largest tensors of a step whose images have thousands of objects."""
    rows = 3000
    batch = batch_of([[], []], rows=rows)
    graphs = list(graphs_within(tf.function(trainer.compute_losses).get_concrete_function(batch).graph))
    assert len(graphs) > 8  # images of both stages, and in each the pieces; each loop has a condition
    shapes = [tensor.shape for graph in graphs for op in graph.get_operations() for tensor in op.outputs]
    largest = max(shape.num_elements() or 0 for shape in shapes)
    anchors, rois = len(trainer.anchors), rows + trainer.config.proposals
    assert largest < min(anchors, rois) * rows / 2
    # In the loops every shape is known, and small. Outside, OHEM alone has a number of RoIs that depends on the data.
    for graph in graphs[1:]:
        for op in graph.get_operations():
            if op.type != "Placeholder":
                assert all(tensor.shape.is_fully_defined() for tensor in op.outputs), op.name
                assert all(tensor.shape.num_elements() <= max(PIECE, 4 * rois) for tensor in op.outputs), op.name


def test_crowds_are_not_trained_on(trainer: Trainer) -> None:
    """Under a crowd that covers everything no negative is left."""
    batch = batch_of([[], []], rows=3)
    covered = {**batch, "crowd_boxes": tf.constant([[[0.0, 0, 127, 127]]] * 2), "crowd_mask": tf.ones([2, 1], tf.bool)}
    results, _ = gradients_of(trainer, covered)
    assert all(float(results[name]) == 0.0 for name in NAMES)


def test_a_few_steps_lower_the_loss(trainer: Trainer) -> None:
    keras.utils.set_random_seed(0)
    detector = tinydet_tf.build_detector("S", num_classes=4, input_size=SIZE, backbone="shallow")
    one = Trainer(detector, dataclasses.replace(trainer.config, optimizer="sgd"))
    one.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.9))
    data = tf.data.Dataset.from_tensors(batch_of(CASES["one box"], rows=4)).repeat(15)
    first = one.fit(data.take(1), verbose=0).history["loss"][0]
    last = [one.fit(data, verbose=0).history["loss"][0] for _ in range(3)][-1]
    assert last < 0.5 * first  # measured 0.03


def test_ohem_takes_what_is_hardest_and_random_sampling_does_not(trainer: Trainer) -> None:
    easy = Trainer(trainer.detector, dataclasses.replace(trainer.config, rcnn_sampling="random"))
    batch = batch_of([hundred()[:6], hundred()[6:9]], rows=8)

    def loss(one: Trainer, shift: int = 0) -> float:
        return float(one.compute_losses({**batch, "seeds": batch["seeds"] + shift}, training=False)["rcnn_score"])

    random = [loss(easy, shift) for shift in range(4)]
    assert len(set(random)) == 4 and loss(easy) == random[0]  # the images' seeds, and nothing else
    assert loss(trainer) == loss(trainer, 1) > max(random)


def test_weight_decay_is_added_to_the_clipped_gradient() -> None:
    """One step of plain SGD moves a weight by -lr * (clipped gradient + decay * weight)."""
    keras.utils.set_random_seed(0)
    detector = tinydet_tf.build_detector("S", num_classes=2, input_size=64, backbone="shallow")
    moves = []
    for decay in (0.0, 0.5):
        keras.utils.set_random_seed(0)
        detector = tinydet_tf.build_detector("S", num_classes=2, input_size=64, backbone="shallow")
        config = TrainConfig(
            nms_pre=50, proposals=32, rcnn_samples=16, rpn_samples=16, optimizer="sgd", weight_decay=decay
        )
        one = Trainer(detector, config)
        one.compile(optimizer=keras.optimizers.SGD(0.1), run_eagerly=True)
        before = [w.numpy() for w in detector.trainable_weights]
        batch = batch_of([[[10, 10, 40, 40]]], rows=2)
        batch["images"] = batch["images"][:, :64, :64]
        one.train_step(batch)
        moves.append((before, [w.numpy() for w in detector.trainable_weights]))
    (start, plain), (_, decayed) = moves
    for w, a, b in zip(start, plain, decayed, strict=True):
        np.testing.assert_allclose(a - b, 0.1 * 0.5 * w, atol=1e-5)
