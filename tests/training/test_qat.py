"""Quantization-aware training: what is rounded and how, what is trained, and what a run leaves for its int8 export."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from commands import Command
from random_detectors import fit_statistics
from tinydet_lite import Detector
from tinydet_lite.errors import UserError
from tinydet_lite.lab.inspection import inspect_model
from tinydet_tf.config import Config, load_config
from tinydet_tf.data.digits import digits_folder
from tinydet_tf.data.splits import load_split
from tinydet_tf.evaluation import evaluate
from tinydet_tf.export.convert import export
from tinydet_tf.export.kept_calibration import kept_calibration
from tinydet_tf.export.schemes import FORMATS
from tinydet_tf.layers.grouped_conv import GroupedConv2D
from tinydet_tf.model.detector import TinyDet, build_detector
from tinydet_tf.training.qat.fake_quantization import FakeQuantized, Ranges, round_weights
from tinydet_tf.training.qat.quantized_detector import QuantizedDetector
from tinydet_tf.training.qat.start import check_qat, check_qat_weights, qat_config
from tinydet_tf.training.run import callbacks
from tinydet_tf.training.run.folder import METRICS, resumed_config
from tinydet_tf.training.run.train import train
from tinydet_tf.weights import BEST, CALIBRATION, Initialized, load_detector, save_weights

pytest.importorskip("tensorflow_model_optimization")

SMALL = [
    "model.input_size=64", "train.batch_size=2", "train.nms_pre=100", "train.proposals=50", "train.rcnn_samples=16",
    "train.learning_rate=1e-3", "train.warmup_steps=0", "train.epochs=2",
]  # fmt: skip


def lively(size: int = 64, num_classes: int = 10, **overrides: Any) -> TinyDet:
    """Random weights whose moving statistics fit them."""
    keras.utils.set_random_seed(3)
    detector = build_detector("S", num_classes, input_size=size, **overrides)
    fit_statistics(detector, pictures(size), times=20)
    return detector


def pictures(size: int = 64, count: int = 2, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).uniform(0, 255, [count, 8, 8, 3])
    return np.round(np.asarray(tf.image.resize(coarse, [size, size]))).astype(np.float32)


@pytest.fixture(scope="module")
def detector() -> TinyDet:
    return lively()


@pytest.fixture(scope="module")
def observed(detector: TinyDet) -> QuantizedDetector:
    """Its ranges are those of two batches. Not to be trained."""
    quantized = QuantizedDetector(detector)
    quantized.observe([pictures(seed=1), pictures()])
    return quantized


def another(observed: QuantizedDetector, detector: TinyDet) -> QuantizedDetector:
    quantized = QuantizedDetector(detector)
    quantized.ranges.set_weights(observed.ranges.get_weights())
    return quantized


ROIS = tf.constant([[0, 3, 3, 40, 50], [1, 10, 20, 60, 60]], tf.float32)


def everything(detector: TinyDet, training: bool = False) -> dict[str, list[tf.Tensor]]:
    features = detector.features(pictures(), training=training)
    logits, deltas = detector.rpn(features, training=training)
    rcnn = list(detector.rcnn(features, ROIS, training=training))
    return {"features": features, "logits": logits, "deltas": deltas, "rcnn": rcnn}


def relative(ours: list[tf.Tensor], theirs: list[tf.Tensor]) -> float:
    """The root of the mean square difference over the deviation, of the worst tensor."""
    return max(float(tf.norm(a - b) / tf.norm(b - tf.reduce_mean(b))) for a, b in zip(ours, theirs, strict=True))


def test_without_rounding_it_is_the_plain_detector(detector: TinyDet) -> None:
    """Folding rounds as another kernel does, about 1e-5 behind sixty layers (partners.py), here 3.6e-6; a scale that is
    folded into the wrong channel changes all of it."""
    plain, ours = everything(detector), everything(QuantizedDetector(detector, rounding=False))
    errors = {name: relative(ours[name], plain[name]) for name in plain}
    print(errors)
    assert max(errors.values()) < 1e-4


def test_rounding_costs_little_and_something(detector: TinyDet, observed: QuantizedDetector) -> None:
    """Measured, of the deviation: features 0.068, logits 0.138, deltas 0.081, head 0.088. The weights are random."""
    plain, ours = everything(detector), everything(observed)
    errors = {name: relative(ours[name], plain[name]) for name in plain}
    print(errors)
    assert all(0.005 < error < 0.3 for error in errors.values())


def test_the_ranges_are_those_of_the_plain_detector(detector: TinyDet, observed: QuantizedDetector) -> None:
    ranges = observed.ranges.to_dict()
    for level, feature in enumerate(detector.features(pictures())):
        low, high = ranges[f"fpn{level}_pointwise"]
        # Folding rounds otherwise: by about 1e-5 of a value behind all layers.
        assert low <= float(tf.reduce_min(feature)) * (1 - 1e-4) and high >= float(tf.reduce_max(feature)) * (1 - 1e-4)
    assert ranges["stem_act_relu6"] == (0.0, pytest.approx(6.0, abs=1e-5))
    assert {name.split("/")[0] for name in ranges if "/" in name} == {"rpn0", "rpn1", "rpn2", "rpn3"}
    assert all(low <= 0.0 <= high and low < high for low, high in ranges.values())


def test_ranges_follow_in_training_alone(detector: TinyDet, observed: QuantizedDetector) -> None:
    quantized = another(observed, detector)
    before = quantized.ranges.to_dict()
    quantized.features(pictures())
    assert quantized.ranges.to_dict() == before
    name = "fpn0_pointwise"
    lowest = float(tf.reduce_min(quantized.features(pictures())[0]))
    quantized.ranges.variables[2 * list(before).index(name)].assign(-100.0)
    quantized.features(pictures(), training=True)
    assert quantized.ranges.to_dict()[name][0] == pytest.approx(-100.0 + 0.001 * (lowest + 100.0), abs=1e-3)
    # Each part by its own argument, whatever another part was called with.
    features, before = quantized.features(pictures(), training=True), quantized.ranges.to_dict()
    quantized.rpn(features)
    quantized.rcnn(features, ROIS)
    assert quantized.ranges.to_dict() == before
    quantized.rpn(features, training=True)
    quantized.rcnn(features, ROIS, training=True)
    moved = {name for name, limits in quantized.ranges.to_dict().items() if limits != before[name]}
    assert any(name.startswith("rpn0/") for name in moved) and "pooled" in moved
    assert all(name.startswith(("rpn", "rcnn", "pooled")) for name in moved), moved


def small_model() -> Any:
    x = keras.Input([6, 6, 10])
    y = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(x)
    y = keras.layers.BatchNormalization(name="conv_bn")(y)
    y = keras.layers.ReLU(name="act")(y)
    y = keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    y = GroupedConv2D(12, 4, name="grouped")(y)
    model = keras.Model(x, y)
    rng = np.random.default_rng(0)
    for variable in model.variables:
        low = 0.5 if "variance" in variable.name or "gamma" in variable.name else -1.0
        variable.assign(rng.uniform(low, 1.0, variable.shape))
    return model


def int8(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values as int8 stores them: a scale and a whole zero point."""
    scale = (high - low) / 255
    zero = np.round(-low / scale)
    return (np.clip(np.round(values / scale) + zero, 0, 255) - zero) * scale


def per_channel(kernel: np.ndarray, axis: int) -> np.ndarray:
    step = np.abs(kernel).max(tuple(i for i in range(kernel.ndim) if i != axis), keepdims=True) / 127
    return np.round(kernel / step) * step


def convolved(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """'same', of [k, k, I, O], or of [k, k, C, 1] each channel by itself."""
    k = kernel.shape[0] // 2
    padded = np.pad(x, [(0, 0), (k, k), (k, k), (0, 0)])
    depthwise, (height, width) = kernel.shape[3] == 1, x.shape[1:3]
    total: Any = 0.0
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            window = padded[:, i : i + height, j : j + width]
            total = total + (window * kernel[i, j, :, 0] if depthwise else window @ kernel[i, j])
    return total


def test_it_computes_what_integers_do() -> None:
    """Against numpy in float64: folded kernels, per-channel steps, rounded activations. A value that lies between two
    steps may fall to either side: measured 0 of 864 values do, and the others differ by less than 1e-5 of the range."""
    model = small_model()
    x = np.random.default_rng(1).uniform(-2, 3, [2, 6, 6, 10])
    quantized = FakeQuantized(model)
    assert quantized.names() == ["act", "depthwise", "grouped"]
    limits = {"act": (0.0, 9.0), "depthwise": (-15.0, 12.0), "grouped": (-14.0, 17.0)}  # some values are cut off
    ranges = Ranges(quantized.names())
    for variable, value in zip(ranges.variables, [v for pair in limits.values() for v in pair], strict=True):
        variable.assign(value)
    (ours,) = quantized(tf.constant(x, tf.float32), ranges)

    def weights(name: str) -> list[np.ndarray]:
        return [w.astype(np.float64) for w in model.get_layer(name).get_weights()]

    (kernel,), (gamma, beta, mean, variance) = weights("conv"), weights("conv_bn")
    scale = gamma / np.sqrt(variance + model.get_layer("conv_bn").epsilon)
    y = np.maximum(convolved(x, per_channel(kernel * scale, 3)) + beta - mean * scale, 0)
    y = int8(y, *limits["act"])
    kernel, bias = weights("depthwise")
    y = int8(convolved(y, per_channel(kernel, 2)) + bias, *limits["depthwise"])
    kernel, bias = weights("grouped")
    dense = np.zeros([1, 1, 8, 12])
    for group in range(4):
        dense[:, :, 2 * group : 2 * group + 2, 3 * group : 3 * group + 3] = kernel[..., 3 * group : 3 * group + 3]
    y = int8(convolved(y, per_channel(dense, 3)) + bias, *limits["grouped"])
    apart = np.abs(ours - y) > 1e-5 * 31
    print("apart", apart.sum(), "of", apart.size, "largest of the others", np.abs(ours - y)[~apart].max())
    assert apart.mean() < 0.02
    assert np.ptp(y) > 20 and len(np.unique(y)) > 100


def test_weights_are_rounded_per_channel_and_their_gradient_is_the_identity() -> None:
    kernel = tf.constant(np.random.default_rng(0).normal(size=[3, 3, 5, 4]), tf.float32)
    channels = tf.constant([0.01, 1.0, 100.0, 0.0])
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        rounded = round_weights(kernel, axis=3)
        loss = tf.reduce_sum(rounded * 3.0)
    np.testing.assert_array_equal(tape.gradient(loss, kernel), np.full(kernel.shape, 3.0))
    for channel in range(4):
        assert len(np.unique(rounded[..., channel])) > 25 * (channel < 3)  # of 45 weights
        step = np.abs(kernel[..., channel]).max() / 127
        np.testing.assert_allclose(rounded[..., channel] / step, np.round(rounded[..., channel] / step), atol=1e-4)
    # So it makes no difference whether batch normalization was folded in before or after.
    np.testing.assert_allclose(round_weights(kernel * channels, axis=3), rounded * channels, rtol=1e-5, atol=1e-7)
    transposed = round_weights(tf.transpose(kernel, [0, 1, 3, 2]), axis=2)
    np.testing.assert_array_equal(transposed, tf.transpose(rounded, [0, 1, 3, 2]))


def test_gradients_reach_every_weight(detector: TinyDet, observed: QuantizedDetector) -> None:
    quantized = another(observed, detector)
    variables = quantized.trainable_variables
    assert [id(v) for v in variables] == [id(v) for v in detector.trainable_variables]
    with tf.GradientTape() as tape:
        outputs = everything(quantized, training=True)
        loss = sum(tf.reduce_sum(x * x) for name in ("logits", "deltas", "rcnn") for x in outputs[name])
    for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
        assert gradient is not None and float(tf.reduce_max(tf.abs(gradient))) > 0.0, variable.name


def test_what_it_would_compute_wrongly_is_refused() -> None:
    x = keras.Input([4, 4, 3])
    with pytest.raises(ValueError, match="alone has no convolution"):
        FakeQuantized(keras.Model(x, keras.layers.BatchNormalization(name="alone")(x)))
    with pytest.raises(ValueError, match="inside has an activation"):
        FakeQuantized(keras.Model(x, keras.layers.Dense(2, activation="relu", name="inside")(x)))


# Runs


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("digits"), num_train=4, num_val=1)


def config_for(digits: Path, *more: str) -> Config:
    return load_config(variant="S", assignments=[f"data.root='{digits}'", *SMALL, *more])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, digits: Path, detector: TinyDet) -> Path:
    """A weights file that fits the digits."""
    path = tmp_path_factory.mktemp("weights") / "start.weights.h5"
    config = dataclasses.replace(config_for(digits), class_names=tuple("0123456789"), category_ids=tuple(range(1, 11)))
    save_weights(detector, config, path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, digits: Path, weights: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(config_for(digits, "train.qat=true"), folder, init=weights, verbose=0)
    return folder


@pytest.mark.slow
def test_a_run_exports_int8_without_images(run: Path, weights: Path, command: Command, tmp_path: Path) -> None:
    plain, config = load_detector(run)  # a plain file of plain weights
    assert config.train.qat and type(plain) is TinyDet
    start, _ = load_detector(weights)
    moved = [not np.array_equal(a, b) for a, b in zip(plain.get_weights(), start.get_weights(), strict=True)]
    statistics = ["moving" in v.name for v in plain.variables]
    assert sum(moved) > 150 and not any(m and s for m, s in zip(moved, statistics, strict=True))

    path = tmp_path / "int8.tflite"
    done = command("export.py", "--model", run, "--format", "int8", "--output", path)
    assert done.code == 0, done.err
    assert "4 of 4 images" in done.out and "by quantization-aware training" in done.out
    operators = {node.operator for node in inspect_model(path.read_bytes()).nodes}
    assert "DEQUANTIZE" in operators and not any("CUSTOM" in name for name in operators)
    # It is the file that the run chose its best weights by.
    used, kept = (json.loads(f.read_text())["ranges"] for f in (tmp_path / "int8.calibration.json", run / CALIBRATION))
    assert used == kept and len(kept) > 100
    measured = json.loads((run / METRICS).read_text())["best"]
    opened = Detector(path, score_threshold=0.0)
    evaluation = evaluate(opened, opened.labels, load_split(config.data, "val"))
    assert {name: measured[f"val_{name}"] for name in evaluation.metrics} == evaluation.metrics
    assert len(evaluation.results) > 0 and opened.info.suggested_threshold == measured.get("val_threshold")


@pytest.mark.slow
def test_what_is_kept_is_of_the_weights_beside_it(run: Path, weights: Path, tmp_path: Path) -> None:
    assert kept_calibration(weights) is None  # nothing beside it
    kept = kept_calibration(run) or pytest.fail("nothing was kept")
    content = (run / CALIBRATION).read_bytes()
    other = tmp_path / "run"
    other.mkdir()
    (other / BEST).write_bytes(weights.read_bytes())
    (other / CALIBRATION).write_bytes(content)
    with pytest.raises(UserError, match="of other weights"):
        kept_calibration(other)
    (other / CALIBRATION).write_bytes(content[:100])
    with pytest.raises(UserError, match="is damaged"):
        kept_calibration(other)
    with pytest.raises(UserError, match="another version"):
        export(*load_detector(run), FORMATS["int8"], kept=dataclasses.replace(kept, ranges={}))


@pytest.mark.slow
def test_resumed_is_as_if_never_stopped(
    run: Path, digits: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = config_for(digits, "train.qat=true"), tmp_path / "run"

    def stop(_: Any, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.FreezeBackbone, "on_epoch_begin", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config, folder, init=weights, verbose=0)
    assert kept_calibration(folder) is not None  # of the first epoch
    train(resumed_config(folder), folder, resume=True, verbose=0)
    for name in (BEST, "last.weights.h5"):
        for ours, theirs in zip(
            load_detector(folder / name)[0].get_weights(), load_detector(run / name)[0].get_weights(), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    assert (folder / CALIBRATION).read_text() == (run / CALIBRATION).read_text()
    assert (folder / "metrics.json").read_text() == (run / "metrics.json").read_text()


def test_weights_that_do_not_match(digits: Path, weights: Path, tmp_path: Path) -> None:
    def refused(init: Path, *more: str) -> str:
        with pytest.raises(UserError) as error:
            train(config_for(digits, "train.qat=true", *more), tmp_path / "run", init=init, verbose=0)
        assert not (tmp_path / "run").exists()
        return str(error.value)

    message = refused(weights, "model.rcnn_hidden=512")
    assert "does not match: 3 layers" in message and "rcnn_fc" in message
    _, config = load_detector(weights)
    all_of_it = Initialized(taken=("stem",), left=())
    without = dataclasses.replace(config, model=dataclasses.replace(config.model, align=False))  # the same shapes
    with pytest.raises(UserError, match=r"trained with model\.align=True, here it is False"):
        check_qat_weights(without, all_of_it, weights)
    letters = dataclasses.replace(config, class_names=tuple("abcdefghij"))
    with pytest.raises(UserError, match=r"trained on the classes 0, 1, 2, \.\.\.; the data has a, b, c, \.\.\."):
        check_qat_weights(letters, all_of_it, weights)


def test_what_a_run_cannot_begin_with(digits: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(digits, "train.qat=true", f"train.start='{weights}'")
    started_at_random = config_for(digits, "train.qat=true", "train.start=random")

    def refused(changed: Config, **options: Any) -> str:
        with pytest.raises(UserError) as error:
            check_qat(changed, **{"finished": 0, "replicas": 1, **options})
        return str(error.value)

    check_qat(config, finished=0, replicas=1)
    check_qat(started_at_random, finished=3, replicas=1)
    check_qat(config_for(digits), finished=0, replicas=8)  # not quantization-aware
    assert "give --init RUN" in refused(started_at_random)
    assert "one device, and there are 2" in refused(config, replicas=2)
    monkeypatch.setitem(sys.modules, "tensorflow_model_optimization", None)
    assert "TFMOT" in refused(config) and "pip install" in refused(config)


def test_the_recipe_is_a_tenth_of_the_runs(weights: Path, digits: Path, tmp_path: Path) -> None:
    config = qat_config(weights)
    assert config.train.qat and config.train.epochs == 1 and config.train.learning_rate == pytest.approx(1e-4)
    assert config.data.root == str(digits) and config.model.input_size == 64
    assert qat_config(weights, other_data=True).data.root is None
    # A run's config.yaml is what people edit when data moves.
    (tmp_path / "best.weights.h5").write_bytes(weights.read_bytes())
    (tmp_path / "config.yaml").write_text("data: {root: elsewhere}\ntrain: {epochs: 160}\n")
    moved = qat_config(tmp_path)
    assert moved.data.root == "elsewhere" and moved.train.epochs == 16


def test_the_command(command: Command, weights: Path, tmp_path: Path) -> None:
    command("train.py", "--qat").assert_refused_alone("--qat", "give --init")
    command("train.py", "--qat", "--init", weights, "--variant", "S").assert_refused_alone("leave --variant out")
    command("train.py", "--qat", "--resume", "--output", tmp_path).assert_refused_alone("--resume", "alone")
    command("train.py", "--qat", "--init", tmp_path / "nothing").assert_refused("does not exist")
