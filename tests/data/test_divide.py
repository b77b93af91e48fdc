"""Pictures divided into train and val, and pictures that are in both."""

from __future__ import annotations

import logging
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinydet_tf.config import DataConfig
from tinydet_tf.data.copies import in_both
from tinydet_tf.data.labelled import val_indices
from tinydet_tf.data.splits import load_split
from tinydet_tf.training.run.train import _load_data


def numbered(count: int, folder: str = "/set") -> list[Path]:
    return [Path(f"{folder}/scene{n % 3}/picture {n}.jpg") for n in range(count)]


@pytest.mark.parametrize(
    ("count", "fraction", "expected"), [(2, 0.2, 1), (10, 0.2, 2), (10, 0.99, 9), (1000, 0.25, 250)]
)
def test_a_share_of_the_pictures_and_at_least_one_in_each(count: int, fraction: float, expected: int) -> None:
    assert len(val_indices(numbered(count), fraction)) == expected


def test_one_is_divided_as_before_where_the_set_lies_elsewhere_and_by_another_seed_otherwise() -> None:
    here = val_indices(numbered(100))
    assert here == val_indices(numbered(100, "/somebody/else/s set"))
    assert here != val_indices(numbered(100), seed=1)
    german = [Path(f"/set/{n} ä.jpg") for n in range(50)]
    assert val_indices(german) == val_indices([Path(unicodedata.normalize("NFD", str(path))) for path in german])


def test_pictures_that_are_added_move_next_to_none() -> None:
    before = numbered(500)
    after = sorted([*before, *(Path(f"/set/scene1/new {n}.jpg") for n in range(25))])
    old = {before[index] for index in val_indices(before)}
    new = {after[index] for index in val_indices(after)}
    assert len(old) == 100 and len(new) == 105
    assert len(old - new) <= 5, "those at the border alone"
    assert len((new - old) & set(before)) <= 5, "what was trained on stays train's"


def test_augmented_copies_stay_together() -> None:
    names = [f"a{n}_jpg.rf.{f'{n}{copy}'.zfill(32)}.jpg" for n in range(50) for copy in range(3)]
    chosen = {names[index] for index in val_indices([Path(f"/set/{name}") for name in names])}
    assert len(chosen) == 30
    parts = [sum(name.startswith(f"a{n}_") for name in chosen) for n in range(50)]
    assert sum(part not in (0, 3) for part in parts) <= 1, "at the border"


def test_chance_is_even() -> None:
    chosen = [val_indices(numbered(200), seed=seed) for seed in range(200)]
    counts = np.bincount([index for indices in chosen for index in indices], minlength=200)
    # Binomial, 200 draws of a fifth: 40 and 5.7.
    assert counts.min() >= 40 - 5 * 5.7 and counts.max() <= 40 + 5 * 5.7 and 4 < counts.std() < 8


def picture(path: Path, value: int, size: int = 64) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full([size, size, 3], value, np.uint8)).save(path)
    return path


def test_what_is_in_both(tmp_path: Path) -> None:
    train = [picture(tmp_path / "train" / f"{n}.bmp", n) for n in range(4)]  # all of one size
    val = [picture(tmp_path / "val" / f"{n}.bmp", n) for n in (7, 8)]
    assert in_both(val, train) == []
    link, copy = tmp_path / "val" / "link.bmp", tmp_path / "val" / "copy.bmp"
    link.symlink_to(train[0])
    shutil.copy(train[3], copy)
    large = tmp_path / "train" / "large.bmp", tmp_path / "val" / "large.bmp"
    for value, path in enumerate(large):  # their ends are the same
        picture(path, 5, 256)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] = value
        path.write_bytes(content)
    assert in_both([*val, link, copy, large[1], tmp_path / "gone.bmp"], [*train, large[0]]) == [link, copy]
    assert in_both([*val, train[1], train[1]], train) == [train[1]]


def test_a_picture_of_train_in_val_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split, values in (("train", (1, 2, 3)), ("val", (4, 2))):
        for value in values:
            picture(tmp_path / "images" / split / f"{split}{value}.png", value)
            label = tmp_path / "labels" / split / f"{split}{value}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("0 0.5 0.5 0.25 0.25\n")
    config = DataConfig(root=str(tmp_path))
    _load_data(config)
    assert "1 of val's 2 images are in train too (val2.png)" in caplog.text
    os.remove(tmp_path / "images" / "val" / "val2.png")
    os.remove(tmp_path / "labels" / "val" / "val2.txt")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert [len(data) for data in _load_data(config)] == [3, 1] and len(load_split(config, "val")) == 1
    assert "in train too" not in caplog.text
