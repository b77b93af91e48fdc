"""What labelling tools leave is found by --data, with the boxes that were drawn; docs/data.md says just that."""

from __future__ import annotations

import logging
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest

from commands import Command
from tinydet_lite.errors import UserError
from tinydet_tf.config import DataConfig
from tinydet_tf.data.coco import CocoDataset
from tinydet_tf.data.convert import open_folder
from tinydet_tf.data.splits import load_split
from tool_exports import CLASSES, EVERYTHING, EXPORTS, SCENES, SPLITS, uploaded, voc

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
ROW = re.compile(r"^\| (?P<name>[^|]+?) \| (?P<files>[^|]+?) \| (?P<splits>[^|]+?) \|$", re.MULTILINE)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYDET_CACHE", str(tmp_path_factory.mktemp("cache")))


def stem_of(path: Path) -> str:
    """The scene of a picture, whose name may be Label Studio's."""
    return next(stem for stem in EVERYTHING if path.name in (f"{stem}.jpg", uploaded(stem)))


def stems(dataset: CocoDataset) -> list[str]:
    return [stem_of(image.path) for image in dataset.images]


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_is_read_as_it_is(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    export = EXPORTS[name]
    export.write(tmp_path / "my set")
    data = DataConfig(root=str(tmp_path / "my set"))
    found = {split: load_split(data, split) for split in export.splits or ("train", "val", "all")}
    for dataset in found.values():
        assert dataset.class_names == CLASSES
        for image in dataset.images:
            scene = SCENES[stem_of(image.path)]
            np.testing.assert_allclose(image.boxes, [scene.box], atol=1e-4)  # YOLO's fractions have eight decimals
            assert image.classes.tolist() == [scene.class_index] and not image.is_crowd.any()
    if export.splits is not None:
        assert {split: set(stems(dataset)) for split, dataset in found.items()} == {
            split: set(SPLITS[split]) for split in export.splits
        }
        assert "passed over" not in caplog.text
        return
    train, val = set(stems(found["train"])), set(stems(found["val"]))
    assert not train & val and train | val == set(stems(found["all"])) == set(EVERYTHING)
    assert (len(train), len(val)) == (6, 2), "one image in five, rounded"
    assert caplog.text.count("has no val split and is divided") == 1  # though both halves are read
    assert stems(load_split(data, "val")) == stems(found["val"]), "the same images every time"
    with pytest.raises(UserError, match="no test split"):
        load_split(data, "test")


def test_the_page_has_every_export_and_nothing_else(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = {row["name"]: row for row in ROW.finditer(text) if row["name"] not in ("tool, export", "---")}
    assert list(rows) == list(EXPORTS)
    for number, (name, row) in enumerate(rows.items()):
        root = tmp_path / str(number)
        EXPORTS[name].write(root)
        files = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
        patterns = re.findall(r"`([^`]+)`", row["files"])
        assert patterns
        for pattern in patterns:
            assert any(fnmatch(file, pattern) for file in files), (name, pattern, files)
        for file in files:
            known = any(fnmatch(file, pattern) for pattern in patterns)
            assert known or file in ("README.dataset.txt", "notes.json", "labelmap.txt"), (name, file)
        assert row["splits"] == (", ".join(EXPORTS[name].splits or ()) or "divided"), name


def test_the_pages_commands_are_ours() -> None:
    from tinydet_tf.commands import COMMANDS

    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    assert lines and all(words[0] == "python" for words in lines if words)
    for words in filter(None, lines):
        assert Path(words[1]).stem.replace("_", "-") in COMMANDS, words


def test_a_split_of_another_set_leaves_nothing_held_out(tmp_path: Path) -> None:
    EXPORTS["FiftyOne, COCO"].write(tmp_path / "a")
    EXPORTS["TinyDet"].write(tmp_path / "b")
    val = tmp_path / "b" / "val"
    data = DataConfig(root=str(tmp_path / "a"), val_json=str(val / "instances.json"), val_images=str(val / "images"))
    assert len(load_split(data, "train")) == len(EVERYTHING)
    assert len(load_split(data, "val")) == 2


def test_a_set_without_val_is_validated_on_test(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import shutil

    for name in ("Roboflow, COCO", "Roboflow, YOLO", "Roboflow, VOC"):
        root = tmp_path / name
        EXPORTS[name].write(root)
        shutil.rmtree(root / "valid")
        if (root / "data.yaml").exists():
            (root / "data.yaml").write_text("names: [cat, dog]\n")
        caplog.clear()
        data = DataConfig(root=str(root))
        assert set(stems(load_split(data, "val"))) == set(SPLITS["test"])
        assert set(stems(load_split(data, "train"))) == set(SPLITS["train"]), "all of it"
        assert caplog.text.count("validation is on test") == 1


def test_xml_beside_pictures_are_what_is_tried_last(tmp_path: Path) -> None:
    """Of YOLO's pictures some have an xml of an earlier tool beside them; sets that have splits are not one set."""
    EXPORTS["Ultralytics"].write(tmp_path / "yolo")
    for split in ("train", "val"):
        for picture in (tmp_path / "yolo" / "images" / split).iterdir():
            voc(picture.with_suffix(".xml"), picture.stem)
    found = open_folder(tmp_path / "yolo")
    assert found is not None and found.source == tmp_path / "yolo" / "data.yaml"
    for name in ("a", "b"):
        EXPORTS["Roboflow, VOC"].write(tmp_path / "several" / name)
    assert open_folder(tmp_path / "several") is None


@pytest.mark.parametrize("name", ["COCO", "CVAT, YOLO", "labelImg, YOLO with splits", "Roboflow, VOC"])
def test_a_set_in_the_folder_of_its_archive(name: str, tmp_path: Path) -> None:
    """As deep as two folders; several sets are for the user to choose from."""
    export = EXPORTS[name]
    export.write(tmp_path / "my set" / "set v2" / "data")
    (tmp_path / "my set" / "__MACOSX" / "set v2").mkdir(parents=True)
    data = DataConfig(root=str(tmp_path / "my set"))
    assert set(stems(load_split(data, "train"))) <= set(EVERYTHING)
    if export.splits is None:
        assert len(load_split(data, "all")) == len(EVERYTHING)
    else:
        assert set(stems(load_split(data, export.splits[-1]))) == set(SPLITS[export.splits[-1]])
    export.write(tmp_path / "my set" / "set v1")
    assert load_split(data, "train").class_names == CLASSES, "the one that is nearer"
    export.write(tmp_path / "my set" / "set v0")
    with pytest.raises(UserError, match=r"my set has 2 data sets in it \(set v0, set v1\); give one of them"):
        load_split(data, "train")


def test_converting_a_set_in_the_folder_of_its_archive(tmp_path: Path, command: Command) -> None:
    for name in ("CVAT, COCO", "labelImg, YOLO"):
        EXPORTS[name].write(tmp_path / name / "data")
        out = tmp_path / f"out of {name}"
        arguments = ("--input", tmp_path / name, "--output", out, "--val-fraction", 0.25)
        code, printed, err = command("convert_dataset.py", *arguments)
        assert code == 0, err
        assert "train: 6 images, 6 boxes" in printed and "val: 2 images, 2 boxes" in printed


def test_what_lies_below_labelimgs_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Labels in folders below are of the set; pictures without, as detect.py draws them, are not, and are named."""
    EXPORTS["labelImg, YOLO"].write(tmp_path)
    for name in ("more", "drawn"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "red6.jpg").write_bytes((tmp_path / "red 1.jpg").read_bytes())
    (tmp_path / "more" / "red6.txt").write_bytes((tmp_path / "red 1.txt").read_bytes())
    found = load_split(DataConfig(root=str(tmp_path)), "all")
    names = [image.path.relative_to(tmp_path).as_posix() for image in found.images]
    assert len(names) == len(EVERYTHING) + 1 and "more/red6.jpg" in names
    assert "1 pictures in folders that have no labels (drawn/red6.jpg)" in caplog.text


def test_lists_that_are_no_lists_of_pictures(tmp_path: Path) -> None:
    """Labels of a picture named train, a text of somebody, an empty file; and a list without one for train."""
    EXPORTS["Label Studio, YOLO"].write(tmp_path)
    for content in ("0 0.5 0.5 0.1 0.1\n", "how it was trained\n", ""):
        (tmp_path / "train.txt").write_text(content)
        found = open_folder(tmp_path)
        assert found is not None and found.splits == ("all",), content
    (tmp_path / "train.txt").unlink()
    (tmp_path / "val.txt").write_text(f"images/{uploaded('green1')}\n")
    found = open_folder(tmp_path)
    assert found is not None and found.splits == ("all",)


def test_capital_letters_and_other_names_of_splits(tmp_path: Path) -> None:
    root = tmp_path / "set"
    EXPORTS["Roboflow, COCO"].write(root)
    for old, new in (("train", "Training"), ("valid", "VAL"), ("test", "Testing")):
        (root / old).rename(root / new)
    for split, expected in SPLITS.items():
        assert set(stems(load_split(DataConfig(root=str(root)), split))) == set(expected)


def test_annotations_without_their_images(tmp_path: Path) -> None:
    import shutil

    for name, folder in (("FiftyOne, COCO", "data"), ("CVAT, COCO", "images")):
        root = tmp_path / name
        EXPORTS[name].write(root)
        shutil.rmtree(root / folder)
        with pytest.raises(UserError, match=rf"has no image folder; expected .*{folder}"):
            load_split(DataConfig(root=str(root)), "train")


def test_finding_takes_the_time_of_a_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder is listed a fixed number of times, however many pictures there are."""
    import os

    listed: list[str] = []
    original = os.scandir

    def scandir(path: str = ".") -> object:
        listed.append(os.fspath(path))
        return original(path)

    counts = []
    for copies in (1, 40):
        root = tmp_path / str(copies)
        EXPORTS["labelImg, YOLO"].write(root)
        for index in range(copies):
            for stem in EVERYTHING:
                for suffix in (".jpg", ".txt"):
                    (root / f"{stem}_{index}{suffix}").write_bytes((root / f"{stem}{suffix}").read_bytes())
        monkeypatch.setattr(os, "scandir", scandir)
        caplog.set_level(logging.WARNING)
        load_split(DataConfig(root=str(root)), "all")
        monkeypatch.setattr(os, "scandir", original)
        counts.append(len(listed))
        listed.clear()
    assert counts[0] == counts[1] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Roboflow, COCO", "Roboflow, YOLO", "Pascal VOC"])
def test_from_an_export_to_detections(name: str, tmp_path: Path, command: Command) -> None:
    """Train, evaluate, int8, detect: what a user does with what a tool left, without a line of work by hand."""
    data, run, model = tmp_path / "my set", tmp_path / "run", tmp_path / "int8.tflite"
    EXPORTS[name].write(data)
    picture = next(path for path in sorted(data.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    values = ("train.epochs=1", "train.batch_size=2", "model.input_size=128", "train.warmup_steps=1")
    for arguments in (
        ("train.py", "--data", data, "--output", run, *(part for value in values for part in ("--set", value))),
        ("evaluate.py", "--model", run),
        ("export.py", "--model", run, "--format", "int8", "--output", model),
        ("evaluate.py", "--model", model, "--data", data),
        ("detect.py", "--model", model, "--source", picture, "--output", tmp_path / "found"),
    ):
        code, _, err = command(*arguments)
        assert code == 0, (arguments[0], err)
    assert (tmp_path / "found" / "detections.json").is_file()
