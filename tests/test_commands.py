"""The commands as a user types them: the whole way for S, M and L, and every kind of bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from commands import SCRIPTS, Command
from tinydet_lite.detector import Detector
from tinydet_tf.data.digits import digits_folder
from tinydet_tf.weights import LAST, keep_threshold, read_threshold


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("digits"), num_train=4, num_val=2)


SMALL = [
    "model.backbone=shallow", "model.input_size=128", "train.batch_size=2", "train.epochs=1",
    "train.nms_pre=300", "train.proposals=100", "train.rcnn_samples=32", "train.learning_rate=1e-4",
]  # fmt: skip


def small(*more: str) -> list[str]:
    return [part for value in (*SMALL, *more) for part in ("--set", value)]


def small_run(*more: str) -> list[str]:
    """With the variant's own network, anchors and input."""
    recipe = [value for value in SMALL if not value.startswith("model.")]
    return [part for value in (*recipe, *more) for part in ("--set", value)]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """A run, made once; tests that change it copy it."""
    from tinydet_tf.config import load_config
    from tinydet_tf.training.run.train import train

    folder = tmp_path_factory.mktemp("runs") / "run"
    assignments = [f"data.root='{digits}'", *SMALL]
    train(load_config(variant="S", assignments=assignments), folder, verbose=0)
    return folder


@pytest.mark.parametrize("variant", ["S", *(pytest.param(v, marks=pytest.mark.slow) for v in "ML")])
def test_the_whole_way(variant: str, command: Command, digits: Path, tmp_path: Path) -> None:
    run, model = tmp_path / "run", tmp_path / "model.tflite"
    done = command("train.py", "--variant", variant, "--data", digits, "--output", run, *small_run("data.limit=2"))
    assert done.code == 0, done.err
    assert {p.name for p in run.iterdir()} == {
        "config.yaml", "metrics.json", "best.weights.h5", "last.weights.h5", "logs", "backup",
    }  # fmt: skip
    history = json.loads((run / "metrics.json").read_text())["history"]
    assert len(history) == 1 and np.isfinite(history[0]["loss"]) and 0 <= history[0]["val_AP"] <= 1
    assert list((run / "logs").rglob("events.out.tfevents.*"))

    keras_json, tflite_json = tmp_path / "keras.json", tmp_path / "tflite.json"
    done = command("evaluate.py", "--model", run, "--data", digits, "--json", keras_json)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-2:] == [
        f"  python {SCRIPTS / 'evaluate.py'} --model {run} --data {digits} --json {keras_json} --report report",
        f"  python {SCRIPTS / 'export.py'} --model {run} --output {run / 'model.tflite'}",
    ]
    done = command("export.py", "--model", run, "--output", model)
    assert done.code == 0 and "builtin only" in done.out, done.err
    done = command("evaluate.py", "--model", model, "--variant", variant, "--data", digits, "--json", tflite_json)
    assert done.code == 0 and "IoU 0.50:0.95, all sizes" in done.out, done.err
    numbers = [json.loads(p.read_text()) for p in (keras_json, tflite_json)]
    assert numbers[0]["AP"] == pytest.approx(numbers[1]["AP"], abs=0.002)
    assert set(numbers[0]) >= {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "class_ap", "num_images"}
    found = [json.loads((tmp_path / f"{name}.detections.json").read_text()) for name in ("keras", "tflite")]
    assert all(set(result) == {"image_id", "category_id", "bbox", "score"} for result in found[0] + found[1])
    # An AP near zero says little: the scores themselves, which only rounding may change, and a proposal or two that NMS
    # chooses otherwise.
    scores = [np.sort([result["score"] for result in results])[::-1][:50] for results in found]
    apart = np.abs(scores[0][:, None] - scores[1][None]).min(1) > 1e-4  # here 1.2e-7 on the trained digits model
    assert len(scores[0]) == len(scores[1]) == 50 and apart.mean() <= 0.1

    output = tmp_path / "detections"
    done = command(
        "detect.py", "--model", model, "--source", digits / "val/images", "--output", output, "--threshold", "0"
    )
    assert done.code == 0, done.err
    assert len([p for p in output.iterdir() if p.suffix != ".json"]) == 2
    assert len(json.loads((output / "detections.json").read_text())["images"]) == 2


def test_resume_goes_on_where_the_run_was(command: Command, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = json.loads((run / "metrics.json").read_text())["history"]
    done = command("train.py", "--output", run, "--resume", "--set", "train.epochs=2")
    assert done.code == 0, done.err
    assert "Epoch 2/2" in done.out and "Epoch 1/2" not in done.out
    after = json.loads((run / "metrics.json").read_text())["history"]
    assert after[0] == before[0] and [entry["epoch"] for entry in after] == [1, 2]
    # Finished: nothing is left to do, nothing is lost.
    again = command("train.py", "--output", run, "--resume")
    assert again.code == 0, again.err
    assert json.loads((run / "metrics.json").read_text())["history"] == after


def test_resume_refuses_what_would_be_ignored(command: Command, digits: Path, trained: Path, tmp_path: Path) -> None:
    resume = ("train.py", "--output", trained, "--resume")
    command(*resume, "--set", "train.learning_rate=1").assert_refused("only train.epochs")
    for option in (("--data", digits), ("--variant", "S"), ("--init", trained)):
        command(*resume, *option).assert_refused("the run's own configuration and data")
    command("train.py", "--resume").assert_refused("--resume needs --output")
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    for path in (run / "backup" / "chief").glob("*.data-*"):
        path.write_bytes(path.read_bytes()[:1000])
    command("train.py", "--output", run, "--resume", "--set", "train.epochs=2").assert_refused("backup is damaged")


@pytest.mark.slow
def test_early_stopping_and_overwrite(command: Command, digits: Path, trained: Path, tmp_path: Path) -> None:
    """Nothing is learnt at this rate: the AP of the second epoch is no better than the first's."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    still = (
        "train.epochs=6",
        "train.learning_rate=1e-12",
        "train.final_learning_rate=0",
        "train.early_stopping_patience=1",
    )
    done = command("train.py", "--data", digits, "--output", run, "--overwrite", *small(*still))
    assert done.code == 0, done.err
    content = json.loads((run / "metrics.json").read_text())
    assert [entry["epoch"] for entry in content["history"]] == [1, 2]
    aps = [entry["val_AP"] for entry in content["history"]]
    assert content["best"]["epoch"] == (2 if aps[1] == aps[0] else 1)  # of equal ones the last
    assert content["best"]["val_AP"] == aps[0] == max(aps)


def test_a_loss_that_is_no_number_ends_the_run(command: Command, digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    diverging = small("train.optimizer=sgd", "train.learning_rate=1e30", "train.warmup_start=1", "train.clip_norm=1e30")
    done = command("train.py", "--data", digits, "--output", run, *diverging, "--set", "train.epochs=20")
    done.assert_refused("the loss is no longer a number", "lower train.learning_rate")
    assert not list(tmp_path.rglob("*.h5")) or np.isfinite(
        json.loads((run / "metrics.json").read_text())["history"][-1]["loss"]
    )


def test_one_split_is_not_train_and_val(command: Command, digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = command("train.py", "--data", digits / "train", "--output", run, *small())
    done.assert_refused("train and val at once", "--val-json", "data.validate_on_train=true")
    assert not run.exists()


def test_init_takes_a_runs_weights_for_other_data(
    command: Command, digits: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of fewer classes, so that the class scores are fresh, with boxes that are none, which are told of once."""
    folder, _ = copy_digits(digits, tmp_path)
    for split in ("train", "val"):
        file = folder / split / "instances.json"
        document = json.loads(file.read_text())
        last = document["categories"].pop()["id"]
        document["annotations"] = [a for a in document["annotations"] if a["category_id"] != last]
        if split == "train":
            bad = ([10, 10, -5, 9], [10, 10, 0, 9], [900, 10, 20, 20], [-8, 10, 20, 20])
            for annotation, box in zip(document["annotations"], bad, strict=False):
                annotation["bbox"] = box
        file.write_text(json.dumps(document))
    run = tmp_path / "run"
    still = "train.learning_rate=1e-12", "train.final_learning_rate=0", "train.weight_decay=0"
    caplog.clear()
    done = command("train.py", "--data", folder, "--init", trained, "--output", run, *small(*still))
    assert done.code == 0, done.err
    from tinydet_tf.weights import load_detector

    (ours, config), (theirs, _) = load_detector(run / LAST), load_detector(trained)
    assert config.class_names == tuple("012345678")
    pairs = list(zip(ours.trainable_weights, theirs.trainable_weights, strict=True))
    fresh = [a.name for a, b in pairs if a.shape != b.shape or not np.allclose(a, b, atol=1e-6)]
    assert len(fresh) == 2 and all("rcnn_score" in name for name in fresh), fresh
    reports = [r.getMessage() for r in caplog.records if "dropped" in r.getMessage()]
    assert len(reports) == 1 and "1 clipped" in reports[0] and "3 dropped" in reports[0]


def test_a_taken_run_folder_is_left_alone(command: Command, digits: Path, trained: Path, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()}
    done = command("train.py", "--data", digits, "--output", trained, *small())
    done.assert_refused("already holds a run", "--resume", "--overwrite")
    assert {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()} == before
    (tmp_path / "mine.txt").write_text("mine")
    command("train.py", "--data", digits, "--output", tmp_path, "--overwrite").assert_refused("not empty and not a run")
    assert (tmp_path / "mine.txt").read_text() == "mine"


def copy_digits(digits: Path, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path / "data"
    shutil.copytree(digits, folder)
    return folder, json.loads((folder / "train" / "instances.json").read_text())


def test_bad_data(command: Command, digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train = ("train.py", "--output", run, *small())
    command(*train, "--data", tmp_path / "absent").assert_refused("absent")
    command(*train, "--train-json", tmp_path / "a.json").assert_refused(
        "--train-json and --train-images belong together"
    )
    folder, document = copy_digits(digits, tmp_path)
    file = folder / "train" / "instances.json"

    def refused(content: object, *words: str) -> None:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        command(*train, "--data", folder).assert_refused(*words)

    refused("{", "instances.json")
    refused({"hello": 1}, "instances.json", "images")
    refused({**document, "images": []}, "lists no images")
    for key, message in (("category_id", "which categories does not list"), ("image_id", "which images does not list")):
        wrong = json.loads(json.dumps(document))
        wrong["annotations"][0][key] = 999
        refused(wrong, "999", message)
    file.unlink()
    command(*train, "--data", folder).assert_refused("instances.json")
    assert not run.exists()


@pytest.mark.slow
def test_one_tolerance_along_the_chain(
    command: Command, digits: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Images that do not decode: named and left out by every command in turn, and too many of them end each."""
    folder, document = copy_digits(digits, tmp_path)
    name = document["images"][0]["file_name"]
    files = {split: folder / split / "images" / name for split in ("train", "val")}
    files["train"].write_bytes(files["train"].read_bytes()[:500])
    files["val"].write_bytes(b"\xff\xd8 no jpeg")
    run, model = tmp_path / "run", tmp_path / "m.tflite"
    chain = (
        (("train.py", "--data", folder, "--output", run, *small("model.input_size=64")), "train", "val"),
        (("evaluate.py", "--model", run), "val"),
        (("export.py", "--model", run, "--format", "int8", "--output", model), "train"),
        (("evaluate.py", "--model", model, "--data", folder), "val"),
        (("evaluate.py", "--model", model, "--data", folder, "--tiles", "1x2", "--split", "train"), "train"),
        (("show_batch.py", "--data", folder, "--output", tmp_path / "batch.jpg"), "train"),
        (("anchor_coverage.py", "--data", folder, "--models", "s"), "train"),
    )
    for arguments, *splits in chain:
        caplog.clear()
        done = command(*arguments)
        assert done.code == 0, done.err
        told = [text for text in (record.getMessage() for record in caplog.records) if "skipping" in text]
        assert len(told) == len(splits), told
        for text, split in zip(told, splits, strict=True):
            assert f"skipping 1 of {4 if split == 'train' else 2} images and the " in text and str(files[split]) in text
        if arguments[0] == "evaluate.py":
            assert "the numbers leave out 1 that cannot be used" in done.out
    for split in ("train", "val"):
        for file in (folder / split / "images").iterdir():
            file.write_bytes(b"")
    for (script, *arguments), *splits in chain:
        where = [tmp_path / "new" if argument == run and script == "train.py" else argument for argument in arguments]
        command(script, *where).assert_refused(f"images of {folder / splits[0]}", "can be used", "is not an image")
    assert not (tmp_path / "new").exists()


def test_bad_options(command: Command, trained: Path, tmp_path: Path) -> None:
    command("train.py", "--variant", "XL").assert_refused("variant 'XL' does not exist", "S, M, L")
    command("train.py", "--set", "train.epoch=3").assert_refused("did you mean 'epochs'")
    few = ("--set", "data.limit=3", "--set", "train.batch_size=4", "--output", tmp_path / "run")
    command("train.py", *few).assert_refused("train.batch_size is 4, more than the images that data.limit leaves, 3")
    command("train.py", "--config", tmp_path / "no.yaml").assert_refused("no.yaml cannot be read")
    command("train.py", "--resume", "--output", tmp_path).assert_refused("no run to resume")
    command("train.py", "--strategy", "multiworker").assert_refused("TF_CONFIG")
    command("export.py", "--model", trained, "--output", tmp_path / "x.bin").assert_refused(".tflite")
    command("export.py", "--model", trained, "--output", tmp_path / "no" / "x.tflite").assert_refused("no folder")
    quantized = ("export.py", "--model", trained, "--output", tmp_path / "x.tflite", "--format")
    command(*quantized, "int8", "--calibration-images", "0").assert_refused("--calibration-images is 0")
    command(*quantized, "dynamic", "--data", tmp_path).assert_refused("--data", "dynamic needs none")
    command("evaluate.py", "--model", trained, "--json", tmp_path / "no" / "x.json").assert_refused("no folder")
    command("evaluate.py", "--model", trained, "--json", tmp_path).assert_refused("is a folder")
    command("evaluate.py", "--model", trained, "--limit", "0").assert_refused("--limit is 0")
    command("evaluate.py", "--model", trained, "--annotations", "x.json").assert_refused("--annotations and --images")
    assert list(tmp_path.iterdir()) == []


def test_output_that_cannot_be_written(command: Command, digits: Path, trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    command("train.py", "--data", digits, "--output", file, *small()).assert_refused("is a file")
    command("train.py", "--data", digits, "--output", file / "run", *small()).assert_refused("cannot be written")
    command("export.py", "--model", trained, "--output", file / "x.tflite").assert_refused("no folder")


@pytest.mark.slow
def test_the_exported_file_has_the_runs_threshold(
    command: Command, digits: Path, trained: Path, tmp_path: Path
) -> None:
    """Until somebody names another; a report of val gives weights without one theirs."""
    pytest.importorskip("matplotlib")
    run, model, report = tmp_path / "run", tmp_path / "model.tflite", tmp_path / "report"
    shutil.copytree(trained, run)
    keep_threshold(run, 0.37)
    export = ("export.py", "--model", run, "--output", model)
    for more, threshold, said in (((), 0.37, "0.37, the best F1"), (("--threshold", 0.6), 0.6, "0.6, as given")):
        done = command(*export, *more)
        assert done.code == 0 and f"Score threshold in the file: {said}" in done.out, done.err
        assert Detector(model).score_threshold == threshold
    done = command("evaluate.py", "--model", run, "--data", digits, "--report", report)
    assert done.code == 0, done.err
    numbers = json.loads((report / "report.json").read_text())
    assert numbers["used"]["threshold"] == 0.37 and numbers["used"]["source"] == "model"
    assert read_threshold(run) == 0.37
    command(*export, "--threshold", "nan").assert_refused_alone("--threshold is nan; give a score from 0 to 1")


def test_wrong_weights(command: Command, digits: Path, trained: Path, tmp_path: Path) -> None:
    command("evaluate.py", "--model", tmp_path / "absent").assert_refused("does not exist")
    command("evaluate.py", "--model", tmp_path).assert_refused("holds neither best.weights.h5 nor last.weights.h5")
    command("evaluate.py", "--model", trained, "--variant", "M", "--data", digits).assert_refused("holds TinyDet-S")
    run = tmp_path / "run"
    train = ("train.py", "--data", digits, "--output", run, *small_run())
    command(*train, "--variant", "M", "--init", trained).assert_refused(
        "has the backbone shallow (TinyDet-S), this detector mobilenetv3_bc"
    )
    for content in (
        b"",
        b"garbage" * 1000,
        (trained / LAST).read_bytes()[:5000],
        (trained / LAST).read_bytes()[:-5000],
    ):
        damaged = tmp_path / "damaged.weights.h5"
        damaged.write_bytes(content)
        command("evaluate.py", "--model", damaged, "--data", digits).assert_refused("damaged.weights.h5")
        command("export.py", "--model", damaged, "--output", tmp_path / "x.tflite").assert_refused("damaged.weights.h5")
    assert not run.exists() and not (tmp_path / "x.tflite").exists()


def test_wrong_tflite(command: Command, digits: Path, tmp_path: Path) -> None:
    for content in (b"", b"TFL3" * 100, b"\x1c\0\0\0TFL3" + b"\0" * 2000):
        path = tmp_path / "bad.tflite"
        path.write_bytes(content)
        command("evaluate.py", "--model", path, "--data", digits).assert_refused("bad.tflite")
        image = next((digits / "val" / "images").iterdir())
        command("detect.py", "--model", path, "--source", image, "--output", tmp_path / "o").assert_refused(
            "bad.tflite"
        )
    assert not (tmp_path / "o").exists()


def test_evaluation_needs_the_models_classes(command: Command, digits: Path, trained: Path, tmp_path: Path) -> None:
    folder, _ = copy_digits(digits, tmp_path)
    file = folder / "val" / "instances.json"
    document = json.loads(file.read_text())
    document["categories"][0]["name"] = "zebra"
    file.write_text(json.dumps(document))
    command("evaluate.py", "--model", trained, "--data", folder).assert_refused("does not know", "zebra")


@pytest.mark.slow
def test_weights_of_plain_keras_need_the_variant(command: Command, digits: Path, tmp_path: Path) -> None:
    from tinydet_tf.model.detector import build_detector

    path = tmp_path / "plain.weights.h5"
    build_detector("S", 10).save_weights(path)
    command("export.py", "--model", path, "--output", tmp_path / "x.tflite").assert_refused("give --variant")
    done = command("export.py", "--model", path, "--variant", "S", "--output", tmp_path / "x.tflite")
    assert done.code == 0 and "10 classes" in done.out, done.err
    done = command("evaluate.py", "--model", path, "--variant", "S", "--data", digits, "--limit", "1")
    assert done.code == 0, done.err
    command("export.py", "--model", path, "--variant", "L", "--output", tmp_path / "y.tflite").assert_refused(
        "does not fit"
    )


def test_make_digits(command: Command, tmp_path: Path) -> None:
    done = command(
        "make_digits.py", "--cache", tmp_path, "--train-images", 2, "--val-images", 1, "--sample", tmp_path / "s.jpg"
    )
    assert done.code == 0, done.err
    assert (Path(done.out.strip()) / "train" / "instances.json").is_file()
    with Image.open(tmp_path / "s.jpg") as image:
        assert image.size == (320, 320)
