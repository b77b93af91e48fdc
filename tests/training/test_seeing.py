"""What a person who trains sees: TensorBoard's files read back, the lines that are printed, the commands to paste."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shlex
import shutil
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from PIL import Image

from commands import Command
from tinydet_lite.detections import Detections
from tinydet_tf.config import Config, load_config
from tinydet_tf.data.coco import load_coco, locate_split
from tinydet_tf.data.digits import digits_folder
from tinydet_tf.training.run import board, console
from tinydet_tf.training.run import train as training
from tinydet_tf.training.run.board import PICTURES, chosen_images, ground_truth, side_by_side
from tinydet_tf.training.run.console import Console
from tinydet_tf.training.run.folder import resumed_config
from tinydet_tf.training.run.summary import closing
from tinydet_tf.training.run.train import make_schedule, train
from tinydet_tf.weights import LAST, read_threshold

EPOCHS, STEPS, VAL_IMAGES, SAMPLES = 3, 4, 8, 32
SMALL = [
    "model.backbone=shallow", "model.input_size=64", "train.batch_size=2", "train.nms_pre=100", "train.proposals=50",
    "train.rcnn_samples=16", f"train.rpn_samples={SAMPLES}", "train.learning_rate=1e-3", "train.warmup_steps=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    data = digits_folder(tmp_path_factory.mktemp("digits"), num_train=2 * STEPS, num_val=VAL_IMAGES)
    return load_config(variant="S", assignments=[f"data.root='{data}'", *SMALL, "train.epochs=2"])


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two epochs, and a third after a resume; what both printed, and the weights between."""
    folder = tmp_path_factory.mktemp("runs") / "a run"
    outputs, between = [], Path()
    for resume in (False, True):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            if resume:
                train(resumed_config(folder, [f"train.epochs={EPOCHS}"]), folder, resume=True)
            else:
                train(config, folder)
                between = Path(shutil.copy(folder / LAST, folder.parent / LAST))
        outputs.append(out.getvalue())
    history = json.loads((folder / "metrics.json").read_text())["history"]
    return SimpleNamespace(folder=folder, outputs=outputs, history=history, between=between)


def events(folder: Path) -> dict[str, list[tuple[int, np.ndarray]]]:
    """Tag -> (step, value) in the order of writing."""
    found = defaultdict(list)
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                found[value.tag].append((event.step, tf.make_ndarray(value.tensor)))
    return found


def test_every_number_of_every_epoch(run: SimpleNamespace) -> None:
    found = {
        **{name.removeprefix("epoch_"): v for name, v in events(run.folder / "logs" / "train").items()},
        **{name.replace("epoch_", "val_"): v for name, v in events(run.folder / "logs" / "validation").items()},
    }
    assert len(run.history) == EPOCHS
    assert found.keys() == run.history[0].keys() - {"epoch"}
    # The rate: Keras gives that of the next step, metrics.json that of the last one.
    rates = found.pop("learning_rate")
    for name, points in found.items():
        assert [step for step, _ in points] == list(range(EPOCHS)), name  # none twice
        assert [float(v) for _, v in points] == [pytest.approx(entry[name], rel=1e-6) for entry in run.history], name
    assert [step for step, _ in rates] == list(range(EPOCHS))


def test_the_counts_of_both_stages(run: SimpleNamespace) -> None:
    for entry in run.history:
        assert entry["rpn_positives"] > 0 and entry["rpn_positives"] + entry["rpn_negatives"] == SAMPLES
        assert entry["rcnn_positives"] > 0 and 0 < entry["rcnn_positives"] + entry["rcnn_negatives"] <= 16


def test_numbers_between_epochs(run: SimpleNamespace, config: Config) -> None:
    """Epochs of four steps: a point each, whose mean is the epoch's."""
    found = events(run.folder / "logs" / "steps")
    steps = [STEPS * (index + 1) for index in range(EPOCHS)]
    for name in ("loss", "rpn_score", "rpn_box", "rcnn_score", "rcnn_box", "rpn_negatives", "rcnn_negatives"):
        assert [step for step, _ in found[name]] == steps
        assert [float(v) for _, v in found[name]] == [pytest.approx(entry[name], rel=1e-6) for entry in run.history]
    rates = [float(value) for _, value in found["learning_rate"]]
    assert rates == [pytest.approx(entry["learning_rate"], rel=1e-6) for entry in run.history]
    schedule = make_schedule(config.train, STEPS)
    assert rates[0] == pytest.approx(float(schedule(STEPS - 1)), rel=1e-5)


def test_a_point_is_the_mean_since_the_last_one(tmp_path: Path) -> None:
    steps, epoch = 25, 2
    values = np.random.default_rng(0).uniform(0, 3, steps)
    scalars = board.StepScalars(tmp_path, steps)
    scalars.set_model(SimpleNamespace(optimizer=SimpleNamespace(learning_rate=tf.constant(0.5))))
    scalars.on_epoch_begin(epoch)
    for batch in range(steps):
        scalars.on_train_batch_end(batch, {"loss": values[: batch + 1].mean()})
    scalars.on_epoch_end(epoch)
    found = events(tmp_path)["loss"]
    assert [step for step, _ in found] == [60, 70]
    np.testing.assert_allclose([v for _, v in found], [values[:10].mean(), values[10:20].mean()], rtol=1e-6)


def decoded(value: np.ndarray) -> Image.Image:
    width, height, content = value.tolist()
    image = Image.open(io.BytesIO(content))
    assert image.size == (int(width), int(height))
    return image


def test_the_same_images_at_every_validation(run: SimpleNamespace, config: Config) -> None:
    found = events(run.folder / "logs" / "images")
    data = load_coco(*locate_split(Path(str(config.data.root)), "val"))
    chosen = list(chosen_images(data, PICTURES))
    assert len(chosen) == PICTURES
    assert found.keys() == {f"validation/{image.id}" for image, _ in chosen}
    for image, pixels in chosen:
        points = found[f"validation/{image.id}"]
        assert [step for step, _ in points] == list(range(EPOCHS))
        plain = side_by_side(pixels, Detections.empty(), Detections.empty())
        truth = side_by_side(pixels, ground_truth(image, data.class_names), Detections.empty())
        for _, value in points:
            picture = decoded(value)
            assert picture.size == plain.size == (968, 480)
            left = (0, 0, 480, 480)
            # The left half is the ground truth's drawing and not the plain image, but for what JPEG loses.
            assert distance(picture.crop(left), truth.crop(left)) < 0.5 * distance(plain.crop(left), truth.crop(left))


def distance(one: Image.Image, other: Image.Image) -> float:
    return float(np.square(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean())


def test_detections_are_drawn_on_the_right() -> None:
    pixels = np.full((100, 200, 3), 90, np.uint8)
    box = np.array([[100, 40, 140, 80]], np.float32)
    found = Detections(box, np.array([0.9], np.float32), np.array([1], np.int32), ("b",))
    plain = np.asarray(side_by_side(pixels, Detections.empty(), Detections.empty()))
    drawn = np.asarray(side_by_side(pixels, Detections.empty(), found))
    assert plain.shape == drawn.shape == (240, 968, 3)
    changed = (plain != drawn).any(-1)
    assert not changed[:, :488].any()
    edge = 488 + round(100 * 2.4)  # the box's left side
    assert changed[100:190, edge - 4 : edge].any(1).all()


def test_large_photographs_are_drawn_smaller() -> None:
    pixels = np.full((1000, 2000, 3), 90, np.uint8)
    box = np.array([[1000, 400, 1400, 800]], np.float32)
    found = Detections(box, np.array([0.9], np.float32), np.array([1], np.int32), ("b",))
    drawn = np.asarray(side_by_side(pixels, found, Detections.empty()))
    assert drawn.shape == (240, 968, 3)
    assert (drawn[100:190, 236:240] != 90).any((1, 2)).all()


def test_images_that_do_not_decode_are_passed_over(config: Config, tmp_path: Path) -> None:
    shutil.copytree(Path(str(config.data.root)), tmp_path / "data")
    data = load_coco(*locate_split(tmp_path / "data", "val"))
    first = next(chosen_images(data, 2))[0]
    first.path.write_bytes(b"no image")
    ids = [image.id for image, _ in chosen_images(data, 2)]
    assert len(ids) == 2 and first.id not in ids
    empty = replace(data, images=tuple(replace(i, is_crowd=np.ones(len(i.boxes), bool)) for i in data.images))
    assert len(list(chosen_images(empty, 2))) == 2  # none has boxes: any will do


def test_the_histograms_of_ohem(run: SimpleNamespace) -> None:
    """Rows of a histogram: from, to, how many."""
    found = events(run.folder / "logs" / "ohem")
    candidates, chosen = found["rcnn_score/candidates"], found["rcnn_score/chosen"]
    assert [step for step, _ in candidates] == [step for step, _ in chosen] == list(range(EPOCHS))
    for (_, every), (_, kept) in zip(candidates, chosen, strict=True):
        assert every[:, 2].sum() > kept[:, 2].sum() > 0
        assert kept[:, 2].sum() <= 2 * 16
        # The highest losses are among the chosen.
        assert kept[-1, 1] == pytest.approx(every[-1, 1], rel=1e-6)
        assert (kept[:, :2].mean(1) * kept[:, 2]).sum() / kept[:, 2].sum() >= (
            every[:, :2].mean(1) * every[:, 2]
        ).sum() / every[:, 2].sum()


def arrays(path: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(path, "r") as file:
        file.visititems(lambda n, i: found.update({n: np.asarray(i)}) if isinstance(i, h5py.Dataset) else None)
    return found


@pytest.mark.slow
def test_looking_changes_nothing(
    run: SimpleNamespace, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights to the last bit, with and without."""
    for name in ("StepScalars", "Pictures", "CandidateLosses"):
        monkeypatch.setattr(training, name, lambda *_: keras.callbacks.Callback())
    train(config, tmp_path / "run", verbose=0)
    assert not (tmp_path / "run" / "logs" / "images").exists()
    ours, theirs = arrays(tmp_path / "run" / LAST), arrays(run.between)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)


def test_a_line_an_epoch_and_none_twice(run: SimpleNamespace) -> None:
    first, resumed = run.outputs
    assert [line.partition(":")[0] for line in first.splitlines()] == ["Epoch 1/2", "Epoch 2/2"]
    assert [line.partition(":")[0] for line in resumed.splitlines()] == ["Epoch 3/3"]
    one, two = first.splitlines()
    assert one.endswith(" left") and not two.endswith(" left")
    for line, entry in zip([one, two, resumed], run.history, strict=True):
        for name in ("loss", "rpn_score", "rpn_box", "rcnn_score", "rcnn_box"):
            assert f"{name} {entry[name]:.3f}, " in line
        assert f", AP {entry['val_AP']:.3f}, AP50 {entry['val_AP50']:.3f}, APs " in line and " images/s, " in line


def drive(callback: Console, clock: SimpleNamespace, epochs: Iterable[int], seconds: list[float], after: float) -> None:
    """Steps of these seconds each, and what comes behind them until the epoch ends."""
    for epoch in epochs:
        callback.on_epoch_begin(epoch)
        for batch, duration in enumerate(seconds):
            clock.now += duration
            callback.on_train_batch_end(batch, {"loss": 1.0})
        clock.now += after
        callback.on_epoch_end(epoch, {"loss": 1.0, "val_AP": 0.25, "val_AP50": 0.5, "val_APs": -1.0})


def test_speed_and_the_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(console.time, "monotonic", lambda: clock.now)
    callback = Console(epochs=200, finished=100, steps=3, batch_size=8)
    callback.on_train_begin()
    # The first step takes long, and counts for nothing but the first guess of what is left.
    drive(callback, clock, [100], [50.0, 2.0, 2.0], after=6.0)
    drive(callback, clock, [101, 102], [2.0, 2.0, 2.0], after=6.0)
    drive(callback, clock, [199], [2.0, 2.0, 2.0], after=6.0)
    callback.on_train_end()
    numbers = "loss 1.000, AP 0.250, AP50 0.500, APs none, 4.0 images/s"
    assert capsys.readouterr().out.splitlines() == [
        f"Epoch 101/200: {numbers}, 60 s, 1 h 39 min left",
        f"Epoch 102/200: {numbers}, 12 s, 20 min left",
        f"Epoch 103/200: {numbers}, 12 s, 19 min left",
        f"Epoch 200/200: {numbers}, 12 s",
    ]


def test_a_bar_over_the_whole_run_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(console.sys, "stderr", terminal)
    callback = Console(epochs=4, finished=1, steps=3, batch_size=8)
    callback.on_train_begin()
    drive(callback, SimpleNamespace(now=0.0), [1], [0.0] * 3, after=0.0)
    callback.close()
    assert "3/12" in terminal.getvalue() and "Epoch 2/4" in terminal.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (99.4, "99 s"), (99.6, "2 min"), (3540, "59 min"), (3590, "1 h 00 min"), (200_000, "2 d 7 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert console.shown(seconds) == text


def test_the_last_words_can_be_pasted(run: SimpleNamespace, command: Command, tmp_path: Path) -> None:
    """In a folder with a space: evaluate.py gives the AP that the run noted as its best."""
    config = resumed_config(run.folder)
    result = {"last": run.history[-1], "best": max(run.history, key=lambda entry: entry["val_AP"])}
    text = closing(run.folder, config, result, 750.0)
    assert f"Last epoch {EPOCHS}: AP {run.history[-1]['val_AP']:.3f}" in text and "Best epoch " in text
    assert f"{run.folder}; this took 12 min." in text
    evaluate, export, tensorboard = (shlex.split(line) for line in text.splitlines() if line.startswith("  "))
    assert tensorboard == ["tensorboard", "--logdir", str(run.folder / "logs")]
    assert evaluate[:2] == ["tinydet", "evaluate"]
    done = command("evaluate.py", *evaluate[2:], "--json", tmp_path / "out.json")
    assert done.code == 0, done.err
    measured = json.loads((tmp_path / "out.json").read_text())
    assert measured["num_images"] == VAL_IMAGES
    assert measured["AP"] == pytest.approx(result["best"]["val_AP"], abs=1e-6)
    point = measured["best_f1"] or {"f1": 0.0, "threshold": None}
    assert point["f1"] == pytest.approx(result["best"]["val_F1"], abs=1e-6)
    assert point["threshold"] == result["best"].get("val_threshold") == read_threshold(run.folder)
    assert export == [
        "tinydet", "export", "--model", str(run.folder), "--output", str(run.folder / "model.tflite"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("assignments", "arguments"),
    [
        ([], []),
        (["data.root='my data'", "data.limit=3"], ["--data", "my data", "--limit", "3"]),
        (["data.root=d", "data.validate_on_train=true"], ["--data", "d", "--split", "train"]),
        (["data.root=d", "data.voc_first_pixel=0"], ["--data", "d", "--voc-first-pixel", "0"]),
        (
            ["data.train_json=a", "data.train_images=b", "data.val_json=c", "data.val_images='d e'"],
            ["--annotations", "c", "--images", "d e"],
        ),
    ],
)
def test_evaluate_measures_what_the_run_did(assignments: list[str], arguments: list[str]) -> None:
    config = load_config(variant="S", assignments=assignments)
    entry: dict[str, Any] = {"epoch": 1, "loss": math.pi}
    lines = closing(Path("r"), config, {"last": entry, "best": {}}, 1.0).splitlines()
    assert lines[0] == "Last epoch 1: not validated"
    assert shlex.split(lines[2]) == ["tinydet", "evaluate", "--model", "r", *arguments]
