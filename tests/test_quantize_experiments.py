"""The experiments in quantization: rows, resuming, the table, bad input; a tiny detector, real files."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import pytest
import tf_keras as keras

import tinydet_tf
from commands import Command
from tinydet_lite.errors import UserError
from tinydet_tf.config import Config, DataConfig
from tinydet_tf.data.digits import digits_folder
from tinydet_tf.data.splits import load_split
from tinydet_tf.export.calibration import load_calibration_images
from tinydet_tf.export.comparison import Results, Row, comparison_rows, identity_of, scopes, select, table
from tinydet_tf.export.schemes import FORMATS
from tinydet_tf.weights import load_detector, save_weights

TENSORS = [
    "trunk/stem/Conv2D", "trunk/stem/Relu", "trunk/block1/Conv2D", "trunk/block2/x", "trunk/lateral0/add",
    "trunk/fpn0/add;trunk/fpn0/Conv2D", "trunk/rpn0/add", "proposals/add", "roi/x", "head/MatMul", "final/mul",
]  # fmt: skip
VALUES = {
    "AP": 0.4, "AP50": 0.6, "APs": 0.3, "bytes": 3_000_000, "milliseconds": 5.0, "reference_milliseconds": 10.0,
    "partitions": 7,
}  # fmt: skip


def test_parts_in_order() -> None:
    assert scopes(TENSORS) == [
        "trunk/stem", "trunk/block1", "trunk/block2", "trunk/lateral0", "trunk/fpn0", "trunk/rpn0", "head",
    ]  # fmt: skip


def test_rows() -> None:
    rows = comparison_rows(TENSORS, images=16)
    assert set(FORMATS) <= set(rows)
    assert rows["int8 4 images"].images == 4 and "int8 16 images" not in rows
    assert rows["only trunk/block2"].scheme.parts == ("trunk/block2",)
    assert rows["int8, head in float"].scheme.float_parts == ("head",)
    assert rows["float32"].images == 0
    assert not any(name.startswith("only ") for name in comparison_rows(TENSORS, images=16, sensitivity=False))


def test_rows_asked_for() -> None:
    rows = comparison_rows(TENSORS, images=16)
    assert list(select(rows, ["int8"])) == ["float32", "int8"]
    assert select(rows, []) == rows
    with pytest.raises(UserError, match="scheme 'int7' does not exist; choose from: float32; float16"):
        select(rows, ["int7"])


def test_finished_rows_are_kept(tmp_path: Path) -> None:
    path, rows = tmp_path / "r.json", comparison_rows(TENSORS, images=16)
    results = Results(path, {"weights": "a"})
    results.add(rows["int8"], VALUES)
    again = Results(path, {"weights": "a"})
    assert again.has(rows["int8"]) and not again.has(rows["float32"])
    other = Row("int8", rows["int8 min_max"].scheme, 16)  # the same name, another scheme
    assert not again.has(other)
    with pytest.raises(UserError, match="other weights"):
        Results(path, {"weights": "b"})
    for content in ("{}", '{"identity": [1], "rows": {}}', '{"identity": {}, "rows": {"int8": {}}}', "[1]", "no json"):
        path.write_text(content)
        with pytest.raises(UserError, match="not a file of quantization experiments"):
            Results(path, {"weights": "a"})


def test_what_rows_are_valid_for(weights: Path, data: Path) -> None:
    detector, _ = load_detector(weights)
    train, val = (load_split(DataConfig(root=str(data)), split) for split in ("train", "val"))
    few, more = (load_calibration_images(train, 128, count=count) for count in (2, 4))
    known = identity_of(detector, val, few)
    assert known == json.loads(json.dumps(known)) == identity_of(detector, val, few)
    assert known != identity_of(detector, val, more) != identity_of(detector, train, more)
    same_ids = dataclasses.replace(train, images=train.images[: len(val)])
    assert [i.id for i in same_ids.images] == [i.id for i in val.images], "of another split, under the same numbers"
    assert identity_of(detector, same_ids, few)["data"] != known["data"]


def test_table(tmp_path: Path) -> None:
    rows = comparison_rows(TENSORS, images=16)
    results = Results(tmp_path / "r.json", {})
    for name in ("float32", "int8", "only trunk/block1"):
        results.add(rows[name], VALUES)
    assert table(results, ["int8", "int16"]) == [["int8", "40.00", "30.00", "3.00", "5.0", "0.50", "7"]]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keras.utils.set_random_seed(1)
    names = tuple(str(digit) for digit in range(10))
    detector = tinydet_tf.build_detector("S", num_classes=10, input_size=128, backbone="shallow")
    config = Config(variant="S", model=detector.config, class_names=names, category_ids=tuple(range(1, 11)))
    path = tmp_path_factory.mktemp("weights") / "w.weights.h5"
    save_weights(detector, config, path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("digits"), num_train=4, num_val=2)


@pytest.mark.slow
def test_command_goes_on_where_it_stopped(
    command: Command, weights: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinydet_tf.export.comparison import Bench

    run, done = Bench.run, []

    def stop_at_third(self: Bench, row: Row) -> dict[str, Any]:
        done.append(row.name)
        if len(done) == 3:
            raise KeyboardInterrupt
        return run(self, row)

    monkeypatch.setattr(Bench, "run", stop_at_third)
    out = tmp_path / "r.json"
    start = functools.partial(
        command, "quantize_experiments.py", "--model", weights, "--data", data, "--limit", 1, "--calibration-images", 2,
        "--only", "int8", "--only", "dynamic", "--json", out,
    )  # fmt: skip
    assert start().code == 130
    assert list(json.loads(out.read_text())["rows"]) == ["float32", "dynamic"]
    finished = start()
    assert finished.code == 0, finished.err
    assert done == ["float32", "dynamic", "int8", "int8"]
    rows = json.loads(out.read_text())["rows"]
    assert set(rows) == {"float32", "dynamic", "int8"} and rows["int8"]["bytes"] < rows["float32"]["bytes"]
    assert "int8" in finished.out
    assert list(tmp_path.iterdir()) and not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_command_refuses(command: Command, weights: Path, data: Path, tmp_path: Path) -> None:
    out = ("--json", tmp_path / "r.json")
    command("quantize_experiments.py", "--model", tmp_path / "none", *out).assert_refused_alone("does not exist")
    command("quantize_experiments.py", "--model", weights, *out, "--limit", 0).assert_refused_alone("--limit is 0")
    command(
        "quantize_experiments.py", "--model", weights, "--data", data, "--only", "int3", *out
    ).assert_refused("scheme 'int3' does not exist", "float16")  # fmt: skip
    command("quantize_experiments.py", "--model", weights).assert_refused("required: --json")
    listed = command("quantize_experiments.py", "--model", weights, "--data", data, "--list", "--skip-sensitivity")
    assert listed.code == 0 and listed.out.split("\n")[0] == "float32" and "int8 min_max" in listed.out
