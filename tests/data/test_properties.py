"""Property tests of the readers: a small right data set with one thing changed is read as the right one, or refused in
one line, and nothing is lost without being told. TINYDET_EXAMPLES sets how many examples each test tries."""

from __future__ import annotations

import copy
import json
import logging
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tinydet_lite.detections import Detections
from tinydet_lite.errors import UserError
from tinydet_tf.config import config_from_dict
from tinydet_tf.data.coco import CocoDataset
from tinydet_tf.data.pipeline import build_pipeline
from tinydet_tf.data.splits import load_split
from tinydet_tf.evaluation import evaluate
from tinydet_tf.export.calibration import load_calibration_images

EXAMPLES = int(os.environ.get("TINYDET_EXAMPLES", "60"))
some = settings(
    max_examples=EXAMPLES,
    deadline=None,  # how long an example takes says nothing about what is right
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SIZE = (40, 30)
STEMS = ("one", "two", "three")
NAMES = ("ant", "bee")
#: x, y, width, height of each picture's boxes, in whole pixels, so that every format can say them, and their classes.
BOXES = {"one": [(4, 6, 12, 10), (20, 8, 15, 16)], "two": [(1, 2, 30, 20)], "three": []}
CLASSES = {"one": [0, 1], "two": [1], "three": []}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYDET_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for stem in STEMS:
        Image.fromarray(rng.integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)).save(folder / f"{stem}.jpg")
    return folder


def coco_document() -> dict[str, Any]:
    boxes = [(i, c, box) for i, s in enumerate(STEMS) for c, box in zip(CLASSES[s], BOXES[s], strict=True)]
    return {
        "info": {"description": "right"},
        "images": [
            {"id": i + 1, "file_name": f"{s}.jpg", "width": SIZE[0], "height": SIZE[1]} for i, s in enumerate(STEMS)
        ],
        "annotations": [
            {
                "id": n + 1, "image_id": i + 1, "category_id": c + 1, "bbox": list(box), "area": box[2] * box[3],
                "iscrowd": 0, "segmentation": [],
            }
            for n, (i, c, box) in enumerate(boxes)
        ],
        "categories": [{"id": c + 1, "name": name} for c, name in enumerate(NAMES)],
    }  # fmt: skip


def corners(stem: str) -> list[tuple[int, int, int, int]]:
    return [(x, y, x + w, y + h) for x, y, w, h in BOXES[stem]]


def rounded(boxes: np.ndarray) -> list[list[float]]:
    """To thousandths of a pixel: YOLO's fractions have six decimals."""
    return [[round(value, 3) for value in box] for box in boxes.tolist()]


def write_coco(folder: Path, pictures: Path, content: bytes) -> None:
    shutil.copytree(pictures, folder / "train" / "images")
    (folder / "train" / "instances.json").write_bytes(content)
    # With a val split of its own nothing is held out.
    shutil.copytree(pictures, folder / "val" / "images")
    (folder / "val" / "instances.json").write_text(json.dumps(coco_document()))


def write_yolo(folder: Path, pictures: Path) -> None:
    shutil.copytree(pictures, folder / "images" / "train")
    (folder / "labels" / "train").mkdir(parents=True)
    for stem in STEMS:
        lines = [
            f"{c} {(x + w / 2) / SIZE[0]:.6f} {(y + h / 2) / SIZE[1]:.6f} {w / SIZE[0]:.6f} {h / SIZE[1]:.6f}\n"
            for c, (x, y, w, h) in zip(CLASSES[stem], BOXES[stem], strict=True)
        ]
        (folder / "labels" / "train" / f"{stem}.txt").write_text("".join(lines))
    (folder / "images" / "val").mkdir()
    shutil.copy(pictures / "one.jpg", folder / "images" / "val" / "held_out.jpg")
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnc: 2\nnames: [ant, bee]\n")


def write_voc(folder: Path, pictures: Path) -> None:
    shutil.copytree(pictures, folder / "JPEGImages")
    (folder / "Annotations").mkdir()
    for stem in STEMS:
        objects = "".join(
            f"<object><name>{NAMES[c]}</name><difficult>0</difficult><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for c, (x1, y1, x2, y2) in zip(CLASSES[stem], corners(stem), strict=True)
        )
        (folder / "Annotations" / f"{stem}.xml").write_text(
            f"<annotation><filename>{stem}.jpg</filename><size><width>{SIZE[0]}</width><height>{SIZE[1]}</height>"
            f"<depth>3</depth></size>{objects}</annotation>"
        )
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("".join(f"{stem}\n" for stem in STEMS))
    (folder / "ImageSets" / "Main" / "val.txt").write_text(f"{STEMS[0]}\n")


class Told(logging.Handler):
    """What was logged as a warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> Told:
        logging.getLogger("tinydet_tf").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("tinydet_tf").removeHandler(self)


def load(folder: Path) -> CocoDataset:
    config = config_from_dict({"variant": "S", "data": {"root": str(folder)}})
    return load_split(config.data, "train")


def judge(folder: Path, entry: str | None = None) -> CocoDataset | None:
    """Reads a data set that has one thing changed; None where it is refused.

    Args:
      entry: what a refusal has to name, as a regular expression: the entry, where there is one.
    """
    with Told() as told:
        try:
            dataset = load(folder)
        except UserError as error:
            message = str(error)
            assert "\n" not in message and len(message) < 1000, message
            assert folder.name in message, f"names no file: {message}"
            if entry is not None:
                assert re.search(entry, message), f"names no entry ({entry}): {message}"
            return None
    assert all("\n" not in line for line in told.lines), told.lines
    right_boxes = sum(map(len, BOXES.values()))
    boxes = {image.path.stem.lower(): image for image in dataset.images}
    same = len(dataset) == len(STEMS) and all(
        stem in boxes
        and rounded(boxes[stem].boxes) == [list(box) for box in corners(stem)]
        and [dataset.class_names[c] for c in boxes[stem].classes] == [NAMES[c] for c in CLASSES[stem]]
        and not boxes[stem].is_crowd.any()
        for stem in STEMS
    )
    kept = sum(len(image.boxes) for image in dataset.images)
    if not same and (len(dataset) < len(STEMS) or kept < right_boxes):
        assert told.lines, "something is missing, and nothing was said"
    use(dataset)
    return dataset


def use(dataset: CocoDataset) -> None:
    """Batches, evaluation and calibration: whatever was read can be worked with, or is refused in one line."""
    assert tf.executing_eagerly()

    def detect(_: np.ndarray) -> Detections:
        box = np.array([[4, 6, 16, 16]], np.float32)
        return Detections(box, np.array([0.9], np.float32), np.array([0], np.int32), dataset.class_names[:1])

    try:
        evaluation = evaluate(detect, dataset.class_names, dataset)  # type: ignore[arg-type]
        assert all(value == -1 or 0 <= value <= 1 for value in evaluation.metrics.values())
        samples = load_calibration_images(dataset, 64, count=2, seed=0)
        assert len(samples) >= 1
        batch = next(iter(build_pipeline(dataset, batch_size=2, input_size=64, training=True, seed=0)))
        assert len(batch["images"]) == 2
    except UserError as error:
        assert "\n" not in str(error)


def at(entry: dict[str, Any], key: str) -> Iterator[Any]:
    """Every value that a tool, a hand or an accident may leave at a key."""
    value = entry.get(key)
    yield from (None, str(value), True, False, [], {}, [value], 10**30, -(10**30), 1e300, -1, 0, "", "x", "1e999")
    yield from (float("nan"), float("inf"))
    if isinstance(value, int | float):
        yield from (float(value), value + 0.25, f" {value} ", f"{value}.0", -value)
    if isinstance(value, list):
        yield from ([str(v) for v in value], value[:-1], [*value, 1], [None] * len(value), [v - 1000 for v in value])
    if isinstance(value, str):
        yield from (
            value.upper(),
            f" {value}",
            f"{value}\n",
            value * 300,
            "é" + value,
            "../" + value,
            "/" + value,
            "\x00",
        )


FIELDS = sorted(
    {(table, key) for table in ("images", "annotations", "categories") for key in coco_document()[table][0]}
)


def coco_changes() -> Iterator[tuple[str, dict[str, Any]]]:
    """What was changed, and the document."""
    for table, key in FIELDS:
        for index in (0, len(coco_document()[table]) - 1):
            for value in at(coco_document()[table][index], key):
                document = coco_document()
                document[table][index][key] = value
                yield f"{table}[{index}].{key} = {value!r}", document
            document = coco_document()
            del document[table][index][key]
            yield f"{table}[{index}].{key} is missing", document
    for table in ("images", "annotations", "categories"):
        document = coco_document()
        document[table].append(copy.deepcopy(document[table][0]))
        yield f"{table}[0] twice", document
        for value in (None, [], {}, "x", 1, [None], [[]], [{}]):
            if (table, value) != ("annotations", []):  # pictures without objects are a data set
                yield f"{table} = {value!r}", coco_document() | {table: value}
        document = coco_document()
        del document[table]
        yield f"no {table}", document


COCO_CHANGES = dict(coco_changes())


@some
@given(what=st.sampled_from(sorted(COCO_CHANGES)))
def test_one_value_of_a_json(pictures: Path, what: str) -> None:
    document = COCO_CHANGES[what]
    with tempfile.TemporaryDirectory(prefix="set_") as folder:
        write_coco(Path(folder), pictures, json.dumps(document).encode())
        table = re.match(r"(?:no )?(\w+)", what)
        assert table is not None
        dataset = judge(Path(folder), entry="|".join([table[1], "id ", *STEMS, *NAMES]))
        if dataset is not None:
            kept = sum(len(image.boxes) for image in (*dataset.images, *dataset.left_out))
            assert kept + dataset.dropped == len(document["annotations"])


#: Values that mean the same as what the right document says, however a tool writes them.
SAME_VALUES = [
    ("annotations", "iscrowd", value) for value in ("0", 0.0, False, None, "false", " 0 ")
] + [("annotations", "area", value) for value in (None, "120", 120.0, "120.0")] + [
    ("annotations", "segmentation", value) for value in (None, {}, "x", [[1, 2]])
]  # fmt: skip


@pytest.mark.parametrize("table, key, value", SAME_VALUES)
def test_a_value_that_means_the_same(tmp_path: Path, pictures: Path, table: str, key: str, value: Any) -> None:
    document = coco_document()
    document[table][0][key] = value
    write_coco(tmp_path, pictures, json.dumps(document).encode())
    assert_right(judge(tmp_path))


def assert_right(dataset: CocoDataset | None) -> None:
    assert dataset is not None
    assert dataset.class_names == NAMES and len(dataset) == len(STEMS)
    by_stem = {image.path.stem.lower(): image for image in dataset.images}
    for stem in STEMS:
        assert rounded(by_stem[stem].boxes) == [list(box) for box in corners(stem)]
        assert by_stem[stem].classes.tolist() == CLASSES[stem] and not by_stem[stem].is_crowd.any()


def assert_others_are_right(dataset: CocoDataset | None, changed: str) -> None:
    """The pictures whose annotations were not changed, where the set is not refused."""
    if dataset is not None:
        boxes = {image.path.stem: rounded(image.boxes) for image in dataset.images}
        for stem in set(STEMS) - {changed}:
            assert boxes[stem] == [list(box) for box in corners(stem)]


ENCODINGS = {
    "a byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "CRLF": lambda text: json.dumps(json.loads(text), indent=1).replace("\n", "\r\n").encode(),
    "space around": lambda text: b"\n\n " + text.encode() + b"\n\x20\n",
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_json_in_any_encoding_of_json(tmp_path: Path, pictures: Path, encoding: str) -> None:
    write_coco(tmp_path, pictures, ENCODINGS[encoding](json.dumps(coco_document(), ensure_ascii=False)))
    assert_right(judge(tmp_path))


@some
@given(data=st.data())
def test_a_json_with_bytes_changed(pictures: Path, data: st.DataObject) -> None:
    content = bytearray(json.dumps(coco_document()).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    end = data.draw(st.sampled_from([None, None, None, len(content) // 2, len(content) - 1, 1, 0]))
    with tempfile.TemporaryDirectory(prefix="set_") as folder:
        write_coco(Path(folder), pictures, bytes(content[:end]))
        # A digit of a box may have become another digit: what counts is that nothing else than a UserError is raised.
        try:
            use(load(Path(folder)))
        except UserError as error:
            assert "\n" not in str(error)


def renamed(name: str) -> Iterator[str]:
    stem, suffix = name.rsplit(".", 1)
    yield from (f"{stem}.{suffix.upper()}", f"{stem.upper()}.{suffix}", f"{stem}.jpeg", f"{stem}.JPEG")


FORMATS = {
    "coco": lambda folder, pictures: write_coco(folder, pictures, json.dumps(coco_document()).encode()),
    "yolo": write_yolo,
    "voc": write_voc,
}


@pytest.mark.parametrize("new", list(renamed("two.jpg")))
@pytest.mark.parametrize("format", FORMATS)
def test_a_picture_in_other_letters(tmp_path: Path, pictures: Path, format: str, new: str) -> None:
    FORMATS[format](tmp_path, pictures)
    old = next(path for path in tmp_path.rglob("two.jpg") if "val" not in path.parts)
    old.rename(old.with_name(new))
    # Capitals are letters, and every format but COCO's names pictures by their stems.
    dataset = judge(tmp_path)
    if format != "coco" or new.lower() == "two.jpg":
        assert_right(dataset)


@pytest.mark.parametrize("suffix", [".txt", ".TXT", ".Txt"])
def test_yolo_labels_in_capitals(tmp_path: Path, pictures: Path, suffix: str) -> None:
    write_yolo(tmp_path, pictures)
    labels = tmp_path / "labels" / "train" / "two.txt"
    labels.rename(labels.with_suffix(suffix))
    assert_right(judge(tmp_path))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("format", FORMATS)
def test_accents_in_either_form(tmp_path: Path, pictures: Path, format: str, form: Any) -> None:
    """The file's name in one form, what the annotations call it in the other."""
    FORMATS[format](tmp_path, pictures)
    other = "NFD" if form == "NFC" else "NFC"
    accented = "zweié.jpg"
    old = next(path for path in tmp_path.rglob("two.jpg") if "val" not in path.parts)
    old.rename(old.with_name(unicodedata.normalize(form, accented)))
    stem = unicodedata.normalize(other, accented).removesuffix(".jpg")
    for path in [path for path in tmp_path.rglob("*") if "val" not in path.parts]:
        if path.is_file() and path.suffix in (".json", ".xml", ".txt", ".yaml"):
            text = path.read_text()
            if path.stem == "train" or path.suffix in (".json", ".xml"):
                path.write_text(text.replace("two", stem))
        if path.stem == "two":
            path.rename(path.with_name(stem + path.suffix))
    dataset = judge(tmp_path)
    assert dataset is not None and len(dataset) == len(STEMS)
    assert sum(len(image.boxes) for image in dataset.images) == sum(map(len, BOXES.values()))


WORDS = [
    "",
    "x",
    "-1",
    "0",
    "1",
    "2",
    "1.0",
    "nan",
    "inf",
    "1e400",
    "0.5,",
    "\u0660",
    "0x1",
    "10000000000000000000000",
    "\x00",
    "é",
]


@some
@given(line=st.sampled_from([0, 1]), column=st.integers(0, 5), word=st.sampled_from(WORDS), stem=st.sampled_from(STEMS))
def test_one_word_of_a_yolo_label(pictures: Path, line: int, column: int, word: str, stem: str) -> None:
    with tempfile.TemporaryDirectory(prefix="set_") as folder:
        write_yolo(Path(folder), pictures)
        labels = Path(folder, "labels", "train", f"{stem}.txt")
        rows = [row.split() for row in labels.read_text().splitlines()]
        if line < len(rows):
            rows[line][column : column + 1] = [word]
        else:
            rows.append([word])
        labels.write_text("".join(" ".join(row) + "\n" for row in rows))
        assert_others_are_right(judge(Path(folder), entry=stem), stem)


TAGS = ["filename", "width", "height", "depth", "name", "difficult", "xmin", "ymin", "xmax", "ymax", "size", "bndbox"]


@some
@given(tag=st.sampled_from(TAGS), word=st.sampled_from([*WORDS, None, "True", "Unspecified", "0.0", "no"]))
def test_one_element_of_a_voc_xml(pictures: Path, tag: str, word: str | None) -> None:
    with tempfile.TemporaryDirectory(prefix="set_") as folder:
        write_voc(Path(folder), pictures)
        path = Path(folder, "Annotations", "one.xml")
        new = "" if word is None else f"<{tag}>{word}</{tag}>"
        path.write_text(re.sub(rf"<{tag}>.*?</{tag}>", lambda _: new, path.read_text(), count=1))
        assert_others_are_right(judge(Path(folder), entry="one"), "one")


@pytest.mark.parametrize("format", FORMATS)
def test_the_right_data_sets_are_right(tmp_path: Path, pictures: Path, format: str) -> None:
    """What the others are compared with."""
    FORMATS[format](tmp_path, pictures)
    with Told() as told:
        assert_right(judge(tmp_path))
    assert told.lines == []
