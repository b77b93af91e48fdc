"""SSD's augmentation and the two for small objects: against slow numpy, eagerly and inside tf.data."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tinydet_tf.data import augment
from tinydet_tf.data.augment import FILL_RGB, MIN_IOUS, expand, min_iou_crop, photometric, whole_window
from tinydet_tf.data.pipeline import render, resize
from tinydet_tf.data.small_objects import mosaic_of, paste, paste_copies, tile

SEEDS = range(200)


def sample_of(pixels: np.ndarray, boxes: Any, crowd_boxes: Any = (), seed: int = 0) -> dict[str, Any]:
    return {
        "image": tf.constant(pixels),
        "boxes": tf.constant(np.reshape(boxes, (-1, 4)), tf.float32),
        "classes": tf.range(len(boxes)),
        "crowd_boxes": tf.constant(np.reshape(crowd_boxes, (-1, 4)), tf.float32),
        "image_id": tf.constant(1, tf.int64),
        "seed": tf.constant([seed, 7]),
    }


def scattered(rng: np.random.Generator, count: int, width: int, height: int) -> np.ndarray:
    corners = rng.uniform(0, [width - 12, height - 12], (count, 2))
    return np.concatenate([corners, corners + rng.uniform(2, 11, (count, 2))], 1).astype(np.float32)


def iou(crop: np.ndarray, box: np.ndarray) -> float:
    """Crop: exclusive corners; box: inclusive ones."""
    width = min(crop[2], box[2] + 1) - max(crop[0], box[0])
    height = min(crop[3], box[3] + 1) - max(crop[1], box[1])
    overlap = max(width, 0) * max(height, 0)
    areas = (crop[2] - crop[0]) * (crop[3] - crop[1]) + (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
    return overlap / (areas - overlap)


#: What the other three quarters of a mosaic show.
OTHER = (
    np.full((20, 30, 3), 77, np.uint8), np.array([[1, 2, 13, 14]], np.float32), np.array([3], np.int32),
    np.zeros((0, 4), np.float32), np.array(9, np.int64),
)  # fmt: skip


@pytest.mark.parametrize(
    "stage",
    [
        expand,
        min_iou_crop,
        lambda s: photometric(resize(s, 32)),
        lambda s: mosaic_of(s, lambda index: OTHER, 1, 16, 0.5),
        lambda s: paste_copies(resize(s, 32), 4),
    ],
    ids=["expand", "crop", "photometric", "mosaic", "paste"],
)
def test_the_same_eagerly_and_inside_tf_data(stage: Callable[[Any], Any]) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (48, 64, 3), np.uint8)
    base = whole_window(sample_of(image, scattered(rng, 5, 64, 48), [[3, 3, 30, 20]]))
    seeds = tf.data.Dataset.range(12).map(lambda seed: tf.stack([tf.cast(seed, tf.int32), 7]))
    outputs = list(seeds.map(lambda seed: stage(base | {"seed": seed})))
    different = set()
    for seed, traced in enumerate(outputs):
        eager = stage(base | {"seed": tf.constant([seed, 7])})
        for key in eager:
            np.testing.assert_array_equal(eager[key], traced[key], err_msg=key)
        different.add(b"".join(eager[key].numpy().tobytes() for key in ("image", "boxes", "window") if key in eager))
    assert len(different) > 4  # every seed has its own draw, half of the time of nothing


def test_expand() -> None:
    base = whole_window(sample_of(np.zeros((30, 40, 3), np.uint8), [[1, 2, 3, 4]]))
    ratios, corners = [], []
    for seed in SEEDS:
        x1, y1, x2, y2 = expand(base | {"seed": tf.constant([seed, 3])})["window"].numpy()
        assert (np.array([x1, y1, x2, y2]) % 1 == 0).all()
        assert x1 <= 0 and y1 <= 0 and x2 >= 40 and y2 >= 30
        assert abs((x2 - x1) / 40 - (y2 - y1) / 30) < 0.04  # the aspect stays, but for whole pixels
        ratios.append((x2 - x1) / 40)
        corners.append((x1, y1))
    assert max(ratios) <= 4 and 70 < sum(r > 1 for r in ratios) < 130
    assert np.quantile([r for r in ratios if r > 1], [0.25, 0.75]) == pytest.approx([1.75, 3.25], abs=0.4)
    assert len(set(corners)) > 70


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.25, 30, 70), (1.0, 190, 200)])
def test_expand_of_another_share(share: float, least: int, most: int) -> None:
    base = whole_window(sample_of(np.zeros((30, 40, 3), np.uint8), [[1, 2, 3, 4]]))
    windows = [expand(base | {"seed": tf.constant([seed, 3])}, share)["window"].numpy() for seed in SEEDS]
    # A canvas that grows by less than a pixel is none.
    larger = sum((window[2:] - window[:2] > (40, 30)).any() for window in windows)
    assert least <= larger <= most


def test_crops_meet_a_demand_by_slow_numpy() -> None:
    rng = np.random.default_rng(1)
    boxes, crowds = scattered(rng, 4, 90, 60), scattered(rng, 2, 90, 60)
    base = whole_window(sample_of(np.zeros((60, 90, 3), np.uint8), boxes, crowds))
    lowest, whole = [], 0
    for seed in SEEDS:
        result = min_iou_crop(base | {"seed": tf.constant([seed, 3])})
        window = result["window"].numpy()
        if (window == [0, 0, 90, 60]).all():
            np.testing.assert_array_equal(result["boxes"], boxes)
            whole += 1
            continue
        x1, y1, x2, y2 = window
        assert (window % 1 == 0).all() and x1 >= 0 and y1 >= 0 and x2 <= 90 and y2 <= 60
        # Cut to whole pixels, sides and aspect move a little.
        assert x2 - x1 >= 0.3 * 90 - 1 and y2 - y1 >= 0.3 * 60 - 1
        assert 0.45 < (y2 - y1) / (x2 - x1) < 2.2
        for name, values, kept in (("boxes", boxes, result["boxes"]), ("crowd_boxes", crowds, result["crowd_boxes"])):
            expected, classes = [], []
            for index, (bx1, by1, bx2, by2) in enumerate(values):
                centred = x1 < (bx1 + bx2 + 1) / 2 < x2 and y1 < (by1 + by2 + 1) / 2 < y2
                visible = bx1 < x2 and by1 < y2 and bx2 >= x1 and by2 >= y1
                if centred if name == "boxes" else visible:
                    expected.append([max(bx1, x1), max(by1, y1), min(bx2, x2 - 1), min(by2, y2 - 1)])
                    classes.append(index)
            np.testing.assert_array_equal(kept, np.reshape(expected, (-1, 4)), err_msg=name)
            if name == "boxes":
                assert len(expected) > 0
                np.testing.assert_array_equal(result["classes"], classes)
        lowest.append(min(iou(window, box) for box in boxes))
    # One demand in seven is "stay whole"; the hard ones are rarely met by scattered boxes, and are drawn again.
    assert len(SEEDS) / 7 < whole < len(SEEDS) * 0.8 and len(lowest) > 20


def test_a_thin_box_at_the_border_is_not_turned_inside_out() -> None:
    rng = np.random.default_rng(2)
    corners = rng.uniform(0, [88, 58], (60, 2))
    thin = np.concatenate([corners, corners + rng.uniform(0, 0.6, (60, 2))], 1).astype(np.float32)
    base = whole_window(sample_of(np.zeros((60, 90, 3), np.uint8), thin))
    kept = 0
    for seed in SEEDS:
        boxes = min_iou_crop(base | {"seed": tf.constant([seed, 3])})["boxes"].numpy()
        assert (boxes[:, 2:] >= boxes[:, :2]).all()
        kept += len(boxes)
    assert kept > 60


def test_each_demand_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    box = np.array([20, 10, 69, 49], np.float32)
    base = whole_window(sample_of(np.zeros((60, 90, 3), np.uint8), [box]))
    for demand in MIN_IOUS:
        monkeypatch.setattr(augment, "MIN_IOUS", (demand,) * 5)
        monkeypatch.setattr(augment, "ROUNDS", 1)
        found = []
        for seed in range(40):
            window = min_iou_crop(base | {"seed": tf.constant([seed, 3])})["window"].numpy()
            if (window != [0, 0, 90, 60]).any():
                found.append(iou(window, box))
        # One in seven has no demand; 50 tries seldom meet the hardest.
        assert sum(value < demand for value in found) <= 13, (demand, found)
        assert sum(value >= demand for value in found) > (10 if demand < 0.6 else 0), (demand, found)


def test_without_boxes_a_crop_keeps_the_image() -> None:
    base = whole_window(sample_of(np.zeros((60, 90, 3), np.uint8), [], [[3, 3, 9, 9]]))
    for seed in range(20):
        result = min_iou_crop(base | {"seed": tf.constant([seed, 3])})
        np.testing.assert_array_equal(result["window"], base["window"])
        assert result["boxes"].shape == (0, 4) and result["crowd_boxes"].shape == (1, 4)


def test_pixels_and_boxes_move_together() -> None:
    """A bright rectangle on black, through expand, crop and resize: its box says where it went."""
    pixels = np.zeros((120, 160, 3), np.uint8)
    pixels[30:90, 40:130] = 255
    seen = 0
    for seed in SEEDS:
        sample = whole_window(sample_of(pixels, [[40, 30, 129, 89]], seed=seed))
        result = resize(min_iou_crop(expand(sample)), 96)
        image = result["image"].numpy().astype(int)
        bright = (image - np.array(FILL_RGB)).max(-1) > 60
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        window = np.asarray(min_iou_crop(expand(sample))["window"])
        scale = 96 / (window[2:] - window[:2])
        # As in mmdetection an inclusive corner is scaled: off by up to a source pixel and one of the input's.
        # Half a pixel more for where the eye puts the edge of a filtered one: measured 0.46.
        tolerance = 1.5 + scale.max()
        np.testing.assert_allclose(
            result["boxes"][0], [columns[0], rows[0], columns[-1], rows[-1]], atol=tolerance, err_msg=str(seed)
        )
        content = result["content"].numpy()
        outside = np.ones((96, 96), bool)
        outside[content[1] : content[3], content[0] : content[2]] = False
        assert (image[outside] == FILL_RGB).all()
        seen += outside.any()
    assert seen > 50


@pytest.mark.parametrize("window", [(0, 0, 64, 48), (10, 5, 42, 37), (-32, -16, 96, 80), (-5, 10, 30, 70)])
def test_render_by_slow_numpy(window: tuple[int, ...]) -> None:
    """Against cutting a padded image out first, which is what the window stands for."""
    from PIL import Image

    # Smooth, for the two differ by what the filter sees across the border of image and filling.
    y, x = np.mgrid[:48, :64]
    pixels = np.stack([2 * x, 3 * y, x + y], -1).astype(np.uint8)
    image, content = render(pixels, np.array(window, np.float32), 32)
    padded = np.full((48 + 200, 64 + 200, 3), FILL_RGB, np.uint8)
    padded[100:148, 100:164] = pixels
    x1, y1, x2, y2 = (v + 100 for v in window)
    expected = np.asarray(Image.fromarray(padded[y1:y2, x1:x2]).resize((32, 32), Image.Resampling.BILINEAR))
    inner = np.zeros((32, 32), bool)
    pad = 2 + int(np.ceil(max(x2 - x1, y2 - y1) / 32))
    inner[content[1] + pad : content[3] - pad, content[0] + pad : content[2] - pad] = True
    assert inner.any()
    # Measured 1: the two round once and twice.
    assert np.abs(image[inner].astype(int) - expected[inner]).max() <= 1
    outside = np.ones((32, 32), bool)
    outside[content[1] : content[3], content[0] : content[2]] = False
    assert (image[outside] == FILL_RGB).all()
    # What the padded image has there is the filling too, but for the filter's reach at the seam.
    assert (np.abs(expected[outside].astype(int) - FILL_RGB).max(-1) > 0).sum() <= 32 * 4


def only(monkeypatch: pytest.MonkeyPatch, **values: Any) -> None:
    for name, value in {
        "BRIGHTNESS": 0.0,
        "CONTRAST": (1.0, 1.0),
        "SATURATION": (1.0, 1.0),
        "HUE_DEGREES": 0.0,
    }.items():
        monkeypatch.setattr(augment, name, values.get(name, value))


def distorted(image: np.ndarray, seed: int, content: tuple[int, ...] = (0, 0, 99, 99)) -> np.ndarray:
    sample = sample_of(image, [], seed=seed) | {"content": tf.constant(content)}
    return np.asarray(photometric(sample)["image"])


def in_any_order(image: np.ndarray, expected: Callable[[np.ndarray], np.ndarray], tolerance: int) -> bool:
    orders = ([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])
    return any(np.abs(image[..., np.argsort(o)].astype(int) - expected(image)).max() <= tolerance for o in orders)


def test_channels_change_places_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch)
    image = np.array([[[10, 90, 200], [30, 60, 120]]], np.uint8)
    orders = [tuple(np.argsort(distorted(image, seed)[0, 0])) for seed in SEEDS]
    # The identity: half, and a sixth of the other half.
    assert 88 < orders.count((0, 1, 2)) < 145 and len(set(orders)) == 6


@pytest.mark.parametrize("name", ["BRIGHTNESS", "CONTRAST", "SATURATION", "HUE_DEGREES"])
def test_each_distortion_by_slow_numpy(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    limits: Any = {"BRIGHTNESS": 32.0, "CONTRAST": (0.5, 1.5), "SATURATION": (0.5, 1.5), "HUE_DEGREES": 18.0}
    only(monkeypatch, **{name: limits[name]})
    monkeypatch.setattr(tf, "argsort", lambda _: tf.range(3))  # leaves the channels in their places
    image = np.array([[[40, 90, 160], [120, 60, 80], [100, 100, 100]]], np.uint8)
    changes = []
    for seed in SEEDS:
        result = distorted(image, seed).astype(float)
        for before, after in zip(image[0] / 255.0, result[0] / 255.0, strict=True):
            hsv, got = colorsys.rgb_to_hsv(*before), colorsys.rgb_to_hsv(*after)
            grey = hsv[1] == 0
            tolerance = 0.02  # of colours rounded to 255 steps: measured 0.012 of a turn
            if name == "BRIGHTNESS":
                np.testing.assert_allclose(after - before, (after - before)[0], atol=0.005)
                changes.append(255 * (after - before)[0])
            elif name == "CONTRAST":
                np.testing.assert_allclose(after / before, (after / before)[0], atol=0.03)
                changes.append((after / before)[0])
            elif name == "SATURATION":
                assert got[2] == pytest.approx(hsv[2], abs=0.003)
                assert grey or got[0] == pytest.approx(hsv[0], abs=tolerance)
                changes += [] if grey else [got[1] / hsv[1]]
            else:
                assert got[1] == pytest.approx(hsv[1], abs=tolerance) and got[2] == pytest.approx(hsv[2], abs=0.003)
                changes += [] if grey else [360 * ((got[0] - hsv[0] + 0.5) % 1 - 0.5)]
    low, high = limits[name] if isinstance(limits[name], tuple) else (-limits[name], limits[name])
    slack = 0.06 * (high - low)
    assert low - slack <= min(changes) < low + 3 * slack and high - 3 * slack < max(changes) <= high + slack


def test_the_filling_keeps_its_colour() -> None:
    image = np.full((20, 20, 3), 200, np.uint8)
    changed = 0
    for seed in range(20):
        result = distorted(image, seed, (5, 3, 15, 12))
        outside = np.ones((20, 20), bool)
        outside[3:12, 5:15] = False
        assert (result[outside] == FILL_RGB).all()
        changed += (result[~outside] != 200).any()
    assert changed > 8


def test_mosaic_puts_each_box_on_its_own_image() -> None:
    images = []
    for index in range(4):
        pixels = np.zeros((30 + index, 40, 3), np.uint8)
        pixels[5:15, 10:30] = 50 * (index + 1)
        crowd = np.array([[0, 0, 39, 29 + index]], np.float32)
        images.append((pixels, np.array([[10, 5, 29, 14]], np.float32), np.array([index], np.int32), crowd))
    seams = set()
    for seed in range(20):
        image, boxes, classes, crowds = tile(images, 64, np.random.default_rng(seed))
        assert image.shape == (128, 128, 3) and classes.tolist() == [0, 1, 2, 3]
        for index, (x1, y1, x2, y2) in enumerate(boxes):
            assert image[int(y1 + y2) // 2, int(x1 + x2) // 2, 0] == 50 * (index + 1)
        # The four images fill the canvas without a gap.
        assert sum((b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in crowds) == pytest.approx(128 * 128, rel=0.06)
        seams.add(tuple(boxes[3]))
    assert len(seams) == 20


def test_copies_stand_apart_and_look_like_their_source() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 200, (96, 96, 3), np.uint8)
    boxes = np.array([[10, 10, 17, 20], [30.4, 12.6, 36.2, 18.0], [5, 40, 60, 90]], np.float32)
    classes = np.array([4, 5, 6], np.int32)
    crowds = np.array([[70, 0, 95, 30]], np.float32)
    copied = 0
    content = np.array([2, 3, 90, 95])
    for seed in range(40):
        result, new_boxes, new_classes = paste(image, boxes, classes, crowds, content, 5, np.random.default_rng(seed))
        np.testing.assert_array_equal(new_boxes[:3], boxes)
        np.testing.assert_array_equal(new_classes[:3], classes)
        assert len(new_boxes) == len(new_classes) <= 8
        for index in range(3, len(new_boxes)):
            source = int(new_classes[index]) - 4
            assert source in (0, 1)  # the third is not small
            moved = new_boxes[index] - boxes[source]
            np.testing.assert_allclose(moved, np.round(moved)[[0, 1, 0, 1]], atol=1e-4)
            x1, y1, x2, y2 = np.concatenate([np.floor(boxes[source, :2]), np.ceil(boxes[source, 2:])]).astype(int)
            dx, dy = (round(float(m)) for m in moved[:2])
            np.testing.assert_array_equal(
                result[y1 + dy : y2 + 1 + dy, x1 + dx : x2 + 1 + dx], image[y1 : y2 + 1, x1 : x2 + 1]
            )
            assert (new_boxes[index] >= [2, 3, 2, 3]).all() and (new_boxes[index] <= [89, 94, 89, 94]).all()
            for other in [*np.delete(new_boxes, index, 0), *crowds]:
                assert iou(new_boxes[index] + [0, 0, 1, 1], other) == 0
            copied += 1
    assert copied > 30


WHOLE = np.array([0, 0, 50, 50])


def test_nothing_to_paste() -> None:
    image = np.zeros((50, 50, 3), np.uint8)
    nothing = np.zeros((0, 4), np.float32)
    for boxes in (nothing, np.array([[0, 0, 45, 45]], np.float32)):
        classes = np.zeros(len(boxes), np.int32)
        result, new_boxes, new_classes = paste(image, boxes, classes, nothing, WHOLE, 5, np.random.default_rng(0))
        assert result is image and len(new_boxes) == len(boxes) == len(new_classes)
