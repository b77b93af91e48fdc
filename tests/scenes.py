"""Small data sets with detections, for the tests of matches and reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tinydet_tf.data.coco import CocoDataset, load_coco

NAMES = {3: "ant", 17: "bee", 40: "cat"}  # classes 0, 1 and 2
IMAGES = (9, 4, 70)


def dataset_of(
    folder: Path, objects: list[dict[str, Any]], *, names: dict[int, str] = NAMES, images: tuple[int, ...] = IMAGES
) -> CocoDataset:
    """Pictures of 200 x 150 pixels.

    Args:
      objects: {"box": [x, y, width, height], "category": 3, "image": 9, "crowd": 0}, the last two where they differ.
    """
    annotations = [
        {
            "id": number,
            "image_id": one.get("image", 9),
            "category_id": one["category"],
            "bbox": one["box"],
            "area": one["box"][2] * one["box"][3],
            "iscrowd": one.get("crowd", 0),
        }
        for number, one in enumerate(objects, 1)
    ]
    document = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 200, "height": 150} for i in images],
        "categories": [{"id": number, "name": name} for number, name in names.items()],
        "annotations": annotations,
    }
    folder.mkdir(exist_ok=True)
    for image in images:
        Image.new("RGB", (200, 150), (60, 70, 80)).save(folder / f"{image}.png")
    (folder / "instances.json").write_text(json.dumps(document))
    return load_coco(folder / "instances.json", folder)


def random_scene(
    folder: Path, seed: int, names: dict[int, str] = NAMES
) -> tuple[CocoDataset, list[dict[str, Any]], list[dict[str, Any]]]:
    """A data set, its annotations and COCO results: near the objects, of their class or another, and anywhere."""
    rng = np.random.default_rng(seed)
    objects = [
        {
            "box": [float(v) for v in (*rng.uniform(0, 100, 2), *rng.uniform(10, 45, 2))],
            "category": int(rng.choice(list(names))),
            "image": int(image),
            "crowd": int(rng.random() < 0.15),
        }
        for image in IMAGES
        for _ in range(12)
    ]
    dataset = dataset_of(folder, objects, names=names)
    annotations = json.loads(dataset.annotation_file.read_text())["annotations"]
    results = []
    for one in annotations:
        for _ in range(int(rng.integers(0, 4))):
            category = one["category_id"] if rng.random() < 0.7 else int(rng.choice(list(names)))
            box = np.maximum(np.array(one["bbox"]) + rng.normal(0, 4, 4), 1)
            score = float(np.float32(rng.random()))
            results.append({"image_id": one["image_id"], "category_id": category, "bbox": box.tolist(), "score": score})
    return dataset, annotations, results
