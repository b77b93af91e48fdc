"""Scenes with any number of boxes, to see what training on them takes: noise with random boxes, nothing to learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

#: Sides of the boxes, as shares of the scene's side: of small objects, 6 to 32 pixels of 320.
SIDES = (0.02, 0.1)
_CLASSES = 10


def write_scenes(folder: Path, *, images: int, boxes: int, size: int, seed: int = 0) -> None:
    """Writes the train split of a data set in the layout train/instances.json, train/images/.

    Args:
      folder: where; it exists.
      images: how many scenes.
      boxes: in each of them.
      size: side of the square scenes in pixels, at least 100, so that no box is thinner than a pixel.
      seed: at least 0; equal seeds give equal files.
    """
    rng = np.random.default_rng(seed)
    pictures = folder / "train" / "images"
    pictures.mkdir(parents=True)
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in range(images):
        name = f"{image}.png"
        Image.fromarray(rng.integers(0, 256, [size, size, 3], np.uint8)).save(pictures / name, compress_level=1)
        entries.append({"id": image, "file_name": name, "width": size, "height": size})
        sides = rng.uniform(*SIDES, [boxes, 2]) * size
        corners = rng.uniform(0.0, size - sides)
        classes = rng.integers(0, _CLASSES, boxes)
        for box, label in zip(np.concatenate([corners, sides], 1).tolist(), classes.tolist(), strict=True):
            entry = {"id": len(annotations) + 1, "image_id": image, "category_id": label, "bbox": box, "iscrowd": 0}
            annotations.append(entry)
    categories = [{"id": label, "name": f"class {label}"} for label in range(_CLASSES)]
    document = {"images": entries, "annotations": annotations, "categories": categories}
    (folder / "train" / "instances.json").write_text(json.dumps(document), encoding="utf-8")
