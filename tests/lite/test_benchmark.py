"""The benchmark's rounds and numbers, and its command."""

import json

import numpy as np
import pytest
from PIL import Image

from tinydet_lite import UserError
from tinydet_lite.benchmark import Milliseconds, benchmark, synthetic_image
from tinydet_lite.commands.benchmark import main
from tinydet_lite.detector import Detector


def test_spread():
    samples = [float(value) for value in range(1, 102)]
    assert Milliseconds.of(samples) == Milliseconds(51.0, 1.0, 96.0)


def test_models_take_turns_and_the_warm_up_does_not_count(model_path, scene, monkeypatch):
    calls = []
    timed = Detector.timed

    def noting(self, image):
        calls.append(self.num_threads)
        return timed(self, image)

    monkeypatch.setattr(Detector, "timed", noting)
    results = benchmark([model_path, model_path], [1, 2], runs=3, warmup=2, image=scene)
    assert calls == [1, 2, 1, 2] * 5
    assert [(result.file, result.threads) for result in results] == [(str(model_path), n) for n in (1, 2, 1, 2)]
    for result in results:
        assert result.runs == 3
        assert result.detections == 2
        assert result.file_bytes == model_path.stat().st_size
        assert result.runtime == "ai_edge_litert"
        assert 0 < result.invoke.min <= result.invoke.median <= result.invoke.p95
        assert result.invoke.min < result.total.min


def test_synthetic_image_is_seeded():
    image = synthetic_image()
    assert image.shape == (480, 640, 3)
    assert image.std() > 30
    np.testing.assert_array_equal(image, synthetic_image())
    assert (image != synthetic_image(1)).any()


def test_numbers_are_checked(model_path):
    with pytest.raises(UserError, match="nothing to measure"):
        benchmark([], [1])
    with pytest.raises(UserError, match="0 runs"):
        benchmark([model_path], [1], runs=0)
    with pytest.raises(UserError, match="0 threads"):
        benchmark([model_path], [0])


def test_command_prints_a_table_and_writes_json(model_path, tmp_path, capsys):
    out = tmp_path / "out.json"
    main([str(model_path), "--threads", "1", "2", "--runs", "2", "--warmup", "0", "--json", str(out)])
    printed = capsys.readouterr().out
    assert "synthetic picture" in printed
    assert printed.count("bright.tflite") == 2
    report = json.loads(out.read_text())
    assert [result["threads"] for result in report["results"]] == [1, 2]
    assert report["results"][0]["total"]["median"] > 0
    assert "synthetic" in report["image"]


def test_command_refuses_a_json_it_cannot_write_before_it_measures(model_path, tmp_path, monkeypatch):
    monkeypatch.setattr("tinydet_lite.commands.benchmark.benchmark", lambda *_: pytest.fail("measured"))
    for out, message in ((tmp_path, "is a folder"), ("", "is a folder"), (tmp_path / "no" / "x", "there is no folder")):
        with pytest.raises(UserError, match=message):
            main([str(model_path), "--json", str(out)])


def test_command_takes_an_image(model_path, scene, tmp_path, capsys):
    Image.fromarray(scene).save(tmp_path / "scene.png")
    main([str(model_path), "--runs", "1", "--image", str(tmp_path / "scene.png")])
    assert "scene.png (256 x 128)" in capsys.readouterr().out
