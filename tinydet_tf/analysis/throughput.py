"""How fast training runs: whole steps, the trunk alone, a step part by part, and the input pipeline by stages."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tqdm import tqdm

from tinydet_tf.data.coco import CocoDataset
from tinydet_tf.data.pipeline import image_rows, make_samples, make_stages
from tinydet_tf.training.step.trainer import LOSSES, PARTS, Batch, Trainer


@dataclasses.dataclass(frozen=True)
class Throughput:
    """Medians of interleaved steps, in seconds a batch.

    Attributes:
      step: forward, targets, OHEM, backward and update; the batch is there already.
      trunk: forward and backward of backbone, FPN and RPN alone, the least that any training costs.
      input: making one batch, when the input pipeline is read as fast as it can.
      parts: what each part of a step costs, see `measure_training`; empty where they were not measured.
    """

    batch_size: int
    step: float
    trunk: float
    input: float
    parts: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def images_per_second(self) -> float:
        """Images a second of a training loop with prefetched input: the slower of step and input sets the pace."""
        return self.batch_size / max(self.step, self.input)


def measure_training(
    trainer: Trainer,
    batches: tf.data.Dataset,
    *,
    batch_size: int,
    steps: int,
    parts: bool = False,
    clock: Callable[[], float] = time.perf_counter,
    progress: bool = False,
) -> Throughput:
    """Times a compiled trainer.

    Args:
      trainer: compiled; its weights change.
      batches: of the input pipeline.
      steps: timed, after two warm-up steps.
      parts: also of a step: its parts one after the other, "backward" and "update" (which clips too). The step is run
        up to its first part, its first two, and so on, interleaved; a part costs what it adds to the median, which
        for the smallest ones may be less than the noise.
      clock: in seconds. `time.process_time` on a machine that does other work too; then `input` means little.
      progress: a bar on stderr, if that is a terminal.
    """
    detector = trainer.detector

    @tf.function(autograph=False)
    def trunk(batch: Batch) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            features = detector.features(batch["images"], training=True)
            logits, deltas = detector.rpn(features)
            loss = tf.add_n([tf.reduce_mean(tf.square(tf.cast(t, tf.float32))) for t in (*features, *logits, *deltas)])
        return tape.gradient(loss, detector.pyramid.trainable_variables + detector.rpn_head.trainable_variables)

    functions = {"step": tf.function(trainer.train_step), "trunk": trunk}
    source: Iterator[Batch] = itertools.chain.from_iterable(itertools.repeat(batches))
    prefixes = _prefixes(trainer) if parts else {}
    functions.update(prefixes)
    times: dict[str, list[float]] = {name: [] for name in (*functions, "input")}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start = clock()
        result = call()
        tf.nest.map_structure(lambda t: t.numpy() if tf.is_tensor(t) else t, result)
        times[name].append(clock() - start)
        return result

    for _ in tqdm(range(steps + 2), unit="step", disable=None if progress else True, leave=False):
        batch = timed("input", lambda: next(source))
        for name, function in functions.items():
            timed(name, functools.partial(function, batch))
    # Batches are read without steps in between, during which the prefetch buffer would fill.
    times["input"] = []
    for _ in range(steps + 2):
        timed("input", lambda: next(source))
    medians = {name: statistics.median(values[2:]) for name, values in times.items()}
    totals = [medians[name] for name in prefixes] + ([medians["step"]] if parts else [])
    costs = [now - before for now, before in zip(totals, [0.0, *totals], strict=False)]
    return Throughput(
        batch_size,
        medians["step"],
        medians["trunk"],
        medians["input"],
        dict(zip([*prefixes, "update"] if parts else [], costs, strict=True)),
    )


def _prefixes(trainer: Trainer) -> dict[str, Callable[[Batch], Any]]:
    """A training step up to the end of each of its parts, without the update of the weights."""

    def up_to(count: int) -> Callable[[Batch], Any]:
        def run(batch: Batch) -> list[Any]:
            return [value for _, value in itertools.islice(trainer.parts(batch), count)]

        return tf.function(run, autograph=False)

    @tf.function(autograph=False)
    def backward(batch: Batch) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            results = trainer.compute_losses(batch)
            loss = tf.add_n([results[name] for name in LOSSES])
        return tape.gradient(loss, trainer.detector.trainable_variables)

    return {**{name: up_to(count) for count, name in enumerate(PARTS, 1)}, "backward": backward}


def measure_stages(
    dataset: CocoDataset, *, images: int, repeats: int = 3, progress: bool = False, **arguments: Any
) -> dict[str, float]:
    """What each stage of the input pipeline costs, in seconds an image on one core.

    The pipeline is run behind its first stage, its first two, and so on, one image at a time; a stage costs what it
    adds. Interleaved, medians.

    Args:
      images: read in each run.
      progress: a bar on stderr, if that is a terminal.
      arguments: of `make_stages`, for training.
    """
    stages = make_stages(dataset, training=True, **arguments)
    functions = list(stages.values())
    pipelines = [
        make_samples(image_rows(len(dataset), 0, 0, shuffle=True), functions[: count + 1], 1).repeat().take(images)
        for count in range(len(functions))
    ]
    times: list[list[float]] = [[] for _ in pipelines]
    for _ in tqdm(range(repeats + 1), unit="run", disable=None if progress else True, leave=False):
        for pipeline, own in zip(pipelines, times, strict=True):
            iterator = iter(pipeline)
            next(iterator)  # the first one has the cost of starting
            start = time.perf_counter()
            for _ in iterator:
                pass
            own.append((time.perf_counter() - start) / (images - 1))
    totals = [statistics.median(own[1:]) for own in times]
    return {name: now - before for name, now, before in zip(stages, totals, [0.0, *totals], strict=False)}
