"""Detections as a sequence, and in the forms that other tools read."""

import csv
import json
import sys

import numpy as np
import pytest

from tinydet_lite import Detection, Detections, UserError


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


def test_only(two):
    assert two.only([0, 5]).names == ("dog",)
    assert two.only([0]).boxes.tolist() == two.boxes[1:].tolist()
    assert two.only({2, 0}).scores.tolist() == two.scores.tolist()
    assert len(two.only([])) == len(two.only([7])) == len(Detections.empty().only([0])) == 0


def test_to_yolo(two):
    assert two.to_yolo(10, 20) == (
        "2 0.250000 0.200000 0.300000 0.200000 0.900000\n0 0.506250 0.250000 0.987500 0.500000 0.250000\n"
    )
    assert Detections.empty().to_yolo(10, 20) == ""


def test_to_csv(two):
    odd = Detections(two.boxes, two.scores, two.class_ids, ('a "b", c', "dog"))
    first, second = csv.DictReader(odd.to_csv().splitlines())
    assert (first["name"], first["class_id"], first["score"], first["x2"]) == ('a "b", c', "2", "0.9000", "4.00")
    assert [second[key] for key in ("x1", "y1", "x2", "y2")] == ["0.12", "0.00", "10.00", "10.00"]
    assert Detections.empty().to_csv() == "class_id,name,score,x1,y1,x2,y2\n"


def test_to_supervision(two):
    supervision = pytest.importorskip("supervision")
    found = two.to_supervision()
    assert isinstance(found, supervision.Detections) and len(found) == 2
    assert found.xyxy.tolist() == two.boxes.tolist() and found.area.tolist() == [12.0, 98.75]
    assert found.confidence.tolist() == two.scores.tolist()
    assert found.class_id.tolist() == [2, 0] and found["class_name"].tolist() == ["cat", "dog"]
    assert found[found.confidence > 0.5]["class_name"].tolist() == ["cat"]
    assert len(found.with_nms(0.5)) == 2
    nothing = Detections.empty().to_supervision()
    assert len(nothing) == 0 and nothing.is_empty()
    assert len(supervision.Detections.merge([nothing, found])) == 2


def test_without_supervision(two, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match="pip install supervision"):
        two.to_supervision()
