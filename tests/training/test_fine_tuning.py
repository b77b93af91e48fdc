"""Freezing the backbone, the moving average of the weights, and the learning rate that follows the batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorflow as tf

from tinydet_tf.config import TrainConfig, load_config
from tinydet_tf.data.digits import digits_folder
from tinydet_tf.training.run import train as run
from tinydet_tf.training.run.train import make_schedule, train
from tinydet_tf.weights import load_detector

SMALL = [
    "model.backbone=shallow", "model.input_size=64", "train.batch_size=2", "train.nms_pre=100", "train.proposals=50",
    "train.rcnn_samples=16", "train.learning_rate=1e-3", "train.warmup_steps=0", "train.validate_every=2",
    "train.rcnn_sampling=random",
]  # fmt: skip


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("digits"), num_train=4, num_val=1)


def trained(digits: Path, folder: Path, *more: str, **options: Any) -> Path:
    config = load_config(variant="S", assignments=[f"data.root='{digits}'", *SMALL, *more])
    train(config, folder, verbose=0, **options)
    return folder


@pytest.mark.slow
def test_the_backbone_stays_until_it_is_freed(digits: Path, tmp_path: Path) -> None:
    start = trained(digits, tmp_path / "start", "train.epochs=1")
    before, _ = load_detector(start)

    def moved(name: str, *more: str) -> dict[str, bool]:
        after, _ = load_detector(trained(digits, tmp_path / name, *more, init=start / "best.weights.h5"))
        pairs = zip(before.pyramid.weights, after.pyramid.weights, strict=True)
        return {b.name: not np.array_equal(a.numpy(), b.numpy()) for b, a in pairs}

    frozen = moved("frozen", "train.epochs=1", "train.freeze_backbone=1")
    backbone = {name: value for name, value in frozen.items() if name.startswith(("stem", "block"))}
    assert len(backbone) > 100 and not any(backbone.values())  # the moving statistics too
    assert frozen["lateral0/kernel:0"] and frozen["fpn0_pointwise/kernel:0"]
    freed = moved("freed", "train.epochs=2", "train.freeze_backbone=1")
    assert all(value for name, value in freed.items() if name.startswith(("stem", "block")))


@pytest.mark.slow
def test_the_average_is_what_is_kept(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against an average in numpy over the weights behind each step."""
    path: list[list[np.ndarray]] = []

    class Watched(run.RunTrainer):
        def train_step(self, batch: Any) -> Any:
            result = super().train_step(batch)
            path.append([v.numpy() for v in self.detector.trainable_variables])
            return result

    monkeypatch.setattr(run, "RunTrainer", Watched)
    tf.config.run_functions_eagerly(True)
    try:
        folder = trained(digits, tmp_path / "run", "train.epochs=2", "train.ema=0.5")
    finally:
        tf.config.run_functions_eagerly(False)
    assert len(path) == 4
    kept, _ = load_detector(folder / "last.weights.h5")
    # The average starts from the first weights, which nobody has seen here: after four steps a 16th of it is left.
    for index, variable in enumerate(kept.trainable_variables):
        newest_first = [step[index] for step in reversed(path)]
        known = sum(0.5 ** (age + 1) * value for age, value in enumerate(newest_first))
        first = (variable.numpy() - known) * 16
        # It was a step of at most about the learning rate away from what the first step left.
        assert np.abs(first - newest_first[-1]).max() < 5e-3
    last = path[-1]
    assert any(not np.allclose(v.numpy(), value) for v, value in zip(kept.trainable_variables, last, strict=True))


@pytest.mark.slow
def test_an_average_survives_a_resume(digits: Path, tmp_path: Path) -> None:
    whole = trained(digits, tmp_path / "whole", "train.epochs=3", "train.ema=0.9", "train.freeze_backbone=1")
    parts = tmp_path / "parts"

    class Stop(Exception):
        pass

    config = load_config(
        variant="S",
        assignments=[f"data.root='{digits}'", *SMALL, "train.epochs=3", "train.ema=0.9", "train.freeze_backbone=1"],
    )
    with pytest.MonkeyPatch.context() as patch:
        original = run.RunTrainer.save_weights

        def third(self: Any, filepath: str, *args: Any, **kwargs: Any) -> None:
            if self.optimizer.iterations.numpy() > 4:
                raise Stop
            original(self, filepath, *args, **kwargs)

        patch.setattr(run.RunTrainer, "save_weights", third)
        with pytest.raises(Stop):
            train(config, parts, verbose=0)
    train(run_config(parts), parts, resume=True, verbose=0)
    for name in ("last.weights.h5", "best.weights.h5"):
        with h5py.File(whole / name) as one, h5py.File(parts / name) as other:
            assert one.attrs["tinydet_sha256"] == other.attrs["tinydet_sha256"]
    ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (whole, parts))
    assert ours == theirs


def run_config(folder: Path) -> Any:
    from tinydet_tf.training.run.folder import resumed_config

    return resumed_config(folder)


@pytest.mark.parametrize(("batch", "expected"), [(128, 0.35), (16, 0.04375), (256, 0.7)])
def test_the_learning_rate_follows_the_batch(batch: int, expected: float) -> None:
    config = TrainConfig(
        optimizer="sgd", batch_size=batch, learning_rate=0.35, reference_batch=128, warmup_steps=0, epochs=10
    )
    assert float(make_schedule(config, 100)(0)) == pytest.approx(expected)
    plain = TrainConfig(optimizer="sgd", batch_size=batch, learning_rate=0.35, warmup_steps=0, epochs=10)
    assert float(make_schedule(plain, 100)(0)) == pytest.approx(0.35)
