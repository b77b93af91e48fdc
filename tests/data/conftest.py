"""Small data sets on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def coco_document() -> dict[str, Any]:
    """Two images of 40x30 (a.png with two boxes and a crowd, b.png with none); category ids out of order, with gaps."""
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
            {"id": 3, "file_name": "b.png", "width": 40, "height": 30},
        ],
        "categories": [{"id": 90, "name": "last"}, {"id": 2, "name": "first"}, {"id": 5, "name": "second"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 5, "bbox": [4, 5, 10, 12], "area": 120, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 2, "bbox": [0, 0, 40, 30], "area": 9, "iscrowd": 1},
            {"id": 3, "image_id": 7, "category_id": 90, "bbox": [20.5, 1.25, 8, 9], "area": 72, "iscrowd": 0},
        ],
    }


@pytest.fixture
def write_coco(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """write(document, pixels=None) -> (annotation file, image folder); images in grey noise unless given by name."""

    def write(document: Any, pixels: dict[str, np.ndarray | Image.Image] | None = None) -> tuple[Path, Path]:
        images = tmp_path / "images"
        rng = np.random.default_rng(0)
        for entry in document["images"]:
            path = images / entry["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            image = (pixels or {}).get(entry["file_name"])
            if image is None:
                shape = (entry.get("height", 30), entry.get("width", 40), 3)
                image = rng.integers(0, 256, shape, np.uint8)
            (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path)
        annotation_file = tmp_path / "instances.json"
        annotation_file.write_text(json.dumps(document), encoding="utf-8")
        return annotation_file, images

    return write
