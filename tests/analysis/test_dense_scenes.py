"""Scenes that training is measured on have the boxes that were asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tinydet_tf.analysis.dense_scenes import SIDES, write_scenes
from tinydet_tf.data.coco import CocoDataset, load_coco


def scenes(folder: Path) -> CocoDataset:
    return load_coco(folder / "train" / "instances.json", folder / "train" / "images")


@pytest.mark.parametrize("boxes", [0, 1, 1000])
def test_every_box_is_there(tmp_path: Path, boxes: int) -> None:
    write_scenes(tmp_path, images=2, boxes=boxes, size=128)
    data = scenes(tmp_path)
    assert [len(image.boxes) for image in data.images] == [boxes, boxes]
    assert data.dropped == data.clipped == sum(i.is_crowd.sum() for i in data.images) == 0
    for image in data.images:
        assert (image.width, image.height) == (128, 128)
        sides = image.boxes[:, 2:] - image.boxes[:, :2]
        # float32 keeps a corner below 128 to 8e-6.
        assert (sides > 128 * SIDES[0] - 1e-4).all() and (sides < 128 * SIDES[1] + 1e-4).all()


def test_equal_seeds_give_equal_scenes(tmp_path: Path) -> None:
    loaded = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        (tmp_path / name).mkdir()
        write_scenes(tmp_path / name, images=1, boxes=5, size=100, seed=seed)
        loaded.append(scenes(tmp_path / name).images[0])
    np.testing.assert_array_equal(loaded[0].boxes, loaded[1].boxes)
    assert loaded[0].path.read_bytes() == loaded[1].path.read_bytes() != loaded[2].path.read_bytes()
    assert (loaded[0].boxes != loaded[2].boxes).any()
