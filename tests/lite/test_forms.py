"""From the outputs of each form to Detections, also where a file that is not ours gives nonsense."""

import dataclasses

import numpy as np
import pytest

from tinydet_lite.errors import UserError
from tinydet_lite.forms import form_of
from tinydet_lite.metadata import ModelInfo

LABELS = ("red", "green", "blue")
INFO = ModelInfo(
    variant="S", input_size=64, num_classes=3, category_ids=(1, 2, 3), producer="a test", postprocess="tasks"
)
PICTURE = (200, 100)


def outputs(location, category, score, count=None):
    return {
        "location": np.array([location], np.float32),
        "category": np.array([category], np.float32),
        "score": np.array([score], np.float32),
        "count": np.array([len(score) if count is None else count], np.float32),
    }


def found(*arrays, threshold=0.0, **options):
    return form_of(INFO, LABELS, **options).detections(outputs(*arrays), PICTURE, threshold)


BOX = [0.1, 0.2, 0.5, 0.4]  # y first


def test_boxes_are_in_pixels_of_the_picture_x_first():
    one = found([BOX], [2], [0.75])
    np.testing.assert_allclose(one.boxes, [[40, 10, 80, 50]], rtol=1e-6)
    assert (one.names, one.class_ids.tolist(), one.scores.tolist()) == (("blue",), [2], [0.75])
    assert one.boxes.dtype == np.float32 and one.class_ids.dtype == np.int32


def test_nothing_found():
    assert len(found([BOX, BOX], [0, 0], [0, 0], 0)) == 0


def test_rows_beyond_the_count_are_not_read():
    assert found([BOX, BOX], [0, 1], [0.9, 0.8], 1).names == ("red",)


@pytest.mark.parametrize(
    ("count", "expected"), [(3, 2), (1e9, 2), (np.inf, 2), (np.nan, 0), (-1, 0), (-np.inf, 0), (1.5, 1)]
)
def test_any_count_is_survived(count, expected):
    assert len(found([BOX, BOX], [0, 1], [0.9, 0.8], count)) == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_left_out(bad):
    for column in range(4):
        box = [bad if column == place else side for place, side in enumerate(BOX)]
        assert found([box, BOX], [0, 1], [0.9, 0.8]).names == ("green",)
    assert found([BOX, BOX], [bad, 1], [0.9, 0.8]).names == ("green",)
    kept = found([BOX, BOX], [0, 1], [bad, 0.8])
    assert kept.names == (("red", "green") if bad == np.inf else ("green",))
    assert kept.scores.max() <= 1


@pytest.mark.parametrize("category", [-1, 3, 1e20])
def test_classes_without_a_label_are_left_out(category):
    assert found([BOX, BOX], [category, 0], [0.9, 0.8]).names == ("red",)


@pytest.mark.parametrize("box", [[0.1, 0.2, 0.1, 0.4], [0.5, 0.2, 0.1, 0.4], [-0.5, 0.2, -0.1, 0.4], [1.1, 0, 2, 1]])
def test_boxes_without_area_in_the_picture_are_left_out(box):
    assert found([box, BOX], [0, 1], [0.9, 0.8]).names == ("green",)


def test_boxes_are_clipped_and_scores_sorted():
    kept = found([[-1, -1, 2, 2], BOX], [0, 1], [0.3, 0.8])
    assert kept.names == ("green", "red")
    assert kept.boxes[1].tolist() == [0, 0, 200, 100]


def test_noise_never_fails():
    generator = np.random.default_rng(0)
    for _ in range(200):
        arrays = [generator.integers(0, 2**32, size, dtype=np.uint32).view(np.float32) for size in ((9, 4), 9, 9, 1)]
        with np.errstate(all="ignore"):
            kept = found(*arrays[:3], arrays[3][0])
        assert (kept.boxes >= 0).all() and (kept.boxes <= [200, 100, 200, 100]).all()


def test_thresholds():
    rows = [BOX, BOX, BOX], [0, 1, 2], [0.9, 0.8, 0.7]
    assert found(*rows, threshold=0.8).names == ("red", "green")
    assert found(*rows, max_detections=1).names == ("red",)
    assert form_of(INFO, LABELS).iou_threshold is None and form_of(INFO, LABELS).max_detections == 100
    host = form_of(dataclasses.replace(INFO, postprocess="host"), LABELS, iou_threshold=0.25, max_detections=7)
    assert (host.iou_threshold, host.max_detections) == (0.25, 7)


def test_what_cannot_be_followed_says_so():
    with pytest.raises(UserError, match=r"iou_threshold 0\.5 came for a file of --postprocess tasks"):
        form_of(INFO, LABELS, iou_threshold=0.5)
    with pytest.raises(UserError, match="max_detections 0 came"):
        form_of(INFO, LABELS, max_detections=0)
