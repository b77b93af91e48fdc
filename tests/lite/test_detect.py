"""The command detect: what it writes, and that wrong input ends in one line and exit code 2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinydet_lite.cli import run
from tinydet_lite.commands.detect import _drawn_names, main
from tinydet_lite.metadata import append_metadata

from .conftest import scene_boxes

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
    assert capsys.readouterr().out.count(" ms\n") == len(files)


def test_names_that_only_differ_in_case():
    names = _drawn_names([Path("A.jpg"), Path("a.jpg"), Path("a.JPG"), Path("a.jpg_detected.jpg")])
    assert len({name.casefold() for name in names.values()}) == 4


def test_threshold(model_path, scene, tmp_path, capsys):
    Image.fromarray(scene).save(tmp_path / "x.jpg")
    source, out = str(tmp_path / "x.jpg"), str(tmp_path / "out")
    main(["--model", str(model_path), "--source", source, "--output", out, "--threshold", "0.95"])
    assert "x.jpg: no objects" in capsys.readouterr().out


def test_wrong_sources(model_path, scene, tmp_path, capsys):
    out = tmp_path / "out"
    assert "no such image or folder" in _fails(capsys, model_path, tmp_path / "missing.jpg", out)
    (tmp_path / "empty").mkdir()
    assert "has no images" in _fails(capsys, model_path, tmp_path / "empty", out)
    (tmp_path / "text.jpg").write_text("no image")
    assert "text.jpg is not an image" in _fails(capsys, model_path, tmp_path / "text.jpg", out)
    for video in ("0", "clip.mp4", "rtsp://camera/1", "/dev/video0"):
        assert "videos and cameras are not there yet" in _fails(capsys, model_path, video, out)
    Image.fromarray(scene).save(tmp_path / "x.png")
    assert "--tiles is not there yet" in _fails(capsys, model_path, tmp_path / "x.png", out, "--tiles", "2x2")
    assert "score_threshold 7" in _fails(capsys, model_path, tmp_path / "x.png", out, "--threshold", "7")
    assert "0 threads" in _fails(capsys, model_path, tmp_path / "x.png", out, "--threads", "0")
    assert not out.exists()


def test_one_bad_image_in_a_folder_leaves_nothing(model_path, scene, tmp_path, capsys):
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(scene).save(source / "a.png")
    whole = (source / "a.png").read_bytes()
    (source / "z.png").write_bytes(whole[: len(whole) // 2])
    assert "z.png does not decode" in _fails(capsys, model_path, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_outputs(model_path, scene, tmp_path, capsys):
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(scene).save(source / "a.png")
    (tmp_path / "file").write_text("")
    assert "is a file; give a folder" in _fails(capsys, model_path, source, tmp_path / "file")
    assert "cannot make this folder" in _fails(capsys, model_path, source, tmp_path / "file" / "deep")
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
