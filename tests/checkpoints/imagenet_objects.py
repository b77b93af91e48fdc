"""Objects cut out of COCO's pictures whose class ImageNet has too, to try a classifier on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

#: COCO's name -> ImageNet's class indices (of 1,000, counted from 0) that are right for it.
CLASSES: dict[str, set[int]] = {
    "aeroplane": {404, 895},  # airliner, warplane
    "banana": {954},
    "bear": {294, 295, 296, 297},
    "broccoli": {937},
    "bus": {654, 779, 874},  # minibus, school bus, trolleybus
    "cat": set(range(281, 286)),
    "dog": set(range(151, 269)),
    "elephant": {101, 385, 386},  # tusker, Indian, African
    "hot dog": {934},
    "keyboard": {508},
    "laptop": {620, 681},  # laptop, notebook
    "microwave": {651},
    "orange": {950},
    "parking meter": {704},
    "pizza": {963},
    "refrigerator": {760},
    "teddy bear": {850},
    "toilet": {861},
    "train": {466, 547, 705, 820, 829},  # bullet train, electric locomotive, passenger car, steam locomotive, tram
    "umbrella": {879},
    "zebra": {340},
}
#: Pixels of an object's shorter side.
SMALLEST = 96
#: How much of an object's box the box of another one may cover.
COVERED = 0.3
#: The side of the square that is cut out, in longer sides of the object.
AROUND = 1.15


def crops(coco_mini: Path, size: int) -> Iterator[tuple[str, np.ndarray]]:
    """(COCO's name, uint8 RGB [size, size, 3]) of every large object that stands by itself, in both splits."""
    for split in ("dev_train", "dev_val"):
        content = json.loads((coco_mini / split / "instances.json").read_text())
        names = {category["id"]: category["name"] for category in content["categories"]}
        files = {image["id"]: image["file_name"] for image in content["images"]}
        boxes: dict[int, list[list[float]]] = {}
        for annotation in content["annotations"]:
            boxes.setdefault(annotation["image_id"], []).append(annotation["bbox"])
        for annotation in content["annotations"]:
            name, box = names[annotation["category_id"]], annotation["bbox"]
            if name not in CLASSES or annotation.get("iscrowd") or min(box[2:]) < SMALLEST:
                continue
            others = list(boxes[annotation["image_id"]])
            others.remove(box)
            if any(covered(box, other) > COVERED for other in others):
                continue
            with Image.open(coco_mini / split / "images" / files[annotation["image_id"]]) as image:
                yield name, cut(image.convert("RGB"), box, size)


def covered(box: list[float], other: list[float]) -> float:
    """The share of a box [x, y, w, h] that another covers."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    return max(width, 0.0) * max(height, 0.0) / (box[2] * box[3])


def cut(image: Image.Image, box: list[float], size: int) -> np.ndarray:
    """A square around the box [x, y, w, h], moved and made smaller until it lies in the picture."""
    side = min(AROUND * max(box[2:]), *image.size)
    corner = [min(max(box[axis] + box[axis + 2] / 2 - side / 2, 0.0), image.size[axis] - side) for axis in (0, 1)]
    square = (corner[0], corner[1], corner[0] + side, corner[1] + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=square))
