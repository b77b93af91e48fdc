"""Detections as a sequence, as JSON and as COCO results."""

import json

import numpy as np
import pytest

from tinydet_lite import Detection, Detections


@pytest.fixture
def two():
    boxes = np.array([[1, 2, 4, 6], [0.125, 0, 10, 10]], np.float32)
    return Detections(boxes, np.array([0.9, 0.25], np.float32), np.array([2, 0], np.int32), ("cat", "dog"))


def test_indexing_and_iteration(two):
    assert len(two) == 2
    assert two[0] == Detection("cat", 2, pytest.approx(0.9), (1, 2, 4, 6))
    assert two[-1].name == "dog"
    assert [found.class_id for found in two] == [2, 0]
    with pytest.raises(IndexError):
        two[2]


def test_above_keeps_equal_scores(two):
    assert two.above(0.25).names == ("cat", "dog")
    assert two.above(0.26).names == ("cat",)
    assert len(two.above(0.95)) == 0


def test_to_dicts_is_json(two):
    assert json.loads(json.dumps(two.to_dicts())) == [
        {"name": "cat", "class_id": 2, "score": 0.9, "box": [1.0, 2.0, 4.0, 6.0]},
        {"name": "dog", "class_id": 0, "score": 0.25, "box": [0.12, 0.0, 10.0, 10.0]},
    ]
    assert Detections.empty().to_dicts() == []


def test_to_coco_gives_sides_and_category_ids(two):
    assert two.to_coco(139, [1, 3, 17]) == [
        {"image_id": 139, "category_id": 17, "bbox": [1, 2, 3, 4], "score": pytest.approx(0.9)},
        {"image_id": 139, "category_id": 1, "bbox": [0.125, 0, 9.875, 10], "score": 0.25},
    ]


@pytest.mark.parametrize(
    ("boxes", "scores", "class_ids", "names", "message"),
    [
        (np.zeros((2, 4), np.float32), np.ones(1, np.float32), np.zeros(1, np.int32), ("a",), "expected"),
        (np.zeros((1, 4)), np.ones(1, np.float32), np.zeros(1, np.int32), ("a",), "float64"),
        (
            np.zeros((2, 4), np.float32),
            np.float32([0.1, 0.2]),
            np.zeros(2, np.int32),
            ("a", "b"),
            "descending",
        ),
    ],
)
def test_inconsistent_arrays_are_refused(boxes, scores, class_ids, names, message):
    with pytest.raises(ValueError, match=message):
        Detections(boxes, scores, class_ids, names)
