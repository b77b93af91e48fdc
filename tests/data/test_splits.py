"""Where images come from: the digits by their name, what a model says of its data, and what is asked for else."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import Command
from tinydet_lite.errors import UserError
from tinydet_lite.metadata import ModelInfo, append_metadata, read_model
from tinydet_tf.config import DIGITS, Config, DataConfig, config_from_dict
from tinydet_tf.data import splits
from tinydet_tf.data.digits import CLASS_NAMES
from tinydet_tf.data.splits import absolute, data_of, described, found, load_split, preparation, set_name

SMALL: dict[str, Any] = {"digits_train_images": 2, "digits_val_images": 1}
ON_DIGITS = Config(class_names=CLASS_NAMES)
ELSEWHERE = Config(class_names=("cat",), data=DataConfig(root="a/folder"))


def test_the_digits_have_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    by_name, nameless = (load_split(DataConfig(root=root, **SMALL), "val") for root in (DIGITS, None))
    assert by_name.annotation_file == nameless.annotation_file and by_name.class_names == CLASS_NAMES
    assert len(load_split(DataConfig(root=DIGITS, **SMALL), "train")) == 2
    assert described(DataConfig()) == described(DataConfig(root=DIGITS)) == "the embedded digits set"
    assert described(DataConfig(root="a/folder")) == "a/folder"


def test_a_folder_of_that_name_is_reached_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_split(DataConfig(root=DIGITS, **SMALL), "val").class_names == CLASS_NAMES
    assert "digits is the embedded set; ./digits, which is here too, is the folder" in caplog.text
    with pytest.raises(UserError, match=r"no val split in digits"):
        load_split(DataConfig(root="./digits"), "val")


def test_digits_are_not_mirrored() -> None:
    for data, mirrored in (
        (DataConfig(), False),
        (DataConfig(root=DIGITS), False),
        (DataConfig(root="a/folder"), True),
        (DataConfig(root=DIGITS, horizontal_flip=True), True),
        (DataConfig(root="a/folder", horizontal_flip=False), False),
        # A digits run's config.yaml with data of one's own.
        (DataConfig(root=DIGITS, train_json="a.json", train_images="a", val_json="b.json", val_images="b"), True),
    ):
        assert preparation(data)["horizontal_flip"] is mirrored


def test_a_model_says_what_it_was_trained_on() -> None:
    # A run of version 0.1 on digits names nothing.
    old = config_from_dict({"class_names": list(CLASS_NAMES), "data": {"root": None}})
    assert data_of(old).root == DIGITS and set_name(old) == DIGITS
    new = dataclasses.replace(ON_DIGITS, data=DataConfig(root=DIGITS, digits_seed=3))
    assert data_of(new) == new.data and set_name(new) == DIGITS
    # A folder of that name, or jsons beside it: other classes, other data.
    assert set_name(dataclasses.replace(new, class_names=("cat",))) == ""
    assert set_name(dataclasses.replace(new, data=dataclasses.replace(new.data, val_json="b.json"))) == ""
    assert data_of(ELSEWHERE) == ELSEWHERE.data and set_name(ELSEWHERE) == ""  # no folder of anybody's gets into a file
    with pytest.raises(UserError, match="does not say what data it was trained on; give --data"):
        data_of(Config(class_names=("cat",)))  # imported weights


def test_half_of_a_split_is_refused() -> None:
    with pytest.raises(UserError, match="--val-json and --val-images belong together"):
        load_split(DataConfig(val_json="a.json"), "val")
    with pytest.raises(UserError, match="--train-json is missing"):
        load_split(DataConfig(val_json="a.json", val_images="images"), "train")


@pytest.mark.parametrize("data_set", ["", DIGITS])
def test_a_tflite_says_its_data_or_is_told(
    data_set: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = ModelInfo("S", 64, 10, tuple(range(1, 11)), "a test", data_set=data_set)
    path = tmp_path / "x.tflite"
    path.write_bytes(append_metadata(b"\0\0\0\0TFL3" + bytes(8), info, CLASS_NAMES))
    assert read_model(path).info.data_set == data_set
    asked: list[DataConfig] = []

    def load(data: DataConfig, split: str) -> Any:
        asked.append(data)
        raise UserError("enough")

    monkeypatch.setattr(splits, "load_split", load)
    done = command("evaluate.py", "--model", path)
    if data_set:
        done.assert_refused("enough")
        assert "No --data given: evaluating on the embedded digits set." in done.out and asked[0].root == DIGITS
    else:
        done.assert_refused("does not say what data it was trained on", "--data DIR")
        command("evaluate.py", "--model", path, "--data", "digits").assert_refused("enough")
        assert asked == [DataConfig(root=DIGITS)]


def test_training_keeps_the_name(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on digits says so in its config.yaml, whether they were asked for or are what there is."""
    from tinydet_tf.training.run import train as training

    monkeypatch.setattr(training, "check_precision", lambda *_: (_ for _ in ()).throw(UserError("enough")))
    seen: list[Config] = []
    # The first that is given the whole configuration, with the classes of the data.
    monkeypatch.setattr(training, "check_qat", lambda config, **_: seen.append(config))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    small = [part for key, value in SMALL.items() for part in ("--set", f"data.{key}={value}")]
    for words in ([], ["--data", "digits"]):
        done = command("train.py", *words, *small, "--output", tmp_path / "run")
        done.assert_refused("enough")
        assert ("No --data given: training on the embedded digits set" in done.out) is not bool(words)
    assert [config.data.root for config in seen] == [DIGITS, DIGITS]
    assert all(np.isclose(config.train.learning_rate, 0.003) for config in seen)  # the digits' recipe, both times


def test_the_data_of_a_run_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    project = tmp_path / "project"
    (project / "data" / "images").mkdir(parents=True)
    (project / "data" / "train.json").write_text("{}")
    run = project / "out" / "run"
    run.mkdir(parents=True)
    monkeypatch.chdir(project)
    folder = DataConfig(root="data")
    files = DataConfig(train_json="data/train.json", train_images="data/images")
    assert absolute(folder).root == str(project / "data")
    assert absolute(files).train_images == str(project / "data" / "images")
    assert absolute(DataConfig(root=DIGITS)).root == DIGITS
    assert found(folder, run) == folder and found(absolute(files), run) == absolute(files)
    # An old run's paths are relative to a folder that it does not name.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with caplog.at_level(logging.INFO):
        assert found(folder, run) == absolute(dataclasses.replace(folder, root=str(project / "data")))
        config = dataclasses.replace(ELSEWHERE, data=files)
        assert data_of(config, run / "best.weights.h5").train_json == str(project / "data" / "train.json")
    assert f"the data of {run}: {project / 'data'}" in caplog.text
    # Both files or none.
    (project / "data" / "train.json").unlink()
    for data, missing in ((files, "data/train.json, which is neither here nor above it"),
                          (DataConfig(root="/nowhere/data"), "/nowhere/data, there is no such path")):  # fmt: skip
        assert found(data, run) is None
        with pytest.raises(UserError) as error:
            data_of(dataclasses.replace(ELSEWHERE, data=data), run)
        assert f"{run} was trained on {missing}; give --data" in str(error.value)
