"""What a report says, as numbers: curves, what became of every object and detection, the pictures with most mistakes.

C classes, R recalls, A sizes, T thresholds. Everything here comes from pycocotools' matches (matching.py): nothing is
drawn, nothing is read from the disk.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from tinydet_tf.data.coco import CocoDataset
from tinydet_tf.evaluation import Evaluation
from tinydet_tf.matching import (
    IOU,
    THRESHOLDS,
    OperatingPoint,
    ThresholdCurve,
    best_point,
    entries_of,
    match_any_class,
    point_at,
    threshold_curve,
)

#: COCO's sizes, by the area of the object in pixels of its picture.
SIZES = ("all", "small", "medium", "large")
#: Score thresholds of the page's table.
SHOWN_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
#: A wrong detection that overlaps an object of its class by this much was meant for it.
BESIDE = 0.1

FOUND, MISSED, INVENTED, CONFUSED = "found", "missed", "invented", "confused"
#: Why a detection that found nothing is there: a second box on an object, one that lies beside it, or nothing near.
SECOND, OFF, NOTHING = "second", "beside", "nothing"

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Outcome:
    """What became of an object, of a detection, or of both together.

    Attributes:
      image_id: of the picture.
      truth: index of the object's class; None: there is no object, the detection is invented.
      found_as: index of the detection's class; None: there is no detection, the object is missed.
      truth_box, found_box: x, y, width, height in pixels of the picture; None as above.
      score: of the detection; 0 without one.
      area: of the object, in pixels, as its annotation says; 0 without one.
      reason: of an invented detection: SECOND, OFF or NOTHING; "" of others.
    """

    image_id: int
    truth: int | None = None
    found_as: int | None = None
    truth_box: Box | None = None
    found_box: Box | None = None
    score: float = 0.0
    area: float = 0.0
    reason: str = ""

    @property
    def kind(self) -> str:
        """FOUND, MISSED, INVENTED, or CONFUSED: the box fits, the class does not."""
        if self.truth is None:
            return INVENTED
        if self.found_as is None:
            return MISSED
        return FOUND if self.truth == self.found_as else CONFUSED


def outcomes(evaluator: COCOeval, dataset: CocoDataset, threshold: float) -> list[Outcome]:
    """What becomes of every object and every detection that scores at least `threshold`, at IoU 0.5.

    First pycocotools' matches within each class: what is found here is what F1 counts. Then its matches between the
    objects and the detections that are left, whatever their classes: these are confused. An object that is left then
    is missed, a detection is invented. Crowds, and detections in them, are left out.
    """
    least = float(np.float32(threshold))
    truths, founds = evaluator.cocoGt.anns, evaluator.cocoDt.anns
    index_of = {category: index for index, category in enumerate(dataset.category_ids)}
    pairs: list[tuple[int, int]] = []
    objects: list[int] = []
    detections: dict[int, str] = {}  # and why each is invented, if it is
    for class_index in range(dataset.num_classes):
        for entry in entries_of(evaluator, class_index):
            matched = set()
            overlaps = evaluator.ious[entry["image_id"], entry["category_id"]]  # [detections, objects] by score
            for row, (number, score) in enumerate(zip(entry["dtIds"], entry["dtScores"], strict=True)):
                if score < least or entry["dtIgnore"][0][row]:
                    continue
                truth = int(entry["dtMatches"][0][row])
                if truth:
                    pairs.append((truth, number))
                    matched.add(truth)
                else:
                    detections[number] = _reason(overlaps[row] if len(overlaps) else ())
            ignored = entry["gtIgnore"]
            objects += [n for n, skip in zip(entry["gtIds"], ignored, strict=True) if not skip and n not in matched]
    left = [{**truths[number]} for number in sorted(objects)]
    results = [{key: founds[n][key] for key in ("id", "image_id", "category_id", "bbox", "score")}
               for n in sorted(detections)]  # fmt: skip
    confused = match_any_class(dataset, left, results)
    gone_truths, gone_founds = {pair[0] for pair in confused}, {pair[1] for pair in confused}
    every: list[tuple[int | None, int | None]] = [
        *pairs,
        *confused,
        *((number, None) for number in objects if number not in gone_truths),
        *((None, number) for number in detections if number not in gone_founds),
    ]

    def outcome(truth: int | None, found: int | None) -> Outcome:
        values: dict[str, Any] = {}
        if truth is not None:
            given = truths[truth]
            values |= {"image_id": given["image_id"], "truth": index_of[given["category_id"]],
                       "truth_box": tuple(given["bbox"]), "area": float(given["area"])}  # fmt: skip
        if found is not None:
            given = founds[found]
            values |= {"image_id": given["image_id"], "found_as": index_of[given["category_id"]],
                       "found_box": tuple(given["bbox"]), "score": float(given["score"])}  # fmt: skip
            if truth is None:
                values["reason"] = detections[found]
        return Outcome(**values)

    return [outcome(*pair) for pair in every]


def _reason(overlaps: Iterable[float]) -> str:
    most = max(overlaps, default=0.0)
    return SECOND if most >= IOU else OFF if most >= BESIDE else NOTHING


def confusion(every: Sequence[Outcome], num_classes: int) -> np.ndarray:
    """int64 [C + 1, C + 1]: rows are what is there, columns what was found; the last of both is the background.

    A row's sum (but the last) is the objects of the class, a column's the detections of it.
    """
    matrix = np.zeros([num_classes + 1, num_classes + 1], np.int64)
    for one in every:
        row = num_classes if one.truth is None else one.truth
        column = num_classes if one.found_as is None else one.found_as
        matrix[row, column] += 1
    return matrix


@dataclass(frozen=True, eq=False)
class Shown:
    """A confusion matrix that fits on a page.

    matrix: as `confusion`, of `classes` and, if any were `left_out`, one row and column more for those together, in
    front of the background.
    """

    matrix: np.ndarray
    classes: tuple[int, ...]
    left_out: tuple[int, ...]


def most_confused(matrix: np.ndarray, most: int) -> Shown:
    """At most so many classes, those with the most mistakes between classes (then: the most missed and invented).

    The others are added up: every object and every detection stays in the matrix.
    """
    count = len(matrix) - 1
    if count <= most:
        return Shown(matrix, tuple(range(count)), ())
    between = matrix[:count, :count]
    mixed = between.sum(0) + between.sum(1) - 2 * np.diag(between)
    other = matrix[:count, count] + matrix[count, :count]
    order = sorted(range(count), key=lambda index: (-mixed[index], -other[index], index))
    kept, rest = sorted(order[:most]), sorted(order[most:])
    groups = [[index] for index in kept] + [rest, [count]]
    small = np.array([[matrix[np.ix_(rows, columns)].sum() for columns in groups] for rows in groups])
    return Shown(small, tuple(kept), tuple(rest))


def confused_pairs(matrix: np.ndarray) -> list[tuple[int, int, int]]:
    """(what is there, what it was taken for, how often), the most frequent first."""
    count = len(matrix) - 1
    pairs = [
        (row, column, int(matrix[row, column])) for row in range(count) for column in range(count) if row != column
    ]
    return sorted((pair for pair in pairs if pair[2]), key=lambda pair: (-pair[2], pair[0], pair[1]))


@dataclass(frozen=True)
class Picture:
    """The outcomes of a picture."""

    image_id: int
    outcomes: tuple[Outcome, ...]

    def count(self, kind: str) -> int:
        return sum(one.kind == kind for one in self.outcomes)

    @property
    def mistakes(self) -> int:
        return len(self.outcomes) - self.count(FOUND)


def worst_pictures(every: Sequence[Outcome], most: int) -> list[Picture]:
    """The pictures with the most mistakes, the worst first; of equal ones that with fewer objects found."""
    by_image: dict[int, list[Outcome]] = {}
    for one in every:
        by_image.setdefault(one.image_id, []).append(one)
    pictures = [Picture(image_id, tuple(found)) for image_id, found in by_image.items()]
    ranked = sorted(pictures, key=lambda picture: (-picture.mistakes, picture.count(FOUND), picture.image_id))
    return [picture for picture in ranked[:most] if picture.mistakes]


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """A precision-recall curve at IoU 0.5, as COCO draws it: precision at a recall is the best at that recall or above.

    Attributes:
      precision: float64 [R] at recalls 0, 0.01, ..., 1; 0 where that recall is not reached.
      ap50: the mean of it; NaN, as all of the curve, without objects.
      ap: COCO's, the mean over IoU 0.50:0.95; NaN without objects.
      objects: how many.
    """

    precision: np.ndarray
    ap50: float
    ap: float
    objects: int


def precision_recall(evaluator: COCOeval, classes: Sequence[int], area: int = 0) -> PrecisionRecall:
    """The mean over classes, of those with objects of the size.

    Args:
      evaluator: of `matching.judge`.
      classes: indices.
      area: index into SIZES.
    """
    found = evaluator.eval["precision"][:, :, list(classes), area, -1]  # [IoU, R, classes]
    found = found[:, :, (found > -1).all((0, 1))]
    objects = sum(int((entry["gtIgnore"] == 0).sum()) for c in classes for entry in entries_of(evaluator, c, area))
    if not found.shape[-1]:
        return PrecisionRecall(np.full(found.shape[1], np.nan), math.nan, math.nan, objects)
    curve = found[0].mean(-1)
    return PrecisionRecall(curve, float(curve.mean()), float(found.mean()), objects)


@dataclass(frozen=True, eq=False)
class Report:
    """All numbers of a report.

    Attributes:
      model, data, split: in words.
      scope: how many images, and what was left out, in words.
      num_images: how many.
      class_names: C.
      metrics: COCO's twelve.
      threshold: the score from which detections count for `outcomes`.
      threshold_source: where it is from: "model", what the weights or the file suggest; "split", the best of these
        images; "default", where no object was found.
      curve, best: over all classes; None: no object was found at any threshold.
      class_curves, class_best: of each class.
      by_class, by_size: precision-recall curves; the first of by_size is of all sizes.
      outcomes: of every object and detection.
      matrix: `confusion`.
      pictures: the worst.
      picture_names: of each of these its id in the data and its file's name.
    """

    model: str
    data: str
    split: str
    scope: str
    num_images: int
    class_names: tuple[str, ...]
    metrics: dict[str, float]
    threshold: float
    threshold_source: str
    curve: ThresholdCurve
    best: OperatingPoint | None
    class_curves: tuple[ThresholdCurve, ...]
    class_best: tuple[OperatingPoint | None, ...]
    by_class: tuple[PrecisionRecall, ...]
    by_size: tuple[PrecisionRecall, ...]
    outcomes: tuple[Outcome, ...]
    matrix: np.ndarray
    pictures: tuple[Picture, ...]
    picture_names: tuple[tuple[int | str, str], ...]

    def count(self, kind: str) -> int:
        return sum(one.kind == kind for one in self.outcomes)

    def point(self) -> OperatingPoint:
        """At the threshold, over all classes: exact, while the curve knows hundredths."""
        found, wrong = self.count(FOUND), self.count(INVENTED) + self.count(CONFUSED)
        objects = self.curve.objects
        precision, recall = (found / whole if whole else 0.0 for whole in (found + wrong, objects))
        total = objects + found + wrong
        return OperatingPoint(self.threshold, precision, recall, 2 * found / total if total else 0.0)

    def reasons(self) -> dict[str, int]:
        """How many of the invented detections are SECOND, OFF and NOTHING."""
        counts = Counter(one.reason for one in self.outcomes if one.kind == INVENTED)
        return {reason: counts[reason] for reason in (SECOND, OFF, NOTHING)}

    def to_dict(self) -> dict[str, Any]:
        """For report.json: plain values, null where there is no number."""
        names = self.class_names
        classes = [
            {
                "name": name,
                "objects": curve.objects,
                "ap": _plain(pr.ap),
                "ap50": _plain(pr.ap50),
                "best": None if best is None else asdict(best),
                "precision_at_recall": _plain(pr.precision),
                **_curve(curve),
            }
            for name, curve, best, pr in zip(names, self.class_curves, self.class_best, self.by_class, strict=True)
        ]
        sizes = {
            name: {"objects": pr.objects, "ap": _plain(pr.ap), "ap50": _plain(pr.ap50),
                   "precision_at_recall": _plain(pr.precision)}
            for name, pr in zip(SIZES, self.by_size, strict=True)
        }  # fmt: skip
        pictures = [
            {
                "image_id": image_id,
                "file": name,
                **{kind: picture.count(kind) for kind in (FOUND, MISSED, INVENTED, CONFUSED)},
            }
            for picture, (image_id, name) in zip(self.pictures, self.picture_names, strict=True)
        ]
        return {
            "model": self.model,
            "data": self.data,
            "split": self.split,
            "num_images": self.num_images,
            "scope": self.scope,
            "iou": IOU,
            "metrics": {name: _plain(value) if value >= 0 else None for name, value in self.metrics.items()},
            "best": None if self.best is None else asdict(self.best),
            "used": {**asdict(self.point()), "source": self.threshold_source},
            "invented_because": self.reasons(),
            "recalls": _plain(np.linspace(0, 1, len(self.by_size[0].precision))),
            "thresholds": _plain(THRESHOLDS),
            "all_classes": _curve(self.curve),
            "classes": classes,
            "sizes": sizes,
            "confusion": {"labels": [*names, "(background)"], "rows_are": "what is there", "columns_are":
                          "what was found", "matrix": self.matrix.tolist()},
            "worst_pictures": pictures,
        }  # fmt: skip


def _curve(curve: ThresholdCurve) -> dict[str, Any]:
    values = {"precision": curve.precision, "recall": curve.recall, "f1": curve.f1}
    return {"found": curve.found.tolist(), "invented": curve.invented.tolist(),
            **{name: _plain(value) for name, value in values.items()}}  # fmt: skip


def _plain(value: Any) -> Any:
    """Numbers as json has them, with six places; None for NaN, which json does not know."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    return None if math.isnan(value) else round(value, 6)


def make_report(
    evaluation: Evaluation,
    *,
    model: str,
    data: str,
    split: str,
    suggested: float | None,
    default: float,
    most_pictures: int,
) -> Report:
    """The report of an evaluation.

    Args:
      evaluation: of `evaluate`, which keeps what pycocotools found.
      model, data, split: in words.
      suggested: the score threshold of the model, if it has one: what its users see is what the report counts.
      default: what they see where it has none and nothing is found here.
      most_pictures: how many of the worst.
    """
    assert evaluation.judged is not None
    dataset, evaluator = evaluation.judged
    classes = range(dataset.num_classes)
    curve = threshold_curve(evaluator, classes)
    class_curves = tuple(threshold_curve(evaluator, [index]) for index in classes)
    best = best_point(curve)
    threshold, source = default, "default"
    if suggested is not None:
        threshold, source = suggested, "model"
    elif best is not None:
        threshold, source = best.threshold, "split"
    every = tuple(outcomes(evaluator, dataset, threshold))
    pictures = tuple(worst_pictures(every, most_pictures))
    names = {image.id: image.path.name for image in dataset.images}
    return Report(
        model=model,
        data=data,
        split=split,
        # Not the images a second, which are others in every run.
        scope=evaluation.left_out(),
        num_images=evaluation.num_images,
        class_names=dataset.class_names,
        metrics=evaluation.metrics,
        threshold=threshold,
        threshold_source=source,
        curve=curve,
        best=best,
        class_curves=class_curves,
        class_best=tuple(best_point(one) for one in class_curves),
        by_class=tuple(precision_recall(evaluator, [index]) for index in classes),
        by_size=tuple(precision_recall(evaluator, classes, area) for area in range(len(SIZES))),
        outcomes=every,
        matrix=confusion(every, dataset.num_classes),
        pictures=pictures,
        picture_names=tuple(
            (dataset.text_ids.get(one.image_id, one.image_id), names[one.image_id]) for one in pictures
        ),
    )


def rows_at(report: Report) -> list[tuple[OperatingPoint, int, int, int]]:
    """For a table: the point at each of SHOWN_THRESHOLDS and at the best, with found, missed and invented."""
    wanted = {*SHOWN_THRESHOLDS, *([] if report.best is None else [report.best.threshold])}
    rows = []
    for threshold in sorted(wanted):
        index = report.curve.at(threshold)
        found = int(report.curve.found[index])
        rows.append(
            (point_at(report.curve, threshold), found, report.curve.objects - found, int(report.curve.invented[index]))
        )
    return rows
