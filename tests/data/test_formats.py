"""Pascal VOC and YOLO against the COCO reader on the same boxes, and every way in which their files can be wrong."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
import yaml
from PIL import Image

from commands import SCRIPTS, Command
from tinydet_lite.errors import UserError
from tinydet_tf.data.coco import CocoDataset, load_coco, locate_split
from tinydet_tf.data.convert import coco_split, open_folder, train_and_val
from tinydet_tf.data.digits import digits_folder

COUNTS = {"train": 6, "val": 3}
SIDE = 176  # of the images; coordinates as fractions of it need more than six decimals


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TINYDET_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    return digits_folder(folder, num_train=COUNTS["train"], num_val=COUNTS["val"], image_size=SIDE)


def read(folder: Path, split: str) -> CocoDataset:
    return load_coco(*locate_split(folder, split))


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def add_image(path: Path, width: int = 40, height: int = 30) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path)
    return path


def rounded(boxes: np.ndarray) -> np.ndarray:
    """To whole pixels, at least one of them, inside SIDExSIDE."""
    low = np.minimum(np.round(boxes[:, :2]), SIDE - 1)
    return np.concatenate([low, np.maximum(np.round(boxes[:, 2:]), low + 1)], 1)


# --- the same boxes in three formats ---


def object_xml(name: str, corners: object, difficult: object = 0) -> str:
    texts = [f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)]
    return (
        f"<object><name>{escape(name)}</name><difficult>{difficult}</difficult><bndbox>{''.join(texts)}</bndbox>"
        "<part><name>a part is no object</name></part></object>"
    )


def annotation_xml(*objects: str, size: tuple[int, int] | None = (40, 30), file_name: str = "") -> str:
    dimensions = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><filename>{file_name}</filename>{dimensions}{''.join(objects)}</annotation>"


def digits_as_voc(digits: Path, root: Path) -> Path:
    for split in COUNTS:
        dataset = read(digits, split)
        for image in dataset.images:
            (root / "JPEGImages").mkdir(parents=True, exist_ok=True)
            stem = f"{split}_{image.path.stem}"
            shutil.copy(image.path, root / "JPEGImages" / f"{stem}.jpg")
            corners = (rounded(image.boxes) + [1, 1, 0, 0]).astype(int)  # from 1, inclusive
            names = [dataset.class_names[c] for c in image.classes]
            objects = [object_xml(name, box) for name, box in zip(names, corners, strict=True)]
            xml = annotation_xml(*objects, size=(image.width, image.height))
            write(root / "Annotations" / f"{stem}.xml", xml)
        stems = [f"{split}_{image.path.stem}" for image in dataset.images]
        write(root / "ImageSets" / "Main" / f"{split}.txt", "\n".join(stems) + "\n")
    return root


def yolo_lines(dataset: CocoDataset, index: int) -> str:
    image = dataset.images[index]
    boxes = image.boxes.astype(np.float64) / np.array([image.width, image.height] * 2)
    centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    rows = np.concatenate([centres, sizes], 1)
    return "".join(
        f"{c} {' '.join(f'{v:.6f}' for v in row)}\n" for c, row in zip(image.classes.tolist(), rows, strict=True)
    )


#: Where images and labels of a split are: Ultralytics' layout, Roboflow's.
LAYOUTS = {
    "ultralytics": {"train": "images/train", "val": "images/val"},
    "roboflow": {"train": "train/images", "val": "valid/images"},
}


def digits_as_yolo(digits: Path, root: Path, layout: str) -> Path:
    for split, folder in LAYOUTS[layout].items():
        dataset = read(digits, split)
        for index, image in enumerate(dataset.images):
            target = root / folder / image.path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image.path, target)
            labels = root / folder.replace("images", "labels") / f"{image.path.stem}.txt"
            write(labels, yolo_lines(dataset, index))
    settings = {"train": "../train/images", "val": "../valid/images", "nc": 10}
    if layout == "ultralytics":
        settings = {"path": "../datasets/elsewhere", "download": "raise SystemExit", **LAYOUTS[layout], "nc": 10}
    write(root / "data.yaml", yaml.safe_dump(settings | {"names": list("0123456789")}))
    return root


def digits_as(format: str, digits: Path, root: Path) -> Path:
    return digits_as_voc(digits, root) if format == "voc" else digits_as_yolo(digits, root, "ultralytics")


def test_voc_has_the_boxes_of_coco(digits: Path, tmp_path: Path) -> None:
    folder = digits_as_voc(digits, tmp_path / "VOCdevkit" / "VOC2012")
    for split, count in COUNTS.items():
        expected, found = read(digits, split), read(folder, split)
        assert found.class_names == expected.class_names and len(found) == count
        assert found.clipped == found.dropped == 0
        for image, other in zip(found.images, expected.images, strict=True):
            assert image.path == folder / "JPEGImages" / f"{split}_{other.path.name}"
            assert (image.width, image.height) == (other.width, other.height)
            np.testing.assert_array_equal(image.classes, other.classes)
            np.testing.assert_array_equal(image.boxes, rounded(other.boxes))
    # The folder around it, as the archive unpacks, is the same set; with two in it, one must be named.
    assert [i.path for i in read(folder.parent, "val").images] == [i.path for i in read(folder, "val").images]
    shutil.copytree(folder, folder.with_name("VOC2007"))
    with pytest.raises(UserError, match=r"several VOC sets \(VOC2007, VOC2012\); give one"):
        locate_split(folder.parent, "val")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("with_yaml", [True, False])
def test_yolo_has_the_boxes_of_coco(digits: Path, tmp_path: Path, layout: str, with_yaml: bool) -> None:
    folder = digits_as_yolo(digits, tmp_path / "set", layout)
    if not with_yaml:
        (folder / "data.yaml").unlink()
        write(folder / "classes.txt", "\r\n".join("0123456789"))
    for split, count in COUNTS.items():
        expected, found = read(digits, split), read(folder, split)
        assert found.class_names == expected.class_names and len(found) == count
        for image, other in zip(found.images, expected.images, strict=True):
            assert image.path == folder / LAYOUTS[layout][split] / other.path.name
            np.testing.assert_array_equal(image.classes, other.classes)
            # Six decimals of a centre and of half a side, of 176 pixels: at most 1.32e-4. Measured 1.22e-4.
            np.testing.assert_allclose(image.boxes, other.boxes, atol=1.4e-4)
        if with_yaml:
            assert [i.path for i in read(folder / "data.yaml", split).images] == [i.path for i in found.images]


def test_the_converted_file_is_in_the_cache_and_evaluates(digits: Path, tmp_path: Path, cache: Path) -> None:
    from tinydet_tf.evaluation import coco_metrics

    folder = digits_as_yolo(digits, tmp_path / "set", "roboflow")
    annotation_file, image_dir, *_ = locate_split(folder, "val")
    assert cache in annotation_file.parents and image_dir == folder / "valid" / "images"
    assert locate_split(folder, "train")[0] != annotation_file
    before = annotation_file.stat().st_mtime_ns
    assert locate_split(folder, "val")[0].stat().st_mtime_ns == before, "the same content is not written again"
    dataset = load_coco(annotation_file, image_dir)
    perfect = [
        {"image_id": i.id, "category_id": dataset.category_ids[c], "bbox": [x1, y1, x2 - x1, y2 - y1], "score": 1.0}
        for i in dataset.images
        for (x1, y1, x2, y2), c in zip(i.boxes.tolist(), i.classes.tolist(), strict=True)
    ]
    assert coco_metrics(dataset, perfect)[0]["AP"] == pytest.approx(1.0)
    # A label that changes is read anew.
    label = min((folder / "valid" / "labels").iterdir())
    write(label, "3 0.5 0.5 0.5 0.25")
    np.testing.assert_allclose(read(folder, "val").images[0].boxes, np.multiply([[1, 1.5, 3, 2.5]], SIDE / 4))


def test_a_cache_that_cannot_be_written(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = digits_as_voc(digits, tmp_path / "VOC")
    monkeypatch.setenv("TINYDET_CACHE", str(write(tmp_path / "file", "")))
    with pytest.raises(UserError, match=r"cannot write to the cache .* set TINYDET_CACHE to a folder that can be"):
        locate_split(folder, "val")


# --- Pascal VOC ---


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Images a, b, c of 40x30 and their xml; a and b are train, c is val."""
    root = tmp_path / "voc"
    for stem in "abc":
        add_image(root / "JPEGImages" / f"{stem}.png")
        write(root / "Annotations" / f"{stem}.xml", annotation_xml(object_xml("dog", (1, 1, 40, 30))))
    write(root / "ImageSets" / "Main" / "train.txt", "a\nb\n")
    write(root / "ImageSets" / "Main" / "val.txt", "c\n")
    return root


def test_voc_pixels_count_from_one_and_difficult_is_ignored(voc: Path) -> None:
    objects = [
        object_xml("dog", (5, 6, 14, 17)),
        object_xml("cat", (1, 1, 1, 1), difficult=1),  # one pixel
        object_xml("zebu", ("2.5", " 3 ", "10.5", "12e0")),
        object_xml("dog", (30, 20, 60, 31)),  # past the border
        object_xml("dog", (20, 20, 10, 25)),  # inside out
    ]
    write(voc / "Annotations" / "a.xml", annotation_xml(*objects))
    dataset = read(voc, "train")
    assert dataset.class_names == ("cat", "dog", "zebu") == read(voc, "val").class_names
    image = dataset.images[0]
    np.testing.assert_array_equal(image.boxes, [[4, 5, 14, 17], [0, 0, 1, 1], [1.5, 2, 10.5, 12], [29, 19, 40, 30]])
    assert image.classes.tolist() == [1, 0, 2, 1] and image.is_crowd.tolist() == [False, True, False, False]
    assert (dataset.clipped, dataset.dropped, sum(i.is_crowd.sum() for i in dataset.images)) == (1, 1, 1)
    assert dataset.classes_without_boxes() == ("cat",)


@pytest.mark.parametrize("size", [None, (0, 0)])
def test_voc_without_a_size_asks_the_image(voc: Path, size: tuple[int, int] | None) -> None:
    write(voc / "Annotations" / "c.xml", annotation_xml(size=size))
    turned = Image.new("RGB", (40, 30))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(voc / "JPEGImages" / "c.png", exif=exif)
    image = read(voc, "val").images[0]
    assert (image.width, image.height, len(image.boxes)) == (30, 40, 0)


def test_voc_finds_the_image_by_its_stem_then_by_filename(voc: Path) -> None:
    write(voc / "Annotations" / "c.xml", annotation_xml(object_xml("dog", (1, 1, 9, 9)), file_name="moved/x.jpg"))
    assert read(voc, "val").images[0].path.name == "c.png"
    add_image(voc / "JPEGImages" / "c.jpg")
    with pytest.raises(UserError, match=r"c.xml has several images \(c.jpg, c.png\)"):
        locate_split(voc, "val")
    for name in ("c.jpg", "b.png"):
        write(voc / "Annotations" / "c.xml", annotation_xml(object_xml("dog", (1, 1, 9, 9)), file_name=name))
        assert read(voc, "val").images[0].path.name == name
        if name == "c.jpg":
            (voc / "JPEGImages" / "c.jpg").unlink()
            (voc / "JPEGImages" / "c.png").unlink()
    (voc / "JPEGImages" / "b.png").unlink()
    with pytest.raises(UserError, match=r"c.xml has no image in .*JPEGImages; expected one named c"):
        locate_split(voc, "val")


def test_voc_lists_by_other_names(voc: Path) -> None:
    lists = voc / "ImageSets" / "Main"
    (lists / "train.txt").rename(lists / "Training.txt")
    (lists / "val.txt").rename(lists / "Validation.txt")
    assert [image.path.stem for image in read(voc, "train").images] == ["a", "b"]
    assert [image.path.stem for image in read(voc, "val").images] == ["c"]


def test_voc_lists(voc: Path, caplog: pytest.LogCaptureFixture) -> None:
    lists = voc / "ImageSets" / "Main"
    (lists / "train.txt").rename(lists / "trainval.txt")
    write(lists / "trainval.txt", "a\n\nb\r\nc\n")
    assert [i.path.stem for i in read(voc, "train").images] == ["a", "b"], "val's images are not trained on"
    (lists / "val.txt").rename(lists / "test.txt")
    assert [i.path.stem for i in read(voc, "train").images] == ["a", "b"]
    assert [i.path.stem for i in read(voc, "val").images] == ["c"] and "validation is on test" in caplog.text
    with pytest.raises(UserError, match=r"has no all split, only train, test"):
        locate_split(voc, "all")
    (lists / "test.txt").unlink()
    halves = [{i.path.stem for i in read(voc, split).images} for split in ("train", "val")]
    assert sorted(map(len, halves)) == [1, 2] and set.union(*halves) == set("abc")
    shutil.rmtree(voc / "ImageSets")
    (voc / "Annotations" / "b.xml").unlink()
    caplog.clear()
    halves = [{i.path.stem for i in read(voc, split).images} for split in ("train", "val")]
    assert list(map(len, halves)) == [1, 1] and set.union(*halves) == set("ac")
    assert "has no val split and is divided" in caplog.text
    assert "passed over: 1 pictures without an xml" in caplog.text and "(b.png)" in caplog.text
    assert [i.path.stem for i in read(voc, "all").images] == ["a", "c"]
    (voc / "Annotations" / "c.xml").unlink()
    with pytest.raises(UserError, match=r"has no val split, and the data has one image"):
        read(voc, "train")


def test_what_another_split_owns_is_not_taken(voc: Path, yolo: Path) -> None:
    """ "a b" could be read as "a_b", had that no picture of its own."""
    labels, images = yolo / "labels" / "train", yolo / "images" / "train"
    (images / "a.png").rename(images / "x y.png")
    (images / "b.png").rename(images / "x_y.png")
    (labels / "a.txt").rename(labels / "x_y.txt")
    write(labels / "c.txt", "0 0.5 0.5 0.2 0.2\n")
    for split, name in (("train", "x y"), ("val", "x_y")):
        write(yolo / f"{split}.txt", f"images/train/{name}.png\nimages/train/c.png\n")
    settings(yolo, train="train.txt", val="val.txt", names=["dog", "cat"])
    found = {split: {i.path.stem: len(i.boxes) for i in read(yolo, split).images} for split in ("train", "val")}
    assert found["train"]["x y"] == 0 and found["val"]["x_y"] > 0
    lists = voc / "ImageSets" / "Main"
    (voc / "Annotations" / "a.xml").rename(voc / "Annotations" / "x_y.xml")
    (voc / "JPEGImages" / "a.png").rename(voc / "JPEGImages" / "x_y.png")
    write(lists / "train.txt", "x y\nb\n")
    assert [i.path.stem for i in read(voc, "train").images] == ["x_y", "b"]
    write(lists / "val.txt", "x_y\nc\n")
    with pytest.raises(UserError, match=r"train.txt:1 names 'x y', but there is no x y.xml"):
        read(voc, "train")


def test_linked_folders_are_followed(voc: Path, yolo: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "disk"
    for kind, place in (("images", yolo / "images" / "train"), ("labels", yolo / "labels" / "train")):
        (elsewhere / kind).mkdir(parents=True)
        (place / "more").symlink_to(elsewhere / kind)
        (elsewhere / kind / "again").symlink_to(place)  # each folder once
    add_image(elsewhere / "images" / "linked.png")
    write(elsewhere / "labels" / "linked.txt", "1 0.5 0.5 0.2 0.2\n")
    found = {i.path.relative_to(yolo).as_posix(): i.classes.tolist() for i in read(yolo, "train").images}
    assert found["images/train/more/linked.png"] == [1] and len(found) == 4
    shutil.rmtree(voc / "ImageSets")
    for kind in ("JPEGImages", "Annotations"):
        (voc / kind / "more").symlink_to(elsewhere / kind)
        (elsewhere / kind).mkdir()
    add_image(elsewhere / "JPEGImages" / "linked.png")
    write(elsewhere / "Annotations" / "linked.xml", annotation_xml(object_xml("cat", (2, 2, 9, 9))))
    names = [i.path.relative_to(voc).as_posix() for i in read(voc, "all").images]
    assert "JPEGImages/more/linked.png" in names and len(names) == 4


BOMB = (
    '<!DOCTYPE b [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {x} "{f"&{y};" * 10}">' for x, y in zip("bcdefghij", "abcdefghi", strict=True))
    + "]><annotation><object><name>&j;</name></object></annotation>"
)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<annotation><object>", r"a.xml is damaged \(no element found"),
        ("", "a.xml is damaged"),
        (b"\xff\xd8\xff\xe0 a jpeg", "a.xml is damaged"),
        ('<?xml version="1.0" encoding="nothing"?><annotation/>', "a.xml is damaged"),
        ("<svg/>", "holds <svg>; expected an <annotation>"),
        (BOMB, "has a DOCTYPE, which an annotation does not need"),
        (BOMB.encode("utf-16"), "has a DOCTYPE"),
        ('<!DOCTYPE a SYSTEM "file:///etc/hostname"><annotation/>', "has a DOCTYPE"),
        (
            '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotation><object><name>&x;</name></object>'
            "</annotation>",
            "has a DOCTYPE",
        ),
        ("<annotation><object/></annotation>", "object 1 has no <name>"),
        ("<annotation><object><name>dog</name></object></annotation>", r"object 1 \(dog\) has no <bndbox>"),
        (annotation_xml(object_xml("dog", (1, "x", 3, 4))), r"object 1 \(dog\) has ymin 'x'; expected a finite"),
        (annotation_xml(object_xml("dog", (1, 2, "nan", 4))), r"has xmax 'nan'"),
        (annotation_xml(object_xml("dog", (1, 2, 3, ""))), r"has ymax ''"),
        (annotation_xml(object_xml("dog", (1, 2, 3, 4), difficult="very")), r"<difficult> 'very'; expected 0 or 1"),
        (annotation_xml(object_xml("a\nb", (1, 2, 3, 4))), r"class 0 is named 'a\\nb'; expected one line"),
        (annotation_xml(size=(40, -30)), r"<size> is \['40', '-30'\]; expected"),
        (annotation_xml(size=(40.5, 30)), r"<size> is \['40.5', '30'\]; expected"),  # type: ignore[arg-type]
        (annotation_xml(size=("wide", 30)), r"<size> has width 'wide'"),  # type: ignore[arg-type]
    ],
)
def test_voc_errors_in_an_xml(voc: Path, xml: str | bytes, message: str) -> None:
    write(voc / "Annotations" / "a.xml", xml)
    with pytest.raises(UserError, match=message) as caught:
        locate_split(voc, "train")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_voc_errors_in_lists(voc: Path) -> None:
    train = voc / "ImageSets" / "Main" / "train.txt"
    for text, message in (
        ("a\n\nzzz\n", r"train.txt:3 names 'zzz', but there is no zzz.xml in .*Annotations"),
        ("../secret\n", r"train.txt:1 names '../secret', but there is no"),
        ("\n", r"train.txt names no image"),
        (b"\xff\xfe", r"train.txt is not text in UTF-8"),
    ):
        write(train, text)
        with pytest.raises(UserError, match=message):
            locate_split(voc, "train")
    write(train, "a\n")
    for stem in "abc":
        write(voc / "Annotations" / f"{stem}.xml", annotation_xml())
    with pytest.raises(UserError, match=r"none of 2 .xml has an object"):
        locate_split(voc, "train")
    shutil.rmtree(voc / "Annotations")
    (voc / "Annotations").mkdir()
    with pytest.raises(UserError, match=r"Annotations has no .xml"):
        locate_split(voc, "train")


# --- YOLO ---


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    """images/{train,val} of 40x30: a with labels, b with an empty file, c with none; val's d; two names."""
    root = tmp_path / "yolo"
    for stem in "abc":
        add_image(root / "images" / "train" / f"{stem}.png")
    add_image(root / "images" / "val" / "d.png")
    write(root / "labels" / "train" / "a.txt", "0 0.5 0.5 0.5 0.5\n")
    write(root / "labels" / "train" / "b.txt", "")
    write(root / "labels" / "val" / "d.txt", "1 0.5 0.5 1 1\n")
    settings(root, train="images/train", val="images/val", names=["dog", "cat"])
    return root


def settings(root: Path, **values: object) -> Path:
    return write(root / "data.yaml", yaml.safe_dump(values))


def test_yolo_boxes_polygons_and_images_without_objects(yolo: Path) -> None:
    lines = (
        "\ufeff0 0.5 0.5 0.5 0.5\r\n",
        "\n",
        "1.0 0.1 0.2 0.4 0.1 0.3 0.9\n",  # a triangle
        "1 0.1 0.1 0.3 0.1 0.3 0.4 0.1 0.4\n",  # an oriented box
        "0 1.0 0.5 0.5 1.0\n",  # past the border by a quarter of the image
    )
    write(yolo / "labels" / "train" / "a.txt", "".join(lines))
    dataset = read(yolo, "train")
    a, b, c = dataset.images
    expected = [[10, 7.5, 30, 22.5], [4, 3, 16, 27], [4, 3, 12, 12], [30, 0, 40, 30]]
    np.testing.assert_allclose(a.boxes, expected, rtol=1e-6)
    assert a.classes.tolist() == [0, 1, 1, 0] and not a.is_crowd.any()
    assert len(b.boxes) == len(c.boxes) == 0
    assert (dataset.clipped, sum(not len(i.boxes) for i in dataset.images)) == (1, 2)
    assert dataset.category_ids == (0, 1)


def test_yolo_sizes_are_those_after_exif(yolo: Path) -> None:
    turned = Image.new("RGB", (40, 30))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(yolo / "images" / "val" / "d.png", exif=exif)
    image = read(yolo, "val").images[0]
    assert (image.width, image.height) == (30, 40)
    np.testing.assert_allclose(image.boxes, [[0, 0, 30, 40]])


def test_yolo_names(yolo: Path) -> None:
    for names, expected in (
        ({0: "dog", 1: "cat"}, ("dog", "cat")),
        ([7, "cat"], ("7", "cat")),
    ):
        settings(yolo, train="images/train", val="images/val", names=names)
        assert read(yolo, "val").class_names == expected
    settings(yolo, train="images/train", val="images/val", nc=3)
    assert read(yolo, "val").class_names == ("class0", "class1", "class2")
    (yolo / "data.yaml").unlink()
    # The highest class of all splits, whichever is read.
    assert read(yolo, "train").class_names == ("class0", "class1") == read(yolo, "val").class_names
    assert read(yolo, "train").classes_without_boxes() == ("class1",)


def test_yolo_names_by_line(yolo: Path) -> None:
    (yolo / "data.yaml").unlink(missing_ok=True)
    write(yolo / "classes.txt", "cat\n dog \n\n\n")
    assert read(yolo, "train").class_names == ("cat", "dog")
    write(yolo / "classes.txt", "\ncat\n")  # the first class has no name; cat is the second
    with pytest.raises(UserError, match="name"):
        read(yolo, "train")


def test_yolo_among_other_files(yolo: Path) -> None:
    """Settings of a training, a Mac's shadow, and the copies that Jupyter makes."""
    before = [image.path for image in read(yolo, "train").images]
    (yolo / "data.yaml").unlink(missing_ok=True)
    settings(yolo, train="images/train", val="images/val", names=["cat", "dog"]).rename(yolo / "pets.yaml")
    write(yolo / "hyp.yaml", "lr0: 0.1")
    write(yolo / "._pets.yaml", b"\0\5\26\7Mac OS X")
    shutil.copytree(before[0].parent, before[0].parent / ".ipynb_checkpoints")
    found = read(yolo, "train")
    assert found.class_names == ("cat", "dog") and [image.path for image in found.images] == before
    shutil.copy(yolo / "pets.yaml", yolo / "animals.yaml")
    with pytest.raises(UserError, match=r"several YAML files of a data set \(animals\.yaml, pets\.yaml\)"):
        read(yolo, "train")


def test_yolo_dates_are_no_prefixes(yolo: Path, tmp_path: Path) -> None:
    """Eight digits of a date look like what Label Studio puts before a name."""
    root = tmp_path / "dates"
    for name in ("20230101_001", "20230101_002", "20230102_001"):
        add_image(root / "images" / f"{name}.jpg")
    for name in ("20230101_002", "20230102_001"):
        write(root / "labels" / f"{name}.txt", "0 0.5 0.5 0.5 0.5\n")
    for split, names in (("train", ("20230101_001", "20230101_002")), ("val", ("20230102_001",))):
        write(root / f"{split}.txt", "".join(f"images/{name}.jpg\n" for name in names))
    write(root / "data.yaml", "train: train.txt\nval: val.txt\nnames: [cat]\n")
    assert [len(image.boxes) for image in read(root, "train").images] == [0, 1]


def test_yolo_lists_of_images_and_paths_outside(yolo: Path, tmp_path: Path) -> None:
    write(yolo / "lists" / "train.txt", "./../images/train/a.png\nimages/train/b.png\n")  # of the list, of the root
    elsewhere = tmp_path / "elsewhere"
    add_image(elsewhere / "deep" / "images" / "x.jpg")
    write(elsewhere / "deep" / "labels" / "x.txt", "1 0.5 0.5 0.1 0.1")
    add_image(elsewhere / "y.jpg")  # labels beside it
    write(elsewhere / "y.txt", "0 0.5 0.5 0.1 0.1")
    write(elsewhere / "._y.jpg", "of macOS")
    write(elsewhere / "val.txt", f"{elsewhere / 'y.jpg'}\n")
    other = settings(
        tmp_path / "other", path=str(yolo), names=["dog", "cat"],
        train=["lists/train.txt", "../elsewhere/deep"], val="../elsewhere/val.txt",
    )  # fmt: skip
    found = read(other, "train")
    assert [i.path.relative_to(tmp_path).as_posix() for i in found.images] == [
        "yolo/images/train/a.png", "yolo/images/train/b.png", "elsewhere/deep/images/x.jpg",
    ]  # fmt: skip
    assert [i.classes.tolist() for i in found.images] == [[0], [], [1]]
    assert [i.path for i in read(other, "val").images] == [elsewhere / "y.jpg"]


def test_yolo_splits(yolo: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings(yolo, train="images/train", test="images/val", names=["dog", "cat"])
    assert [i.path.stem for i in read(yolo, "val").images] == ["d"] and "validation is on test" in caplog.text
    settings(yolo, names=["dog", "cat"])  # the usual places
    assert [i.path.stem for i in read(yolo, "val").images] == ["d"]
    shutil.rmtree(yolo / "images" / "val")
    halves = [[i.path.stem for i in read(yolo, split).images] for split in ("train", "val")]
    assert list(map(len, halves)) == [2, 1] and sorted(halves[0] + halves[1]) == ["a", "b", "c"]
    for kind in ("images", "labels"):
        for path in (yolo / kind / "train").iterdir():
            path.rename(yolo / kind / path.name)
        (yolo / kind / "train").rmdir()
    assert halves == [[i.path.stem for i in read(yolo, split).images] for split in ("train", "val")]
    assert [i.path.stem for i in read(yolo, "all").images] == ["a", "b", "c"]
    assert "has no val split and is divided" in caplog.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.5", "a.txt:2 has 4 fields; expected class cx cy w h"),
        ("0 0.5 0.5 0.5 0.5 0.9", r"a.txt:2 has 6 fields; .*detections with a confidence"),
        ("0 0.1 0.2 0.3 0.4 0.5 0.6 0.7", "a.txt:2 has 8 fields; expected .* or a class and a polygon"),
        ("dog 0.5 0.5 0.5 0.5", "a.txt:2 is 'dog 0.5 0.5 0.5 0.5'; expected numbers"),
        ("0 0.5 nan 0.5 0.5", "a.txt:2 has a number that is not finite"),
        ("inf 0.5 0.5 0.5 0.5", "a.txt:2 has a number that is not finite"),
        ("2 0.5 0.5 0.5 0.5", r"a.txt:2 has class 2, but .*data.yaml has 2 classes, 0 to 1"),
        ("-1 0.5 0.5 0.5 0.5", "a.txt:2 has class -1; expected 0, 1, 2"),
        ("0.5 0.5 0.5 0.5 0.5", "a.txt:2 has class 0.5"),
        ("0 20 15 10 10", "a.txt:2 has 20; expected fractions .* not pixels"),
        ("0 0.5 0.5 -0.5 0.5", "a.txt:2 has -0.5; expected fractions"),
        ("0 0.1 0.2 0.3 0.4 50 0.6", "a.txt:2 has 50; expected fractions"),
        (b"\xff", "a.txt is not text in UTF-8"),
    ],
)
def test_yolo_errors_in_a_label(yolo: Path, line: str | bytes, message: str) -> None:
    text = line if isinstance(line, bytes) else b"0 0.5 0.5 0.1 0.1\n" + line.encode()
    write(yolo / "labels" / "train" / "a.txt", text)
    with pytest.raises(UserError, match=message) as caught:
        locate_split(yolo, "train")
    assert str(yolo / "labels") in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [", r"data.yaml is not YAML"),
        ("[" * 5000, r"data.yaml is not YAML \(nested too deeply\)"),
        ("names: [a]\ndate: 2020-13-45", "data.yaml is not YAML"),
        ("- train", "holds a list; expected YOLO's data.yaml"),
        ("names: !!python/object/apply:os.system ['exit 1']", r"data.yaml is not YAML \(could not determine a constr"),
        ("names: {0: dog, 2: cat}", r"names has keys \[0, 2\]; expected 0 to 1"),
        ("names: {}", "names is .*; expected a list or a dictionary"),
        ("names: dog", "names is 'dog'; expected a list or a dictionary"),
        ("names: [yes, no]", r"names\[0\] is True; expected a name, in quotes"),
        ("names: [dog, dog]", "two classes are named 'dog'"),
        ("names: [dog, ' cat']", "class 1 is named ' cat'; expected one line"),
        ("names: &a [*a]", r"names\[0\] is \[\[\[.*; expected a name"),
        ("names: [dog, cat]\nnc: 3", "nc is 3, but names has 2"),
        ("nc: many", "nc is 'many'; expected a number of classes"),
        ("nc: 1000000000", "nc is 1000000000; expected a number of classes"),
        ("names: [dog, cat]\nkpt_shape: [17, 3]", "kpt_shape: labels with keypoints are not read"),
        ("names: [dog, cat]\npath: 3", "path is 3; expected a folder"),
        ("names: [dog, cat]\ntrain: {a: 1}", "train is {'a': 1}; expected a folder, a .txt"),
        ("names: [dog, cat]\ntrain: [images/train, 3]", "expected a folder, a .txt, or a list"),
        (
            "names: [dog, cat]\ntrain: gone\ndownload: https://example.org/set.zip",
            r"train is 'gone', but there is no .*gone; .* \(nothing is downloaded\)",
        ),
        ('names: [dog, cat]\ntrain: "a\\0b"', "there is no"),
        ("names: [dog, cat]\ntrain: data.yaml", r"names .*data.yaml; expected a folder of images or a .txt"),
        ("names: [dog, cat]\ntrain: labels", "has no images in .*labels"),
        (
            "names: [dog, cat]\ntrain: images/val\nval: unlabelled",
            "none of the 1 images of the val split .* has labels",
        ),
        ("names: [dog, cat]\ntrain: list.txt", r"list.txt:2 names image 'gone.png'; there is no .*gone.png"),
    ],
)
def test_yolo_errors_in_data_yaml(yolo: Path, text: str, message: str) -> None:
    add_image(yolo / "unlabelled" / "x.png")
    write(yolo / "list.txt", "images/train/a.png\ngone.png\n")
    path = write(yolo / "data.yaml", text)
    with pytest.raises(UserError, match=message) as caught:
        for split in ("train", "val"):
            locate_split(path, split)
    assert "\n" not in str(caught.value)


def test_yolo_other_errors(yolo: Path) -> None:
    write(yolo / "images" / "val" / "d.png", "no image")
    with pytest.raises(UserError, match=r"none of the 1 images .*d.png is not an image"):
        locate_split(yolo, "val")
    (yolo / "data.yaml").unlink()
    write(yolo / "labels" / "train" / "a.txt", "10000 0.5 0.5 0.5 0.5")
    with pytest.raises(UserError, match=r"labels of class 10000; expected 0 to 9999"):
        locate_split(yolo, "train")
    for stem in ("train/a", "val/d"):
        write(yolo / "labels" / f"{stem}.txt", "")
    with pytest.raises(UserError, match=r"neither names nor a label"):
        locate_split(yolo, "train")
    with pytest.raises(UserError, match=r"names no train and val, and .* has no images/ with labels/"):
        locate_split(settings(yolo / "empty", names=["dog"]), "train")
    # A YAML of something else does not make a folder YOLO's.
    with pytest.raises(UserError, match=r"no train split in .*other, which holds 1 \.yaml: expected"):
        locate_split(settings(yolo / "other", version=2).parent, "train")


# --- splitting, and the command ---


def test_a_seeded_split(voc: Path, yolo: Path) -> None:
    shutil.rmtree(voc / "ImageSets")
    folder = open_folder(voc)
    assert folder is not None
    first = train_and_val(folder, 0.3, seed=1)
    assert [len(first["train"]), len(first["val"])] == [2, 1]
    assert sorted(i.path.stem for images in first.values() for i in images) == ["a", "b", "c"]
    assert train_and_val(folder, 0.3, seed=1) == first
    assert len({train_and_val(folder, 0.3, seed)["val"][0].path for seed in range(20)}) == 3
    assert [len(train_and_val(folder, f, 0)["val"]) for f in (0.01, 0.99)] == [1, 2]
    for fraction in (0, 1, -1, float("nan")):
        with pytest.raises(UserError, match=r"expected more than 0 and less than 1"):
            train_and_val(folder, fraction, 0)
    for stem in "ab":
        (voc / "Annotations" / f"{stem}.xml").unlink()
    with pytest.raises(UserError, match=r"one image; a train and a val split need two"):
        train_and_val(open_folder(voc), 0.5, 0)  # type: ignore[arg-type]
    write(voc / "ImageSets" / "Main" / "val.txt", "c")
    with pytest.raises(UserError, match=r"a val split and none for train"):
        train_and_val(open_folder(voc), None, 0)  # type: ignore[arg-type]
    assert open_folder(voc, "yolo") is None and open_folder(yolo, "voc") is None


def test_images_on_several_drives(voc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def commonpath(_: object) -> str:
        raise ValueError("Paths don't have the same drive")

    folder = open_folder(voc)
    assert folder is not None
    monkeypatch.setattr("os.path.commonpath", commonpath)
    with pytest.raises(UserError, match=r"the images are on several drives"):
        coco_split(folder, folder.read("train"))


@pytest.mark.parametrize("format", ["voc", "yolo"])
def test_the_command_writes_what_load_coco_reads(format: str, digits: Path, tmp_path: Path, command: Command) -> None:
    folder = digits_as(format, digits, tmp_path / "set")
    output = tmp_path / "an output"
    code, out, err = command("convert_dataset.py", "--input", folder, "--output", output)
    assert code == 0, err
    pasted = shlex.split(out.splitlines()[-1])
    assert pasted[:2] == ["python", str(SCRIPTS / "train.py")]
    options = dict(zip(pasted[2::2], pasted[3::2], strict=True))
    for split in COUNTS:
        annotation_file = output / split / "instances.json"
        assert options[f"--{split}-json"] == str(annotation_file)
        found, expected = load_coco(annotation_file, options[f"--{split}-images"]), read(folder, split)
        assert found.class_names == expected.class_names
        for image, other in zip(found.images, expected.images, strict=True):
            assert image.path == other.path
            np.testing.assert_array_equal(image.boxes, other.boxes)
    code, _, err = command("convert_dataset.py", "--input", folder, "--output", output)
    assert code == 2 and "instances.json is there already; give another --output" in err
    write(tmp_path / "other" / "val", "in the way")
    command("convert_dataset.py", "--input", folder, "--output", tmp_path / "other").assert_refused_alone(
        "is no folder"
    )
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["val"], "nothing half-written"


def test_the_command_splits(voc: Path, tmp_path: Path, command: Command) -> None:
    shutil.rmtree(voc / "ImageSets")
    arguments = ("convert_dataset.py", "--input", voc, "--output", tmp_path / "out")
    code, _, err = command(*arguments)
    assert code == 2 and "the data has no val split; give --val-fraction, for example 0.2" in err
    code, out, err = command(*arguments, "--val-fraction", 0.4)
    assert code == 0, err
    assert "train: 2 images, 2 boxes, 0 of them ignored" in out and "1 classes: dog" in out


def test_the_command_refuses(voc: Path, yolo: Path, tmp_path: Path, command: Command) -> None:
    output = ("--output", tmp_path / "out")
    for arguments, message in (
        (("--input", tmp_path / "absent"), "does not exist; give a COCO, Pascal VOC or YOLO folder"),
        (("--input", voc / "JPEGImages"), "is no COCO, Pascal VOC or YOLO data set; VOC has Annotations/"),
        (("--input", tmp_path), "has 2 data sets in it (voc, yolo); give one of them"),
        (("--input", yolo, "--format", "voc"), "is no Pascal VOC data set"),
        (("--input", voc, "--format", "yolo"), "is no YOLO data set"),
        (("--input", voc, "--seed", 2**31), "--seed: '2147483648' is no seed"),
        (("--input", voc, "--val-fraction", 0.2), "a val split of its own; leave --val-fraction out"),
        (("--input", voc, "--val-fraction", 2), "--val-fraction is 2; expected more than 0"),
    ):
        code, _, err = command("convert_dataset.py", *arguments, *output)
        assert code == 2 and message in err and "Traceback" not in err, err
        assert not (tmp_path / "out").exists()


# --- training on it: small and lopsided sets ---

SMALL = [
    part
    for value in (
        "train.epochs=1", "train.nms_pre=100", "train.proposals=40", "train.rcnn_samples=16", "model.input_size=128",
        "train.learning_rate=1e-4",
    )
    for part in ("--set", value)
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("format", ["voc", "yolo"])
def test_train_and_evaluate(format: str, digits: Path, tmp_path: Path, command: Command) -> None:
    folder = digits_as(format, digits, tmp_path / "set")
    run = tmp_path / "run"
    code, _, err = command("train.py", "--data", folder, "--output", run, *SMALL, "--set", "train.batch_size=3")
    assert code == 0 and (run / "best.weights.h5").is_file(), err
    code, out, err = command("evaluate.py", "--model", run)  # the run knows its data
    assert code == 0 and "3 images" in out, err


@pytest.mark.slow
def test_one_image_and_a_class_that_is_only_in_val(yolo: Path, voc: Path, tmp_path: Path, command: Command) -> None:
    """Train has one image, of dogs; val has one, of a cat, which training has never seen. Then VOC, of dogs alone."""
    for stem in "bc":
        (yolo / "images" / "train" / f"{stem}.png").unlink()
    arguments = ("train.py", "--data", yolo, "--output", tmp_path / "run", *SMALL)
    code, _, err = command(*arguments, "--set", "train.batch_size=2")
    assert code == 2 and "batch_size 2 is larger than the 1 images" in err and "at most 1" in err, err
    code, _, err = command(*arguments, "--set", "train.batch_size=1")
    assert code == 0, err
    for data in ((), ("--data", voc)):
        code, out, err = command("evaluate.py", "--model", tmp_path / "run", *data)
        assert code == 0 and "1 images" in out, err


def test_a_val_split_of_fewer_classes(voc: Path, tmp_path: Path) -> None:
    """Where the formats' categories are those of all splits, COCO's val may list fewer; never others."""
    from tinydet_tf.evaluation import coco_metrics, match_classes

    for stem, name in zip("abc", ("dog", "zebu", "zebu"), strict=True):
        write(voc / "Annotations" / f"{stem}.xml", annotation_xml(object_xml(name, (1, 1, 9, 9))))
    train, val = read(voc, "train"), read(voc, "val")
    assert match_classes(train.class_names, val) == [1, 2]
    assert (train.classes_without_boxes(), val.classes_without_boxes()) == ((), ("dog",))
    found = [{"image_id": 1, "category_id": 2, "bbox": [0, 0, 9, 9], "score": 0.9}]
    metrics, class_ap = coco_metrics(val, found)
    assert metrics["AP"] == pytest.approx(1.0), "a class without a box is left out of the mean"
    assert class_ap == {"dog": -1.0, "zebu": pytest.approx(1.0)}
    document = json.loads(val.annotation_file.read_text())
    document["categories"] = document["categories"][1:]
    path = write(tmp_path / "val.json", json.dumps(document))
    assert match_classes(train.class_names, load_coco(path, voc / "JPEGImages")) == [None, 2]
    document["categories"][0]["name"] = "gnu"
    path = write(tmp_path / "val.json", json.dumps(document))
    with pytest.raises(UserError, match=r"does not know \(gnu\)"):
        match_classes(train.class_names, load_coco(path, voc / "JPEGImages"))
