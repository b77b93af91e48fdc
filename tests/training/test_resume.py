"""A run that is killed, at any moment, and resumed ends as one that was not; a full disk is an error of one line."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tinydet_lite.errors import UserError
from tinydet_tf.config import load_config, save_config
from tinydet_tf.data.digits import digits_folder
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.training.run import callbacks
from tinydet_tf.training.run.callbacks import History, KeepBest
from tinydet_tf.training.run.folder import check_folder, finished_epochs, resumed_config
from tinydet_tf.training.run.train import train
from tinydet_tf.weights import BEST, LAST, load_detector, save_weights

PROGRAM = Path(__file__).with_name("train_program.py")
EPOCHS = 4
STEPS = 2  # of an epoch, with the four images of `new`

# RoIs are chosen at random, which a resumed run has to repeat. OHEM follows from the weights, and its graph and
# histograms would make each of twenty starts longer; test_seeing.py and test_qat.py resume with it.
SMALL = [
    "model.backbone=shallow", "model.input_size=64", "train.batch_size=2", f"train.epochs={EPOCHS}",
    "train.nms_pre=100", "train.proposals=50", "train.rcnn_samples=16", "train.rcnn_sampling=random",
    "train.learning_rate=1e-4",
]  # fmt: skip


def start(folder: Path, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, PROGRAM, json.dumps({"folder": str(folder), **options})],
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[str]) -> None:
    _, err = process.communicate(timeout=900)
    assert process.returncode == 0, err[-3000:]


def arrays(path: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(path, "r") as file:
        file.visititems(lambda n, i: found.update({n: np.asarray(i)}) if isinstance(i, h5py.Dataset) else None)
    return found


def assert_same_run(folder: Path, other: Path) -> None:
    """The same weights to the last bit, the same losses and APs, the same best."""
    for name in (LAST, BEST):
        ours, theirs = arrays(folder / name), arrays(other / name)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours), name
    assert json.loads((folder / "metrics.json").read_text()) == json.loads((other / "metrics.json").read_text())
    assert not list((folder / "backup").rglob("*temp*")) and not list(folder.glob(".tinydet-partial-*"))


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What makes a new run of `start`."""
    data = digits_folder(tmp_path_factory.mktemp("digits"), num_train=4, num_val=2)
    return {"set": [f"data.root='{data}'", *SMALL]}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, new: dict[str, Any]) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    finish(start(folder, **new))
    return folder


@pytest.fixture(scope="module")
def seconds_to_the_first_epoch(tmp_path_factory: pytest.TempPathFactory, new: dict[str, Any]) -> float:
    """How long a run takes here and now from its start to the end of an epoch."""
    folder, began = tmp_path_factory.mktemp("runs") / "run", time.monotonic()
    kill_when(start(folder, **new), lambda: epochs_noted(folder) >= 1)
    return time.monotonic() - began


@pytest.mark.slow
def test_any_folder_can_be_resumed(new: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow takes a checkpoint's path for a pattern, Keras the braces of a file name for numbers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(new["set"][0].partition("=")[2].strip("'"))
    folder = Path("runs") / "exp[1]*?\\d" / "run{0}"
    # What the pattern means: a checkpoint of somebody else's.
    other = tmp_path / "runs" / "exp1xyd" / "run{0}" / "backup" / "chief" / "ckpt-1.index"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"")
    settings = ["data.root=data", *SMALL, "train.epochs=1"]
    train(load_config(variant="S", assignments=settings), folder, verbose=0)
    assert finished_epochs(folder, STEPS) == 1
    # The data is found from anywhere; an old run, whose path is relative, looks for it above itself.
    config = load_config(folder / "config.yaml")
    assert config.data.root == str(tmp_path / "data")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    folder = tmp_path / folder
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace(str(tmp_path / "data"), "data"))
    train(resumed_config(folder, ["train.epochs=2"]), folder, resume=True, verbose=0)
    assert finished_epochs(folder, STEPS) == 2
    assert [entry["epoch"] for entry in json.loads((folder / "metrics.json").read_text())["history"]] == [1, 2]
    assert list((folder / "logs").rglob("events.out.tfevents.*"))
    # One checkpoint, and no other run's is gone.
    assert sorted({path.name.split(".")[0] for path in (folder / "backup" / "chief").iterdir()}) == [
        "checkpoint",
        "ckpt-2",
    ]
    assert other.is_file()
    assert load_detector(folder)[1].data.root == str(tmp_path / "data")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "t[1]"))
    with pytest.raises(UserError, match="TensorFlow takes for a pattern"):
        finished_epochs(folder, STEPS)


def test_a_resumed_run_whose_data_is_gone(new: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    config = load_config(variant="S", assignments=new["set"])
    for root in ("data", "/nowhere/data"):
        gone = dataclasses.replace(config, data=dataclasses.replace(config.data, root=root))
        (folder / "config.yaml").write_text(save_config(gone))
        with pytest.raises(UserError, match=rf"was trained on {root}, .*; add --set data\.root=DIR"):
            resumed_config(folder)
        there = resumed_config(folder, [f"data.root='{config.data.root}'"])
        assert there.data == config.data


def test_a_folder_that_tensorflow_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no UTF-8"):
        check_folder(tmp_path / "run\udcff", overwrite=False)


def kill_when(process: subprocess.Popen[str], moment: Callable[[], bool]) -> None:
    """SIGKILL as soon as `moment` says so."""
    while not moment():
        if process.poll() is not None:
            _, err = process.communicate()
            raise AssertionError(f"the run ended by itself: {err[-3000:]}")
        time.sleep(0.002)  # far shorter than writing a checkpoint takes, and the run has the processor
    process.kill()
    process.communicate()


def epochs_noted(folder: Path) -> int:
    try:
        return len(json.loads((folder / "metrics.json").read_text())["history"])
    except FileNotFoundError:
        return 0


def writing_checkpoint(folder: Path, known: int) -> bool:
    """A file of the checkpoint after the `known` one is there, but the list of checkpoints does not name it yet."""
    try:
        names = os.listdir(folder / "backup" / "chief")
    except FileNotFoundError:
        return False
    return any(name.startswith(f"ckpt-{known + 1}") for name in names)


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(uninterrupted: Path, new: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(run, **new)
    kill_when(process, lambda: writing_checkpoint(run, 1))
    # The second epoch's checkpoint is not whole: the first one counts, although the epoch's other files are written.
    assert finished_epochs(run, STEPS) == 1 and epochs_noted(run) == 2
    assert list((run / "backup" / "chief").glob("ckpt-2*"))
    finish(start(run, resume=True))
    assert_same_run(run, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments(
    seed: int, uninterrupted: Path, seconds_to_the_first_epoch: float, new: dict[str, Any], tmp_path: Path
) -> None:
    rng, run = random.Random(seed), tmp_path / "run"
    process = start(run, **new)
    for epoch in sorted(rng.sample(range(EPOCHS), 2)):
        # Anywhere from the moment that an epoch is noted (or, for epoch 0, the folder is made): checkpoints, the next
        # epoch's steps, its validation.
        kill_when(process, lambda epoch=epoch: (run / "config.yaml").exists() and epochs_noted(run) >= epoch)
        process = start(run, resume=True)
        # Or anywhere from its start on, which takes most of its time. It may be done by then, if the machine is faster
        # now than it was.
        moment = time.monotonic() + rng.uniform(0, seconds_to_the_first_epoch)
        while process.poll() is None and time.monotonic() < moment:
            time.sleep(0.002)
        if process.poll() is None:
            process.kill()
        _, err = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), err[-3000:]
        process = start(run, resume=True)
    finish(process)
    assert_same_run(run, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("what_fits", ["nothing", "the weights"])
def test_a_full_disk_is_one_line_and_the_checkpoint_survives(
    what_fits: str, uninterrupted: Path, tmp_path: Path
) -> None:
    """The weights do not fit any more; or they do, and the backup with the optimizer's state does not."""
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    before = arrays(run / LAST)
    # The largest file that may be written follows from what the network's files take, whatever the network.
    weights = (run / LAST).stat().st_size
    backup = max(path.stat().st_size for path in (run / "backup" / "chief").iterdir())
    assert backup > 1.5 * weights  # two moments a weight
    file_size = weights // 2 if what_fits == "nothing" else (weights + backup) // 2
    process = start(run, resume=True, set=[f"train.epochs={EPOCHS + 1}"], file_size=file_size)
    _, err = process.communicate(timeout=900)
    assert process.returncode == 2, err[-3000:]
    assert ": error: " in err.strip().splitlines()[-1] and "Traceback" not in err, err[-3000:]
    assert "File too large" in err.strip().splitlines()[-1]
    assert finished_epochs(run, STEPS) == EPOCHS
    if what_fits == "nothing":
        after = arrays(run / LAST)
        assert all(np.array_equal(before[key], after[key]) for key in before)
    assert arrays(run / BEST).keys() == before.keys()
    # With room again it goes on.
    if what_fits == "the weights":
        finish(start(run, resume=True))
        assert finished_epochs(run, STEPS) == EPOCHS + 1


@pytest.mark.slow
def test_killed_in_its_first_epoch_it_starts_from_the_same(
    new: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(variant="S", assignments=[*new["set"], "train.epochs=1", "train.seed=1"])
    other = TinyDet(config.model, 10)
    init = tmp_path / "init.weights.h5"
    save_weights(other, dataclasses.replace(config, class_names=tuple("0123456789")), init)
    monkeypatch.chdir(tmp_path)
    train(config, tmp_path / "whole", init=Path(init.name), verbose=0)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.FreezeBackbone, "on_epoch_begin", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "killed", init=Path(init.name), verbose=0)
    monkeypatch.chdir("/")
    train(resumed_config(tmp_path / "killed"), tmp_path / "killed", resume=True, verbose=0)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def backup_of(folder: Path, *, epochs: int) -> Path:
    """What a run of so many epochs leaves of its state, as far as `finished_epochs` looks at it."""
    state = {"ckpt_saved_epoch": tf.Variable(epochs - 1), "ckpt_saved_batch": tf.Variable(STEPS - 1)}
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(**state), str(folder / "backup" / "chief"), 1)
    manager.save()
    (folder / "metrics.json").write_text(json.dumps({"history": noted([0.1] * epochs), "best": {}}))
    return folder / "backup" / "chief"


def test_a_backup_that_is_gone_is_no_new_run(tmp_path: Path) -> None:
    for index, damage in enumerate([
        lambda chief: shutil.rmtree(chief.parent),
        lambda chief: next(chief.glob("*.index")).unlink(),
        lambda chief: (chief / "checkpoint").write_bytes(b"\0garbage"),
    ]):  # fmt: skip
        folder = tmp_path / str(index)
        chief = backup_of(folder, epochs=2)
        assert finished_epochs(folder, STEPS) == 2
        damage(chief)
        with pytest.raises(UserError, match=r"backup is damaged or gone; start a new run with --init .*last\.weights"):
            finished_epochs(folder, STEPS)
    # Killed before its first backup was whole, when the epoch was noted already.
    shutil.rmtree(backup_of(tmp_path / "first", epochs=1))
    assert finished_epochs(tmp_path / "first", STEPS) == 0


def test_other_pictures_have_other_steps(tmp_path: Path) -> None:
    backup_of(tmp_path, epochs=3)
    with pytest.raises(UserError, match="had 2 steps an epoch, its data gives 8 by now"):
        finished_epochs(tmp_path, 8)


def noted(aps: list[float | None]) -> list[dict[str, float]]:
    return [{"epoch": i, **({} if ap is None else {"val_AP": ap})} for i, ap in enumerate(aps, 1)]


def history(path: Path, entries: list[dict[str, float]], best: dict[str, float], finished: int) -> History:
    path.write_text(json.dumps({"history": entries, "best": best}))
    return History(path, finished=finished)


@pytest.mark.parametrize(
    ("aps", "kept"), [([0.0, 0.0, 0.0], [1, 2, 3]), ([0.1, 0.3, 0.2, 0.3], [1, 2, 4]), ([0.2, 0.1], [1])]
)
def test_of_equal_aps_the_last_ones_weights_are_kept(aps: list[float], kept: list[int], tmp_path: Path) -> None:
    """While nothing is found AP is 0, and the network learns all the same."""
    told: list[int] = []
    layer = keras.layers.Dense(1)
    model = keras.Sequential([layer])
    model.build([None, 1])
    keep = KeepBest(tmp_path / "best.weights.h5", None, lambda: told.append(int(layer.kernel.numpy()[0, 0])))
    keep.set_model(model)
    for epoch, ap in enumerate(aps):
        layer.kernel.assign([[epoch + 1.0]])
        keep.on_epoch_end(epoch, {"val_AP": ap})
    assert told == kept
    model.load_weights(str(tmp_path / "best.weights.h5"))
    assert layer.kernel.numpy()[0, 0] == kept[-1]


@pytest.mark.parametrize(
    ("aps", "patience", "stops"),
    [
        ([0.1, 0.2, 0.2], 1, True),  # no better is as bad as worse
        ([0.1, 0.2, 0.2], 2, False),
        ([0.3, 0.2, 0.1], 2, True),
        ([0.3, None, None, 0.1], 2, False),  # epochs without a validation do not count
        ([0.3, 0.2, 0.4], 1, False),
        ([0.3, 0.2], None, False),
        ([None], 1, False),
        ([0.3], 0, False),
    ],
)
def test_early_stopping_counts_on(tmp_path: Path, aps: list[float | None], patience: int | None, stops: bool) -> None:
    entries = noted(aps)
    resumed = history(tmp_path / "metrics.json", entries, entries[0], finished=len(entries))
    assert resumed.should_stop(patience) is stops


def test_an_epoch_that_runs_again_leaves_the_best(tmp_path: Path) -> None:
    """Killed between metrics.json and the backup: the epoch's weights stay the best although it is noted anew."""
    entries = noted([0.1, 0.3])
    resumed = history(tmp_path / "metrics.json", entries, entries[1], finished=1)
    assert resumed.entries == entries[:1] and resumed.best == entries[1]
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        History(tmp_path / "metrics.json", finished=1)
