"""What the timing of a training step adds up to, with a trainer that computes next to nothing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tensorflow as tf

from commands import Command
from tinydet_tf.analysis import throughput
from tinydet_tf.analysis.throughput import Throughput, measure_training
from tinydet_tf.training.step.trainer import LOSSES, PARTS


class Head:
    trainable_variables: ClassVar[list[Any]] = []


class Detector:
    """One weight."""

    def __init__(self) -> None:
        self.weight = tf.Variable(2.0)
        self.trainable_variables = [self.weight]
        self.pyramid, self.rpn_head = self, Head()

    def features(self, images: tf.Tensor, training: bool = False) -> list[tf.Tensor]:
        return [images * self.weight]

    def rpn(self, features: list[tf.Tensor]) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        return features, features


class Trainer:
    def __init__(self) -> None:
        self.detector = Detector()
        self.reached: list[int] = []

    def parts(self, batch: dict[str, tf.Tensor], training: bool = True) -> Iterator[tuple[str, Any]]:
        for count, name in enumerate(PARTS, 1):
            self.reached.append(count)
            yield name, dict.fromkeys(LOSSES, tf.reduce_sum(batch["images"] * self.detector.weight))

    def compute_losses(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        *_, (_, results) = self.parts(batch)
        return results

    def train_step(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return self.compute_losses(batch)


def test_a_trunk_of_mixed_precision_is_timed() -> None:
    """Its features are bfloat16, the RPN's outputs float32."""
    trainer: Any = Trainer()
    trainer.detector.rpn = lambda features: ([tf.cast(f, tf.bfloat16) for f in features], features)
    batches = tf.data.Dataset.from_tensors({"images": tf.ones([2, 3])})
    assert measure_training(trainer, batches, batch_size=2, steps=1).trunk > 0


def test_parts_add_up_to_the_step() -> None:
    trainer: Any = Trainer()
    ticks = itertools.count()
    batches = tf.data.Dataset.from_tensors({"images": tf.ones([2, 3])})
    result = measure_training(
        trainer, batches, batch_size=2, steps=1, parts=True, clock=lambda: float(next(ticks)) ** 2
    )
    assert list(result.parts) == [*PARTS, "backward", "update"]
    assert sum(result.parts.values()) == pytest.approx(result.step)
    assert result.images_per_second == 2 / max(result.step, result.input)
    # The step runs to its end, a prefix no further than to the end of its part.
    ends = [a for a, b in zip(trainer.reached, [*trainer.reached[1:], 1], strict=True) if b == 1]
    assert sorted(ends) == [1, 2, 3, 4, 5, 5, 5]


def test_without_parts() -> None:
    trainer: Any = Trainer()
    batches = tf.data.Dataset.from_tensors({"images": tf.ones([2, 3])})
    result = measure_training(trainer, batches, batch_size=2, steps=2)
    assert result.parts == {} and result.step > 0 and result.trunk > 0


@pytest.mark.parametrize(
    ("options", "batch"),
    [
        pytest.param(["--set", "train.batch_size=2"], 2, marks=pytest.mark.slow),
        pytest.param(["--batch", "3"], 3, marks=pytest.mark.slow),
        (["--batch", "3", "--set", "train.batch_size=2"], 3),
    ],
)
def test_the_batch_that_was_asked_for_is_the_one_that_is_timed(
    options: list[str], batch: int, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(trainer: Any, batches: tf.data.Dataset, *, batch_size: int, **_: Any) -> Throughput:
        assert next(iter(batches))["images"].shape[0] == batch_size
        return Throughput(batch_size, step=1.0, trunk=0.5, input=0.1)

    monkeypatch.setattr(throughput, "measure_training", measured)
    small = ["--boxes", "2", "--set", "model.input_size=64"]
    done = command("benchmark_training.py", *small, *options, "--json", tmp_path / "times.json")
    assert done.code == 0 and f"TinyDet-S, batch {batch}: {batch:.1f} images a second" in done.out, done
    assert json.loads((tmp_path / "times.json").read_text())["batch_size"] == batch
