"""One rule for images that cannot be used, and for those whose boxes mean the stored pixels."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tinydet_lite.detections import Detections
from tinydet_lite.errors import UserError
from tinydet_lite.preprocess import load_image
from tinydet_tf.data import opening
from tinydet_tf.data.coco import CocoDataset, load_coco, locate_split
from tinydet_tf.data.opening import Skipped, read_header, usable, usable_paths
from tinydet_tf.data.pipeline import build_pipeline, load_arrays
from tinydet_tf.evaluation import evaluate
from tinydet_tf.export.calibration import load_calibration_images

#: The object's box in the stored pixels of `scene`: x, y, width, height.
BOX = (6, 4, 18, 10)


def scene(width: int = 40, height: int = 30) -> Image.Image:
    """A bright rectangle in the dark."""
    pixels = np.zeros((height, width, 3), np.uint8)
    x, y, w, h = BOX
    pixels[y : y + h, x : x + w] = 255
    return Image.fromarray(pixels)


def save(image: Image.Image, path: Path, orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif, **({"quality": 95} if path.suffix == ".jpg" else {}))
    return path


def write(folder: Path, entries: list[tuple[str, int, int]]) -> CocoDataset:
    """name, width, height of each; every image has BOX."""
    document: dict[str, Any] = {
        "images": [{"id": i, "file_name": n, "width": w, "height": h} for i, (n, w, h) in enumerate(entries)],
        "annotations": [
            {"id": i + 1, "image_id": i, "category_id": 1, "bbox": BOX, "area": 180} for i in range(len(entries))
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (folder / "instances.json").write_text(json.dumps(document))
    return load_coco(folder / "instances.json", folder / "images")


def brightness_in_box(pixels: np.ndarray) -> float:
    x, y, w, h = BOX
    return float(pixels[y : y + h, x : x + w].mean())


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_boxes_of_the_stored_pixels_are_read_so(suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Three of four photographs with an orientation, and a json of raw sizes, as of a tool that does not turn."""
    orientations = (6, 8, 5, 1)
    for index, orientation in enumerate(orientations):
        save(scene(), tmp_path / "images" / f"{index}.{suffix}", orientation)
    dataset = write(tmp_path, [(f"{index}.{suffix}", 40, 30) for index in range(4)])
    pipeline = build_pipeline(dataset, input_size=40, batch_size=2, training=True, horizontal_flip=False)
    batches = [{k: v.numpy() for k, v in batch.items()} for batch in pipeline]
    assert sorted(np.concatenate([b["image_ids"] for b in batches]).tolist()) == [0, 1, 2, 3]
    for batch in batches:
        for pixels, (box,) in zip(batch["images"], batch["gt_boxes"], strict=True):
            x1, y1, x2, y2 = np.round(box).astype(int)
            assert pixels[y1 + 1 : y2, x1 + 1 : x2].mean() > 220
            assert pixels[:, :4].mean() < 25 and pixels.mean() < 60  # nothing bright elsewhere
    (told,) = (record.getMessage() for record in caplog.records)
    assert "3 of 4 images have an EXIF orientation" in told and f"0.{suffix}" in told

    # Every other way that an image is opened.
    marked = usable(dataset)
    assert [image.as_stored for image in marked.images] == [True, True, True, False]
    for image in (*marked.images, *dataset.images):
        assert brightness_in_box(load_arrays(image)[0]) > 220
    seen: list[float] = []
    evaluate(lambda p: (seen.append(brightness_in_box(p)), Detections.empty())[1], ("thing",), dataset)
    assert len(seen) == 4 and min(seen) > 220
    samples = load_calibration_images(dataset, 40, count=4)
    assert samples.images[:, :4].mean() < 25 and sorted(samples.image_ids) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "others", "stored"),
    [
        ("square", {}, False),  # nobody says: as viewers show it
        ("square", {"raw": (6, 40, 30)}, True),
        ("half a turn", {"raw": (6, 40, 30)}, True),
        ("square", {"turned": (6, 30, 40)}, False),
        ("square", {"raw": (6, 40, 30), "turned": (8, 30, 40)}, False),  # of two tools
        ("square", {"plain": (1, 40, 30)}, False),
    ],
)
def test_where_both_sizes_are_the_same_the_others_decide(
    name: str, others: dict[str, tuple[int, int, int]], stored: bool, tmp_path: Path
) -> None:
    side = (40, 40) if name == "square" else (40, 30)
    save(scene(*side), tmp_path / "images" / "it.jpg", 6 if name == "square" else 3)
    for other, (orientation, _, _) in others.items():
        save(scene(), tmp_path / "images" / f"{other}.jpg", orientation)
    dataset = write(tmp_path, [("it.jpg", *side), *((f"{o}.jpg", w, h) for o, (_, w, h) in others.items())])
    found = usable(dataset)
    assert found.images[0].as_stored == stored
    assert (brightness_in_box(load_arrays(found.images[0])[0]) > 220) == stored
    assert [image.as_stored for image in found.images[1:]] == [other == "raw" for other in others]


def test_voc_sizes_decide_and_yolo_pictures_are_turned(tmp_path: Path) -> None:
    voc = tmp_path / "voc"
    save(scene(), voc / "JPEGImages" / "a.jpg", 6)
    (voc / "Annotations").mkdir()
    (voc / "Annotations" / "a.xml").write_text(
        "<annotation><size><width>40</width><height>30</height></size><object><name>thing</name><bndbox><xmin>7</xmin>"
        "<ymin>5</ymin><xmax>24</xmax><ymax>14</ymax></bndbox></object></annotation>"
    )
    yolo = tmp_path / "yolo"
    save(scene(), yolo / "images" / "a.jpg", 6)
    (yolo / "labels").mkdir()
    (yolo / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
    for folder, stored, size in ((voc, True, (40, 30)), (yolo, False, (30, 40))):
        (image,) = usable(load_coco(*locate_split(folder, "all"))).images
        assert (image.as_stored, image.width, image.height) == (stored, *size)
        assert (brightness_in_box(load_arrays(image)[0]) > 220) == stored


def encoded(format: str) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(noise).save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.3, 0.6, 0.9])
def test_a_file_that_was_cut_short_is_seen_beforehand(format: str, part: float, tmp_path: Path) -> None:
    """Whatever cannot be decoded in full, and nothing else."""
    content = encoded(format)
    path = tmp_path / "a.img"
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(UserError, match=r"a\.img"):
        load_image(path)
    with pytest.raises(UserError, match=r"a\.img"):
        read_header(path)
    path.write_bytes(content)
    assert (read_header(path).upright, read_header(path).orientation) == ((40, 30), 1)


def test_what_stands_behind_a_jpeg_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded("JPEG") + b"\0" * 9)
    assert read_header(path).upright == (40, 30)


def test_the_limit_is_one_in_a_hundred_and_more_than_three(caplog: pytest.LogCaptureFixture) -> None:
    limits = ((4, 3, True), (5, 4, False), (400, 4, True), (399, 4, False), (1000, 10, True), (3, 3, False))
    for total, broken, fits in limits:
        skipped = Skipped(total, "set.json")
        for index in range(broken):
            skipped.note(Path(f"{index}.jpg"), UserError(f"{index}.jpg is not an image; expected one"))
            skipped.note(Path(f"{index}.jpg"), UserError("known already"))
        caplog.clear()
        if fits:
            skipped.tell(objects=7)
            skipped.tell()  # once is enough
            (text,) = (record.getMessage() for record in caplog.records)
            assert text.startswith(
                f"set.json: skipping {broken} of {total} images and the 7 objects in them: 0.jpg is not an image; 1.jpg"
            )
            assert ("3.jpg" in text) is False and (f"and {broken - 3} more" in text) == (broken > 3)
        else:
            with pytest.raises(UserError) as error:
                skipped.tell()
            message = str(error.value)
            assert "\n" not in message and "0.jpg is not an image; 1.jpg is not an image" in message
            words = "none of the 3 images of set.json can be used" if broken == total else f"{broken} of {total} images"
            assert message.startswith(words)


def test_a_data_set_is_looked_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for index in range(3):
        save(scene(), tmp_path / "images" / f"{index}.png")
    (tmp_path / "images" / "1.png").write_bytes(b"no image")
    (tmp_path / "images" / "2.png").unlink()
    (tmp_path / "images" / "2.png").symlink_to(tmp_path / "nowhere.png")
    dataset = write(tmp_path, [(f"{index}.png", 40, 30) for index in range(3)])
    found = usable(dataset)
    assert [image.id for image in found.images] == [0] and [image.id for image in found.left_out] == [1, 2]
    assert usable(found) is found and len(caplog.records) == 1
    text = caplog.records[0].getMessage()
    assert "skipping 2 of 3 images and the 2 objects" in text and "1.png is not an image; " in text
    assert "2.png: no such image file" in text


def test_a_yolo_folder_leaves_out_what_is_no_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for index in range(6):
        save(scene(), tmp_path / "images" / f"{index}.jpg")
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / f"{index}.txt").write_text("0 0.5 0.5 0.5 0.5\n0 0.5 0.5 0.2 0.2")
    for index in (1, 4):
        path = tmp_path / "images" / f"{index}.jpg"
        path.write_bytes(path.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        dataset = usable(load_coco(*locate_split(tmp_path, "all")))
    assert [image.path.name for image in dataset.images] == ["0.jpg", "2.jpg", "3.jpg", "5.jpg"]
    told = [record.getMessage() for record in caplog.records if "skipping" in record.getMessage()]
    assert len(told) == 1 and "skipping 2 of 6 images and the 4 objects in them" in told[0] and "1.jpg" in told[0]
    for index in (2, 3):
        (tmp_path / "images" / f"{index}.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"4 of 6 images of the all split of .* cannot be used, which is more"):
        locate_split(tmp_path, "all")


def test_usable_paths_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_THREADS", 3)
    paths = [save(scene(), tmp_path / f"{index}.png") for index in range(8)]
    paths[5].write_bytes(b"")
    kept, skipped = usable_paths(paths, "folder")
    assert kept == [0, 1, 2, 3, 4, 6, 7] and len(skipped) == 1
