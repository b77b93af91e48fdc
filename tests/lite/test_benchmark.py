"""The benchmark's rounds and numbers, and its command."""

import dataclasses
import json
import types

import numpy as np
import pytest
from PIL import Image

from tinydet_lite import UserError
from tinydet_lite.commands.benchmark import main
from tinydet_lite.detector import Detector
from tinydet_lite.lab.benchmark import Milliseconds, benchmark, synthetic_image
from tinydet_lite.lab.ceiling import STACK_MACS
from tinydet_lite.lab.foreign import ForeignModel
from tinydet_lite.lab.operators import PARTS
from tinydet_lite.runtime import Session


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
    results = benchmark([model_path, model_path], [1, 2], runs=3, warmup=2, image=scene, times_only=True).results
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
    assert printed.count("bright.tflite") == 3  # two rows of times, one of the file
    report = json.loads(out.read_text())
    assert [result["threads"] for result in report["results"]] == [1, 2]
    assert report["results"][0]["total"]["median"] > 0
    assert "synthetic" in report["image"]
    assert [(ceiling["format"], ceiling["threads"]) for ceiling in report["ceilings"]] == [
        ("float32", 1), ("float32", 2), ("int8", 1), ("int8", 2)
    ]  # fmt: skip
    assert report["files"][0]["peak"]["process"] > report["files"][0]["peak"]["model"] > 0
    assert report["files"][0]["partitions"] >= 1


def test_command_measures_times_alone_on_demand(model_path, tmp_path, capsys, monkeypatch):
    for name in ("conv_stack", "peak_memory", "profile"):
        monkeypatch.setattr(f"tinydet_lite.lab.benchmark.{name}", lambda *_, **__: pytest.fail("measured all"))
    out = tmp_path / "out.json"
    main([str(model_path), "--runs", "1", "--warmup", "0", "--times-only", "--json", str(out)])
    assert capsys.readouterr().out.count("bright.tflite") == 1
    report = json.loads(out.read_text())
    assert report["ceilings"] == [] and len(report["results"]) == 1


def test_files_of_one_name_are_told_apart(model_path, tmp_path, capsys):
    other = tmp_path / model_path.name
    other.write_bytes(model_path.read_bytes())
    main([str(model_path), str(other), "--runs", "1", "--warmup", "0", "--times-only"])
    printed = capsys.readouterr().out
    assert str(other) in printed and str(model_path) in printed


def test_the_ceiling_takes_its_turn_and_models_are_held_against_it(model_path, scene, monkeypatch):
    """On a clock that says how long each run took."""
    turns = []
    timed, session_run = Detector.timed, Session.run
    milliseconds = {"model": iter([50.0, 4.0, 50.0, 2.0, 50.0, 3.0]), "stack": iter([9.0, 9.0, 1.0, 1.0, 2.0, 0.5])}

    def timed_by_list(self, image):
        turns.append("model")
        detections, timing = timed(self, image)
        return detections, dataclasses.replace(timing, invoke_ms=next(milliseconds["model"]))

    def run_by_list(self, inputs):
        if "image" in inputs:
            return session_run(self, inputs)
        turns.append(str(inputs["input"].dtype))
        return {}, next(milliseconds["stack"]) / 1e3

    monkeypatch.setattr(Detector, "timed", timed_by_list)
    monkeypatch.setattr(Session, "run", run_by_list)
    monkeypatch.setattr("tinydet_lite.lab.inspection.Inspection.macs", STACK_MACS // 10)
    report = benchmark([model_path, model_path], [1], runs=2, warmup=1, image=scene)
    assert turns == ["model", "model", "float32", "int8"] * 3
    first, second = report.results
    # The first model: 50 and 50 ms after the warm-up; the second: 2 and 3.
    assert (first.invoke.median, second.invoke.median) == (50, 2.5)
    assert (first.ratio, second.ratio) == (1.0, 0.05)
    floats, integers = report.ceilings
    assert (floats.invoke.median, integers.invoke.median) == (1.5, 0.75)
    assert floats.macs_per_second == pytest.approx(STACK_MACS / 1.5e-3)
    # A tenth of the MACs in 50 / 1.5 of the time.
    assert first.share_of_ceiling == pytest.approx(0.1 * 1.5 / 50, rel=1e-6)
    eighth = dataclasses.replace(first, quantization="int8")
    assert (first.ceiling_format, eighth.ceiling_format) == ("float32", "int8")
    assert len(report.files) == 2 and report.notes == ()


def test_what_is_not_there_becomes_a_note(model_path, monkeypatch, capsys):
    def missing(*_, **__):
        raise UserError("not here")

    for name in ("conv_stack", "peak_memory", "profile"):
        monkeypatch.setattr(f"tinydet_lite.lab.benchmark.{name}", missing)
    main([str(model_path), "--runs", "1", "--warmup", "0"])
    printed = capsys.readouterr().out
    assert printed.count("note: not here") == 1 and "note: no shares of the parts: not here" in printed
    assert "The ceiling" not in printed


def test_parts_of_a_file_with_scopes_are_shares_of_one(model_path, monkeypatch):
    shares = dict.fromkeys(PARTS, 1 / len(PARTS))
    found = types.SimpleNamespace(parts=lambda: shares)
    monkeypatch.setattr("tinydet_lite.lab.benchmark.profile", lambda *_, **__: found)
    report = benchmark([model_path], [1], runs=1, warmup=0)
    assert report.files[0].parts == shares


def test_command_refuses_a_json_it_cannot_write_before_it_measures(model_path, tmp_path, monkeypatch):
    monkeypatch.setattr("tinydet_lite.commands.benchmark.benchmark", lambda *_, **__: pytest.fail("measured"))
    for out, message in ((tmp_path, "is a folder"), ("", "is a folder"), (tmp_path / "no" / "x", "there is no folder")):
        with pytest.raises(UserError, match=message):
            main([str(model_path), "--json", str(out)])


def test_command_takes_an_image(model_path, scene, tmp_path, capsys):
    Image.fromarray(scene).save(tmp_path / "scene.png")
    main([str(model_path), "--runs", "1", "--image", str(tmp_path / "scene.png")])
    assert "scene.png (256 x 128)" in capsys.readouterr().out


def another_model(shape, dtype):
    """A .tflite without a word about itself, with one input."""
    tf = pytest.importorskip("tensorflow", reason="the test model is converted with TensorFlow")

    class Total(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec(shape, dtype, "pixels")])
        def total(self, pixels):
            return {"total": tf.reduce_sum(tf.cast(pixels, tf.float32), [1, 2, 3])}

    module = Total()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.total.get_concrete_function()], module)
    return bytes(converter.convert())


@pytest.mark.parametrize(
    ("shape", "dtype", "white"),
    [([1, 3, 32, 48], "float32", 1.0), ([1, 32, 48, 3], "float32", 1.0), ([1, 32, 48, 3], "uint8", 255),
     ([1, 32, 48, 3], "int8", 127)],
)  # fmt: skip
def test_another_model_sees_the_picture_in_its_own_form(shape, dtype, white, tmp_path, monkeypatch):
    seen = []
    run = Session.run

    def noting(self, inputs):
        seen.append(next(iter(inputs.values())))
        return run(self, inputs)

    path = tmp_path / "other.tflite"
    path.write_bytes(another_model(shape, dtype))
    model = ForeignModel(path, 1)
    monkeypatch.setattr(Session, "run", noting)
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:, 48:, 1] = 255  # green on the right
    timing = model.timed(picture)
    assert (list(seen[0].shape), str(seen[0].dtype), model.input_size) == (shape, dtype, 48)
    pixels = seen[0][0].transpose(1, 2, 0) if shape[1] == 3 else seen[0][0]  # [H, W, 3]
    black = -128 if dtype == "int8" else 0
    assert pixels[16, 40].tolist() == [black, white, black] and pixels[16, 8].tolist() == [black] * 3
    assert 0 < timing.invoke_ms < timing.total_ms and timing.postprocess_ms == 0


def test_others_take_turns_with_ours(model_path, flatbuffer, tmp_path, capsys):
    other, out = tmp_path / "other.tflite", tmp_path / "out.json"
    other.write_bytes(flatbuffer)
    main(
        [str(model_path), "--others", str(other), "--threads", "1", "--runs", "2", "--warmup", "0", "--json", str(out)]
    )
    ours, theirs = json.loads(out.read_text())["results"]
    assert (theirs["file"], theirs["variant"], theirs["quantization"]) == (str(other), "-", "-")
    assert theirs["ratio"] == pytest.approx(theirs["invoke"]["median"] / ours["invoke"]["median"])
    assert theirs["share_of_ceiling"] is None and theirs["macs"] == ours["macs"]
    assert theirs["runs"] == 2 and theirs["total"]["median"] > theirs["invoke"]["median"]
    printed = capsys.readouterr().out
    assert printed.count("other.tflite") == 2  # its times, and its memory


def test_others_that_take_no_picture(model_path, tmp_path):
    path = tmp_path / "other.tflite"
    for shape, dtype, message in (
        ([1, 32, 48, 4], "float32", "expected one picture"),
        ([2, 32, 48, 3], "float32", "expected one picture"),
        ([1, 32, 48, 3], "int32", "takes int32; expected float32, uint8 or int8"),
    ):
        path.write_bytes(another_model(shape, dtype))
        with pytest.raises(UserError, match=message):
            main([str(model_path), "--others", str(path), "--runs", "1"])
    path.write_bytes(b"no model")
    with pytest.raises(UserError, match=r"is not a \.tflite"):
        main([str(model_path), "--others", str(path), "--runs", "1"])
