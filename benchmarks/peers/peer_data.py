"""One of our data sets in the form that another detector's training reads, and its detections back as COCO results.

What is converted are the images and boxes that our own training and evaluation see (`tinydet_tf.data`): boxes clipped,
crowds left out. Pictures are linked, never copied.

N is the number of boxes of one image.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tinydet_lite.errors import UserError
from tinydet_tf.config import DataConfig
from tinydet_tf.data.coco import CocoDataset, CocoImage
from tinydet_tf.data.splits import load_split

SPLITS = ("train", "val", "test")
#: What a picture may keep at most, the best first, whoever detects: COCO's rule for a picture, which pycocotools
#: applies to each of its classes.
MAX_DETECTIONS = 100


def load_splits(folder: Path, limit: int | None = None) -> dict[str, CocoDataset]:
    """The three splits of a data set in any of the layouts that `tinydet train --data` takes.

    Args:
      folder: the data set.
      limit: the first N images of every split alone.

    Raises:
      UserError: a split is missing or wrong, or the splits do not have the same classes.
    """
    data = DataConfig(root=str(folder), limit=limit)
    splits = {split: load_split(data, split) for split in SPLITS}
    for split in SPLITS[1:]:
        if splits[split].class_names != splits["train"].class_names:
            raise UserError(
                f"{folder}: {split} has the classes {', '.join(splits[split].class_names)}, train has "
                f"{', '.join(splits['train'].class_names)}; write the same categories into every split's json"
            )
    return splits


def linked_name(image: CocoImage) -> str:
    """The name under which a picture is linked: its id, which the peer's detections then carry, and its suffix."""
    return f"{image.id:012d}{image.path.suffix.lower()}"


def yolo_label(image: CocoImage) -> str:
    """The text of a YOLO label file, a line "class cx cy w h" a box, shares of the picture's sides.

    Both formats have continuous corners, so that nothing is added or taken away: cx is (x1 + x2) / 2 / width.
    """
    lines = []
    for class_id, crowd, (x1, y1, x2, y2) in zip(image.classes, image.is_crowd, image.boxes.tolist(), strict=True):
        if not crowd:
            center = ((x1 + x2) / 2 / image.width, (y1 + y2) / 2 / image.height)
            side = ((x2 - x1) / image.width, (y2 - y1) / image.height)
            lines.append(f"{class_id} " + " ".join(f"{share:.7f}" for share in (*center, *side)) + "\n")
    return "".join(lines)


def write_yolo(splits: Mapping[str, CocoDataset], folder: Path) -> Path:
    """Lays out {images,labels}/SPLIT and data.yaml in an empty folder, with links to the pictures.

    Returns:
      The path of data.yaml.
    """
    for split, dataset in splits.items():
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for image in dataset.images:
            name = linked_name(image)
            (images / name).symlink_to(image.path.resolve())
            (labels / name).with_suffix(".txt").write_text(yolo_label(image))
    names = dict(enumerate(splits["train"].class_names))
    content = {"path": str(folder.resolve()), **{split: f"images/{split}" for split in splits}, "names": names}
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return path


def write_coco(splits: Mapping[str, CocoDataset], folder: Path) -> None:
    """Lays out SPLIT.json and SPLIT/ with links to the pictures in an empty folder.

    The json is COCO's, but for the classes, which count from 0 in the order of our category ids; boxes are clipped.
    """
    for split, dataset in splits.items():
        (folder / split).mkdir(parents=True)
        annotations: list[dict[str, Any]] = []
        for image in dataset.images:
            (folder / split / linked_name(image)).symlink_to(image.path.resolve())
            for class_id, crowd, (x1, y1, x2, y2) in zip(
                image.classes.tolist(), image.is_crowd, image.boxes.tolist(), strict=True
            ):
                if not crowd:
                    box = [x1, y1, x2 - x1, y2 - y1]
                    annotations.append({"image_id": image.id, "category_id": class_id, "bbox": box})
        images = [
            {"id": image.id, "file_name": linked_name(image), "width": image.width, "height": image.height}
            for image in dataset.images
        ]
        categories = [{"id": index, "name": name} for index, name in enumerate(dataset.class_names)]
        content = {"images": images, "categories": categories, "annotations": annotations}
        (folder / f"{split}.json").write_text(json.dumps(content))


def coco_results(
    found: Iterable[Mapping[str, Any]], category_ids: Sequence[int], *, first_class: int
) -> list[dict[str, Any]]:
    """A peer's detections as COCO results of our data set, the best MAX_DETECTIONS of each picture.

    Args:
      found: {"image_id", "category_id", "bbox" [x, y, width, height] in the picture's pixels, "score"} each, where
        image_id is the stem of `linked_name`, as a number or a text.
      category_ids: our data set's id of each class.
      first_class: the peer's category_id of class 0.

    Raises:
      UserError: a class that the data does not have.
    """
    of_image: dict[int, list[dict[str, Any]]] = {}
    for entry in found:
        class_id = int(entry["category_id"]) - first_class
        if not 0 <= class_id < len(category_ids):
            raise UserError(
                f"a detection is of category {entry['category_id']}; expected {first_class} to "
                f"{first_class + len(category_ids) - 1}, the {len(category_ids)} classes of the data"
            )
        of_image.setdefault(int(entry["image_id"]), []).append(
            {
                "image_id": int(entry["image_id"]),
                "category_id": category_ids[class_id],
                "bbox": [float(side) for side in entry["bbox"]],
                "score": float(entry["score"]),
            }
        )
    return [
        result
        for image_id in sorted(of_image)
        for result in sorted(of_image[image_id], key=lambda result: -result["score"])[:MAX_DETECTIONS]
    ]
