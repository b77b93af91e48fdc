"""Many devices give what one gives: 2 logical CPU devices, two workers on this machine; and what TF_CONFIG may say."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tinydet_lite.detections import Detections
from tinydet_lite.errors import UserError
from tinydet_tf.data.coco import CocoDataset, load_coco, locate_split
from tinydet_tf.data.digits import digits_folder
from tinydet_tf.data.pipeline import build_pipeline
from tinydet_tf.evaluation import evaluate
from tinydet_tf.layers.blocks import PUBLISHED, BatchNorm
from tinydet_tf.training.run.cluster import check_cluster
from tinydet_tf.training.run.distribution import check_batch_size, is_chief, open_strategy, split_batches, worker
from tinydet_tf.training.run.folder import finished_epochs
from tinydet_tf.weights import LAST

PROGRAM = Path(__file__).with_name("train_program.py")

# The rate is low because a fresh network's first gradients are large: at 0.01 the third step's samples would already
# be other ones, chosen by scores that differ in the last bits.
SMALL = [
    "model.backbone=shallow", "model.input_size=128", "train.batch_size=4", "train.epochs=1", "train.nms_pre=300",
    "train.proposals=100", "train.rcnn_samples=32", "train.optimizer=sgd", "train.learning_rate=1e-4",
    "train.warmup_start=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three batches."""
    return digits_folder(tmp_path_factory.mktemp("digits"), num_train=12, num_val=3)


def start(folder: Path, digits: Path, *more: str, environment: dict[str, str] | None = None, **options: Any) -> Any:
    assignments = [] if options.get("resume") else [f"data.root='{digits}'", *SMALL, *more]
    return subprocess.Popen(
        [sys.executable, PROGRAM, json.dumps({"folder": str(folder), "set": assignments, **options})],
        env={**os.environ, **(environment or {})},
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def start_workers(folder: Path, digits: Path, *more: str, **options: Any) -> list[Any]:
    """Two, on free ports of this machine."""
    sockets = [socket.socket() for _ in range(2)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    cluster = {"worker": [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]}
    for one in sockets:
        one.close()
    configs = [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}) for index in range(2)]
    return [
        start(folder, digits, *more, environment={"TF_CONFIG": config}, strategy="multiworker", **options)
        for config in configs
    ]


def finish(*processes: Any) -> None:
    errors = [process.communicate(timeout=900)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), [e[-3000:] for e in errors]


def weights(folder: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(folder / LAST, "r") as file:
        file.visititems(lambda n, i: found.update({n: np.asarray(i)}) if isinstance(i, h5py.Dataset) else None)
    return found


def assert_same(folder: Path, other: Path) -> None:
    """Here over three steps, two devices or workers against one: weights 3.0e-6, of up to 9.6e-4 that they moved;
    statistics of batch normalization 4.2e-5, of up to 0.93; losses 1e-5. Sums in another order may have OHEM take
    another RoI, which changes a step a little; a replica whose gradient is missing changes half of it. The bounds are a
    tenth of what training moves."""
    ours, theirs = weights(folder), weights(other)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        moving = "batch_normalization" in name and name.endswith(("/2", "/3"))
        np.testing.assert_allclose(values, theirs[name], rtol=0, atol=1e-2 if moving else 1e-4, err_msg=name)
    entries = [json.loads((f / "metrics.json").read_text())["history"][-1] for f in (folder, other)]
    assert entries[0].keys() == entries[1].keys()
    for name, value in entries[0].items():
        assert value == pytest.approx(entries[1][name], rel=0.02, abs=1e-3), name


@pytest.fixture(scope="module")
def one_device(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """The joint batch on one device, with the synchronized form of batch normalization (see the test of it below)."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    finish(start(folder, digits, synchronized=True))
    return folder


@pytest.mark.slow
def test_two_devices_give_what_one_gives(one_device: Path, digits: Path, tmp_path: Path) -> None:
    finish(start(tmp_path / "run", digits, strategy="mirrored", devices=2))
    assert_same(tmp_path / "run", one_device)


@pytest.mark.slow
def test_two_workers_give_what_one_gives(one_device: Path, digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finish(*start_workers(run, digits))
    assert_same(run, one_device)
    # The worker that is not the chief has left nothing.
    assert {p.name for p in run.iterdir()} == {p.name for p in one_device.iterdir()}
    assert [p.name for p in (run / "backup").iterdir()] == ["chief"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_ends_the_others_and_the_run_resumes(victim: int, digits: Path, tmp_path: Path) -> None:
    """Measured: the other one ends 13 seconds later."""
    run = tmp_path / "run"
    small = ("model.input_size=64", "train.rcnn_sampling=random")  # nothing is compared, and starts are what takes long
    processes = start_workers(run, digits, "train.epochs=3", *small)
    while not (run / "backup" / "chief" / "checkpoint").exists():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.1)
    processes[victim].kill()
    _, err = processes[1 - victim].communicate(timeout=600)
    processes[victim].communicate()
    assert processes[1 - victim].returncode != 0, err[-3000:]
    done = finished_epochs(run, steps=3)
    assert 1 <= done < 3
    finish(*start_workers(run, digits, resume=True))
    history = json.loads((run / "metrics.json").read_text())["history"]
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    assert [p.name for p in (run / "backup").iterdir()] == ["chief"]


def test_batch_norm_differs_from_the_fused_kernel_in_the_moving_variance_alone() -> None:
    """The fused kernel moves the variance by the unbiased one, N / (N - 1) of what normalizes; the synchronized layer
    by the latter. N is 16 in the coarsest map of four images of 128 pixels, 400 of sixteen of 320."""
    x = np.random.default_rng(0).normal(3, 2, [4, 2, 2, 5]).astype(np.float32)
    results = []
    for synchronized in (False, True):
        inputs = keras.Input([2, 2, 5])
        model = keras.Model(inputs, BatchNorm(synchronized=synchronized)(inputs, "bn"))
        output = model(x, training=True)
        results.append((output, *model.layers[1].get_weights()[2:]))
    (fused, fused_mean, fused_variance), (synced, mean, variance) = results
    np.testing.assert_allclose(synced, fused, atol=1e-5)  # measured 1.9e-6
    np.testing.assert_allclose(mean, fused_mean, rtol=1e-5)
    momentum = PUBLISHED.batch_norm_momentum
    batch = (variance - momentum) / (1 - momentum)
    np.testing.assert_allclose(
        (fused_variance - momentum) / (1 - momentum), batch * 16 / 15, rtol=1e-4
    )  # measured 2.1e-6


class Workers:
    """A strategy of two workers with two replicas each, as far as it hands out data."""

    num_replicas_in_sync = 4

    def distribute_datasets_from_function(self, function: Any) -> list[tf.data.Dataset]:
        return [function(tf.distribute.InputContext(2, index, 4)) for index in range(2)]


def test_replicas_share_the_batches_of_one_device(digits: Path) -> None:
    """No image twice, none lost, the second epoch shuffled as on one device."""
    data = load_coco(*locate_split(digits, "train"))

    def pipeline(part: tuple[int, int] = (0, 1)) -> tf.data.Dataset:
        return build_pipeline(data, input_size=16, batch_size=8, training=True, seed=3, part=part)

    one = pipeline()
    expected = [batch for _ in range(2) for batch in one.as_numpy_iterator()]
    # Each worker has a pipeline of its own.
    parts = [
        list(split_batches(pipeline((index, 2)), Workers(), 8)[index].take(4).as_numpy_iterator()) for index in range(2)
    ]
    for step, batch in enumerate(expected):
        pieces = [parts[index][2 * step + replica] for index in range(2) for replica in range(2)]
        for key, values in batch.items():
            np.testing.assert_array_equal(np.concatenate([piece[key] for piece in pieces]), values)
            assert all(len(piece[key]) == 2 for piece in pieces)


def test_workers_share_an_evaluation(digits: Path) -> None:
    data = load_coco(*locate_split(digits, "val"))
    rng = np.random.default_rng(0)
    found = {image.id: (rng.uniform(0, 60, [4, 2]), rng.random(4)) for image in data.images}

    def detector(dataset: CocoDataset, part: slice) -> Any:
        images = iter(dataset.images[part])

        def detect(_: np.ndarray) -> Detections:
            image = next(images)
            corner, scores = found[image.id]
            boxes = np.concatenate([corner, corner + 20], 1)
            boxes[: len(image.boxes)] = image.boxes[:4]
            order = np.argsort(-scores)
            classes = np.resize(image.classes, 4)
            names = tuple(data.class_names[c] for c in classes[order])
            return Detections(boxes[order].astype(np.float32), scores[order].astype(np.float32), classes[order], names)

        return detect

    whole = evaluate(detector(data, slice(None)), data.class_names, data)
    rows: list[np.ndarray] = []

    def keep(mine: np.ndarray) -> np.ndarray:
        rows.append(mine)
        return mine

    parts = [slice(index, None, 2) for index in range(2)]
    for part in parts:
        evaluate(detector(data, part), data.class_names, data, part=part, gather=keep)
    gathered = np.concatenate(rows)
    for part in parts:
        shared = evaluate(detector(data, part), data.class_names, data, part=part, gather=lambda _: gathered)
        assert shared.metrics == whole.metrics and shared.class_ap == whole.class_ap
        assert sorted(map(str, shared.results)) == sorted(map(str, whole.results))
    assert whole.metrics["AP"] > 0.1


def test_one_device_is_a_chief_of_its_own() -> None:
    strategy = open_strategy("one")
    assert is_chief(strategy) and worker(strategy) == (0, 1) and strategy.num_replicas_in_sync == 1
    assert open_strategy("mirrored") is strategy  # this process has one device


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    check_batch_size(8, 4)
    with pytest.raises(UserError, match="multiple of 3"):
        check_batch_size(8, 3)


WORKERS = {"worker": ["a:1", "b:2"]}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "needs the environment variable TF_CONFIG"),
        ("{", "is no JSON"),
        ([], "has no 'cluster'"),
        ({"cluster": WORKERS}, "has no 'task'"),
        ({"cluster": {"worker": []}, "task": {"type": "worker", "index": 0}}, "has no 'worker'"),
        ({"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}, "has the jobs 'ps'"),
        ({"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}, "has the address 'a'"),
        ({"cluster": {"worker": ["a:99999"]}, "task": {"type": "worker", "index": 0}}, "has the address 'a:99999'"),
        ({"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}, "twice"),
        ({"cluster": WORKERS, "task": {"type": "chief", "index": 0}}, "task type 'chief'"),
        ({"cluster": WORKERS, "task": {"type": "worker", "index": 2}}, "task index 2, expected 0 to 1"),
        ({"cluster": WORKERS, "task": {"type": "worker", "index": "0"}}, "task index '0'"),
    ],
)
def test_a_wrong_cluster_is_named(config: Any, message: str) -> None:
    environment = {} if config is None else {"TF_CONFIG": config if isinstance(config, str) else json.dumps(config)}
    with pytest.raises(UserError, match=message):
        check_cluster(environment)


def test_right_clusters() -> None:
    check_cluster({"TF_CONFIG": json.dumps({"cluster": WORKERS, "task": {"type": "worker", "index": 1}})})
    cluster = {"chief": ["[::1]:1"], "worker": ["10.0.0.1:2"]}
    check_cluster({"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "chief", "index": 0}})})
