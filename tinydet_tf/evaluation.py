"""COCO's twelve numbers of anything that turns an image into Detections: a Keras run or a .tflite."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from tinydet_lite.detections import Detections
from tinydet_lite.detector import Detector, Prepared
from tinydet_lite.errors import UserError
from tinydet_lite.files import atomic_write
from tinydet_tf.data.coco import CocoDataset, CocoImage
from tinydet_tf.data.opening import load_pixels, load_prepared, objects_in, usable
from tinydet_tf.matching import OperatingPoint, best_point, judge, threshold_curve
from tinydet_tf.weights import placeholder_names

_LOG = logging.getLogger(__name__)

#: COCOeval.stats in its own order.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
_DESCRIPTIONS = (
    "IoU 0.50:0.95, all sizes", "IoU 0.50", "IoU 0.75", "small, area < 32^2", "medium", "large, area > 96^2",
    "recall, 1 detection", "recall, 10 detections", "recall, 100 detections", "recall, small", "recall, medium",
    "recall, large",
)  # fmt: skip

#: A Detector, or anything that takes pixels; a Detector gets pictures as it prepares them itself.
ImageDetector = Callable[[Any], Detections]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation gives.

    Attributes:
      metrics: the twelve numbers, 0..1, or -1 where no ground truth of that size exists.
      class_ap: class name -> AP.
      results: COCO results (image_id as in the file, category_id, bbox xywh, score), what the test-dev server takes.
      num_images: how many were evaluated.
      seconds: spent in all.
      skipped_images, skipped_objects: that were left out, because the images cannot be used (data/opening.py). The
        metrics are of the other images alone: their objects do not count as missed.
      best: where F1 over all classes is highest, at IoU 0.5; None where no object was found.
      judged: the images that the numbers are of, and what pycocotools found of them, for the report.
    """

    metrics: dict[str, float]
    class_ap: dict[str, float]
    results: list[dict[str, Any]]
    num_images: int
    seconds: float
    skipped_images: int = 0
    skipped_objects: int = 0
    best: OperatingPoint | None = None
    judged: tuple[CocoDataset, COCOeval] | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.metrics,
            "class_ap": self.class_ap,
            "best_f1": None if self.best is None else asdict(self.best),
            "num_images": self.num_images,
            "skipped_images": self.skipped_images,
            "skipped_objects": self.skipped_objects,
            "images_per_second": self.num_images / max(self.seconds, 1e-9),
        }

    def scope(self) -> str:
        """For people: how many images the numbers are of, and what was left out."""
        text = f"{self.num_images} images, {self.num_images / max(self.seconds, 1e-9):.1f} a second"
        return "; ".join(filter(None, [text, self.left_out()]))

    def left_out(self) -> str:
        """For people: which images the numbers are not of; empty where they are of all."""
        if not self.skipped_images:
            return ""
        return (
            f"the numbers leave out {self.skipped_images} that cannot be used, and the {self.skipped_objects} "
            "objects in them"
        )

    def table(self, max_classes: int = 100) -> str:
        """The numbers for people."""
        lines = [
            f"{name:>6} {_number(self.metrics[name])}  {text}"
            for name, text in zip(METRICS, _DESCRIPTIONS, strict=True)
        ]
        width = max((len(name) for name in self.class_ap), default=0)
        if self.best is not None:
            at = self.best
            shares = f"precision {at.precision:.3f}, recall {at.recall:.3f}"
            lines += ["", f"    F1 {at.f1:6.3f}  the best, from a score of {at.threshold:g} on ({shares}, IoU 0.50)"]
        lines += ["", "AP of each class"]
        ranked = sorted(self.class_ap.items(), key=lambda item: -item[1])
        lines += [f"  {name:<{width}} {_number(value)}" for name, value in ranked[:max_classes]]
        return "\n".join(lines)


def evaluate(
    detect: ImageDetector,
    class_names: tuple[str, ...],
    dataset: CocoDataset,
    *,
    category_ids: tuple[int, ...] = (),
    progress: bool = False,
    part: slice = slice(None),
    gather: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Evaluation:
    """Runs a detector over a data set; images that cannot be used are left out with their objects (data/opening.py).

    Args:
      detect: a Detector, or uint8 RGB [H, W, 3] -> Detections; class_ids are indices into class_names.
      class_names: of the detector; matched to the data set's by name, or in order where they are the same.
      dataset: images and ground truth.
      category_ids: of the detector's classes, see `match_classes`.
      progress: show a bar on a terminal.
      part: which images this process runs the detector on; the numbers are of all.
      gather: gives the rows float64 [D, 7] of all processes for those of this one (training/run/distribution.py).

    Raises:
      UserError: the data has classes that the detector does not know, or too many images that cannot be used.
    """
    dataset = usable(dataset)
    assert dataset.skipped is not None
    categories = match_classes(class_names, dataset, category_ids)
    start = time.monotonic()
    results: list[dict[str, Any]] = []
    broken: set[int] = set()
    mine = replace(dataset, images=dataset.images[part])
    images = _read_ahead(mine, detect.input_size if isinstance(detect, Detector) else None)
    bar = tqdm(images, total=len(mine.images), unit="image", disable=None if progress else True)
    for record, picture in bar:
        if picture is None:
            broken.add(record.id)
        else:
            results += _coco_results(detect(picture), record.id, categories)
    if gather is not None:
        results, broken = _from_rows(gather(_to_rows(results, broken, dataset)), dataset)
    seen = replace(dataset, images=tuple(image for image in dataset.images if image.id not in broken))
    judged = judge(seen, results)
    metrics, class_ap = metrics_of(judged, seen)
    best = best_point(threshold_curve(judged, range(seen.num_classes)))
    if dataset.text_ids:
        results = [{**result, "image_id": dataset.text_ids[result["image_id"]]} for result in results]
    gone = [*dataset.left_out, *(image for image in dataset.images if image.id in broken)]
    seconds = time.monotonic() - start
    return Evaluation(metrics, class_ap, results, len(seen), seconds, len(gone), objects_in(gone), best, (seen, judged))


#: In place of a score: the row stands for an image that could not be used.
_BROKEN = -1.0


def _to_rows(results: list[dict[str, Any]], broken: set[int], dataset: CocoDataset) -> np.ndarray:
    """COCO results as float64 [D, 7], image, category, x, y, width, height, score: exact. Image and category are places
    in the data set's lists; ids may be larger than a float64 can tell apart."""
    image_at = {image.id: place for place, image in enumerate(dataset.images)}
    category_at = {category: place for place, category in enumerate(dataset.category_ids)}
    rows = [(image_at[r["image_id"]], category_at[r["category_id"]], *r["bbox"], r["score"]) for r in results]
    rows += [(image_at[image_id], 0, 0, 0, 0, 0, _BROKEN) for image_id in sorted(broken)]
    return np.array(rows, np.float64).reshape(-1, 7)


def _from_rows(rows: np.ndarray, dataset: CocoDataset) -> tuple[list[dict[str, Any]], set[int]]:
    results = []
    broken = set()
    for image, category, *box, score in rows.tolist():
        image_id = dataset.images[int(image)].id
        if score == _BROKEN:
            broken.add(image_id)
            continue
        category_id = dataset.category_ids[int(category)]
        results.append({"image_id": image_id, "category_id": category_id, "bbox": box, "score": score})
    return results, broken


def _coco_results(detections: Detections, image_id: int, categories: list[int | None]) -> list[dict[str, Any]]:
    # Classes that the data does not have cannot be judged on it: they are left out.
    known = detections.only([class_id for class_id, category in enumerate(categories) if category is not None])
    return known.to_coco(image_id, [category if category is not None else -1 for category in categories])


def match_classes(
    class_names: tuple[str, ...], dataset: CocoDataset, category_ids: tuple[int, ...] = ()
) -> list[int | None]:
    """The data's category id of each of a detector's classes, by name; None where the data has no such class.

    COCO's files do not agree on all names (couch, sofa). Where names are left over, ids decide, if the model's have
    gaps, as COCO's, and those of every class that is known by name are the data's.

    Raises:
      UserError: the data has classes that the detector does not know.
    """
    # Equal, or of weights that do not name their classes: in order.
    if class_names in (dataset.class_names, placeholder_names(dataset.num_classes)):
        return list(dataset.category_ids)
    unknown = [name for name in dataset.class_names if name not in class_names]
    if unknown and _ids_agree(class_names, category_ids, dataset):
        _LOG.warning("%s: matched by category id, for its names are not the model's", ", ".join(unknown))
        return [i if i in dataset.category_ids else None for i in category_ids]
    if unknown:
        raise UserError(
            f"the data has {dataset.num_classes} classes, {len(unknown)} of which the model ({len(class_names)} "
            f"classes) does not know ({', '.join(unknown[:5])}); evaluate on data with the model's classes"
        )
    of_name = dict(zip(dataset.class_names, dataset.category_ids, strict=True))
    return [of_name.get(name) for name in class_names]


def _ids_agree(class_names: tuple[str, ...], category_ids: tuple[int, ...], dataset: CocoDataset) -> bool:
    of_name = dict(zip(class_names, category_ids, strict=False))
    pairs = list(zip(dataset.class_names, dataset.category_ids, strict=True))
    shared = [(name, category) for name, category in pairs if name in of_name]
    # Ids that only count say nothing. COCO's have gaps; and most of the names have to be shared.
    return (
        max(category_ids, default=0) - min(category_ids, default=0) >= len(category_ids)
        and 2 * len(shared) > len(pairs)
        and all(of_name[name] == category for name, category in shared)
        and all(category in category_ids for _, category in pairs)
    )


def _read_ahead(
    dataset: CocoDataset, input_size: int | None
) -> Iterator[tuple[CocoImage, np.ndarray | Prepared | None]]:
    """Decodes the next images while the network works on this one; None for one that turns out damaged.

    Args:
      input_size: of the network that images are made ready for; None: whole pixels are wanted.
    """
    assert dataset.skipped is not None

    def read(record: CocoImage) -> np.ndarray | Prepared:
        of = (record.path, record.width, record.height)
        if input_size is None:
            return load_pixels(*of, as_stored=record.as_stored)
        return load_prepared(*of, input_size, as_stored=record.as_stored)

    ahead = 4
    with ThreadPoolExecutor(2) as pool:
        pending = [pool.submit(read, record) for record in dataset.images[:ahead]]
        for index, record in enumerate(dataset.images):
            picture = None
            try:
                picture = pending.pop(0).result()
            except UserError as error:
                dataset.skipped.skip(record.path, error)
            if index + ahead < len(dataset.images):
                pending.append(pool.submit(read, dataset.images[index + ahead]))
            yield record, picture


def coco_metrics(dataset: CocoDataset, results: list[dict[str, Any]]) -> tuple[dict[str, float], dict[str, float]]:
    """pycocotools' twelve numbers and the AP of each class for COCO results on a data set (`matching.judge`)."""
    return metrics_of(judge(dataset, results), dataset)


def metrics_of(evaluator: COCOeval, dataset: CocoDataset) -> tuple[dict[str, float], dict[str, float]]:
    """The twelve numbers and the AP of each class that pycocotools has found."""
    precision = evaluator.eval["precision"]  # [IoU, recall, class, area, max detections], classes by category id
    class_ap = {}
    for index, name in enumerate(dataset.class_names):
        values = precision[:, :, index, 0, -1]
        values = values[values > -1]
        class_ap[name] = float(values.mean()) if values.size else -1.0
    return {name: float(v) for name, v in zip(METRICS, evaluator.stats, strict=True)}, class_ap


def write_evaluation(evaluation: Evaluation, path: Path) -> Path:
    """Writes the numbers to `path` and, beside it, the detections as a COCO results json.

    Returns:
      The path of the results: NAME.json -> NAME.detections.json.
    """
    results = path.with_suffix(".detections.json")
    atomic_write(results, (json.dumps(evaluation.results) + "\n").encode())
    atomic_write(path, (json.dumps(evaluation.to_dict(), indent=2) + "\n").encode())
    return results


def _number(value: float) -> str:
    return "   -  " if value < 0 else f"{value:6.3f}"
