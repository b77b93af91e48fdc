from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tinydet_lite.errors import UserError
from tinydet_tf.data.coco import CocoDataset, load_coco, locate_split
from tinydet_tf.data.pipeline import build_pipeline, flip, flip_half, load_arrays, pad, resize

Document = dict[str, Any]
Write = Callable[..., tuple[Path, Path]]
Batch = dict[str, np.ndarray]


def _collect(pipeline: tf.data.Dataset) -> list[Batch]:
    return [{key: value.numpy() for key, value in batch.items()} for batch in pipeline]


def _assert_equal(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def _sample(pixels: np.ndarray, boxes: Any, crowd_boxes: Any = ()) -> dict[str, Any]:
    return {
        "image": tf.constant(pixels),
        "boxes": tf.constant(np.reshape(boxes, (-1, 4)), tf.float32),
        "classes": tf.range(len(boxes)),
        "crowd_boxes": tf.constant(np.reshape(crowd_boxes, (-1, 4)), tf.float32),
        "image_id": tf.constant(1, tf.int64),
        "seed": tf.constant([3, 4]),
    }


def _bright_box(pixels: np.ndarray) -> list[int]:
    """The inclusive box around the pixels above half: x1, y1, x2, y2."""
    bright = pixels[..., 0] > 127
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    return [columns[0], rows[0], columns[-1], rows[-1]]


def _numpy_boxes(boxes: np.ndarray, width: int, height: int, size: int, mirrored: bool) -> np.ndarray:
    """mmdetection 1.x, written out: continuous corners of the source to inclusive pixels of the input."""
    result = []
    for x1, y1, x2, y2 in boxes.astype(np.float64):
        left, right = x1 * size / width, (x2 - 1) * size / width
        top, bottom = y1 * size / height, (y2 - 1) * size / height
        left, right, top, bottom = (min(max(value, 0), size - 1) for value in (left, right, top, bottom))
        if mirrored:
            left, right = size - right - 1, size - left - 1
        result.append([left, top, right, bottom])
    return np.reshape(result, (-1, 4))


@pytest.fixture
def many(tmp_path: Path, write_coco: Write) -> CocoDataset:
    """Eleven images of different sizes with 0 to 3 boxes; the id is the image's red channel."""
    rng = np.random.default_rng(1)
    document: Document = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    pixels: dict[str, Any] = {}
    for index in range(11):
        width, height = (int(side) for side in rng.integers(20, 60, 2))
        entry: dict[str, Any] = {"id": index, "file_name": f"{index}.png", "width": width, "height": height}
        document["images"].append(entry)
        pixels[entry["file_name"]] = rng.integers(0, 256, (height, width, 3), np.uint8)
        pixels[entry["file_name"]][..., 0] = index
        for _ in range(index % 4):
            box = [*rng.uniform(0, 10, 2), *rng.uniform(2, 9, 2)]
            document["annotations"].append(
                {"id": len(document["annotations"]), "image_id": index, "category_id": 1, "bbox": box}
            )
    return load_coco(*write_coco(document, pixels))


def test_batch_shapes_padding_and_crowds(coco_document: Document, write_coco: Write) -> None:
    dataset = load_coco(*write_coco(coco_document))
    pipeline = build_pipeline(dataset, input_size=20, batch_size=2, training=False)
    assert pipeline.cardinality().numpy() == 1
    (batch,) = _collect(pipeline)
    assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
        "images": ((2, 20, 20, 3), "uint8"),
        "gt_boxes": ((2, 2, 4), "float32"),
        "gt_classes": ((2, 2), "int32"),
        "gt_mask": ((2, 2), "bool"),
        "crowd_boxes": ((2, 1, 4), "float32"),
        "crowd_mask": ((2, 1), "bool"),
        "image_ids": ((2,), "int64"),
        "seeds": ((2, 2), "int32"),
    }
    assert batch["image_ids"].tolist() == [7, 3]
    np.testing.assert_allclose(
        batch["gt_boxes"][0],
        [[2, 5 * 20 / 30, 6.5, 16 * 20 / 30], [10.25, 1.25 * 20 / 30, 13.75, 9.25 * 20 / 30]],
        rtol=1e-6,
    )
    assert batch["gt_classes"].tolist() == [[1, 2], [-1, -1]]
    assert batch["gt_mask"].tolist() == [[True, True], [False, False]]
    np.testing.assert_array_equal(batch["gt_boxes"][1], 0)
    np.testing.assert_allclose(batch["crowd_boxes"][0], [[0, 0, 19, 19]])  # 39 * 20/40 = 19.5, clipped to S-1
    assert batch["crowd_mask"].tolist() == [[True], [False]]


def test_no_boxes_anywhere_still_has_a_row(coco_document: Document, write_coco: Write) -> None:
    dataset = load_coco(*write_coco(coco_document | {"annotations": []}))
    (batch,) = _collect(build_pipeline(dataset, input_size=8, batch_size=2, training=True))
    assert batch["gt_boxes"].shape == (2, 1, 4)
    assert batch["crowd_boxes"].shape == (2, 1, 4)
    assert not batch["gt_mask"].any() and not batch["crowd_mask"].any()


def test_static_shapes_in_training(many: CocoDataset) -> None:
    pipeline = build_pipeline(many, input_size=16, batch_size=4, training=True)
    assert {key: tuple(spec.shape) for key, spec in pipeline.element_spec.items()} == {
        "images": (4, 16, 16, 3),
        "gt_boxes": (4, 3, 4),
        "gt_classes": (4, 3),
        "gt_mask": (4, 3),
        "crowd_boxes": (4, 1, 4),
        "crowd_mask": (4, 1),
        "image_ids": (4,),
        "seeds": (4, 2),
    }
    assert pipeline.cardinality().numpy() == len(_collect(pipeline)) == 2


def test_evaluation_keeps_every_image_in_order(many: CocoDataset) -> None:
    batches = _collect(build_pipeline(many, input_size=16, batch_size=4, training=False))
    assert [len(batch["image_ids"]) for batch in batches] == [4, 4, 3]
    assert np.concatenate([batch["image_ids"] for batch in batches]).tolist() == list(range(11))


@pytest.mark.parametrize("training", [False, True])
def test_boxes_match_the_numpy_reference(many: CocoDataset, training: bool) -> None:
    sides = set()
    for batch in _collect(build_pipeline(many, input_size=33, batch_size=1, training=training, seed=2)):
        image = many.images[int(batch["image_ids"][0])]
        assert batch["gt_mask"][0].sum() == len(image.boxes)
        boxes = batch["gt_boxes"][0][batch["gt_mask"][0]]
        plain, mirrored = (_numpy_boxes(image.boxes, image.width, image.height, 33, side) for side in (False, True))
        # float32 of numbers up to 33: measured 3.8e-6.
        close = [np.allclose(boxes, expected, atol=1e-5) for expected in (plain, mirrored)]
        assert any(close)
        if len(boxes):
            sides.add(close.index(True))
    assert sides == ({0, 1} if training else {0})


@pytest.mark.parametrize("choice", [{"augmentation": "ssd"}, {"mosaic": 1.0}, {"copy_paste": 5}])
def test_augmentation_is_for_training_only(many: CocoDataset, choice: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"input_size": 16, "batch_size": 11}
    plain, changed = (_collect(build_pipeline(many, training=False, **arguments, **c)) for c in ({}, choice))
    _assert_equal(plain, changed)
    # In training the same images in the same order, of other pixels or with other boxes.
    (plain,), (changed,) = (_collect(build_pipeline(many, training=True, **arguments, **c)) for c in ({}, choice))
    np.testing.assert_array_equal(plain["image_ids"], changed["image_ids"])
    assert (plain["images"] != changed["images"]).any() or plain["gt_mask"].sum() != changed["gt_mask"].sum()


@pytest.mark.parametrize(("width", "height", "size"), [(64, 48, 32), (30, 90, 96), (32, 32, 32)])
def test_resize_moves_boxes_and_pixels_together(width: int, height: int, size: int) -> None:
    x1, y1, x2, y2 = width // 4, height // 3, width // 2, height - height // 6
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[y1:y2, x1:x2] = 255
    for sample in (
        resize(_sample(pixels, [[x1, y1, x2 - 1, y2 - 1]]), size),
        flip(resize(_sample(pixels, [[x1, y1, x2 - 1, y2 - 1]]), size)),
        resize(flip(_sample(pixels, [[x1, y1, x2 - 1, y2 - 1]])), size),
    ):
        assert sample["image"].shape == (size, size, 3)
        # mmdetection scales inclusive corners, so a corner is off by up to one source pixel, size/side of the input's.
        tolerance = max(1.0, size / width, size / height)
        np.testing.assert_allclose(sample["boxes"][0], _bright_box(sample["image"].numpy()), atol=tolerance)


def test_flip_twice_is_identity() -> None:
    rng = np.random.default_rng(0)
    sample = _sample(rng.integers(0, 256, (7, 9, 3), np.uint8), [[0, 1, 3, 4], [2, 2, 8, 6]], [[0, 0, 8, 6]])
    once, twice = flip(sample), flip(flip(sample))
    np.testing.assert_array_equal(once["boxes"], [[5, 1, 8, 4], [0, 2, 6, 6]])
    np.testing.assert_array_equal(once["image"], sample["image"][:, ::-1])
    for key in sample:
        np.testing.assert_array_equal(twice[key], sample[key])


def test_flip_half_follows_the_seed_eagerly_and_in_a_graph() -> None:
    pixels = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    graph = tf.function(flip_half)
    mirrored = 0
    for seed in range(200):
        sample = _sample(pixels, [[0, 0, 1, 2]]) | {"seed": tf.constant([seed, 5])}
        eager, traced = flip_half(sample), graph(sample)
        for key in sample:
            np.testing.assert_array_equal(eager[key], traced[key])
        is_mirrored = bool((eager["image"].numpy() != pixels).any())
        assert eager["boxes"].numpy().tolist() == ([[1, 0, 2, 2]] if is_mirrored else [[0, 0, 1, 2]])
        mirrored += is_mirrored
    assert 70 < mirrored < 130  # 200 fair coins: four standard deviations


@pytest.mark.parametrize("count", [0, 1, 3])
def test_pad(count: int) -> None:
    boxes = np.arange(4 * count, dtype=np.float32).reshape(-1, 4)
    padded = pad(_sample(np.zeros((4, 4, 3), np.uint8), boxes, boxes[:1]), 3, 2)
    assert padded["gt_mask"].numpy().tolist() == [index < count for index in range(3)]
    np.testing.assert_array_equal(padded["gt_boxes"][:count], boxes)
    assert padded["gt_classes"].numpy().tolist() == list(range(count)) + [-1] * (3 - count)
    assert padded["crowd_mask"].numpy().tolist() == [count > 0, False]


@pytest.mark.parametrize(("boxes", "crowds"), [(4, 0), (0, 3)])
def test_pad_refuses_to_cut(boxes: int, crowds: int) -> None:
    sample = _sample(np.zeros((4, 4, 3), np.uint8), np.zeros((boxes, 4)), np.zeros((crowds, 4)))
    with pytest.raises(tf.errors.InvalidArgumentError):
        pad(sample, 3, 2)


@pytest.mark.parametrize("extra", [{}, {"augmentation": "ssd", "mosaic": 0.5, "copy_paste": 3}], ids=["plain", "all"])
def test_shuffled_reproducibly_and_differently_each_epoch(many: CocoDataset, extra: dict[str, Any]) -> None:
    def epochs(**changes: Any) -> list[list[Batch]]:
        arguments: dict[str, Any] = {"input_size": 16, "batch_size": 4, "training": True, "seed": 9} | extra | changes
        pipeline = build_pipeline(many, **arguments)
        return [_collect(pipeline) for _ in range(3)]

    first, again, serial, other = epochs(), epochs(), epochs(num_parallel_calls=1), epochs(seed=10)
    for one, two, three in zip(first, again, serial, strict=True):
        _assert_equal(one, two)
        _assert_equal(one, three)
    orders = [tuple(np.concatenate([b["image_ids"] for b in epoch])) for epoch in (*first, other[0])]
    assert len(set(orders)) == 4
    assert all(len(set(order)) == 8 for order in orders)
    # A resumed run goes on where the other would have.
    _assert_equal(epochs(first_epoch=2)[0], first[2])
    # .repeat() is another way to the next epoch.
    repeated = build_pipeline(many, input_size=16, batch_size=4, training=True, seed=9, **extra).repeat(2)
    _assert_equal(_collect(repeated), first[0] + first[1])


def test_cache_changes_nothing(many: CocoDataset) -> None:
    for training in (True, False):
        arguments: dict[str, Any] = {"input_size": 24, "batch_size": 3, "training": training}
        cached, plain = build_pipeline(many, cache=True, **arguments), build_pipeline(many, **arguments)
        for _ in range(3):
            _assert_equal(_collect(cached), _collect(plain))
        for image in many.images:
            assert image.path.exists()
    # The third round of a cached pipeline needs no files.
    for image in many.images:
        image.path.unlink()
    assert len(_collect(cached)) == 4


def test_no_box_is_left_out(write_coco: Write) -> None:
    """A mosaic of four images that all have the data set's largest number of boxes, and copies pasted into it."""
    boxes = [[3.0 + 7 * column, 4.0 + 9 * row, 3.0, 2.0] for column in range(5) for row in range(6)]
    document: Document = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 60, "height": 70} for i in range(4)],
        "annotations": [
            {"id": len(boxes) * i + j, "image_id": i, "category_id": 1, "bbox": box}
            for i in range(4)
            for j, box in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    pixels = {f"{i}.png": np.zeros((70, 60, 3), np.uint8) for i in range(4)}
    dataset = load_coco(*write_coco(document, pixels))
    seen = set()
    for mosaic, copies in ((0.0, 0), (0.0, 5), (1.0, 0), (1.0, 5)):
        pipeline = build_pipeline(
            dataset, input_size=128, batch_size=4, training=True, mosaic=mosaic, copy_paste=copies
        )
        (batch,) = _collect(pipeline)
        least = 30 * (4 if mosaic else 1)
        counts = batch["gt_mask"].sum(1)
        assert ((counts >= least) & (counts <= least + copies)).all()
        assert batch["gt_boxes"].shape == (4, least + copies, 4)
        seen.update((counts - least).tolist())
    assert len(seen) > 1  # copies were pasted


def damage_inside(path: Path) -> None:
    """A PNG's header and end stay as they are: only decoding finds the damage."""
    before, mark, pixels = path.read_bytes().partition(b"IDAT")
    path.write_bytes(before + mark + bytes(20) + pixels[20:])


def test_an_image_that_turns_out_damaged_is_replaced_and_named_once_in_training(
    many: CocoDataset, caplog: pytest.LogCaptureFixture
) -> None:
    for index in (4, 5):
        damage_inside(many.images[index].path)
    pipeline = build_pipeline(many, input_size=16, batch_size=11, training=True)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        epochs = [_collect(pipeline) for _ in range(3)]
    texts = [record.getMessage() for record in caplog.records]
    assert sorted(text.split("/")[-1].split(".png")[0] for text in texts) == ["4", "5"]
    assert ["skipping 1 of 11 images" in texts[0], "skipping 2 of 11 images" in texts[1]] == [True, True]
    for (batch,) in epochs:
        assert sorted(batch["image_ids"].tolist()) == [0, 1, 2, 3, 6, 6, 6, 7, 8, 9, 10]
        for image_id, pixels in zip(batch["image_ids"], batch["images"], strict=True):
            assert (pixels[..., 0] == image_id).all()


def test_an_image_that_turns_out_damaged_raises_otherwise(many: CocoDataset) -> None:
    damage_inside(many.images[4].path)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"UserError: .*4\.png"):
        _collect(build_pipeline(many, input_size=16, batch_size=2, training=False))


def test_too_many_that_turn_out_damaged_end_the_epoch(many: CocoDataset) -> None:
    for image in many.images[:4]:
        damage_inside(image.path)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"UserError: 4 of 11 images of .* cannot be used"):
        _collect(build_pipeline(many, input_size=16, batch_size=2, training=True))


@pytest.mark.parametrize("training", [False, True])
def test_an_epoch_has_each_image_that_can_be_used_once(many: CocoDataset, training: bool) -> None:
    many.images[4].path.write_bytes(many.images[4].path.read_bytes()[:200])
    many.images[5].path.write_bytes(b"not an image")
    many.images[6].path.write_bytes(b"")
    pipeline = build_pipeline(many, input_size=16, batch_size=4, training=training)
    assert pipeline.cardinality().numpy() == 2
    for _ in range(2):
        ids = np.concatenate([batch["image_ids"] for batch in _collect(pipeline)])
        assert sorted(ids.tolist()) == [0, 1, 2, 3, 7, 8, 9, 10]


def test_no_usable_image_at_all_raises(many: CocoDataset) -> None:
    for image in many.images:
        image.path.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 11 images of .*instances.json can be used: .*0.png"):
        build_pipeline(many, input_size=16, batch_size=2, training=True)


def test_size_that_disagrees_with_the_json(coco_document: Document, write_coco: Write) -> None:
    coco_document["images"][0] |= {"width": 30, "height": 40}
    annotation_file, images = write_coco(coco_document)
    Image.new("RGB", (40, 30)).save(images / "a.png")
    dataset = load_coco(annotation_file, images)
    with pytest.raises(UserError, match=r"a.png decodes to 40x30 pixels, but its json says 30x40 \(turned"):
        load_arrays(dataset.images[0])


def _as(mode: str, pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("kind", ["RGB", "L", "P", "CMYK", "RGBA", "turned"])
def test_kinds_of_files(tmp_path: Path, kind: str) -> None:
    """A bright rectangle in a dark image of 40x30 as people see it, in files of every kind."""
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[6:18, 8:28] = 255
    images = tmp_path / "images"
    images.mkdir()
    name = "a.jpg" if kind in ("CMYK", "turned") else "a.png"
    if kind == "turned":
        # Stored lying on its side; orientation 6 turns it upright by 90 degrees clockwise.
        stored = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)
        exif = stored.getexif()
        exif[0x0112] = 6
        stored.save(images / name, exif=exif, quality=95)
    else:
        _as(kind, pixels).save(images / name)
    document = {
        "images": [{"id": 1, "file_name": name, "width": 40, "height": 30}],
        "categories": [{"id": 1, "name": "rectangle"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 6, 20, 12]}],
    }
    annotation_file = tmp_path / "instances.json"
    annotation_file.write_text(json.dumps(document))
    dataset = load_coco(annotation_file, images)
    for training in (False, True):
        pipeline = build_pipeline(dataset, input_size=80, batch_size=1, training=training)
        (batch,) = _collect(pipeline)
        image = batch["images"][0]
        assert image.max() > 240 and image[0, 0].max() < 15
        np.testing.assert_allclose(batch["gt_boxes"][0, 0], _bright_box(image), atol=80 / 30)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 12}, r"batch_size 12 is larger than the 11 images of .*; give a batch_size of at most 11"),
        ({"batch_size": 0}, "batch_size is 0, expected at least 1"),
        ({"input_size": 0}, "input_size is 0"),
        ({"seed": -1}, "seed is -1, expected at least 0"),
        ({"augmentation": "coco"}, "augmentation is 'coco'; choose one of 'none', 'ssd'"),
    ],
)
def test_argument_errors(many: CocoDataset, changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"input_size": 16, "batch_size": 2, "training": True} | changes
    with pytest.raises(UserError, match=message):
        build_pipeline(many, **arguments)


def test_real_coco(coco_mini: Path) -> None:
    dataset = load_coco(*locate_split(coco_mini / "dev_val", "val")).subset(24)
    seen = 0
    for batch in _collect(build_pipeline(dataset, input_size=320, batch_size=8, training=True, seed=1)):
        boxes = batch["gt_boxes"][batch["gt_mask"]]
        assert (boxes >= 0).all() and (boxes <= 319).all() and (boxes[:, 2:] >= boxes[:, :2]).all()
        assert (batch["gt_classes"][batch["gt_mask"]] >= 0).all() and (batch["gt_classes"] < 80).all()
        seen += len(batch["image_ids"])
    assert seen == 24
