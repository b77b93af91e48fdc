"""F1 against the threshold and the best one: by hand, and against a slow reference that matches anew at each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scenes import dataset_of, random_scene
from tinydet_tf.data.coco import CocoDataset
from tinydet_tf.matching import (
    THRESHOLDS,
    ThresholdCurve,
    best_point,
    judge,
    match_any_class,
    point_at,
    threshold_curve,
)


def result(box: list[float], score: float, category: int = 3, image: int = 9) -> dict[str, Any]:
    # As a detector's: a float32.
    return {"image_id": image, "category_id": category, "bbox": box, "score": float(np.float32(score))}


def curve_of(dataset: CocoDataset, results: list[dict[str, Any]]) -> ThresholdCurve:
    return threshold_curve(judge(dataset, results), range(dataset.num_classes))


def iou(a: list[float], b: list[float], crowd: bool = False) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (a[2] * a[3] if crowd else a[2] * a[3] + b[2] * b[3] - shared)


def slow_counts(objects: list[dict[str, Any]], results: list[dict[str, Any]], threshold: float) -> tuple[int, int, int]:
    """(objects, found, invented) of the detections from a threshold on, matched anew, in plain Python."""
    kept = sorted((r for r in results if r["score"] >= float(np.float32(threshold))), key=lambda r: -r["score"])
    taken: set[int] = set()
    found = invented = 0
    for one in kept:
        same = [
            (index, thing)
            for index, thing in enumerate(objects)
            if thing["image_id"] == one["image_id"] and thing["category_id"] == one["category_id"]
        ]
        free = [
            (iou(one["bbox"], thing["bbox"]), index)
            for index, thing in same
            if not thing["iscrowd"] and index not in taken
        ]
        best = max(free, default=(0.0, -1))
        if best[0] >= 0.5:
            taken.add(best[1])
            found += 1
        elif not any(thing["iscrowd"] and iou(one["bbox"], thing["bbox"], crowd=True) >= 0.5 for _, thing in same):
            invented += 1
    return sum(not thing["iscrowd"] for thing in objects), found, invented


def test_by_hand(tmp_path: Path) -> None:
    """Three objects. From 0.8 on: two found. From 0.6: two found, one invented. From 0.4: all, two invented."""
    boxes = [[10, 10, 20, 20], [50, 10, 20, 20], [90, 10, 20, 20]]
    dataset = dataset_of(tmp_path, [{"box": box, "category": 3} for box in boxes])
    results = [
        result(boxes[0], 0.9), result(boxes[1], 0.8), result([10, 60, 20, 20], 0.6), result(boxes[2], 0.4),
        result(boxes[0], 0.405),  # a second box on the first
    ]  # fmt: skip
    curve = curve_of(dataset, results)
    rows = {
        t: (int(curve.found[curve.at(t)]), int(curve.invented[curve.at(t)])) for t in (0.95, 0.9, 0.8, 0.6, 0.4, 0.1)
    }
    assert rows == {0.95: (0, 0), 0.9: (1, 0), 0.8: (2, 0), 0.6: (2, 1), 0.4: (3, 2), 0.1: (3, 2)}
    assert curve.objects == 3
    assert curve.f1[curve.at(0.9)] == pytest.approx(2 * 1 / (3 + 1))
    assert curve.f1[curve.at(0.7)] == pytest.approx(0.8)  # 2 * 2 / (3 + 2), the highest: 0.61 to 0.80
    assert curve.f1[curve.at(0.4)] == pytest.approx(0.75)
    assert np.isnan(curve.precision[curve.at(0.95)]) and curve.recall[curve.at(0.95)] == 0
    best = best_point(curve)
    assert best is not None
    assert (best.threshold, best.precision, best.recall) == (0.7, 1.0, pytest.approx(2 / 3))
    assert best.f1 == pytest.approx(0.8)
    assert point_at(curve, 0.95).precision == 0.0, "no detections: 0, not NaN"


@pytest.mark.parametrize("seed", range(4))
def test_the_slow_reference_agrees_at_every_threshold(seed: int, tmp_path: Path) -> None:
    """Crowds, classes, second boxes and boxes of other classes, in three pictures."""
    dataset, objects, results = random_scene(tmp_path, seed)
    curve = curve_of(dataset, results)
    expected = [slow_counts(objects, results, threshold) for threshold in THRESHOLDS]
    assert curve.objects == expected[0][0]
    np.testing.assert_array_equal(curve.found, [row[1] for row in expected])
    np.testing.assert_array_equal(curve.invented, [row[2] for row in expected])
    assert 5 < curve.found[0] < curve.objects and curve.invented[0] > 5
    f1 = [2 * found / (count + found + wrong) for count, found, wrong in expected]
    best = best_point(curve)
    assert best is not None and best.f1 == pytest.approx(max(f1))
    by_class = [threshold_curve(judge(dataset, results), [index]) for index in range(dataset.num_classes)]
    np.testing.assert_array_equal(sum(one.found for one in by_class), curve.found)


def test_a_score_on_the_threshold_counts_as_the_detector_counts_it(tmp_path: Path) -> None:
    """0.7 as a float32 is below 0.7: Detections.above compares float32 with float32."""
    dataset = dataset_of(tmp_path, [{"box": [10, 10, 20, 20], "category": 3}])
    curve = curve_of(dataset, [result([10, 10, 20, 20], 0.7)])
    assert curve.found[curve.at(0.7)] == 1 and curve.found[curve.at(0.71)] == 0


def test_of_equal_thresholds_the_middle_of_the_longest_run() -> None:
    found = np.zeros(99, int)
    found[:3] = found[20:61] = 1
    curve = ThresholdCurve(1, found, np.zeros(99, int))
    best = best_point(curve)
    assert best is not None and best.threshold == THRESHOLDS[40] == 0.41


def test_nothing_found_suggests_nothing(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, [{"box": [10, 10, 20, 20], "category": 3}])
    for results in ([], [result([60, 60, 20, 20], 0.9)], [result([10, 10, 20, 20], 0.005)]):
        assert best_point(curve_of(dataset, results)) is None
    none = threshold_curve(judge(dataset, [result([10, 10, 20, 20], 0.9, category=17)]), [1])
    assert none.objects == 0 and best_point(none) is None and np.isnan(none.f1).all()
    assert point_at(none, 0.3).f1 == 0.0


def test_boxes_alone(tmp_path: Path) -> None:
    """The best score takes the object that it overlaps most; one that overlaps too little takes none."""
    dataset = dataset_of(tmp_path, [{"box": [10, 10, 20, 20], "category": 3}])
    annotations = [
        {"id": 5, "image_id": 9, "category_id": 3, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0},
        {"id": 8, "image_id": 9, "category_id": 17, "bbox": [14, 10, 20, 20], "area": 400, "iscrowd": 0},
        {"id": 9, "image_id": 4, "category_id": 17, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0},
    ]
    results = [
        {**result([14, 10, 20, 20], 0.5, category=40), "id": 31},
        {**result([13, 10, 20, 20], 0.9, category=40), "id": 32},
        {**result([22, 10, 20, 20], 0.8, category=40, image=4), "id": 33},
    ]
    assert sorted(match_any_class(dataset, annotations, results)) == [(5, 31), (8, 32)]
    assert match_any_class(dataset, [], results) == match_any_class(dataset, annotations, []) == []
