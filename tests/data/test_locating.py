"""Names that are written another way than on the disk, and what readers pass over: found, told or refused."""

from __future__ import annotations

import json
import logging
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import Command
from tinydet_lite.errors import UserError
from tinydet_tf.config import DataConfig
from tinydet_tf.data.class_folders import read_class_folders
from tinydet_tf.data.coco import CocoDataset, load_coco, locate_split
from tinydet_tf.data.locating import FileFinder
from tinydet_tf.data.splits import load_split
from tool_exports import EVERYTHING, EXPORTS, SCENES, names_file, picture, text, voc, yolo

Document = dict[str, Any]
Write = Callable[..., tuple[Path, Path]]
STEM = EVERYTHING[1]  # has no space


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYDET_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "images"


def find(folder: Path, files: list[str], *names: str) -> list[str | None]:
    for file in files:
        text(folder / file, "")
    found = FileFinder(folder, Path("a.json")).find(names)
    return [path.relative_to(folder).as_posix() if path else None for path in found]


NFC, NFD = (unicodedata.normalize(form, "käfer.jpg") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("deep/a.jpg", "deep\\a.jpg"),
        ("deep/a.jpg", ".\\deep\\a.jpg"),
        ("a.jpg", "C:\\Users\\me\\set\\a.jpg"),
        ("a.jpg", "/home/me/set/a.jpg"),
        ("a.jpg", "../images/a.jpg"),
        ("a b.jpg", "a%20b.jpg"),
        ("a%20b.jpg", "a b.jpg"),
        ("käfer.jpg", "k%C3%A4fer.jpg"),
        (NFC, NFD),
        (NFD, NFC),
        ("IMG_1.JPG", "img_1.jpg"),
        ("Deep/a.jpg", "deep/A.JPG"),
        ("default/a.jpg", "a.jpg"),
        ("1a2b3c4d-a.jpg", "a.jpg"),
        ("a b.jpg", "images/1a2b3c4d-a_b.jpg"),
        ("a.jpg", "http://localhost:8080/data/upload/3/a.jpg?x=1"),
        ("a b.jpg", "../../label-studio/data/local-files/?d=set%2Fa%20b.jpg"),
    ],
)
def test_a_name_stands_for_the_one_file_that_fits(
    folder: Path, file: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert find(folder, [file, "other.jpg"], name, "other.jpg") == [file, "other.jpg"]
    assert len(caplog.records) == 1 and "a.json: 1 of 2 file names are written another way" in caplog.text
    assert f"is {file}" in caplog.text
    caplog.clear()
    assert find(folder, [], file) == [file] and not caplog.records, "the name itself needs no word"


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["val/a.jpg"], "train/a.jpg"),  # train is not there, but val/a.jpg is somebody else's
        (["a.jpg"], "b.jpg"),
        (["a.png"], "a.jpg"),
        (["a.jpg"], "x\0/a.jpg"),
        (["a.jpg"], "\ud800/a.jpg"),
        (["a.jpg"], ""),
        (["a.jpg"], ".."),
    ],
)
def test_what_does_not_fit_is_not_taken(folder: Path, files: list[str], name: str) -> None:
    text(folder / "train" / "b.txt", "")
    assert find(folder, files, name) == [None]


def test_what_fits_twice_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"a.json names 'x/a.jpg', .* several files fit \(p/a.jpg, q/a.jpg\); write"):
        find(folder, ["p/a.jpg", "q/a.jpg"], "x/a.jpg")
    with pytest.raises(UserError, match=r"several files fit \(A.jpg, a.jpg\)"):
        find(folder / "case", ["A.jpg", "a.jpg"], "a.JPG")
    with pytest.raises(UserError, match=r"names 'x/b.jpg' and 'y/b.jpg', which fit the same file b.jpg"):
        find(folder / "one", ["b.jpg"], "x/b.jpg", "y/b.jpg")
    # The longer end decides; a file that is named itself is nobody else's.
    assert find(folder / "two", ["p/a.jpg", "q/a.jpg"], "set/q/a.jpg") == ["q/a.jpg"]
    assert find(folder / "two", [], "set/a.jpg", "p/a.jpg") == ["q/a.jpg", "p/a.jpg"]


def test_links_in_a_circle_end(folder: Path) -> None:
    text(folder / "real" / "a.jpg", "")
    (folder / "real" / "again").symlink_to(folder)
    assert find(folder, [], "x/a.jpg") == ["real/a.jpg"]


def test_names_in_a_json(coco_document: Document, write_coco: Write, caplog: pytest.LogCaptureFixture) -> None:
    annotation_file, images = write_coco(coco_document)
    (images / "a.png").rename(images / "A b.PNG")
    coco_document["images"][0]["file_name"] = "D:\\photos\\a%20B.png"
    annotation_file.write_text(json.dumps(coco_document))
    dataset = load_coco(annotation_file, images)
    assert [image.path for image in dataset.images] == [images / "A b.PNG", images / "b.png"]
    assert caplog.text.count("\n") == 1 and "1 of 2 file names" in caplog.text


# --- what is passed over, by each reader ---


def boxes(dataset: CocoDataset) -> int:
    return sum(len(image.boxes) for image in dataset.images)


def read(root: Path, split: str = "all") -> CocoDataset:
    return load_split(DataConfig(root=str(root)), split)


def test_suffixes_of_yolo(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    EXPORTS["Label Studio, YOLO"].write(tmp_path)
    shutil.rmtree(tmp_path / "images")
    shutil.rmtree(tmp_path / "labels")
    for name, stem in (("p0.jfif", "p0"), ("p1.heic", "p1"), ("p2.jpg", "p2"), ("p3.JPE", "p3")):
        picture(tmp_path / "images" / name)
        yolo(tmp_path / "labels" / f"{stem}.txt", STEM)
    dataset = read(tmp_path)
    assert [image.path.name for image in dataset.images] == ["p0.jfif", "p2.jpg", "p3.JPE"] and boxes(dataset) == 3
    assert "passed over: 1 label files without an image that can be read (p1.txt)" in caplog.text
    assert "passed over: 1 pictures in formats that are not read" in caplog.text and "(p1.heic)" in caplog.text
    for name in ("p0.jfif", "p2.jpg", "p3.JPE"):
        (tmp_path / "images" / name).unlink()
    with pytest.raises(UserError, match=r"has no images in .* \(p1.heic cannot be read\)"):
        read(tmp_path)


def test_capitals_of_yolo(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images, labels = tmp_path / "images" / "train", tmp_path / "labels" / "train"
    for image, label in (("P0.JPG", "P0.TXT"), ("P1.JPG", "P1.txt"), ("p2.jpg", "P2.txt")):
        picture(images / image)
        yolo(labels / label, STEM)
    names_file(tmp_path / "classes.txt")
    picture(tmp_path / "images" / "val" / "v.jpg")
    yolo(tmp_path / "labels" / "val" / "v.txt", STEM)
    dataset = read(tmp_path, "train")
    assert len(dataset) == boxes(dataset) == 3
    assert caplog.text.count("\n") == 1 and "1 images have their labels under another spelling (P2.txt for p2.jpg)" in (
        caplog.text
    )
    yolo(labels / "P0.txt", STEM)
    with pytest.raises(UserError, match=r"P0.JPG has several label files in .* \(P0.TXT, P0.txt\); expected one"):
        read(tmp_path, "train")


def test_pictures_beside_the_folders_of_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    EXPORTS["Ultralytics"].write(tmp_path)
    picture(tmp_path / "images" / "later.jpg")
    yolo(tmp_path / "labels" / "later.txt", STEM)
    read(tmp_path, "val")
    assert f"{tmp_path / 'images'}: passed over: 1 images that are in no split (later.jpg)" in caplog.text


def test_images_and_labels_of_yolo(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    EXPORTS["CVAT, YOLO"].write(tmp_path)
    data = tmp_path / "obj_train_data"
    picture(data / "unlisted.jpg")
    yolo(data / "unlisted.txt", STEM)
    yolo(data / "gone.txt", STEM)
    text(data / "README.txt", "no labels")
    lines = (tmp_path / "train.txt").read_text().splitlines()
    text(tmp_path / "train.txt", "\n".join([*lines, lines[0]]))
    (data / f"{STEM}.txt").unlink()
    with caplog.at_level(logging.INFO):
        dataset = read(tmp_path)
    assert len(dataset) == len(EVERYTHING) and boxes(dataset) == len(EVERYTHING) - 1
    assert "passed over: 1 label files without an image that can be read (gone.txt)" in caplog.text
    assert "passed over: 1 images that are in no split (unlisted.jpg)" in caplog.text
    assert f"1 images are listed more than once ({EVERYTHING[0]}.jpg) and taken once" in caplog.text
    assert f"1 of 8 images of train have no label file and are taken as background ({STEM}.jpg)" in caplog.text
    for path in data.glob("red*.txt"):
        path.unlink()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        read(tmp_path)
    assert "5 of 8 images of train have no label file" in caplog.text, "most of them: perhaps they have other names"


def test_two_images_of_one_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    EXPORTS["Label Studio, YOLO"].write(tmp_path)
    picture(tmp_path / "images" / "twin.png")
    picture(tmp_path / "images" / "twin.jpg")
    yolo(tmp_path / "labels" / "twin.txt", STEM)
    assert len(read(tmp_path)) == len(EVERYTHING) + 2
    assert "1 label files belong to several images of the same name (twin.txt)" in caplog.text


def test_xml_and_images_of_voc(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    EXPORTS["CVAT, VOC"].write(tmp_path)
    images, annotations = tmp_path / "JPEGImages", tmp_path / "Annotations"
    voc(annotations / "gone.xml", STEM)
    (images / f"{STEM}.jpg").rename(images / f"{STEM}.JFIF")
    (annotations / f"{STEM}.xml").rename(annotations / f"{STEM.upper()}.XML")
    picture(images / "x.heic")
    text(annotations / "gone.xml", (annotations / "gone.xml").read_text().replace(STEM, "gone"))
    dataset = read(tmp_path)
    assert len(dataset) == boxes(dataset) == len(EVERYTHING)
    assert "passed over: 1 xml without an image" in caplog.text and "(gone.xml)" in caplog.text
    assert f"1 xml have images of another spelling ({STEM}.JFIF for {STEM.upper()}.xml)" in caplog.text
    assert "(x.heic)" in caplog.text
    for path in images.iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"none of 9 .xml has an image in .*JPEGImages that can be read"):
        read(tmp_path)


def test_names_in_lists_of_voc(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    EXPORTS["Pascal VOC"].write(tmp_path)
    train = tmp_path / "ImageSets" / "Main" / "train.txt"
    lines = train.read_text().splitlines()
    text(train, "\n".join([f"{lines[0]}.jpg", lines[1].upper(), *lines[2:], lines[2]]))
    assert [image.path.stem for image in read(tmp_path, "train").images] == lines
    assert f"1 names are written another way than their xml ({lines[1]}.xml for {lines[1].upper()})" in caplog.text
    assert f"passed over: 1 names that it has already ({lines[2]})" in caplog.text


def test_a_json_of_something_else_hides_nothing(tmp_path: Path) -> None:
    EXPORTS["Pascal VOC"].write(tmp_path)
    text(tmp_path / "train.json", "[]")
    assert boxes(read(tmp_path, "train")) == 5


def test_a_yaml_named_after_the_set(tmp_path: Path) -> None:
    EXPORTS["Ultralytics"].write(tmp_path)
    text(tmp_path / "data.yaml", (tmp_path / "data.yaml").read_text().replace("cat", "puma"))
    (tmp_path / "data.yaml").rename(tmp_path / "pets8.yaml")
    assert read(tmp_path, "val").class_names == ("puma", "dog")
    (tmp_path / "pets8.yaml").write_text("names: [lynx, dog]\ntrain: D:\\me\\pets\\images\\train\nval: ./images/val\n")
    assert read(tmp_path, "train").class_names == ("lynx", "dog")


def test_pictures_that_no_json_lists(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    EXPORTS["COCO, images in one folder"].write(tmp_path)
    read(tmp_path, "train")
    assert not caplog.records, "the others are of the val split"
    picture(tmp_path / "images" / "new.jpg")
    picture(tmp_path / "images" / "new.avif")
    read(tmp_path, "train")
    assert "passed over: 1 pictures that no annotation file lists" in caplog.text and "(new.jpg)" in caplog.text
    assert "passed over: 1 pictures in formats that are not read" in caplog.text and "(new.avif)" in caplog.text


def test_a_file_that_is_listed_twice(
    coco_document: Document, write_coco: Write, caplog: pytest.LogCaptureFixture
) -> None:
    coco_document["images"][1]["file_name"] = "a.png"
    assert len(load_coco(*write_coco(coco_document))) == 2
    assert "1 image files are listed more than once (a.png)" in caplog.text


def test_class_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("cat/a.jfif", "cat/b.JPG", "cat/c.heic", "dog/a.jpe", "dog/b.png", "dog/more/c.jpg", "loose.jpg"):
        picture(tmp_path / name)
    folders = read_class_folders(tmp_path, val_fraction=0.5)
    assert len(folders.train.paths) == len(folders.val.paths) == 2
    for message in ("not read; convert them to JPEG or PNG (c.heic)", "inside a class's folder (more)",
                    "in no class's folder (loose.jpg)"):  # fmt: skip
        assert message in caplog.text
    (tmp_path / "cat" / "a.jfif").unlink()
    (tmp_path / "cat" / "b.JPG").unlink()
    with pytest.raises(UserError, match="cat holds no image"):
        read_class_folders(tmp_path)


# --- values of the tools ---


def test_ids_that_are_text(coco_document: Document, write_coco: Write, tmp_path: Path) -> None:
    from tinydet_lite.detections import Detections
    from tinydet_tf.evaluation import evaluate, write_evaluation

    numbers = load_coco(*write_coco(coco_document))

    def found(dataset: CocoDataset) -> Any:
        scores = iter((0.9, 0.8))  # no two alike: COCO's evaluation orders those by the image's id

        def detect(_: np.ndarray) -> Detections:
            box, score = np.array([[4, 5, 14, 17]], np.float32), np.array([next(scores)], np.float32)
            return Detections(box, score, np.ones(1, np.int32), ("second",))

        return evaluate(detect, dataset.class_names, dataset)

    expected = found(numbers)
    for ids, of_annotations in ((("abc", "12"), None), (("7", "3"), (7, 7, 7)), (("7", 3), None)):
        names = dict(zip((7, 3), ids, strict=True))
        document = json.loads(json.dumps(coco_document))
        for image in document["images"]:
            image["id"] = names[image["id"]]
        for number, entry in enumerate(document["annotations"]):
            entry["image_id"] = names[entry["image_id"]] if of_annotations is None else of_annotations[number]
            entry["id"] = f"annotation {number}"
        dataset = load_coco(*write_coco(document))
        assert [len(image.boxes) for image in dataset.images] == [3, 0]
        result = found(dataset)
        assert result.metrics == expected.metrics
        assert [r["image_id"] for r in result.results] == list(ids), "as the file has them"
        results = write_evaluation(result, tmp_path / "out.json")
        assert [r["image_id"] for r in json.loads(results.read_text())] == list(ids)
    document["images"][1]["id"] = "7"
    with pytest.raises(UserError, match=r"id '7' appears more than once in images"):
        load_coco(*write_coco(document))
    document["images"][1]["id"] = 1.5
    with pytest.raises(UserError, match=r'images\[1\] has "id" 1.5, expected text or an integer'):
        load_coco(*write_coco(document))


def test_only_an_unused_root_is_left_out(coco_document: Document, write_coco: Write) -> None:
    root = {"id": 0, "name": "things", "supercategory": "none"}
    for category in coco_document["categories"]:
        category["supercategory"] = "things"
    coco_document["categories"].append(root)
    assert load_coco(*write_coco(coco_document)).class_names == ("first", "second", "last")
    coco_document["annotations"][0]["category_id"] = 0
    assert "things" in load_coco(*write_coco(coco_document)).class_names
    coco_document["annotations"][0]["category_id"] = 5
    coco_document["categories"][0]["supercategory"] = "other"
    assert "things" in load_coco(*write_coco(coco_document)).class_names
    del coco_document["categories"][:3]
    coco_document["annotations"] = []
    assert load_coco(*write_coco(coco_document)).class_names == ("things",)


@pytest.mark.parametrize(
    ("value", "difficult"),
    [("", False), ("0", False), ("0.0", False), ("Unspecified", False), ("False", False), ("no", False),
     ("1", True), ("1.0", True), ("True", True), ("yes", True)],
)  # fmt: skip
def test_difficult(tmp_path: Path, value: str, difficult: bool) -> None:
    EXPORTS["labelImg, VOC"].write(tmp_path)
    voc(tmp_path / f"{STEM}.xml", STEM, value)
    image = next(image for image in read(tmp_path).images if image.path.stem == STEM)
    assert image.is_crowd.tolist() == [difficult]


def test_voc_from_zero(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    EXPORTS["labelImg, VOC"].write(tmp_path)
    for stem in EVERYTHING:
        voc(tmp_path / f"{stem}.xml", stem, first_pixel=0)
    wide = {round(float(image.boxes[0, 2] - image.boxes[0, 0])) for image in read(tmp_path).images}
    assert wide == {11} and not caplog.records, "a pixel too wide, and nothing shows it"
    first = tmp_path / f"{STEM}.xml"
    text(first, first.read_text().replace(f"<xmin>{SCENES[STEM].box[0]}<", "<xmin>0<"))
    read(tmp_path)
    assert f"1 xml have a box that begins at 0 (the first is {STEM}.xml)" in caplog.text
    assert "data.voc_first_pixel=0" in caplog.text
    caplog.clear()
    dataset = load_split(DataConfig(root=str(tmp_path), voc_first_pixel=0), "all")
    for image in dataset.images:
        if image.path.stem != STEM:
            np.testing.assert_array_equal(image.boxes, [SCENES[image.path.stem].box])
    assert not caplog.records
    with pytest.raises(UserError, match=r"data.voc_first_pixel is 2; choose 0 or 1"):
        DataConfig(voc_first_pixel=2)


# --- the command that divides ---


@pytest.mark.parametrize("name", ["Label Studio, COCO, own pictures", "Roboflow, COCO without splits", "CVAT, YOLO"])
def test_dividing_is_one_rule(name: str, tmp_path: Path, command: Command) -> None:
    EXPORTS[name].write(tmp_path / "set")
    output = tmp_path / "out"
    arguments = ("convert_dataset.py", "--input", tmp_path / "set", "--output", output)
    done = command(*arguments, "--val-fraction", 0.2)
    assert done.code == 0, done.err
    for split in ("train", "val"):
        expected = read(tmp_path / "set", split)
        images = locate_split(tmp_path / "set", split).image_dir
        found = load_coco(output / split / "instances.json", images)
        assert [image.path for image in found.images] == [image.path for image in expected.images]
        assert found.class_names == expected.class_names and boxes(found) == boxes(expected) == len(found)
    command(*arguments).assert_refused("the data has no val split; give --val-fraction")
    EXPORTS["COCO"].write(tmp_path / "two")
    command(
        "convert_dataset.py", "--input", tmp_path / "two", "--output", output, "--val-fraction", 0.2
    ).assert_refused("has the splits train, val in COCO's format")


def test_commands_name_test(tmp_path: Path, command: Command) -> None:
    EXPORTS["Roboflow, COCO"].write(tmp_path / "set")
    for words in (
        ("anchor_coverage.py", "--variant", "S", "--data", tmp_path / "set"),
        ("show_batch.py", "--data", tmp_path / "set", "--images", 1, "--output", tmp_path / "batch.jpg"),
    ):
        done = command(*words, "--split", "test")
        assert done.code == 0, done.err
    shutil.rmtree(tmp_path / "set" / "test")
    done = command("anchor_coverage.py", "--variant", "S", "--data", tmp_path / "set", "--split", "test")
    done.assert_refused("no test split", "only train, val")
    done = command("anchor_coverage.py", "--variant", "S", "--data", tmp_path / "set", "--split", "all")
    done.assert_refused("has splits (train, val); name one of them")
