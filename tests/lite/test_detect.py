"""The command detect: what it writes, and that wrong input ends in one line and exit code 2."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinydet_lite.cli import run
from tinydet_lite.commands.detect import main
from tinydet_lite.commands.progress import Progress
from tinydet_lite.detector import Detector
from tinydet_lite.errors import UserError
from tinydet_lite.media import fonts, sources
from tinydet_lite.metadata import append_metadata

from .conftest import LABELS, scene_boxes
from .test_sources import FakeCapture, served
from .videos import moving_block, read_video, write_video

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def _run(*arguments, script="detect.py"):
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _fails(capsys, model, source, output, *more):
    """The one line with which the command ends, through the same `run` as the script."""
    arguments = ["--model", str(model), "--source", str(source), "--output", str(output), *more]
    with pytest.raises(SystemExit) as stop:
        run(lambda: main(arguments))
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert ": error: " in err
    return err


def test_script_detects_in_one_image(model_path, scene, tmp_path):
    Image.fromarray(scene).save(tmp_path / "scene.png")
    out = tmp_path / "deep" / "out"
    done = _run("--model", model_path, "--source", tmp_path / "scene.png", "--output", out, "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert "scene.png: 2 objects (1 red thing, 1 blue thing), " in done.stdout
    assert " ms\n" in done.stdout
    assert sorted(os.listdir(out)) == ["detections.json", "scene_detected.png"]
    report = json.loads((out / "detections.json").read_text())
    assert report["model"] == "bright.tflite"
    (image,) = report["images"]
    assert (image["file"], image["width"], image["height"]) == ("scene.png", 256, 128)
    assert [found["box"] for found in image["detections"]] == scene_boxes().tolist()
    with Image.open(out / "scene_detected.png") as drawn:
        assert drawn.size == (960, 480)


def test_a_photograph_gives_the_command_what_it_gives_the_detector(model_path, scene, tmp_path, monkeypatch):
    """Sixteen times the network's input and more: decoded at an eighth, and whole only to be drawn on."""
    Image.fromarray(scene).resize((2048, 1024)).save(tmp_path / "large.jpg", quality=95)
    found = Detector(model_path, num_threads=1)(tmp_path / "large.jpg")
    assert np.abs(found.boxes - 8 * scene_boxes()).max() < 40  # a pixel of the network's input is 32 x 16 of these
    arguments = ["--model", str(model_path), "--source", str(tmp_path / "large.jpg"), "--threads", "1"]
    main([*arguments, "--output", str(tmp_path / "drawn")])
    with Image.open(tmp_path / "drawn" / "large_detected.jpg") as drawn:
        assert drawn.size == (2048, 1024)

    def refuse(_path):
        raise AssertionError("decoded whole, though nothing is drawn")

    monkeypatch.setattr(sources, "as_rgb_array", refuse)
    main([*arguments, "--output", str(tmp_path / "counted"), "--no-drawn"])
    for folder in ("drawn", "counted"):
        (image,) = json.loads((tmp_path / folder / "detections.json").read_text())["images"]
        assert (image["width"], image["height"]) == (2048, 1024)
        assert [one["box"] for one in image["detections"]] == [[round(float(v), 2) for v in box] for box in found.boxes]


def test_folder_is_sorted_not_recursive_and_nothing_overwrites(model_path, scene, tmp_path, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "sub").mkdir(parents=True)
    picture = Image.fromarray(scene)
    for name in ("b.JPG", "a.png", "a.jpg", "a.jpeg", "a.bmp", "a.webp", "a.gif", "a.tif", "sub/c.png"):
        picture.save(source / name)
    (source / "notes.txt").write_text("no image")
    main(["--model", str(model_path), "--source", str(source), "--output", str(out)])
    files = [image["file"] for image in json.loads((out / "detections.json").read_text())["images"]]
    assert files == sorted(["b.JPG", "a.png", "a.jpg", "a.jpeg", "a.bmp", "a.webp", "a.gif", "a.tif"])
    drawn = [name for name in os.listdir(out) if name != "detections.json"]
    assert len({name.casefold() for name in drawn}) == len(files)
    assert "b_detected.jpg" in drawn
    told = capsys.readouterr().out
    assert told.count(": 2 objects (1 red thing, 1 blue thing), ") == len(files)
    assert f"{len(files)} pictures in " in told


def test_what_a_folder_holds_beside_its_images_is_told(model_path, scene, tmp_path, capsys):
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(scene).save(source / "p0.jfif", "JPEG", quality=95)
    (source / "p1.heic").write_bytes(b"a picture")
    main(["--model", str(model_path), "--source", str(source), "--output", str(tmp_path / "out")])
    out = capsys.readouterr().out
    assert out.startswith("p0.jfif: 2 objects")
    assert out.endswith("passed over: 1 file (.heic)\n")
    assert sorted(os.listdir(tmp_path / "out")) == ["detections.json", "p0_detected.jpg"]


def test_the_picture_of_a_url(model_path, scene, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Image.fromarray(scene).save(tmp_path / "a b.png")
    with served({"/a%20b.png": (200, {"Content-Type": "image/png"}, (tmp_path / "a b.png").read_bytes())}) as (
        host,
        asked,
    ):
        for url in (f"http://{host}/a%20b.png", f"file://{tmp_path}/a%20b.png"):
            out = tmp_path / url[:4]
            main(["--model", str(model_path), "--source", url, "--output", str(out), "--format", "json", "yolo"])
            (image,) = json.loads((out / "detections.json").read_text())["images"]
            assert image["file"] == "a b.png"
            assert [found["box"] for found in image["detections"]] == scene_boxes().tolist()
            assert sorted(os.listdir(out)) == ["a b_detected.png", "detections.json", "labels"]
        assert len(asked) == 1
        url = f"http://{host}/b.png"
        assert "the server answers 404" in _fails(capsys, model_path, url, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_threshold(model_path, scene, tmp_path, capsys):
    Image.fromarray(scene).save(tmp_path / "x.jpg")
    source, out = str(tmp_path / "x.jpg"), str(tmp_path / "out")
    main(["--model", str(model_path), "--source", source, "--output", out, "--threshold", "0.95"])
    out = capsys.readouterr().out
    assert "x.jpg: no objects" in out and "or more; --threshold T shows what scores less.\n" in out


def test_the_threshold_that_the_file_suggests(flatbuffer, info, scene, tmp_path, capsys):
    model = tmp_path / "x.tflite"
    model.write_bytes(append_metadata(flatbuffer, dataclasses.replace(info, suggested_threshold=0.95), LABELS))
    Image.fromarray(scene).save(tmp_path / "x.jpg")
    given = ["--model", str(model), "--source", str(tmp_path / "x.jpg"), "--output", str(tmp_path / "out")]
    main(given)
    out = capsys.readouterr().out
    assert "score at least 0.95, as the model itself suggests" in out and "x.jpg: no objects" in out
    main([*given, "--threshold", "0.5"])
    out = capsys.readouterr().out
    assert "suggests" not in out and "no objects" not in out


def test_wrong_sources(model_path, scene, tmp_path, capsys):
    out = tmp_path / "out"
    assert "no such image, folder or video" in _fails(capsys, model_path, tmp_path / "missing.jpg", out)
    (tmp_path / "empty").mkdir()
    assert "has no images" in _fails(capsys, model_path, tmp_path / "empty", out)
    (tmp_path / "text.jpg").write_text("no image")
    assert "text.jpg is not an image" in _fails(capsys, model_path, tmp_path / "text.jpg", out)
    assert "no such image, folder or video" in _fails(capsys, model_path, tmp_path / "clip.mp4", out)
    Image.fromarray(scene).save(tmp_path / "x.png")
    for tiles, told in (
        (["--tiles", "2*2"], "expected rows x columns"),
        (["--tiles", "0x2"], "each from 1 to 64"),
        (["--tile-size", "3"], "tile size 3 came"),
        (["--tiles", "2x2", "--tile-size", "64"], "one of the two"),
        (["--tiles", "2x2", "--overlap", "1"], "overlap 1.0 came"),
        (["--overlap", "0.1"], "without tiles"),
    ):
        assert told in _fails(capsys, model_path, tmp_path / "x.png", out, *tiles)
    assert "score_threshold 7" in _fails(capsys, model_path, tmp_path / "x.png", out, "--threshold", "7")
    assert "--max-frames 0" in _fails(capsys, model_path, tmp_path / "x.png", out, "--max-frames", "0")
    unknown = _fails(capsys, model_path, tmp_path / "x.png", out, "--classes", "blue")
    assert "no class 'blue'; the nearest of its 3: blue thing" in unknown
    assert "0 threads" in _fails(capsys, model_path, tmp_path / "x.png", out, "--threads", "0")
    assert not out.exists()


def test_bad_images_in_a_folder_are_told_and_survived(model_path, scene, tmp_path, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    Image.fromarray(scene).save(source / "a.png")
    whole = (source / "a.png").read_bytes()
    (source / "b.png").write_bytes(whole[: len(whole) // 2])
    (source / "c.png").write_bytes(whole)
    with pytest.raises(SystemExit) as stop:
        run(lambda: main(["--model", str(model_path), "--source", str(source), "--output", str(out)]))
    assert stop.value.code == 2
    note, error = capsys.readouterr().err.splitlines()
    assert note.startswith("note: ") and "b.png does not decode" in note
    assert f"1 of 3 images could not be read; the others are done, in {out}" in error
    files = [image["file"] for image in json.loads((out / "detections.json").read_text())["images"]]
    assert files == ["a.png", "c.png"]
    assert sorted(os.listdir(out)) == ["a_detected.png", "c_detected.png", "detections.json"]

    (source / "a.png").unlink()
    (source / "c.png").unlink()
    with pytest.raises(UserError, match="none of the 1 images could be read"):
        main(["--model", str(model_path), "--source", str(source), "--output", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


def test_classes_max_frames_and_no_drawn(model_path, scene, tmp_path, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in "abc":
        Image.fromarray(scene).save(source / f"{name}.png")
    arguments = ["--model", str(model_path), "--source", str(source), "--output", str(out)]
    main([*arguments, "--classes", "Blue Thing", "1", "--max-frames", "2", "--no-drawn"])
    images = json.loads((out / "detections.json").read_text())["images"]
    assert [(image["file"], [found["class_id"] for found in image["detections"]]) for image in images] == [
        ("a.png", [2]),
        ("b.png", [2]),
    ]
    assert os.listdir(out) == ["detections.json"]
    told = capsys.readouterr().out
    assert "2 pictures in " in told and "median " in told and told.endswith(f"wrote detections.json to {out}\n")


@pytest.mark.parametrize("tiles", [["--tiles", "2x4", "--overlap", "0.25"], ["--tile-size", "80"]])
def test_tiles(model_path, tmp_path, tiles):
    """Two red squares: the model, which sees one box a colour, finds both in tiles alone, and sharper."""
    picture = np.zeros((128, 256, 3), np.uint8)
    picture[10:20, 10:20, 0] = picture[100:110, 230:240, 0] = 255
    Image.fromarray(picture).save(tmp_path / "x.png")
    arguments = ["--model", str(model_path), "--source", str(tmp_path / "x.png"), "--no-drawn"]
    found = []
    for more in ([], tiles):
        main([*arguments, "--output", str(tmp_path / "out"), *more])
        (image,) = json.loads((tmp_path / "out" / "detections.json").read_text())["images"]
        found.append(sorted(detection["box"] for detection in image["detections"]))
    ((x1, y1, x2, y2),) = found[0]
    assert x1 <= 12 and y1 <= 12 and x2 >= 230 and y2 >= 100
    # The box around both is the whole picture's, and stays; it is no truncated one.
    for square in ((10, 10, 20, 20), (230, 100, 240, 110)):
        assert min(np.abs(np.subtract(box, square)).max() for box in found[1]) < 2.5


def test_all_formats_of_images(model_path, scene, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("000000000139.png", "000000000285.png"):
        Image.fromarray(scene if "139" in name else np.zeros_like(scene)).save(source / name)
    arguments = ["--model", str(model_path), "--source", str(source), "--output", str(out), "--no-drawn"]
    main([*arguments, "--format", "coco", "yolo", "csv"])
    assert sorted(os.listdir(out)) == ["coco.json", "detections.csv", "labels"]

    truth = coco.COCO()
    truth.dataset = {
        "images": [{"id": number, "width": 256, "height": 128} for number in (139, 285)],
        "categories": [{"id": number, "name": str(number)} for number in (7, 3, 90)],
        "annotations": [],
    }
    truth.createIndex()
    found = truth.loadRes(str(out / "coco.json"))
    results = found.loadAnns(found.getAnnIds(imgIds=[139]))
    assert [result["category_id"] for result in results] == [7, 90]
    x1, y1, x2, y2 = np.array(scene_boxes(), float).T
    assert [result["bbox"] for result in results] == np.stack([x1, y1, x2 - x1, y2 - y1], 1).tolist()
    assert found.getAnnIds(imgIds=[285]) == []

    assert (out / "labels" / "000000000285.txt").read_text() == ""
    values = np.array([line.split() for line in (out / "labels" / "000000000139.txt").open()], float)
    shares = np.stack([(x1 + x2) / 2 / 256, (y1 + y2) / 2 / 128, (x2 - x1) / 256, (y2 - y1) / 128], 1)
    assert values[:, 0].tolist() == [0, 2]
    assert np.allclose(values[:, 1:5], shares, atol=5e-7) and np.allclose(values[:, 5], 0.9, atol=1e-6)

    rows = list(csv.DictReader((out / "detections.csv").open()))
    assert [(row["file"], row["frame"], row["time"], row["name"]) for row in rows] == [
        ("000000000139.png", "0", "", "red thing"),
        ("000000000139.png", "0", "", "blue thing"),
    ]
    assert [[float(row[side]) for side in ("x1", "y1", "x2", "y2")] for row in rows] == scene_boxes().tolist()


ALL = ["--format", "json", "coco", "yolo", "csv"]


def _tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def pictures(scene, tmp_path):
    """Two in a folder; nothing is found in the second."""
    source = tmp_path / "set" / "images"
    source.mkdir(parents=True)
    Image.fromarray(scene).save(source / "a.jpg", quality=95)
    Image.fromarray(np.zeros_like(scene)).save(source / "b.png")
    return source


def test_a_second_run_replaces_the_first(model_path, pictures, tmp_path):
    out = tmp_path / "out"
    first = ["--model", str(model_path), "--source", str(pictures), "--output", str(out), *ALL]
    main([*first, "--threshold", "0.95"])
    assert (out / "labels" / "a.txt").read_bytes() == b""
    main(first)
    main(first)
    assert (out / "labels" / "a.txt").read_bytes().count(b"\n") == 2
    assert {"a_detected.jpg", "b_detected.png", "coco.json", "detections.csv", "detections.json"} < set(os.listdir(out))
    # Of a single picture in which nothing is found, too.
    alone = ["--model", str(model_path), "--source", str(pictures / "b.png"), "--output", str(tmp_path / "alone"), *ALL]
    main(alone)
    main(alone)


def test_a_second_run_of_a_video_replaces_the_first(model_path, tmp_path):
    path = write_video(tmp_path / "clip.avi", [moving_block(index) for index in range(4)])
    arguments = ["--model", str(model_path), "--source", str(path), "--output", str(tmp_path / "out"), *ALL]
    main(arguments)
    main(arguments)
    assert len(read_video(tmp_path / "out" / "clip_detected.mp4")[0]) == 4


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels/a.txt", b"0 0.500000 0.500000 0.250000 0.250000\n"),
        ("labels/a.txt", b"0 0.5 0.5 0.25 0.25 0.9\n"),  # another tool's predictions
        ("labels/b.txt", b"0 0.1 0.1 0.2 0.1 0.2 0.2\n"),
        ("coco.json", b'{"images": [], "annotations": [], "categories": []}'),
        ("coco.json", b"[]"),
        ("detections.json", b'{"images": []}'),
        ("detections.csv", b"file,x1,y1,x2,y2,class\na.jpg,1,2,3,4,cat\n"),
        ("a_detected.jpg", b"a picture of somebody's"),
        ("b_detected.png", b""),
    ],
)
def test_what_is_not_ours_is_not_replaced(model_path, pictures, capsys, name, content):
    out = pictures.parent
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_bytes(content)
    before = _tree(out)
    told = _fails(capsys, model_path, pictures, out, *ALL)
    assert f"{out / name} would be replaced, and detect has not written it" in told
    assert _tree(out) == before
    # What it would not touch does not matter.
    main(["--model", str(model_path), "--source", str(pictures), "--output", str(out / "new"), *ALL])


def test_hand_made_labels_of_pictures_without_objects_are_not_replaced(model_path, pictures, capsys):
    out = pictures.parent
    (out / "labels").mkdir()
    (out / "labels" / "b.txt").write_bytes(b"")
    (out / "labels" / "c.txt").write_bytes(b"0 0.5 0.5 0.25 0.25\n")
    assert "b.txt would be replaced" in _fails(capsys, model_path, pictures / "b.png", out, "--format", "yolo")
    # A picture beside them that has no label yet gets one.
    main(["--model", str(model_path), "--source", str(pictures / "a.jpg"), "--output", str(out), "--format", "yolo"])


def test_a_label_that_was_corrected_by_hand_is_not_replaced(model_path, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    main(["--model", str(model_path), "--source", str(pictures), "--output", str(out), *ALL])
    label = out / "labels" / "a.txt"
    label.write_text("\n".join(line.rpartition(" ")[0] for line in label.read_text().splitlines()))
    assert f"{label} would be replaced" in _fails(capsys, model_path, pictures, out, *ALL)


@pytest.mark.parametrize("name", ["labels/clip_000002.txt", "detections.jsonl", "clip_detected.mp4"])
def test_what_is_not_ours_is_not_replaced_by_a_video(model_path, tmp_path, capsys, name):
    path = write_video(tmp_path / "clip.avi", [moving_block(index) for index in range(4)])
    foreign = tmp_path / "out" / name
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"0 0.5 0.5 0.25 0.25\n")
    assert f"{foreign} would be replaced" in _fails(
        capsys, model_path, path, tmp_path / "out", "--format", "yolo", "json"
    )
    assert _tree(tmp_path / "out") == {name: b"0 0.5 0.5 0.25 0.25\n"}


def test_labels_of_a_longer_run_go(model_path, tmp_path):
    path, out = write_video(tmp_path / "clip.avi", [moving_block(index) for index in range(6)]), tmp_path / "out"
    command = ["--model", str(model_path), "--source", str(path), "--output", str(out)]
    command += ["--format", "yolo", "--no-drawn"]
    main(command)
    (out / "labels" / "other_000009.txt").write_text("")
    main([*command, "--max-frames", "2"])
    assert sorted(os.listdir(out / "labels")) == ["clip_000000.txt", "clip_000001.txt", "other_000009.txt"]


def test_video(model_path, tmp_path, capsys):
    """Odd sizes too: the mp4 is rounded up to even ones, the numbers are the source's."""
    pixels = [moving_block(index, 129, 97)[:, :129] for index in range(30)]
    path, out = (
        write_video(tmp_path / "clip.avi", [np.pad(p, ((0, 1), (0, 1), (0, 0))) for p in pixels]),
        tmp_path / "o",
    )
    main(["--model", str(model_path), "--source", str(path), "--output", str(out), "--format", "json", "yolo"])
    assert sorted(os.listdir(out)) == ["clip_detected.mp4", "detections.jsonl", "labels"]
    lines = [json.loads(line) for line in (out / "detections.jsonl").open()]
    assert [line["frame"] for line in lines] == list(range(30))
    assert [line["time"] for line in lines] == pytest.approx([index / 25 for index in range(30)])
    assert all((line["width"], line["height"]) == (130, 98) and line["ms"] > 0 for line in lines)
    for index, line in enumerate(lines):
        (found,) = line["detections"]
        assert found["name"] == "red thing"
        # JPEG and the network's 64 x 64 pixels: two of those. Measured: 2.2 pixels at the most.
        assert np.abs(np.array(found["box"]) - (16 + 2 * index, 32, 48 + 2 * index, 64)).max() < 4.1
    drawn, rate = read_video(out / "clip_detected.mp4")
    assert (len(drawn), rate, drawn[0].shape) == (30, 25.0, (98, 130, 3))
    assert drawn[0][40:56, 22:42, 0].min() > 180 and drawn[0][40:56, 22:42, 2].max() < 60
    assert len(os.listdir(out / "labels")) == 30
    assert (out / "labels" / "clip_000029.txt").read_text().startswith("0 ")
    told = capsys.readouterr().out
    assert "30 frames in " in told and "a second; resize, network and soft-NMS: median " in told


def test_damaged_video(model_path, tmp_path, capsys):
    path = write_video(tmp_path / "clip.mkv", [moving_block(index) for index in range(30)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        run(lambda: main(["--model", str(model_path), "--source", str(path), "--output", str(out)]))
    assert stop.value.code == 2
    note, error = capsys.readouterr().err.splitlines()
    assert "its header announces 30" in note and "clip.mkv is not whole; what came of it is done" in error
    lines = (out / "detections.jsonl").read_text().splitlines()
    assert 5 < len(lines) == len(read_video(out / "clip_detected.mp4")[0]) < 25


def _camera(monkeypatch, *captures):
    waiting = list(captures)
    defaults = (lambda device: waiting.pop(0), 2, 0.01)
    monkeypatch.setattr("tinydet_lite.media.sources.Camera.__init__.__defaults__", defaults)


class SlowCapture(FakeCapture):
    def read(self):
        time.sleep(0.02)
        return super().read()


def test_camera_that_is_lost(model_path, tmp_path, capsys, monkeypatch):
    pytest.importorskip("cv2")
    first = SlowCapture([moving_block(index) for index in range(20)])
    _camera(monkeypatch, first, SlowCapture([], is_open=False), SlowCapture([moving_block(30)]), *[SlowCapture([])] * 2)
    error = _stopped_camera(capsys, model_path, tmp_path / "out")
    assert error[-1].endswith(
        "camera0 is lost: no picture came in 2 attempts to open it again; "
        f"what was done before is in {tmp_path / 'out'}"
    )
    assert any("pictures come again" in line for line in error[:-1])
    assert all(line.startswith("note: camera0: ") for line in error[:-1])
    lines = [json.loads(line) for line in (tmp_path / "out" / "detections.jsonl").open()]
    assert 5 <= len(lines) <= 21
    assert lines[-1]["frame"] == 20 and lines[-1]["utc"].startswith("20")
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    drawn, rate = read_video(tmp_path / "out" / "camera0_detected.mp4")
    # In real time: as long as the camera ran, within a frame at both ends.
    assert len(drawn) / rate == pytest.approx(lines[-1]["time"] - lines[0]["time"], abs=2.5 / rate)


def _stopped_camera(capsys, model, out):
    with pytest.raises(SystemExit) as stop:
        run(lambda: main(["--model", str(model), "--source", "0", "--output", str(out)]))
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()


def test_camera_without_opencv(model_path, scene, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert "pip install opencv-python-headless" in _fails(capsys, model_path, "0", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    Image.fromarray(scene).save(tmp_path / "x.png")
    main(["--model", str(model_path), "--source", str(tmp_path / "x.png"), "--output", str(tmp_path / "out")])


def test_interrupted(model_path, tmp_path):
    """In a process of its own, in the middle of a long video: what was done is whole and kept."""
    path = write_video(tmp_path / "long.mp4", [moving_block(index % 40) for index in range(2000)])
    out = tmp_path / "out"
    command = [sys.executable, str(SCRIPTS / "detect.py"), "--model", model_path, "--source", path, "--output", out]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        lines, waited = out / "detections.jsonl", 0
        while process.poll() is None and waited < 600:
            time.sleep(0.05)
            waited += 1
            # It can be read while it runs.
            if lines.exists() and len(lines.read_text().splitlines()) >= 20:
                process.send_signal(signal.SIGINT)
                break
        told, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert error.endswith("detect.py: interrupted\n")
    done = [json.loads(line) for line in lines.open()]
    assert 20 <= len(done) < 2000
    assert sorted(os.listdir(out)) == ["detections.jsonl", "long_detected.mp4"]
    assert len(read_video(out / "long_detected.mp4")[0]) == len(done)
    assert f"{len(done)} frames in " in told


def test_terminated_between_images(model_path, scene, tmp_path, monkeypatch):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in "abcd":
        Image.fromarray(scene).save(source / f"{name}.png")
    # As if `kill` came while the second picture's line is printed.
    show, shown = Progress.show, []

    def kill_at_the_second(progress, result):
        show(progress, result)
        shown.append(result.frame.name)
        if len(shown) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Progress, "show", kill_at_the_second)
    with pytest.raises(SystemExit) as stop:
        main(["--model", str(model_path), "--source", str(source), "--output", str(out)])
    assert stop.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    images = json.loads((out / "detections.json").read_text())["images"]
    assert [image["file"] for image in images] == shown == ["a.png", "b.png"]
    assert sorted(os.listdir(out)) == ["a_detected.png", "b_detected.png", "detections.json"]


@contextmanager
def small_files(limit):
    """A limit on the size of files: writing beyond it fails as on a full disk (Python ignores SIGXFSZ)."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("clip_detected.mp4", ["--format", "yolo"]),
        ("detections.jsonl", ["--no-drawn"]),
        ("coco.json", ["--no-drawn", "--format", "coco"]),
        ("detections.csv", ["--no-drawn", "--format", "csv"]),
    ],
)
def test_full_disk(model_path, tmp_path, monkeypatch, name, more):
    # The trial of a model writes files, too.
    monkeypatch.setattr("tinydet_lite.commands.detect.try_unknown", lambda path: None)
    path = write_video(tmp_path / "clip.mp4", [moving_block(index % 40) for index in range(100)])
    out = tmp_path / "out"
    with small_files(4000), pytest.raises(UserError, match=f"cannot write {out / name}: "):
        main(["--model", str(model_path), "--source", str(path), "--output", str(out), *more])
    assert not [file for file in os.listdir(out) if file.startswith(".") or file.endswith(("mp4", "coco.json"))]
    if name == "detections.jsonl":
        assert len([json.loads(line) for line in (out / name).open()]) >= 5
    if name == "detections.csv":
        assert (out / name).read_text().endswith("\n")


def test_wrong_outputs(model_path, scene, tmp_path, capsys):
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(scene).save(source / "a.png")
    (tmp_path / "file").write_text("")
    assert "is a file; give a folder" in _fails(capsys, model_path, source, tmp_path / "file")
    assert "cannot make the folder" in _fails(capsys, model_path, source, tmp_path / "file" / "deep")
    assert "folder of the sources" in _fails(capsys, model_path, source, source)
    assert os.listdir(source) == ["a.png"]


def test_empty_names_are_not_the_working_folder(model_path, scene, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(scene).save("x.png")
    assert "--source is empty" in _fails(capsys, model_path, "", "out")
    assert "--output is empty" in _fails(capsys, model_path, "x.png", "")
    assert "is a folder" in _fails(capsys, "", "x.png", "out")
    assert os.listdir() == ["x.png"]


def test_a_report_that_cannot_be_written_is_refused_first(model_path, scene, tmp_path, capsys):
    Image.fromarray(scene).save(tmp_path / "x.png")
    (tmp_path / "out" / "detections.json").mkdir(parents=True)
    assert "detections.json: it is a folder" in _fails(capsys, model_path, tmp_path / "x.png", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["detections.json"]


def test_names_that_the_terminal_cannot_print(flatbuffer, info, scene, tmp_path):
    model, out = tmp_path / "odd.tflite", tmp_path / "out"
    labels = ("\x1b[31mred\x07", "green", "bl\xe5 \u732b")
    model.write_bytes(append_metadata(flatbuffer, info, labels))
    Image.fromarray(scene).save(tmp_path / "s\x1b\n.png")
    done = subprocess.run(
        [
            sys.executable,
            SCRIPTS / "detect.py",
            "--model",
            model,
            "--source",
            tmp_path / "s\x1b\n.png",
            "--output",
            out,
        ],
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    assert rb"s\x1b\x0a.png: 2 objects (1 \x1b[31mred\x07, 1 bl\xe5 \u732b), " in done.stdout
    assert b"\x1b" not in done.stdout + done.stderr
    found = json.loads((out / "detections.json").read_text())["images"][0]["detections"]
    assert [one["name"] for one in found] == [labels[0], labels[2]]


def test_names_that_are_no_utf8(model_path, scene, tmp_path):
    source, out = tmp_path / "in\udcff", tmp_path / "out\udcfe"
    try:
        source.mkdir()
    except (OSError, UnicodeError):
        pytest.skip("the file system takes no such name")
    Image.fromarray(scene).save(str(tmp_path / "a.png"))
    os.rename(tmp_path / "a.png", source / "a\udcff.png")
    arguments = ["--model", str(model_path), "--source", str(source), "--output", str(out), *ALL]
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "detect.py"), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "a\\udcff.png: 2 objects" in done.stdout
    assert (out / "detections.csv").read_text(encoding="utf-8").splitlines()[1].startswith("a\\udcff.png,0,")
    name = json.loads((out / "detections.json").read_text())["images"][0]["file"]
    assert os.fsencode(name) == b"a\xff.png"
    assert json.loads((out / "coco.json").read_text())[0]["file_name"] == name
    assert sorted(os.listdir(out / "labels")) == ["a\udcff.txt"]
    assert (out / "a\udcff_detected.png").is_file()


def test_videos_that_are_no_utf8(model_path, tmp_path, capsys):
    """OpenCV would crash."""
    path = write_video(tmp_path / "clip.avi", [moving_block(index) for index in range(3)])
    assert "no UTF-8; rename it" in _fails(capsys, model_path, path, tmp_path / "out\udcfe")
    try:
        odd = path.rename(tmp_path / "clip\udcff.avi")
    except (OSError, UnicodeError):
        pytest.skip("the file system takes no such name")
    assert "no UTF-8; rename it" in _fails(capsys, model_path, odd, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_letters_that_no_font_has_are_told(flatbuffer, info, scene, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fonts, "system_fonts", lambda: ())
    fonts._font_for.cache_clear()
    model = tmp_path / "letters.tflite"
    model.write_bytes(append_metadata(flatbuffer, info, ("\u7ea2", "green", "\u7eff")))
    Image.fromarray(scene).save(tmp_path / "x.png")
    arguments = ["--model", str(model), "--source", str(tmp_path / "x.png"), "--output", str(tmp_path / "out")]
    main(arguments)
    assert capsys.readouterr().err == (
        "note: no font here has all letters of '\u7ea2', '\u7eff'; '\u7ea2' is drawn as \\u7ea2; --font FILE takes one "
        "that has them\n"
    )
    for quiet in (["--no-drawn"], ["--classes", "green"]):
        main([*arguments, *quiet])
        assert capsys.readouterr().err == ""
    fonts._font_for.cache_clear()
    (tmp_path / "no.ttf").write_bytes(b"no font")
    told = _fails(capsys, model, tmp_path / "x.png", tmp_path / "none", "--font", str(tmp_path / "no.ttf"))
    assert "no.ttf: cannot be used as a font" in told
    matplotlib = pytest.importorskip("matplotlib")
    font = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    main([*arguments, "--font", font])
    assert f"note: {font} lacks letters of '\u7ea2', '\u7eff'; " in capsys.readouterr().err


def test_wrong_models(flatbuffer, model_path, scene, tmp_path, capsys):
    Image.fromarray(scene).save(tmp_path / "x.png")
    bad, out = tmp_path / "bad.tflite", tmp_path / "out"
    assert "no such model file" in _fails(capsys, bad, tmp_path / "x.png", out)
    for content, message in (
        (b"", "is empty"),
        (b"no model at all", "is not a .tflite"),
        (flatbuffer, "not a TinyDet file"),
        (model_path.read_bytes()[:-100], "not a TinyDet file, or its end is missing"),
    ):
        bad.write_bytes(content)
        assert message in _fails(capsys, bad, tmp_path / "x.png", out)
    assert not out.exists()


def test_arguments_missing():
    done = _run("--model", "x.tflite")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert _run("--help").returncode == 0
    assert _run("--help", script="benchmark.py").returncode == 0
    done = _run("missing.tflite", script="benchmark.py")
    assert (done.returncode, done.stderr) == (2, "benchmark.py: error: missing.tflite: no such model file\n")


def test_damaged_models_never_reach_the_interpreter(flatbuffer, model_path, scene, tmp_path, capsys):
    """Random cuts and flips: an interpreter would crash on many of them."""
    Image.fromarray(scene).save(tmp_path / "x.png")
    whole = model_path.read_bytes()
    rng = np.random.default_rng(0)
    bad = tmp_path / "bad.tflite"
    for round_number in range(120):
        damaged = bytearray(whole)
        if round_number % 3 == 0:
            del damaged[int(rng.integers(0, len(whole))) :]
        else:
            # In the flatbuffer; test_metadata does the same to what lies behind it.
            for position in rng.integers(0, len(flatbuffer), 1 + round_number % 4):
                damaged[position] ^= int(rng.integers(1, 256))
        bad.write_bytes(bytes(damaged))
        _fails(capsys, bad, tmp_path / "x.png", tmp_path / "out")
    # The same in processes of their own, where a crash would show as a signal.
    for cut in (9, len(whole) // 2, len(whole) - 1):
        bad.write_bytes(whole[:cut])
        done = _run("--model", bad, "--source", tmp_path / "x.png", "--output", tmp_path / "out")
        assert done.returncode == 2
        assert done.stderr.startswith("detect.py: error: ")
        assert done.stderr.count("\n") == 1
