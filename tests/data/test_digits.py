from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tinydet_lite.errors import UserError
from tinydet_tf.config import DataConfig
from tinydet_tf.data import digits
from tinydet_tf.data.cache import cache_folder
from tinydet_tf.data.coco import load_coco, locate_split
from tinydet_tf.data.digits import digits_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("digits"), num_train=30, num_val=10)


def _document(folder: Path, split: str) -> dict[str, Any]:
    return json.loads((folder / split / "instances.json").read_text())


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_is_an_ordinary_coco_folder(folder: Path) -> None:
    for split, count in (("train", 30), ("val", 10)):
        dataset = load_coco(*locate_split(folder, split))
        assert len(dataset) == count
        assert dataset.category_ids == tuple(range(1, 11))
        assert dataset.class_names == tuple("0123456789")
        assert (dataset.clipped, dataset.dropped, sum(not len(i.boxes) for i in dataset.images)) == (0, 0, 0)
        for image in dataset.images:
            with Image.open(image.path) as opened:
                assert (opened.size, opened.mode) == ((320, 320), "RGB")


def test_scenes_hold_many_mostly_small_digits(folder: Path) -> None:
    annotations = _document(folder, "train")["annotations"]
    areas = np.array([annotation["area"] for annotation in annotations])
    sides = np.array([annotation["bbox"][2:] for annotation in annotations])
    counts = np.bincount([annotation["image_id"] for annotation in annotations])[1:]
    assert counts.min() >= 8 and counts.max() <= 36
    assert 19 <= counts.mean() <= 27  # 23 over many scenes
    assert 0.7 < (areas < 32**2).mean() < 0.84  # 0.77 over many scenes
    assert sides.min() >= 2 and sides.max() <= 90
    assert {annotation["category_id"] for annotation in annotations} == set(range(1, 11))


def test_width_height_and_density(tmp_path: Path) -> None:
    wide = digits_folder(tmp_path, num_train=1, num_val=2, image_size=(640, 160))  # the area of 320x320
    sparse = digits_folder(tmp_path, num_train=1, num_val=2, image_size=(640, 160), density=0.25)
    assert (wide.name, sparse.name) == (
        f"digits-v{digits._VERSION}-seed0-train1-val2-size640x160",
        f"digits-v{digits._VERSION}-seed0-train1-val2-size640x160-density0.25",
    )
    for folder, least, most in ((wide, 8, 36), (sparse, 2, 9)):
        dataset = load_coco(*locate_split(folder, "val"))
        assert (dataset.clipped, dataset.dropped, sum(not len(i.boxes) for i in dataset.images)) == (0, 0, 0)
        for image in dataset.images:
            with Image.open(image.path) as opened:
                assert opened.size == (640, 160)
        annotations = _document(folder, "val")["annotations"]
        counts = np.bincount([annotation["image_id"] for annotation in annotations])[1:]
        assert counts.min() >= least and counts.max() <= most
        assert max(annotation["bbox"][0] for annotation in annotations) > 160
    square = digits_folder(tmp_path, num_train=1, num_val=1, image_size=(96, 96), density=1.0)
    assert square == digits_folder(tmp_path, num_train=1, num_val=1, image_size=96)


def test_no_handwriting_in_both_splits_and_labels_are_the_samples_own(folder: Path) -> None:
    from sklearn.datasets import load_digits

    target = load_digits().target
    samples = {}
    for split in ("train", "val"):
        annotations = _document(folder, split)["annotations"]
        samples[split] = {annotation["sample"] for annotation in annotations}
        assert all(annotation["category_id"] == target[annotation["sample"]] + 1 for annotation in annotations)
    assert not samples["train"] & samples["val"]


def test_split_is_stratified_and_the_photographs_are_divided() -> None:
    train, val = digits._load_sources(0, (96, 96))
    assert not set(train.samples) & set(val.samples)
    assert len(train.samples) + len(val.samples) == 1797
    share = np.bincount(val.labels) / (np.bincount(train.labels) + np.bincount(val.labels))
    np.testing.assert_allclose(share, 0.2, atol=0.01)
    (_, train_end), (val_start, _) = digits._PHOTO_COLUMNS["train"], digits._PHOTO_COLUMNS["val"]
    assert train_end < val_start


def test_box_is_tight_around_the_ink() -> None:
    rng = np.random.default_rng(5)
    alpha = np.zeros((20, 14), np.float32)
    alpha[3:15, 2:9] = 1.0
    canvas = digits._Canvas(np.full((100, 100, 3), 128, np.uint8))
    box = canvas.stamp(alpha, rng, None, covers=False)
    assert box is not None
    changed = (canvas.pixels != 128).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert (box[2] - box[0], box[3] - box[1]) == (7, 12)


def test_no_digit_is_covered_by_more_than_the_limit() -> None:
    rng = np.random.default_rng(1)
    canvas = digits._Canvas(np.full((64, 64, 3), 200, np.uint8))
    for _ in range(300):  # far more than fit
        canvas.stamp(np.ones((12, 12), np.float32), rng, None, covers=bool(rng.integers(2)))
    visible = np.bincount(canvas.owner.ravel(), minlength=len(canvas.inked))[1:]
    assert len(visible) > 5
    assert (visible >= (1 - digits._MAX_COVERED) * np.array(canvas.inked[1:])).all()


def test_ink_differs_from_its_background() -> None:
    rng = np.random.default_rng(2)
    for level in range(0, 256, 15):
        region = np.full((9, 9, 3), level, np.uint8)
        ink = np.ones((9, 9), bool)
        assert digits._paint(region, ink.astype(np.float32), ink, rng)
        assert abs(region.astype(float) @ digits._LUMA - level).min() >= digits._MIN_CONTRAST - 1.5


def test_same_seed_same_bytes_and_more_images_extend(tmp_path: Path) -> None:
    first = digits_folder(tmp_path / "one", seed=3, num_train=4, num_val=2, image_size=96)
    again = digits_folder(tmp_path / "two", seed=3, num_train=4, num_val=2, image_size=96)
    more = digits_folder(tmp_path / "one", seed=3, num_train=6, num_val=2, image_size=96)
    other = digits_folder(tmp_path / "one", seed=4, num_train=4, num_val=2, image_size=96)
    assert _bytes(first) == _bytes(again)
    assert len({first.name, more.name, other.name}) == 3
    for name in ("000000.jpg", "000003.jpg"):
        scene = (first / "train" / "images" / name).read_bytes()
        assert scene == (more / "train" / "images" / name).read_bytes()
        assert scene != (other / "train" / "images" / name).read_bytes()
    annotations = _document(first, "train")["annotations"]
    assert annotations == _document(more, "train")["annotations"][: len(annotations)]


# _VERSION: (SHA-256 of what is known exactly, levels of each scene: the three channels' means, the deviation).
# A new version gets a line of its own; the lines of old ones stay as they are.
_RECORDED: dict[int, tuple[str, list[list[float]]]] = {
    2: (
        "2b7dfec279d907696e52a24615f58cfb3e8b524ff3f7dcdff1e3556847926440",
        [[57.3, 27.2, 55.4, 45.0], [225.7, 229.2, 221.0, 31.3], [65.3, 63.1, 65.9, 36.4], [100.5, 75.6, 64.9, 28.8]],
    ),
}


def test_other_scenes_need_another_version() -> None:
    """The cache is found by the version: without a new one, old scenes would pass for the new ones.

    Digits by their hash; pixels from before the encoding and with a tolerance, as libraries differ in the last bits.
    """
    source = digits._load_sources(0, (320, 320))[1]
    drawn: list[Any] = [digits._JPEG_QUALITY, digits.CLASS_NAMES]
    levels = []
    for index in range(4):
        pixels, placed = digits._scene(source, np.random.default_rng([0, 1, index]), (320, 320))
        drawn.append([[digit.label, digit.sample, *digit.box] for digit in placed])
        levels.append([round(float(level), 1) for level in (*pixels.mean(axis=(0, 1)), pixels.std())])
    digest = hashlib.sha256(json.dumps(drawn).encode()).hexdigest()
    expected = _RECORDED.get(digits._VERSION, ("nothing recorded", []))
    same = digest == expected[0] and np.allclose(levels, expected[1], atol=0.5)
    assert same, f"the scenes have changed: raise digits._VERSION and record {(digest, levels)!r} for it"


def test_the_defaults_are_the_configurations() -> None:
    defaults, data = inspect.signature(digits_folder).parameters, DataConfig()
    assert defaults["num_train"].default == data.digits_train_images
    assert defaults["num_val"].default == data.digits_val_images
    assert defaults["seed"].default == data.digits_seed


def test_second_call_draws_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "_load_sources", lambda *_: pytest.fail("drawn again"))
    assert digits_folder(folder.parent, num_train=30, num_val=10) == folder


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_interrupted_build_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
) -> None:
    write_split = digits._write_split

    def interrupted(folder: Path, source: Any, split: str, *rest: Any) -> None:
        write_split(folder, source, split, *rest)
        if split == "val":
            raise interruption

    monkeypatch.setattr(digits, "_write_split", interrupted)
    with pytest.raises(interruption):
        digits_folder(tmp_path, num_train=2, num_val=1, image_size=96)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(digits, "_write_split", write_split)
    assert (digits_folder(tmp_path, num_train=2, num_val=1, image_size=96) / "val" / "instances.json").is_file()


def test_another_process_may_finish_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = digits_folder(tmp_path / "theirs", num_train=2, num_val=1, image_size=96)
    ours = tmp_path / "ours"
    write_split = digits._write_split

    def overtaken(folder: Path, source: Any, split: str, *rest: Any) -> None:
        write_split(folder, source, split, *rest)
        if split == "val":
            elsewhere.rename(ours / elsewhere.name)

    monkeypatch.setattr(digits, "_write_split", overtaken)
    folder = digits_folder(ours, num_train=2, num_val=1, image_size=96)
    assert [path.name for path in ours.iterdir()] == [folder.name]


def test_remains_of_a_killed_build_are_removed_when_old(tmp_path: Path) -> None:
    name = digits_folder(tmp_path, num_train=2, num_val=1, image_size=96).name
    old, new = tmp_path / "new" / f".{name}.killed", tmp_path / "new" / f".{name}.running"
    old.mkdir(parents=True)
    new.mkdir()
    os.utime(old, (0, 0))
    digits_folder(tmp_path / "new", num_train=2, num_val=1, image_size=96)
    assert not old.exists() and new.exists()


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYDET_CACHE", str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named"
    monkeypatch.delenv("TINYDET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "tinydet_tf"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "tinydet_tf"


def test_errors(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="num_train is 0, expected at least 1"):
        digits_folder(tmp_path, num_train=0)
    with pytest.raises(UserError, match="image_size is 64, expected at least 96"):
        digits_folder(tmp_path, image_size=64)
    with pytest.raises(UserError, match="image_size is 95, expected at least 96"):
        digits_folder(tmp_path, image_size=(320, 95))
    with pytest.raises(UserError, match="image_size is 8193, expected at most 8192"):
        digits_folder(tmp_path, image_size=(8193, 320))
    for density in (0.0, 2.5, float("nan")):
        with pytest.raises(UserError, match=f"density is {density}, expected a number above 0, at most 2"):
            digits_folder(tmp_path, density=density)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to the cache .*file.*TINYDET_CACHE"):
        digits_folder(tmp_path / "file", num_train=1, num_val=1)
    damaged = tmp_path / digits_folder(folder.parent, num_train=30, num_val=10).name
    (damaged / "train").mkdir(parents=True)
    with pytest.raises(UserError, match=r"is damaged \(no train/instances.json\); delete it"):
        digits_folder(tmp_path, num_train=30, num_val=10)


def test_says_once_that_it_draws(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "tinydet_tf.data.digits"):
        digits_folder(tmp_path, num_train=2, num_val=1, image_size=96)
        digits_folder(tmp_path, num_train=2, num_val=1, image_size=96)
    assert len([record for record in caplog.records if "drew 3 images" in record.message]) == 1
