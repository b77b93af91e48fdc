"""How fast training runs: whole steps against the bare trunk, and the input pipeline stage by stage."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tinydet_tf.data.coco import CocoDataset
from tinydet_tf.data.pipeline import image_rows, make_samples, make_stages
from tinydet_tf.training.trainer import Batch, Trainer


@dataclasses.dataclass(frozen=True)
class Throughput:
    """Medians of interleaved steps, in seconds a batch.

    Attributes:
      step: forward, targets, OHEM, backward and update, batch in hand.
      trunk: forward and backward of backbone, FPN and RPN alone, the least that any training costs.
      input: waiting for the next batch of the input pipeline, read flat out.
    """

    batch_size: int
    step: float
    trunk: float
    input: float

    @property
    def images_per_second(self) -> float:
        """Of a training loop whose input is prefetched: the slower of the two sets the pace."""
        return self.batch_size / max(self.step, self.input)


def measure_training(trainer: Trainer, batches: tf.data.Dataset, *, batch_size: int, steps: int) -> Throughput:
    """Times a compiled trainer.

    Args:
      trainer: compiled; its weights change.
      batches: of the input pipeline.
      steps: timed, after two warm-up steps.
    """
    detector = trainer.detector

    @tf.function
    def trunk(images: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            features = detector.features(images, training=True)
            logits, deltas = detector.rpn(features)
            loss = tf.add_n([tf.reduce_mean(tf.square(t)) for t in (*features, *logits, *deltas)])
        return tape.gradient(loss, detector.pyramid.trainable_variables + detector.rpn_head.trainable_variables)

    step = tf.function(trainer.train_step)
    source: Iterator[Batch] = itertools.chain.from_iterable(itertools.repeat(batches))
    times: dict[str, list[float]] = {"step": [], "trunk": [], "input": []}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = call()
        tf.nest.map_structure(lambda t: t.numpy() if tf.is_tensor(t) else t, result)
        times[name].append(time.perf_counter() - start)
        return result

    for _ in range(steps + 2):
        batch = timed("input", lambda: next(source))
        timed("step", functools.partial(step, batch))
        timed("trunk", functools.partial(trunk, batch["images"]))
    # Read in a row, so that the time spent in the steps has not filled the prefetch buffer.
    times["input"] = []
    for _ in range(steps + 2):
        timed("input", lambda: next(source))
    return Throughput(batch_size, **{name: statistics.median(values[2:]) for name, values in times.items()})


def measure_stages(dataset: CocoDataset, *, images: int, repeats: int = 3, **arguments: Any) -> dict[str, float]:
    """What each stage of the input pipeline costs, in seconds an image on one core.

    The pipeline is run behind its first stage, its first two, and so on, one image at a time; a stage costs what it
    adds. Interleaved, medians.

    Args:
      images: read in each run.
      arguments: of `make_stages`, for training.
    """
    stages = make_stages(dataset, training=True, **arguments)
    functions = list(stages.values())
    pipelines = [
        make_samples(image_rows(len(dataset), 0, 0, shuffle=True), functions[: count + 1], 1).repeat().take(images)
        for count in range(len(functions))
    ]
    times: list[list[float]] = [[] for _ in pipelines]
    for _ in range(repeats + 1):
        for pipeline, own in zip(pipelines, times, strict=True):
            iterator = iter(pipeline)
            next(iterator)  # what starting costs
            start = time.perf_counter()
            for _ in iterator:
                pass
            own.append((time.perf_counter() - start) / (images - 1))
    totals = [statistics.median(own[1:]) for own in times]
    return {name: now - before for name, now, before in zip(stages, totals, [0.0, *totals], strict=False)}
