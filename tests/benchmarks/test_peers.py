"""benchmarks/peers: our data in the peers' forms and back, epochs for minutes, the table. Nothing is trained here."""

from __future__ import annotations

import ast
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import peer_process
import run as peers_run
import table as peers_table
from peer_data import MAX_DETECTIONS, coco_results, linked_name, load_splits, write_coco, write_yolo, yolo_label
from peer_process import environment, run
from tinydet_lite.errors import UserError
from tinydet_tf.data.coco import CocoDataset
from tinydet_tf.evaluation import coco_metrics

PEERS = Path(peers_run.__file__).parent
#: Ids with a gap, as COCO has them; the second picture has a crowd, a box over the border and nothing else.
CATEGORIES = [{"id": 3, "name": "car"}, {"id": 7, "name": "person"}]
BOXES = {1: [(7, [10.0, 20.0, 30.0, 40.0], 0), (3, [0.5, 0.25, 8.0, 4.0], 0)],
         2: [(3, [88.0, 10.0, 15.0, 10.0], 0), (7, [0.0, 0.0, 50.0, 40.0], 1)]}  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    for split in ("train", "val", "test"):
        (folder / split / "images").mkdir(parents=True)
        for number in BOXES:
            Image.new("RGB", (100, 80), (number, 0, 0)).save(folder / split / "images" / f"flight {number}.PNG")
        annotations = [
            {"id": 10 * image + index, "image_id": image, "category_id": category, "bbox": box,
             "area": box[2] * box[3], "iscrowd": crowd}
            for image, boxes in BOXES.items() for index, (category, box, crowd) in enumerate(boxes)
        ]  # fmt: skip
        images = [{"id": n, "file_name": f"flight {n}.PNG", "width": 100, "height": 80} for n in BOXES]
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (folder / split / "instances.json").write_text(json.dumps(content))
    return folder


def from_yolo(text: str, width: int, height: int) -> list[tuple[int, list[float]]]:
    """What a reader of YOLO's labels makes of them: class, x, y, width, height in pixels."""
    found = []
    for line in text.splitlines():
        class_id, cx, cy, w, h = line.split()
        box = [(float(cx) - float(w) / 2) * width, (float(cy) - float(h) / 2) * height,
               float(w) * width, float(h) * height]  # fmt: skip
        found.append((int(class_id), box))
    return found


def test_labels_are_the_boxes_clipped_and_without_crowds(data: Path) -> None:
    first, second = load_splits(data)["train"].images
    found = from_yolo(yolo_label(first), 100, 80)
    assert [class_id for class_id, _ in found] == [1, 0]
    np.testing.assert_allclose([box for _, box in found], [BOXES[1][0][1], BOXES[1][1][1]], atol=1e-4)
    assert from_yolo(yolo_label(second), 100, 80) == [(0, pytest.approx([88, 10, 12, 10], abs=1e-4))]


def test_the_yolo_folder_links_pictures_and_names_classes(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "yolo"
    folder.mkdir()
    content = yaml.safe_load(write_yolo(load_splits(data), folder).read_text())
    assert content["names"] == {0: "car", 1: "person"}
    for split in ("train", "val", "test"):
        pictures = sorted((Path(content["path"]) / content[split]).iterdir())
        assert [path.name for path in pictures] == ["000000000001.png", "000000000002.png"]
        assert all(path.is_symlink() for path in pictures)
        assert pictures[1].resolve() == (data / split / "images" / "flight 2.PNG").resolve()
        assert [path.stem for path in sorted((folder / "labels" / split).iterdir())] == [p.stem for p in pictures]


def test_the_truth_as_a_peer_would_detect_it_has_an_ap_of_one(data: Path, tmp_path: Path) -> None:
    """Ids, classes and corners survive the way there and back, by either form."""
    splits = load_splits(data)
    test = splits["test"]
    yolo = [
        {"image_id": linked_name(image).partition(".")[0], "category_id": class_id + 1, "bbox": box, "score": 0.9}
        for image in test.images
        for class_id, box in from_yolo(yolo_label(image), image.width, image.height)
    ]
    write_coco(splits, tmp_path / "coco")
    content = json.loads((tmp_path / "coco" / "test.json").read_text())
    assert (tmp_path / "coco" / "test" / content["images"][0]["file_name"]).is_symlink()
    coco = [{**annotation, "score": 0.9} for annotation in content["annotations"]]
    for found, first_class in ((yolo, 1), (coco, 0)):
        results = coco_results(found, test.category_ids, first_class=first_class)
        assert {result["category_id"] for result in results} == {3, 7}
        metrics, class_ap = coco_metrics(test, results)
        # A fifth of the box over the border was cut off for training: it is found up to an IoU of 0.8.
        assert class_ap["person"] == pytest.approx(1) and metrics["AP75"] == pytest.approx(1)
        assert metrics["AP"] > 0.7
        # Two pixels to the side lose: the smallest box has 8.
        moved = [{**result, "bbox": [result["bbox"][0] + 2, *result["bbox"][1:]]} for result in results]
        assert coco_metrics(test, moved)[0]["AP"] < metrics["AP"]


def test_a_picture_keeps_its_best_detections() -> None:
    found = [
        {"image_id": str(image), "category_id": 0, "bbox": [0, 0, 1, 1], "score": index / 200}
        for image in (2, 1)
        for index in range(MAX_DETECTIONS + 20)
    ]
    results = coco_results(found, (5,), first_class=0)
    assert [result["image_id"] for result in results] == [1] * MAX_DETECTIONS + [2] * MAX_DETECTIONS
    assert min(result["score"] for result in results) == 20 / 200
    assert coco_results([], (5,), first_class=0) == []


@pytest.mark.parametrize(("category", "first_class"), [(0, 1), (3, 1), (2, 0), (-1, 0)])
def test_a_class_that_the_data_does_not_have(category: int, first_class: int) -> None:
    found = [{"image_id": 1, "category_id": category, "bbox": [0, 0, 1, 1], "score": 0.5}]
    with pytest.raises(UserError, match=f"category {category}; expected {first_class} to {first_class + 1}"):
        coco_results(found, (3, 7), first_class=first_class)


def test_splits_of_other_classes(data: Path) -> None:
    path = data / "test" / "instances.json"
    path.write_text(path.read_text().replace('"car"', '"lorry"'))
    with pytest.raises(UserError, match="test has the classes lorry, person, train has car, person"):
        load_splits(data)


def test_epochs_within_minutes() -> None:
    measured = {"epochs": 30, "processor_minutes": 60.0}
    assert peers_run.epochs_within(90, measured) == 45
    assert peers_run.epochs_within(0.1, measured) == 1
    with pytest.raises(UserError, match="no processor minutes"):
        peers_run.epochs_within(90, {"epochs": 30, "processor_minutes": None})


def test_a_child_is_measured_with_its_own_children(tmp_path: Path) -> None:
    busy = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass\n"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    usage = run([sys.executable, "-c", program], tmp_path / "log.txt")
    assert 60 * usage.processor_minutes >= 0.5


def test_a_child_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ended with 3; see .*log.txt: .*no such picture"):
        run([sys.executable, "-c", "print('no such picture'); raise SystemExit(3)"], tmp_path / "log.txt")


def test_an_environment_is_built_once_and_of_its_pins_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(peer_process, "run", lambda command, log: commands.append(command))
    folder = tmp_path / "environment"
    folder.mkdir()
    (folder / "pyvenv.cfg").touch()  # begun, and interrupted
    assert environment(folder, [["a==1"]]) == folder / "bin" / "python"
    assert commands[-1][1:] == ["-m", "pip", "install", "a==1"]
    environment(folder, [["a==1"]])
    assert len(commands) == 2
    with pytest.raises(UserError, match="built with other versions"):
        environment(folder, [["a==2"]])
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(UserError, match="is no Python environment"):
        environment(tmp_path / "photos", [["a==1"]])


def refused(script: str, arguments: list[object], monkeypatch: pytest.MonkeyPatch, capfd: Any) -> str:
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(PEERS / script), run_name="__main__")
    error = capfd.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in error
    return str(error.strip().splitlines()[-1])


def test_the_command_refuses_before_it_builds_anything(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    call = ["yolo11n", "--data", data, "--output", out, "--environment", tmp_path / "none"]
    for extra, message in (
        (["--epochs", 0], "--epochs is 0"),
        (["--epochs", 1, "--limit", 0], "--limit is 0"),
        (["--minutes", 5], "--minutes needs"),
        (["--minutes", 5, "--measured", tmp_path / "no.json"], "no result of yolo11n on set"),
        (["--epochs", 1, "--", "--variant", "M"], "for tinydet alone"),
        (["--epochs", 1, "--minutes", 5], "not allowed with"),
    ):
        assert message in refused("run.py", [*call, *extra], monkeypatch, capfd)
    out.mkdir()
    (out / "training.json").write_text(json.dumps({"asked": {"epochs": 7}}))
    assert "holds another training" in refused("run.py", [*call, "--epochs", 1], monkeypatch, capfd)
    assert not (tmp_path / "none").exists()


def result(title: str, **changes: Any) -> dict[str, Any]:
    numbers = {"AP": 0.5, "AP50": 0.8, "AP75": 0.55, "APs": 0.25, "APm": -1.0}
    return {
        "title": title, "data": "set", "split": "test", "images": {"test": 3}, "epochs": 60, "seed": 0,
        "processor_minutes": 12.34, "macs": 830_000_000, "parameters": 2_600_000, "arguments": [],
        "float32": numbers, "int8": {**numbers, "AP": 0.49, "tflite": f"{title}.tflite", "bytes": 2_900_000},
        **changes,
    }  # fmt: skip


def test_the_table() -> None:
    ours = result("TinyDet-S", arguments=["--variant", "S", "--set", "train.ema=0.999"], seed=1, macs=None)
    times = {"results": [
        {"file": f"/somewhere/{name}.tflite", "file_bytes": size, "threads": threads, "invoke": {"median": median}}
        for name, size, threads, median in (
            ("YOLO11n", 2_900_000, 1, 41.26), ("YOLO11n", 2_900_000, 2, 20.0), ("TinyDet-S", 5, 1, 1.0),
        )
    ]}  # fmt: skip
    lines = peers_table.table([ours, result("YOLO11n")], times).splitlines()
    assert lines[0].split(" | ")[-1] == "int8 ms, 1 thread |"
    assert lines[2] == (
        "| TinyDet-S (train.ema=0.999, seed 1) | 60 | 12.3 | - | 2.60 | 0.500 | 0.800 | 0.550 | 0.250 | - | 0.490 "
        "| 0.250 | 2.90 | - |"
    )
    assert lines[3].startswith("| YOLO11n | 60 | 12.3 | 0.83 |") and lines[3].endswith("| 2.90 | 41.3 |")
    assert len({line.count("|") for line in lines}) == 1
    assert "ms" not in peers_table.table([ours])


def test_a_table_is_of_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, content in {
        "a": result("A"), "b": result("B", images={"test": 4}), "c": {}, "d": [1], "times": {"results": []},
    }.items():  # fmt: skip
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    a, b, c, d, times = (tmp_path / f"{name}.json" for name in ("a", "b", "c", "d", "times"))
    for arguments, message in (
        ([a, b], "set test (3 images) and set test (4 images)"),
        ([a, c], "has no 'title'"),
        ([d], "is no result"),
        ([tmp_path / "no.json"], "cannot be read"),
        ([a, "--times", times], "has no results"),
    ):
        assert message in refused("table.py", arguments, monkeypatch, capfd)


def test_no_peer_is_imported_by_the_project() -> None:
    """Ultralytics is AGPL, and torch would be a dependency: a program for another environment alone may need them."""
    root = PEERS.parents[1]
    files = [*(root / "tinydet_tf").rglob("*.py"), *(root / "tflite").rglob("*.py"), *(root / "scripts").glob("*.py"),
             *PEERS.glob("*.py")]  # fmt: skip
    for path in files:
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            names |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            names |= {node.module or ""} if isinstance(node, ast.ImportFrom) else set()
        packages = {name.partition(".")[0] for name in names}
        assert "ultralytics" not in packages, path
        if path.parent != PEERS or not path.name.endswith("_program.py"):
            assert "torchvision" not in packages and "litert_torch" not in packages, path
    assert "ultralytics" not in (root / "pyproject.toml").read_text()


def test_a_limit_is_of_every_split(data: Path) -> None:
    splits: dict[str, CocoDataset] = load_splits(data, 1)
    assert {split: len(dataset) for split, dataset in splits.items()} == {"train": 1, "val": 1, "test": 1}
