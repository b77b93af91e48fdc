"""Which detection found which object, by pycocotools, and what that gives at every score threshold.

C classes, T thresholds. pycocotools takes the detections of a class in a picture by falling score, and gives each the
object of its class that it overlaps most and that is still free. What comes later changes nothing of what came before:
the matches of all detections are those of the detections above any threshold, too.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tinydet_tf.data.coco import CocoDataset

#: Score thresholds that are compared: hundredths, for people to read and type.
THRESHOLDS = np.arange(1, 100) / 100
#: The overlap from which a detection has found an object, for everything that is counted at a threshold.
IOU = 0.5


def judge(dataset: CocoDataset, results: list[dict[str, Any]]) -> COCOeval:
    """pycocotools' evaluation of COCO results on a data set: matched, accumulated and summarized.

    pycocotools gets the annotations as they were checked, never the file: unclipped and with their own areas. Only
    boxes without a positive width and height, which nothing can match, are left out. Annotations are counted from 1,
    for pycocotools takes a match with id 0 for none.
    """
    given = dataset.truth
    rows = zip(given.image_ids.tolist(), given.category_ids.tolist(), given.boxes.tolist(), given.areas.tolist(),
               given.crowd.tolist(), strict=True)  # fmt: skip
    annotations = [
        {"id": index, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for index, (image, category, box, area, crowd) in enumerate(rows, 1)
        if box[2] > 0 and box[3] > 0
    ]
    images = np.union1d(given.image_ids, [image.id for image in dataset.images])
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        evaluator = _evaluator(dataset, images.tolist(), annotations, results)
        evaluator.params.imgIds = [image.id for image in dataset.images]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def match_any_class(
    dataset: CocoDataset, annotations: list[dict[str, Any]], results: list[dict[str, Any]]
) -> list[tuple[int, int]]:
    """pycocotools' matches of boxes alone, whatever their classes, at IOU.

    Args:
      annotations: as `judge` makes them, no crowds among them.
      results: COCO results with an "id" of their own, from 1.

    Returns:
      Pairs (id of the annotation, id of the result).
    """
    if not annotations or not results:
        return []
    images = sorted({entry["image_id"] for entry in [*annotations, *results]})
    with contextlib.redirect_stdout(io.StringIO()):
        # pycocotools numbers results from 1 in their order, whatever they were called.
        evaluator = _evaluator(dataset, images, annotations, results)
        params = evaluator.params
        params.imgIds, params.useCats, params.iouThrs, params.maxDets = images, 0, np.array([IOU]), [len(results)]
        params.areaRng, params.areaRngLbl = params.areaRng[:1], params.areaRngLbl[:1]
        evaluator.evaluate()
    return [
        (int(annotation), results[int(found) - 1]["id"])
        for entry in evaluator.evalImgs
        if entry is not None
        for annotation, found in zip(entry["dtMatches"][0], entry["dtIds"], strict=True)
        if annotation
    ]


def _evaluator(
    dataset: CocoDataset, images: Sequence[int], annotations: list[dict[str, Any]], results: list[dict[str, Any]]
) -> COCOeval:
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": image} for image in images],
        "categories": [
            {"id": number, "name": name} for number, name in zip(dataset.category_ids, dataset.class_names, strict=True)
        ],
        "annotations": annotations,
    }
    truth.createIndex()
    if results:
        found = truth.loadRes([dict(result) for result in results])  # it writes into what it gets
    else:  # loadRes wants at least one
        found = COCO()
        found.dataset = {**truth.dataset, "annotations": []}
        found.createIndex()
    return COCOeval(truth, found, "bbox")


def entries_of(evaluator: COCOeval, class_index: int, area: int = 0) -> list[dict[str, Any]]:
    """pycocotools' matches of a class in each picture with an object or a detection of it; area: of its areaRng."""
    params = evaluator._paramsEval
    images = len(params.imgIds)
    start = (class_index * len(params.areaRng) + area) * images
    return [entry for entry in evaluator.evalImgs[start : start + images] if entry is not None]


@dataclass(frozen=True, eq=False)
class ThresholdCurve:
    """What detections that score at least THRESHOLDS[t] find.

    Attributes:
      objects: that are there to be found. Crowds do not count, nor do detections in them.
      found: int64 [T] objects that a detection of their class overlaps by IOU.
      invented: int64 [T] detections that have found no object: of another class, second ones on an object, or of
        nothing at all.
    """

    objects: int
    found: np.ndarray
    invented: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """float64 [T]: the share of the detections that have found an object; NaN where there are no detections."""
        return _share(self.found, self.found + self.invented)

    @property
    def recall(self) -> np.ndarray:
        """float64 [T]: the share of the objects that were found; NaN where there are none."""
        return _share(self.found, np.full_like(self.found, self.objects))

    @property
    def f1(self) -> np.ndarray:
        """float64 [T]: the harmonic mean of both, 2 found / (objects + detections); NaN where there are no objects."""
        if not self.objects:
            return np.full(len(self.found), np.nan)
        return 2 * self.found / (self.objects + self.found + self.invented)

    def at(self, threshold: float) -> int:
        """The index of the nearest of THRESHOLDS."""
        return int(np.abs(THRESHOLDS - threshold).argmin())


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def threshold_curve(evaluator: COCOeval, classes: Sequence[int], area: int = 0) -> ThresholdCurve:
    """Of one class or of several together, where every object counts the same, whatever its class.

    Args:
      evaluator: of `judge`.
      classes: their indices.
      area: index into pycocotools' areaRng: 0 all, 1 small, 2 medium, 3 large.
    """
    objects, hits, misses = 0, [np.zeros(0)], [np.zeros(0)]
    for class_index in classes:
        for entry in entries_of(evaluator, class_index, area):
            scores = np.array(entry["dtScores"], float)
            counted, matched = ~entry["dtIgnore"][0].astype(bool), entry["dtMatches"][0] > 0
            objects += int((entry["gtIgnore"] == 0).sum())
            hits.append(scores[counted & matched])
            misses.append(scores[counted & ~matched])
    return ThresholdCurve(objects, _at_least(np.concatenate(hits)), _at_least(np.concatenate(misses)))


def _at_least(scores: np.ndarray) -> np.ndarray:
    """How many of the scores are at least each of THRESHOLDS: int64 [T]."""
    # Scores are float32, and Detections.above compares them with the threshold as float32.
    return len(scores) - np.searchsorted(np.sort(scores), THRESHOLDS.astype(np.float32).astype(float), side="left")


@dataclass(frozen=True)
class OperatingPoint:
    """A score threshold, and the precision, recall and F1 of the detections that score at least as much: all 0..1."""

    threshold: float
    precision: float
    recall: float
    f1: float


def best_point(curve: ThresholdCurve) -> OperatingPoint | None:
    """Where F1 is highest; of several neighbouring thresholds the middle one. None: no object was found at any."""
    f1 = curve.f1
    if not curve.found.any() or not curve.objects:
        return None
    # Runs of neighbours with the highest F1. Few detections leave wide gaps between their scores, and a threshold in
    # the middle of a gap is the one that holds longest when scores move a little.
    best = np.flatnonzero(f1 == f1.max())
    runs = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    longest = max(runs, key=len)
    return point_at(curve, float(THRESHOLDS[longest[(len(longest) - 1) // 2]]))


def point_at(curve: ThresholdCurve, threshold: float) -> OperatingPoint:
    """The numbers at the nearest of THRESHOLDS; where there are no detections or no objects, shares are 0."""
    index = curve.at(threshold)
    precision, recall, f1 = (float(np.nan_to_num(v[index])) for v in (curve.precision, curve.recall, curve.f1))
    return OperatingPoint(float(THRESHOLDS[index]), precision, recall, f1)
