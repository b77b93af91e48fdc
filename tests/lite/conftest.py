"""A real .tflite whose boxes and classes follow from the picture's content, so that mistakes show."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tinydet_lite.metadata import ModelInfo, append_metadata

SIZE = 64
PROPOSALS = 200
LABELS = ("red thing", "green thing", "blue thing")
CATEGORY_IDS = (7, 3, 90)
PROBABILITY = 0.9


@pytest.fixture(scope="session")
def flatbuffer() -> bytes:
    """A model without metadata: proposal c is the box around the pixels whose channel c is above 127.

    Where a channel has no such pixel, its proposal is padding, as are proposals 3 to 199.
    """
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    tf = pytest.importorskip("tensorflow", reason="the test model is converted with TensorFlow")

    class BrightBoxes(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([1, SIZE, SIZE, 3], tf.uint8, "image")])
        def detect(self, image):
            bright = tf.cast(image, tf.float32)[0] > 127.5  # [S, S, 3]
            place = tf.range(SIZE, dtype=tf.float32)[:, None]  # [S, 1]
            sides = []
            for axis in (0, 1):  # any over y leaves x, and the other way round
                present = tf.reduce_max(tf.cast(bright, tf.float32), axis)  # [S, 3]
                low = tf.reduce_min(place * present + SIZE * (1.0 - present), 0)  # [3]
                high = tf.reduce_max(place * present, 0)  # [3]
                sides.append((low, high))
            (x1, x2), (y1, y2) = sides
            found = tf.reduce_max(tf.cast(bright, tf.float32), [0, 1])[:, None]  # [3, 1]
            boxes = tf.stack([x1, y1, x2, y2], 1) * found  # [3, 4]
            objects = PROBABILITY * tf.eye(3)
            probs = found * tf.concat([tf.fill([3, 1], 1 - PROBABILITY), objects], 1)  # [3, 4]
            padding = tf.constant([[1.0, 0.0, 0.0, 0.0]])
            probs = probs + (1.0 - found) * padding
            rest = PROPOSALS - 3
            return {
                "boxes": tf.concat([boxes, tf.zeros([rest, 4])], 0)[None],
                "class_probs": tf.concat([probs, tf.tile(padding, [rest, 1])], 0)[None],
            }

    module = BrightBoxes()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.detect.get_concrete_function()], module)
    return bytes(converter.convert())


@pytest.fixture(scope="session")
def info() -> ModelInfo:
    return ModelInfo(
        variant="S", input_size=SIZE, num_classes=3, category_ids=CATEGORY_IDS, producer="tinydet-tf 0.0.test"
    )


@pytest.fixture(scope="session")
def model_path(flatbuffer: bytes, info: ModelInfo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "bright.tflite"
    path.write_bytes(append_metadata(flatbuffer, info, LABELS))
    return path


@pytest.fixture
def scene() -> NDArray[np.uint8]:
    """Black, [128, 256, 3], with a red block at x 16..79, y 8..23 and a blue one at x 200..239, y 64..127.

    The test model sees it at 64 x 64: x is four times smaller, y twice.
    """
    picture = np.zeros((128, 256, 3), np.uint8)
    picture[8:24, 16:80, 0] = 255
    picture[64:128, 200:240, 2] = 255
    return picture


def scene_boxes() -> NDArray[np.float32]:
    """What the Detector must make of `scene`: red, then blue.

    Red is input pixels x 4..19, y 4..11 inclusive. Scaled back still inclusive: x 16..76, y 8..22, then +1.
    So the far sides are 77 and 23 rather than 80 and 24: that is how the published implementation scales.
    """
    return np.array([[16, 8, 77, 23], [200, 64, 237, 127]], np.float32)
