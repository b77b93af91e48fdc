from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tinydet_lite.errors import UserError
from tinydet_tf.data.coco import load_coco, locate_split
from tinydet_tf.data.opening import usable

Document = dict[str, Any]
Write = Callable[..., tuple[Path, Path]]


def test_boxes_classes_and_crowds(coco_document: Document, write_coco: Write) -> None:
    annotation_file, images = write_coco(coco_document)
    dataset = load_coco(str(annotation_file), str(images))
    assert dataset.category_ids == (2, 5, 90)
    assert dataset.class_names == ("first", "second", "last")
    assert dataset.num_classes == 3
    a, b = dataset.images
    assert (a.id, a.path, a.width, a.height) == (7, images / "a.png", 40, 30)
    np.testing.assert_array_equal(a.boxes, [[4, 5, 14, 17], [0, 0, 40, 30], [20.5, 1.25, 28.5, 10.25]])
    assert a.boxes.dtype == np.float32 and a.classes.dtype == np.int32 and a.is_crowd.dtype == bool
    assert a.classes.tolist() == [1, 0, 2]
    assert a.is_crowd.tolist() == [False, True, False]
    assert (b.boxes.shape, b.classes.shape, b.is_crowd.shape) == ((0, 4), (0,), (0,))
    assert (sum(i.is_crowd.sum() for i in dataset.images), sum(not len(i.boxes) for i in dataset.images)) == (1, 1)
    with pytest.raises(ValueError, match=r"read-only"):
        a.boxes[0, 0] = 1


def test_no_annotations_at_all(coco_document: Document, write_coco: Write) -> None:
    dataset = load_coco(*write_coco(coco_document | {"annotations": []}))
    assert [len(image.boxes) for image in dataset.images] == [0, 0]


def test_integral_floats_are_integers(coco_document: Document, write_coco: Write) -> None:
    expected = load_coco(*write_coco(coco_document))
    for table, keys in (
        ("images", ("id", "width", "height")),
        ("categories", ("id",)),
        ("annotations", ("id", "image_id", "category_id")),
    ):
        for entry in coco_document[table]:
            entry.update({key: float(entry[key]) for key in keys})
    dataset = load_coco(*_rewritten(expected.annotation_file, coco_document))
    assert dataset.category_ids == expected.category_ids
    assert all(type(value) is int for value in dataset.category_ids)
    for image, other in zip(dataset.images, expected.images, strict=True):
        for value, wanted in ((image.id, other.id), (image.width, other.width), (image.height, other.height)):
            assert value == wanted and type(value) is int
        np.testing.assert_array_equal(image.boxes, other.boxes)
        np.testing.assert_array_equal(image.classes, other.classes)


def test_the_largest_ids_survive_tf_data(coco_document: Document, write_coco: Write) -> None:
    coco_document["images"][1]["id"] = 2**63 - 1
    coco_document["images"][0]["id"] = -(2**63)
    for annotation in coco_document["annotations"]:
        annotation["image_id"] = -(2**63)
    images = load_coco(*write_coco(coco_document)).images
    assert [np.array(image.id, np.int64).item() for image in images] == [-(2**63), 2**63 - 1]


def test_numbers_at_the_end_of_the_floats_are_clipped_without_a_warning(
    coco_document: Document, write_coco: Write, recwarn: pytest.WarningsRecorder
) -> None:
    coco_document["annotations"][0]["bbox"] = [1e308, 0, 1e308, 5]
    coco_document["annotations"][2]["bbox"] = [3, 4, 10**30, 1e308]
    dataset = load_coco(*write_coco(coco_document))
    assert (dataset.clipped, dataset.dropped) == (1, 1)
    np.testing.assert_array_equal(dataset.images[0].boxes, [[0, 0, 40, 30], [3, 4, 40, 30]])
    assert not recwarn.list


def _rewritten(annotation_file: Path, document: Document) -> tuple[Path, Path]:
    annotation_file.write_text(json.dumps(document))
    return annotation_file, annotation_file.parent / "images"


def test_grouping_matches_a_plain_loop(tmp_path: Path, write_coco: Write) -> None:
    rng = np.random.default_rng(0)
    document: Document = {
        "images": [{"id": int(i), "file_name": f"{i}.png", "width": 9, "height": 9} for i in rng.permutation(20)],
        "categories": [{"id": i, "name": str(i)} for i in (3, 1, 2)],
        "annotations": [
            {
                "id": i,
                "image_id": int(rng.integers(20)),
                "category_id": int(rng.integers(1, 4)),
                "bbox": [*rng.uniform(0, 4, 2), *rng.uniform(1, 5, 2)],
            }
            for i in range(100)
        ],
    }
    dataset = load_coco(*write_coco(document))
    for entry, image in zip(document["images"], dataset.images, strict=True):
        own = [annotation for annotation in document["annotations"] if annotation["image_id"] == entry["id"]]
        assert image.id == entry["id"]
        assert image.classes.tolist() == [annotation["category_id"] - 1 for annotation in own]
        expected = [[x, y, x + w, y + h] for x, y, w, h in (annotation["bbox"] for annotation in own)]
        np.testing.assert_allclose(image.boxes, np.reshape(expected, (-1, 4)), rtol=1e-6)


def test_odd_boxes_are_clipped_or_dropped_and_counted(
    coco_document: Document, write_coco: Write, caplog: pytest.LogCaptureFixture
) -> None:
    boxes = [
        [-5, -5, 15, 10],  # clipped
        [30, 20, 100, 100],  # clipped
        [1, 1, 39.2, 5],  # past the border by a rounding error: not counted
        [5, 5, 0, 4],  # dropped, as all below
        [5, 5, -3, 4],
        [5, 5, 0.5, 9],
        [41, 2, 5, 5],
        [-9, -9, 5, 5],
    ]
    coco_document["annotations"] = [
        {"id": i, "image_id": 3, "category_id": 2, "bbox": box} for i, box in enumerate(boxes)
    ]
    with caplog.at_level(logging.WARNING):
        dataset = load_coco(*write_coco(coco_document))
    np.testing.assert_allclose(dataset.images[1].boxes, [[0, 0, 10, 5], [30, 20, 40, 30], [1, 1, 40, 6]])
    assert (dataset.clipped, dataset.dropped) == (2, 5)
    assert len(caplog.records) == 1
    assert "of 8 boxes, 2 clipped to their image and 5 dropped" in caplog.text


def test_size_from_the_file_where_the_json_has_none(
    coco_document: Document, write_coco: Write, caplog: pytest.LogCaptureFixture
) -> None:
    turned = Image.new("RGB", (40, 30))
    exif = turned.getexif()
    exif[0x0112] = 6
    for entry in coco_document["images"]:
        del entry["width"], entry["height"]
    annotation_file, images = write_coco(coco_document)
    turned.save(images / "b.png", exif=exif)
    a, b = load_coco(annotation_file, images).images
    assert (a.width, a.height) == (40, 30)
    assert (b.width, b.height) == (30, 40)
    (images / "b.png").write_text("not an image")
    dataset = load_coco(annotation_file, images)
    assert dataset.images[1].width == 0 and [image.path.name for image in usable(dataset).images] == ["a.png"]
    assert "skipping 1 of 2 images" in caplog.text and "b.png is not an image" in caplog.text


def test_file_names_with_folders(coco_document: Document, write_coco: Write) -> None:
    coco_document["images"][0]["file_name"] = "deep/er/a.png"
    annotation_file, images = write_coco(coco_document)
    assert load_coco(annotation_file, images).images[0].path == images / "deep" / "er" / "a.png"


def test_subset(coco_document: Document, write_coco: Write) -> None:
    dataset = load_coco(*write_coco(coco_document))
    assert [image.id for image in dataset.subset(1).images] == [7]
    assert dataset.subset(None) is dataset
    assert len(dataset.subset(99)) == 2
    with pytest.raises(UserError, match=r"cannot take 0 images"):
        dataset.subset(0)


def _set(*path: Any) -> Callable[[Document], None]:
    """A change of a document: _set("images", 0, "id", 5); the last value ... deletes the key."""
    *way, key, value = path

    def change(document: Document) -> None:
        place: Any = document
        for step in way:
            place = place[step]
        if value is ...:
            del place[key]
        else:
            place[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("images", ...), 'not of COCO\'s format: no "images"'),
        (_set("annotations", {}), '"annotations" is a dict, expected a list'),
        (_set("categories", [3]), r"categories\[0\] is a int, expected an object"),
        (_set("images", []), "lists no images"),
        (_set("categories", []), "has 0 classes; expected 1 to 10000"),
        (_set("images", 0, "id", "3"), r"id '3' appears more than once in images"),
        (_set("images", 0, "id", "seven"), r"annotations\[0\] \(id 1\) has image_id 7, which images does not list"),
        (_set("images", 1, "id", True), r"images\[1\] has \"id\" True, expected an integer"),
        (_set("images", 1, "id", 7), "id 7 appears more than once in images"),
        (_set("categories", 1, "id", 90), "id 90 appears more than once in categories"),
        (_set("annotations", 2, "id", 1), "id 1 appears more than once in annotations"),
        (_set("annotations", 2, "id", ...), r'annotations\[2\] has no "id"; expected an integer'),
        (
            _set("images", 0, "id", 2**70),
            r'images\[0\] has "id" 1180591620717411303424, expected an integer of at most 64',
        ),
        (_set("annotations", 0, "id", -(2**63) - 1), r'annotations\[0\] has "id" -9223372036854775809, expected'),
        (_set("annotations", 0, "id", 40.5), r'annotations\[0\] has "id" 40.5, expected an integer'),
        (_set("annotations", 0, "id", 1e300), r'annotations\[0\] has "id" 1e\+300, expected an integer'),
        (_set("annotations", 0, "image_id", float("nan")), r'annotations\[0\] has "image_id" nan, expected an integer'),
        (_set("annotations", 0, "id", 10**400), r'has "id" 10+\.\.\.0+, expected an integer'),
        (_set("categories", 0, "name", ""), r"class 2 is named ''; expected one line of valid text, not empty"),
        (_set("categories", 0, "name", " a"), r"class 2 is named ' a'; .* without space around it"),
        (_set("categories", 0, "name", "a\nb"), r"class 2 is named 'a\\nb'; expected one line"),
        (_set("categories", 0, "name", "a\u2028b"), r"class 2 is named 'a\\u2028b'; expected one line"),
        (_set("categories", 0, "name", "\ud800"), r"class 2 is named '\\ud800'; expected one line of valid text"),
        (_set("categories", 0, "name", "first"), r"two classes are named 'first'; names must be unique"),
        (_set("categories", 0, "name", ...), r'categories\[0\] has no "name"; expected a string'),
        (_set("images", 0, "file_name", 5), r'images\[0\] has "file_name" 5, expected a string'),
        (_set("images", 0, "width", 0), r'images\[0\] has "width" 0, expected a positive integer'),
        (_set("images", 0, "width", 40.5), r'images\[0\] has "width" 40.5, expected a positive integer'),
        (_set("images", 0, "width", 10**30), r'images\[0\] has "width" 10+, expected .* at most 2147483647'),
        (_set("images", 1, "height", 2**31), r'images\[1\] has "height" 2147483648, expected .* at most 2147483647'),
        (_set("images", 0, "height", "30"), r"images\[0\] has \"height\" '30', expected a positive integer"),
        (
            _set("annotations", 1, "image_id", 8),
            r"annotations\[1\] \(id 2\) has image_id 8, which images does not list",
        ),
        (_set("annotations", 1, "category_id", 3), r"has category_id 3, which categories does not list"),
        (_set("annotations", 1, "image_id", ...), r'annotations\[1\] has no "image_id"'),
        (_set("annotations", 1, "bbox", ...), r"annotations\[1\] \(id 2\) has no bbox"),
        (_set("annotations", 1, "bbox", [1, 2, 3]), r"has bbox \[1, 2, 3\], expected four finite numbers"),
        (_set("annotations", 1, "bbox", [1, 2, 3, "4"]), "expected four finite numbers"),
        (_set("annotations", 1, "bbox", [1, 2, 3, float("nan")]), r"has bbox \[1, 2, 3, nan\]"),
        (_set("annotations", 1, "bbox", [1, float("inf"), 3, 4]), r"has bbox \[1, inf, 3, 4\]"),
        (
            _set("annotations", 1, "bbox", [1, 2, 3, 10**400]),
            r"has bbox \[1, 2, 3, 10+\.\.\.0+\], expected four finite",
        ),
        (_set("annotations", 1, "bbox", [1, 2, 3, None]), "expected four finite numbers"),
        (_set("annotations", 1, "bbox", [[1, 2], [3, 4]]), "expected four finite numbers"),
        (_set("annotations", 1, "bbox", {"x": 1}), "expected four finite numbers"),
    ],
)
def test_errors_in_the_json(
    coco_document: Document, write_coco: Write, change: Callable[[Document], None], message: str
) -> None:
    annotation_file, images = write_coco(coco_document)
    change(coco_document)
    annotation_file.write_text(json.dumps(coco_document))
    with pytest.raises(UserError, match=message) as caught:
        load_coco(annotation_file, images)
    assert str(annotation_file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png", "/etc/passwd", "x/../../a.png", "..\\a.png", "C:\\a.png", "",
        "a\0/b.png", "b.png\0", "\ud800/b.png", "\ud800.png",
    ],
)  # fmt: skip
def test_file_names_that_leave_the_folder_are_refused(coco_document: Document, write_coco: Write, name: str) -> None:
    annotation_file, images = write_coco(coco_document)
    coco_document["images"][1]["file_name"] = name
    annotation_file.write_text(json.dumps(coco_document))
    with pytest.raises(UserError, match=r"images\[1\] has file_name .* expected a path inside the image folder"):
        load_coco(annotation_file, images)


def test_errors_of_files(coco_document: Document, write_coco: Write, tmp_path: Path) -> None:
    annotation_file, images = write_coco(coco_document)
    with pytest.raises(UserError, match=r"annotation file .*absent.json does not exist"):
        load_coco(tmp_path / "absent.json", images)
    with pytest.raises(UserError, match=r"cannot be read"):
        load_coco(tmp_path, images)
    with pytest.raises(UserError, match=r"image folder .*absent"):
        load_coco(annotation_file, tmp_path / "absent")
    (images / "b.png").unlink()
    with pytest.raises(UserError, match=r"1 of 2 images .* are missing in .*, the first is b.png"):
        load_coco(annotation_file, images)
    for text, message in (
        ("{", "not valid json"),
        ("", "not valid json"),
        ("[1]", "it holds a list"),
        ("[" * 200_000 + "]" * 200_000, "is not valid json"),
        ('{"info": ' + "1" * 5000 + "}", "is not valid json"),
    ):
        annotation_file.write_text(text)
        with pytest.raises(UserError, match=message):
            load_coco(annotation_file, images)
    annotation_file.write_bytes(b"\xff\xd8\xff\xe0 a jpeg")
    with pytest.raises(UserError, match=r"not valid json"):
        load_coco(annotation_file, images)


def _touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    return path


def test_locate_split_layouts(tmp_path: Path) -> None:
    own = tmp_path / "own"
    for split in ("train", "val"):
        (own / split / "images").mkdir(parents=True)
        _touch(own / split / "instances.json")
    for split in ("train", "val"):
        expected = (own / split / "instances.json", own / split / "images", None)
        assert locate_split(own, split)[:3] == expected
        for asked in ("train", "val", "test"):
            assert locate_split(str(own / split), asked)[:3] == expected  # the folder is the split itself

    coco = tmp_path / "coco"
    (coco / "val2017").mkdir(parents=True)
    (coco / "images" / "train2017").mkdir(parents=True)
    _touch(coco / "annotations" / "person_keypoints_val2017.json")
    val = _touch(coco / "annotations" / "instances_val2017.json")
    train = _touch(coco / "annotations" / "instances_train2017.json")
    assert locate_split(coco, "val")[:2] == (val, coco / "val2017")
    assert locate_split(coco, "train")[:2] == (train, coco / "images" / "train2017")


def test_locate_split_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data folder .*absent does not exist"):
        locate_split(tmp_path / "absent", "train")
    with pytest.raises(UserError, match=r"is not a folder"):
        locate_split(_touch(tmp_path / "file"), "train")
    for name in ("a.json", "b.json", "b.JPG", "labels.csv", "LICENSE", "sorted/c.jpg"):
        _touch(tmp_path / "other" / name)
    found = (
        r", which holds 2 \.json, 1 files without suffix, 1 \.jpg, 1 folders \(sorted\): expected val/instances\.json"
    )
    with pytest.raises(UserError, match=rf"no val split in {re.escape(str(tmp_path / 'other'))}{found}"):
        locate_split(tmp_path / "other", "val")
    for name in ("set.zip", "set.tar.gz"):
        with pytest.raises(UserError, match=rf"{name} is an archive; unpack it and give the folder"):
            locate_split(_touch(tmp_path / "archives" / name), "train")
    _touch(tmp_path / "val" / "instances.json")
    with pytest.raises(UserError, match=r"instances.json has no image folder; expected .*val.images"):
        locate_split(tmp_path, "val")
    _touch(tmp_path / "annotations" / "instances_train2014.json")
    with pytest.raises(UserError, match=r"instances_train2014.json has no image folder; expected .*train2014"):
        locate_split(tmp_path, "train")
    (tmp_path / "train2014").mkdir()
    _touch(tmp_path / "annotations" / "instances_train2017.json")
    (tmp_path / "train2017").mkdir()
    with pytest.raises(UserError, match=r"several train splits \(annotations/instances_train2014.json, annotat"):
        locate_split(tmp_path, "train")


def test_real_coco_agrees_with_pycocotools(coco_mini: Path) -> None:
    from pycocotools.coco import COCO

    located = locate_split(coco_mini / "dev_train", "train")
    dataset = load_coco(*located)
    reference = COCO(str(located.annotation_file))
    assert dataset.clipped == 0
    assert dataset.category_ids == tuple(sorted(reference.getCatIds()))
    assert sum(len(image.boxes) for image in dataset.images) == len(reference.anns) - dataset.dropped
    for image in dataset.images:
        own = [a for a in reference.imgToAnns[image.id] if min(a["bbox"][2:]) >= 1]
        assert [dataset.category_ids[c] for c in image.classes] == [a["category_id"] for a in own]
        assert image.is_crowd.tolist() == [bool(a["iscrowd"]) for a in own]
        expected = np.array([a["bbox"] for a in own]).reshape(-1, 4)
        expected[:, 2:] += expected[:, :2]
        # Clipping by more than half a pixel would have been reported; dev_train has no such box.
        np.testing.assert_allclose(image.boxes, expected, atol=0.5)
