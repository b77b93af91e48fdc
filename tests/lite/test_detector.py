"""A real .tflite from picture to Detections, also where TensorFlow cannot be imported."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tinydet_lite import Detector, TiledDetector, UserError
from tinydet_lite.metadata import append_metadata

from .conftest import LABELS, PROBABILITY, PROPOSALS, SIZE, scene_boxes


@pytest.fixture(scope="module")
def detector(model_path):
    return Detector(model_path, num_threads=1)


def test_array_path_and_pil_image_give_the_same(detector, scene, tmp_path):
    Image.fromarray(scene).save(tmp_path / "x.png")
    for image in (scene, tmp_path / "x.png", str(tmp_path / "x.png"), Image.fromarray(scene)):
        found = detector(image)
        # Were the channels swapped, names would be; were x and y, boxes would be.
        assert found.names == ("red thing", "blue thing")
        assert found.class_ids.tolist() == [0, 2]
        np.testing.assert_array_equal(found.boxes, scene_boxes())
        np.testing.assert_allclose(found.scores, [PROBABILITY] * 2)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (3, lambda a: a[::-1, ::-1]),
        (6, lambda a: np.rot90(a, 1)),
        (8, lambda a: np.rot90(a, -1)),
    ],
)
def test_boxes_are_in_the_upright_picture(detector, scene, tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(turn(scene))).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(detector(tmp_path / "x.png").boxes, scene_boxes())


@pytest.mark.parametrize("runtime", ["ai_edge_litert", "tflite_runtime", "tensorflow"])
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_every_runtime_gives_the_same(model_path, scene, monkeypatch, runtime):
    if importlib.util.find_spec(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    monkeypatch.setenv("TINYDET_RUNTIME", runtime)
    detector = Detector(model_path, num_threads=1)
    assert detector.runtime == runtime
    np.testing.assert_array_equal(detector(scene).boxes, scene_boxes())


def test_an_empty_picture_gives_nothing(detector):
    found = detector(np.zeros((50, 70, 3), np.uint8))
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)


def test_one_image_does_not_leak_into_the_next(detector, scene):
    first = detector(scene)
    detector(255 - scene)
    again = detector(scene)
    np.testing.assert_array_equal(first.boxes, scene_boxes())
    np.testing.assert_array_equal(again.boxes, first.boxes)


def test_raw_gives_the_network_outputs(detector, scene):
    outputs = detector.raw(scene)
    assert set(outputs) == {"boxes", "class_probs"}
    boxes, class_probs = outputs["boxes"][0], outputs["class_probs"][0]
    assert boxes.shape == (PROPOSALS, 4)
    assert class_probs.shape == (PROPOSALS, 4)
    np.testing.assert_array_equal(boxes[0], [4, 4, 19, 11])
    np.testing.assert_allclose(class_probs[0], [1 - PROBABILITY, PROBABILITY, 0, 0], atol=1e-6)
    np.testing.assert_array_equal(class_probs[3:, 0], 1)
    kept = boxes.copy()
    detector(255 - scene)
    np.testing.assert_array_equal(boxes, kept)


def test_attributes_and_thresholds(model_path, scene):
    detector = Detector(model_path, score_threshold=0.95)
    assert detector.labels == LABELS
    assert detector.input_size == SIZE
    assert detector.info.variant == "S"
    assert detector.max_detections == 100
    assert detector.iou_threshold == 0.5
    assert detector.runtime == "ai_edge_litert"
    assert len(detector(scene)) == 0
    assert len(Detector(model_path, score_threshold=0.0, max_detections=1)(scene)) == 1


def test_timing_adds_up(detector, scene):
    _, timing = detector.timed(scene)
    parts = timing.preprocess_ms + timing.invoke_ms + timing.postprocess_ms
    assert 0 < parts <= timing.total_ms


def test_threads_may_share_a_detector(detector, scene):
    pictures = [scene, 255 - scene] * 20
    expected = [detector(picture).to_dicts() for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda picture: detector(picture).to_dicts(), pictures))
    assert found == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": 1.5}, "score_threshold 1.5"),
        ({"score_threshold": float("nan")}, "score_threshold nan"),
        ({"iou_threshold": -0.1}, "iou_threshold -0.1"),
        ({"max_detections": 0}, "max_detections 0"),
        ({"num_threads": 0}, "0 threads came; expected 1 to 256"),
        ({"num_threads": 40_000}, "40000 threads came; expected 1 to 256"),
        ({"num_threads": 1.5}, "1.5 threads came; expected a whole number"),
    ],
)
def test_arguments_are_checked(model_path, options, message):
    with pytest.raises(UserError, match=message):
        Detector(model_path, **options)


def test_metadata_must_match_the_tensors(flatbuffer, info, tmp_path):
    path = tmp_path / "x.tflite"
    path.write_bytes(append_metadata(flatbuffer, dataclasses.replace(info, input_size=96), LABELS))
    with pytest.raises(UserError, match=r"'image' is uint8 \[1, 64, 64, 3\].*uint8 \[1, 96, 96, 3\]"):
        Detector(path)
    fewer = dataclasses.replace(info, num_classes=2, category_ids=(1, 2))
    path.write_bytes(append_metadata(flatbuffer, fewer, LABELS[:2]))
    with pytest.raises(UserError, match=r"'class_probs' is float32 \[1, 200, 4\]"):
        Detector(path)
    path.write_bytes(append_metadata(flatbuffer, dataclasses.replace(info, postprocess="tasks"), LABELS))
    with pytest.raises(UserError, match=r"outputs \['boxes', 'class_probs'\]; expected 'image', and 'location'"):
        Detector(path)


def test_nms_settings_come_from_the_file(flatbuffer, info, scene, tmp_path):
    path = tmp_path / "x.tflite"
    nms = dataclasses.replace(info.nms, max_detections=1, iou_threshold=0.25)
    path.write_bytes(append_metadata(flatbuffer, dataclasses.replace(info, nms=nms), LABELS))
    detector = Detector(path)
    assert detector.iou_threshold == 0.25
    assert len(detector(scene)) == 1


def test_the_suggested_threshold_counts_unless_another_is_given(flatbuffer, info, model_path, scene, tmp_path):
    path = tmp_path / "x.tflite"
    path.write_bytes(append_metadata(flatbuffer, dataclasses.replace(info, suggested_threshold=0.95), LABELS))
    assert Detector(path).score_threshold == 0.95 and len(Detector(path)(scene)) == 0  # they score PROBABILITY
    assert Detector(path, score_threshold=0.0).score_threshold == 0.0
    assert len(Detector(path, score_threshold=0.3)(scene)) == 2
    assert TiledDetector(Detector(path), grid=(1, 1)).score_threshold == 0.95
    assert Detector(model_path).score_threshold == 0.3, "this file suggests nothing"


def test_runs_where_tensorflow_cannot_be_imported(model_path, scene, tmp_path):
    """The edge half must work alone: another process, in which TensorFlow, Keras and torch do not exist."""
    Image.fromarray(scene).save(tmp_path / "x.png")
    program = textwrap.dedent(
        """
        import json, sys

        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {"tensorflow", "tf_keras", "keras", "torch", "tinydet_tf", "cv2"}:
                    raise ImportError("blocked: " + name)

        sys.meta_path.insert(0, Blocker())
        import tinydet_lite
        import tinydet_lite.commands.benchmark, tinydet_lite.commands.detect, tinydet_lite.commands.profile
        found = tinydet_lite.Detector(sys.argv[1])(sys.argv[2])
        tinydet_lite.draw(sys.argv[2], found)
        print(json.dumps(found.to_dicts()))
        """
    )
    command = [sys.executable, "-c", program, str(model_path), str(tmp_path / "x.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [one["name"] for one in found] == ["red thing", "blue thing"]
    assert [one["box"] for one in found] == scene_boxes().tolist()
